package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/doctor"
)

// doctorWait bounds the checks that ask others, where --timeout does not.
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
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong or is going to be, and say what helps",
		Long: `Look at the mesh directory, and at Vault where it signs the certificates, for what
is wrong or is going to be, each with what helps. Nothing is changed, and nothing
needs to run.

Exit code 0: nothing is wrong, though there may be warnings; 1: something is.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			wait := a.timeout
			if wait == 0 {
				wait = doctorWait
			}
			ctx, cancel := context.WithTimeout(c.Context(), wait)
			defer cancel()
			r := doctor.Examine(ctx, a.mesh, a.now())
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
