package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentShow(a *app) *cobra.Command {
	var delegated bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one agent: status, rights, instances",
		Long: `Show one agent: its status, its rights, its instances.

With --delegated, the tree of what it lent: to whom, until when, how often that
may still be passed on, what was passed on of it, and how many connections rest
on it; and what it holds of others. What was signed offline and never stored in
the mesh is known to nobody.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			if delegated {
				tree, err := operate[wire.DelegationTree](c.Context(), a, wire.AdminRequest{Op: wire.OpDelegated, Target: id.String()})
				if err != nil {
					return err
				}
				return a.showTree(tree)
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpShow, Target: id.String()})
			if err != nil {
				return err
			}
			return a.showAgent(v)
		},
	}
	c.Flags().BoolVar(&delegated, "delegated", false, "what it lent, and what it was lent")
	return c
}
