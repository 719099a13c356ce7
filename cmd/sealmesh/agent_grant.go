package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentGrant(a *app) *cobra.Command {
	var rights rightsFlags
	var depth int
	c := &cobra.Command{
		Use:   "grant ID",
		Short: "Give an agent further rights",
		Long: `Give an agent further rights. --call, --handle, --publish and --subscribe are
capabilities: every receiver proves them. --plain-publish and --plain-subscribe
open one literal subject outside the mesh each, at the broker alone: for services
that do not speak the mesh. Nothing there is signed, and whoever holds the right
can say anything in anybody's name.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			r, err := rights.required(c)
			if err != nil {
				return err
			}
			if err := depthArg(c, depth); err != nil {
				return err
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpGrant, Target: id.String(), Rights: r, Depth: depth})
			if err != nil {
				return err
			}
			return a.showAgent(v)
		},
	}
	rights.register(c.Flags())
	c.Flags().IntVar(&depth, "depth", 0, "how often these rights may be passed on (default: as for the agent)")
	return c
}
