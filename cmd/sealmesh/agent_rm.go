package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentRm(a *app) *cobra.Command {
	var reason string
	var dry bool
	c := &cobra.Command{
		Use:   "rm ID",
		Short: "Revoke an agent and hide it from lists",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			res, err := operate[wire.CutResult](c.Context(), a, wire.AdminRequest{Op: wire.OpRemove, Target: id.String(), Reason: reason, DryRun: dry})
			if err != nil {
				return err
			}
			return a.showCut("removed", res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	dryRun(c, &dry)
	return c
}
