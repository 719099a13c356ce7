package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// whyDoc is sealmesh.why/v1.
type whyDoc struct {
	Schema string          `json:"schema"`
	Denial string          `json:"denial"`
	Record wire.RecordView `json:"record"`
	Hint   string          `json:"hint,omitempty"`
}

func newWhy(a *app) *cobra.Command {
	since := 7 * 24 * time.Hour
	c := &cobra.Command{
		Use:   "why DENIAL",
		Short: "Explain a refused connection by the ID that the client was told",
		Long: `Explain why a connection was refused. nats-server tells a refused client no more
than "Authorization Violation"; its client asks the control plane, and is told the
reason and an ID such as d-7q3kx2mv, by which an operator finds the rest here.`,
		Args: takes(1, 1, "DENIAL"),
		RunE: func(c *cobra.Command, args []string) error {
			if since <= 0 {
				return usage(c, "--since must be positive")
			}
			q := wire.RecordQuery{Denial: args[0], Since: a.now().Add(-since).UTC(), Newest: 1}
			list, err := a.recordsOf(c, q)
			if err != nil {
				return err
			}
			if len(list.Records) == 0 {
				return &hinted{fmt.Errorf("no denial %s is known since %s", clean(args[0]), when(&q.Since)), a.suggest("trace --denied") + " lists the last ones"}
			}
			r := list.Records[len(list.Records)-1]
			doc := whyDoc{Schema: "sealmesh.why/v1", Denial: r.Denial, Record: r, Hint: denial.Hint(r.Reason)}
			return a.show(doc, func(w io.Writer) {
				who := orDash(r.Sender.String())
				if !r.Instance.IsZero() {
					who += "/" + r.Instance.String()
				}
				table(w,
					[]string{"denial", clean(r.Denial)}, []string{"when", when(&r.At)}, []string{"agent", who},
					[]string{"from", orDash(clean(r.Host))}, []string{"nkey", orDash(clean(r.Key))}, []string{"server", orDash(clean(r.Server))},
					[]string{"reason", outcomeOf(r.Entry())}, []string{"detail", orDash(clean(r.Detail))},
				)
				if doc.Hint != "" {
					fmt.Fprintln(w, "hint: "+doc.Hint)
				}
			})
		},
	}
	c.Flags().DurationVar(&since, "since", since, "how far back")
	return c
}
