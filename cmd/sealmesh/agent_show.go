package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show one agent: status, rights, instances",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpShow, Target: id.String()})
			if err != nil {
				return err
			}
			return a.showAgent(v)
		},
	}
}
