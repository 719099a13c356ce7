package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentResume(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "resume ID",
		Short: "Bring a suspended or expired agent back",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpResume, Target: id.String(), Reason: reason})
			if err != nil {
				return err
			}
			return a.showAgent(v)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
