package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentRevoke(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "revoke ID[/INSTANCE]",
		Short: "End an agent or one instance for ever",
		Args:  takes(1, 1, "ID[/INSTANCE]"),
		RunE: func(c *cobra.Command, args []string) error {
			target, err := targetArg(c, args[0])
			if err != nil {
				return err
			}
			res, err := operate[wire.CutResult](c.Context(), a, wire.AdminRequest{Op: wire.OpRevoke, Target: target, Reason: reason})
			if err != nil {
				return err
			}
			return a.showCut("revoked", res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
