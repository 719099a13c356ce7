package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newCADrop(a *app) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "drop",
		Short: "End the rotation of a CA now, whoever still needs the old root",
		Long: `Drop the old root of a CA that is being replaced, without waiting for those that
sealmesh ca show names. The control plane does it by itself when nobody needs the
old root any more. Who was left behind comes back by itself, after calls that failed.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := operate[wire.CAStatus](c.Context(), a, wire.AdminRequest{Op: wire.OpCADrop, Reason: reason})
			if err != nil {
				return err
			}
			return a.showCAs(s, true)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}
