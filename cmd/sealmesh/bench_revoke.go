package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/bench"
)

func newBenchRevoke(a *app) *cobra.Command {
	var o bench.RevokeOptions
	c := &cobra.Command{
		Use:   "revoke",
		Short: "How long after its revocation an agent's last message is taken",
		Long: `Makes a mesh of one server and a cluster of three in this process, lets one
agent after the other flood it, and revokes each. The times run from the moment
at which the command is given:

  connection-closed    until the agent's connection has ended
  last-message         until the last live message of it that a receiver took
  last-stored-message  the same of events that waited in a stream
  delegate-refused     until the last call that another agent made by a right
                       that it had lent was taken
  command-confirmed    until the operator was told that nothing is left

Beside each, by turns, one connection is closed by a bare request to the server
(bare-kick), to which the ratio compares.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case o.Runs < 1:
				return usage(c, "--runs must be at least 1")
			case o.Rate < 100:
				return usage(c, "--rate must be at least 100")
			}
			for _, n := range o.Nodes {
				if n != 1 && n != 3 {
					return usage(c, "--nodes takes 1, 3 or both, not %d", n)
				}
			}
			ctx, cancel := a.deadline(c.Context(), 0)
			defer cancel()
			o.Log, o.Progress = a.shotLog(), a.benchProgress()
			r, err := bench.Revoke(ctx, o)
			if err != nil {
				return outOfTime(ctx, err)
			}
			return a.showBench(r)
		},
	}
	f := c.Flags()
	f.IntVar(&o.Runs, "runs", bench.DefaultRuns, "how many agents are revoked on each mesh")
	f.IntVar(&o.Rate, "rate", bench.DefaultRate, "messages a second that the agent sends")
	f.IntSliceVar(&o.Nodes, "nodes", []int{1, 3}, "servers of the mesh")
	return c
}

// benchProgress tells a person how far it is, now and then.
func (a *app) benchProgress() func(nodes, done, of int) {
	if !isTerminal(a.stderr) {
		return nil
	}
	var last time.Time
	return func(nodes, done, of int) {
		if now := a.now(); done == of || now.Sub(last) > time.Second {
			last = now
			fmt.Fprintf(a.stderr, "%d of %d runs on %s\n", done, of, count(nodes, "server")) //nolint:errcheck // progress
		}
	}
}
