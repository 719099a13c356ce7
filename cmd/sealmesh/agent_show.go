package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentShow(a *app) *cobra.Command {
	var delegated, blast bool
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show one agent: status, rights, instances",
		Long: `Show one agent: its status, its rights, its instances.

With --delegated, the tree of what it lent: to whom, until when, how often that
may still be passed on, what was passed on of it, and how many connections rest
on it; and what it holds of others. What was signed offline and never stored in
the mesh is known to nobody.

With --blast, what it would mean if somebody else had its keys: whom its rights
reach, what it lent and was lent, where it is connected, and what it did in the
last day, by the word of those who accepted or refused it.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			switch {
			case delegated && blast:
				return usage(c, "--delegated and --blast exclude each other")
			case blast:
				return a.blast(c.Context(), id)
			case delegated:
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
	c.Flags().BoolVar(&blast, "blast", false, "what a compromise of it means, and what it did in the last day")
	return c
}
