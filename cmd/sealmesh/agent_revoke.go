package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentRevoke(a *app) *cobra.Command {
	var reason string
	var dry bool
	c := &cobra.Command{
		Use:   "revoke ID[/INSTANCE]",
		Short: "End an agent or one instance for ever",
		Args:  takes(1, 1, "ID[/INSTANCE]"),
		RunE: func(c *cobra.Command, args []string) error {
			target, err := targetArg(c, args[0])
			if err != nil {
				return err
			}
			res, err := operate[wire.CutResult](c.Context(), a, wire.AdminRequest{Op: wire.OpRevoke, Target: target, Reason: reason, DryRun: dry})
			if err != nil {
				return err
			}
			did := "revoked"
			if _, inst, ok := strings.Cut(target, "/"); ok {
				did = "lost instance " + inst
			}
			return a.showCut(did, res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	dryRun(c, &dry)
	return c
}
