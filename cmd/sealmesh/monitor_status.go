package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newMonitorStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the monitor of every replica fares, and who is silent",
		Args:  takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := operateMonitor(c.Context(), a, wire.MonitorStatusOf, "")
			if err != nil {
				return err
			}
			return a.show(s, func(w io.Writer) { a.writeMonitor(w, s) })
		},
	}
}
