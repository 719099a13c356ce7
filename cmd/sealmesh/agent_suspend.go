package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentSuspend(a *app) *cobra.Command {
	var reason string
	var dry bool
	c := &cobra.Command{
		Use:   "suspend ID",
		Short: "Take an agent out of the mesh until it is resumed",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			res, err := operate[wire.CutResult](c.Context(), a, wire.AdminRequest{Op: wire.OpSuspend, Target: id.String(), Reason: reason, DryRun: dry})
			if err != nil {
				return err
			}
			return a.showCut("suspended", res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	dryRun(c, &dry)
	return c
}
