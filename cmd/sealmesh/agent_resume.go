package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentResume(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "resume ID[/INSTANCE]",
		Short: "Bring a suspended or expired agent back",
		Long: `Bring a suspended or expired agent back, and with it those of its instances that
expired and that only an operator may readmit; with ID/INSTANCE, that one alone.
How often they expired and came back is forgotten.`,
		Args: takes(1, 1, "ID[/INSTANCE]"),
		RunE: func(c *cobra.Command, args []string) error {
			target, err := targetArg(c, args[0])
			if err != nil {
				return err
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpResume, Target: target, Reason: reason})
			if err != nil {
				return err
			}
			return a.showAgent(v)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
