package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/bench"
)

func newBenchSize(a *app) *cobra.Command {
	var o bench.SizeOptions
	c := &cobra.Command{
		Use:   "size",
		Short: "What a mesh of this machine carries, and what it stores",
		Long: `Makes a mesh of one server and a cluster of three in this process, and measures
what they carry, each beside the same over plain NATS on the same servers
(plain-…), to which the ratio compares:

  connects, connect    connections a second, 16 at a time, and how long one takes
  call                 one call after the other, there and back, with 256 bytes
  calls                calls a second, 16 at a time
  events               events a second, from one sender to one reader
  stored-event         publishing one event of a durable topic

and what is left behind, in bytes of a stream's one copy: what an enrolled agent
takes in the registry, a call in the audit and in the store of used nonces, and a
stored event of 256 bytes. Servers, control plane and agents share this machine:
it shows proportions, and what it carries at least.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case o.Agents < 1 || o.Agents > 10000:
				return usage(c, "--agents must be 1 to 10000")
			case o.For <= 0:
				return usage(c, "--for must be positive")
			case slices.ContainsFunc(o.Nodes, func(n int) bool { return n != 1 && n != 3 }):
				return usage(c, "--nodes takes 1, 3 or both")
			}
			ctx, cancel := a.deadline(c.Context(), 0)
			defer cancel()
			o.Log, o.Progress = a.shotLog(), a.benchProgress()
			r, err := bench.Size(ctx, o)
			if err != nil {
				return outOfTime(ctx, err)
			}
			return a.showBench(r)
		},
	}
	f := c.Flags()
	f.IntVar(&o.Agents, "agents", bench.DefaultAgents, "how many agents are registered, and connect")
	f.DurationVar(&o.For, "for", bench.DefaultFor, "how long each load is kept up")
	f.IntSliceVar(&o.Nodes, "nodes", []int{1, 3}, "servers of the mesh")
	return c
}
