package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/wire"
)

func newEmergencyAdmin(a *app) *cobra.Command {
	var join joinFlags
	var replace bool
	c := &cobra.Command{
		Use:   "admin ID",
		Short: "Make an administrator where nobody is left who is one",
		Long: `Register an agent that may administer the mesh (admin:registry) and print a join
token for it:

  sealmesh emergency admin rescue | sealmesh enroll --join -

The registry has to be there, and a control plane to enrol it.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			spec, err := join.spec(c)
			if err != nil {
				return err
			}
			if spec == nil {
				spec = &wire.JoinSpec{}
			}
			if join.enroll {
				if err := a.roomFor(id, replace); err != nil {
					return err
				}
			}
			ctx, cancel, cfg, err := a.glass(c)
			if err != nil {
				return err
			}
			defer cancel()
			res, err := controlplane.Administrator(ctx, cfg, id, replace, *spec)
			if err != nil {
				return outOfTime(ctx, err)
			}
			if !join.enroll {
				return a.showJoin(res)
			}
			if replace {
				if err := a.setAside(id); err != nil {
					return err
				}
			}
			return a.enrolHere(ctx, res)
		},
	}
	c.Flags().BoolVar(&replace, "replace", false, "give a revoked name new keys, above its old epoch")
	join.register(c.Flags())
	return c
}
