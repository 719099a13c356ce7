package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newMonitorRelease(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "release",
		Short: "Let a held monitor judge again: they live, and get a full time-out",
		Long: `Let a held monitor judge again, because those who fell silent live and could not
be heard. Everybody gets one full time-out. If as many are silent after it, the
monitor is held again. It counts for all replicas of the control plane; exit 1 says
that it did not reach one of them.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.decide(c.Context(), wire.MonitorRelease, reason, "released: everybody has a full time-out to be heard")
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
