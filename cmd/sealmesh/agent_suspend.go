package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentSuspend(a *app) *cobra.Command {
	var reason string
	var dry bool
	var sel selector
	c := &cobra.Command{
		Use:   "suspend ID",
		Short: "Take an agent out of the mesh until it is resumed",
		Long: `Take an agent out of the mesh until it is resumed; or, in place of ID, all that
--label, --subtree or --all-except selects, for which --yes is needed where it is
more than one. The agent that acts is not among those unless --subtree names it.
Whoever is suspended already is passed over, so an interrupted run is finished by
the next.`,
		Args: sel.takes("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			req := wire.AdminRequest{Op: wire.OpSuspend, Reason: reason, DryRun: dry}
			if len(args) == 0 {
				return a.cutSelected(c.Context(), c, &sel, "suspended", req)
			}
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			req.Target = id.String()
			res, err := operate[wire.CutResult](c.Context(), a, req)
			if err != nil {
				return err
			}
			return a.showCut("suspended", res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	dryRun(c, &dry)
	sel.flags(c)
	return c
}
