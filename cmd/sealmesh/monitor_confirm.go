package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newMonitorConfirm(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "confirm",
		Short: "Let a held monitor expire who is silent: they are dead",
		Long: `Let a held monitor expire who is silent now, because they are dead indeed. Who
beats again meanwhile does not expire, and who falls silent later counts anew. It
counts for all replicas of the control plane; exit 1 says that it did not reach one
of them.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.decide(c.Context(), wire.MonitorConfirm, reason, "confirmed: who is silent expires")
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
