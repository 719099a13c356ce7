package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/wire"
)

func newEmergencyCut(a *app) *cobra.Command {
	var e controlplane.EmergencyCut
	c := &cobra.Command{
		Use:   "cut ID[/INSTANCE]",
		Short: "Take an agent out while no control plane is there",
		Long: `Revoke an agent or one instance, or suspend an agent with --suspend, and close its
connections at every nats-server, without a control plane.

Where the record can be written, receivers hear of it by the feed and refuse the
agent, and so does every control plane from then on. Where JetStream is away, the
connections are closed all the same, and the exit code is 1: the agent comes back
once a control plane does. What else remains is printed.

The last administrator is refused without --yes.`,
		Args: takes(1, 1, "ID[/INSTANCE]"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if e.Agent, e.Instance, err = agentid.ParseTarget(args[0]); err != nil {
				return usage(c, "%w", err)
			}
			ctx, cancel, cfg, err := a.glass(c)
			if err != nil {
				return err
			}
			defer cancel()
			res, err := controlplane.Cut(ctx, cfg, e)
			if denial.Of(err) == denial.WrongState && !e.Last {
				return &hinted{err, "--yes does it all the same; sealmesh emergency admin ID makes a new administrator"}
			}
			if err != nil {
				return outOfTime(ctx, err)
			}
			return a.showEmergency(e, res)
		},
	}
	f := c.Flags()
	f.BoolVar(&e.Suspend, "suspend", false, "suspend, which sealmesh agent resume lifts, instead of revoking for ever")
	f.StringVar(&e.Reason, "reason", "", "why, for the record")
	f.BoolVar(&e.Last, "yes", false, "also where nobody is left who administers the mesh")
	dryRun(c, &e.DryRun)
	return c
}

// showEmergency prints what was done at each server and what remains.
func (a *app) showEmergency(e controlplane.EmergencyCut, r wire.EmergencyResult) error {
	r.Delegates, r.Servers = some(r.Delegates), some(r.Servers)
	if r.DryRun {
		return a.showDryRun(r.CutResult)
	}
	if err := a.show(r, func(w io.Writer) {
		did := "revoked"
		switch {
		case !r.Recorded:
			did = "not recorded"
		case e.Suspend:
			did = "suspended"
		case !e.Instance.IsZero():
			did = "lost instance " + e.Instance.String()
		}
		fmt.Fprintf(w, "%s %s", e.Agent, did)
		if r.Recorded {
			fmt.Fprintf(w, ": epoch %d", r.Epoch)
		}
		fmt.Fprintf(w, ", %s closed, %.0f ms\n", count(r.Cut, "connection"), r.MS)
		rows := [][]string{{"SERVER", "NAME", "CLOSED", "LEFT", ""}}
		for _, s := range r.Servers {
			said := "confirmed"
			if !s.Asked {
				said = "not confirmed"
			}
			rows = append(rows, []string{orDash(s.Server), orDash(s.Name), fmt.Sprint(s.Closed), fmt.Sprint(s.Left), said})
		}
		table(w, rows...)
		for _, d := range r.Delegates {
			fmt.Fprintf(w, "cut with it, for what it had lent: %s\n", d)
		}
		for _, s := range r.Remains {
			fmt.Fprintf(w, "remains: %s\n", clean(s))
		}
	}); err != nil {
		return err
	}
	if !r.Recorded {
		return &said{exitFailed}
	}
	return a.confirmed(r.CutResult, "not every server confirmed the cut")
}
