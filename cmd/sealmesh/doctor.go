package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/doctor"
)

// doctorWait bounds all checks, where --timeout does not.
const doctorWait = 30 * time.Second

// doctorDoc is sealmesh.doctor/v1.
type doctorDoc struct {
	Schema   string         `json:"schema"`
	Mesh     string         `json:"mesh"`
	Healthy  bool           `json:"healthy"` // warnings do not count
	Problems int            `json:"problems"`
	Warnings int            `json:"warnings"`
	Groups   []doctor.Group `json:"groups"`
}

func newDoctor(a *app) *cobra.Command {
	offline := false
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong or is going to be, and say what helps",
		Long: `Look at the mesh directory, at its nats-servers, and at the mesh as an agent meets it,
for what is wrong or is going to be, each with what helps. What does not run is found
to be wrong. Where Vault signs the certificates it is asked, too.

Run it on the control plane's host, as its user: it connects with the keys there, and
as the operator's agent. It changes nothing, and tries in passing what must fail: to
come in without a certificate or a key, and to open a route with an agent's
certificate. --offline looks at files and Vault alone, and nothing needs to run.

Exit code 0: nothing is wrong, though there may be warnings; 1: something is.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(c.Context(), doctorWait)
			defer cancel()
			o := doctor.Options{Dir: a.mesh, Now: a.now, Offline: offline}
			// Where there is none, that is found to be wrong; but who is named must exist.
			if dir, err := a.find(adminID); err == nil {
				o.As = dir.Path
			} else if a.as != "" && !offline {
				return err
			}
			done := a.busy("asking the nats-servers and the control plane …")
			r := doctor.Examine(ctx, o)
			done()
			if err := c.Context().Err(); err != nil {
				return err
			}
			doc := doctorDoc{
				Schema: "sealmesh.doctor/v1", Mesh: a.mesh,
				Healthy: r.Healthy(), Problems: r.Problems(), Warnings: r.Warnings(), Groups: r.Groups,
			}
			if err := a.show(doc, func(w io.Writer) { writeDoctor(w, doc) }); err != nil {
				return err
			}
			if !doc.Healthy {
				return &said{exitFailed}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "look at files and Vault alone")
	return c
}

// busyAfter is how long a person waits before he is told for what.
const busyAfter = 700 * time.Millisecond

// busy tells a person what is waited for, if it takes longer than a moment. The
// function that it returns ends that.
func (a *app) busy(with string) (done func()) {
	if !isTerminal(a.stderr) {
		return func() {}
	}
	t := time.AfterFunc(busyAfter, func() { fmt.Fprintln(a.stderr, with) }) //nolint:errcheck // nowhere left to say it
	return func() { t.Stop() }
}

func writeDoctor(w io.Writer, d doctorDoc) {
	for _, g := range d.Groups {
		fmt.Fprintln(w, g.Name)
		for _, f := range g.Findings {
			fmt.Fprintf(w, "  %-8s %s\n", f.Level, clean(f.What))
			if f.Remedy != "" {
				fmt.Fprintf(w, "  %-8s %s\n", "", "remedy: "+clean(f.Remedy))
			}
		}
	}
	if d.Problems+d.Warnings == 0 {
		fmt.Fprintln(w, "nothing is wrong")
		return
	}
	fmt.Fprintf(w, "%d wrong, %d warnings\n", d.Problems, d.Warnings)
}
