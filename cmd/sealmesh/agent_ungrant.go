package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentUngrant(a *app) *cobra.Command {
	var rights rightsFlags
	var dry bool
	c := &cobra.Command{
		Use:   "ungrant ID",
		Short: "Take rights back and cut what rests on them",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			r, err := rights.required(c)
			if err != nil {
				return err
			}
			res, err := operate[wire.CutResult](c.Context(), a, wire.AdminRequest{Op: wire.OpUngrant, Target: id.String(), Rights: r, DryRun: dry})
			if err != nil {
				return err
			}
			return a.showCut("lost the rights", res)
		},
	}
	rights.register(c.Flags())
	dryRun(c, &dry)
	return c
}
