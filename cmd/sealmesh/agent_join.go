package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentJoin(a *app) *cobra.Command {
	var join joinFlags
	c := &cobra.Command{
		Use:   "join ID",
		Short: "Make a join token for a further instance of an agent",
		Args:  takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			spec, err := join.spec(c)
			if err != nil {
				return err
			}
			if join.enroll {
				if err := a.roomFor(id, false); err != nil {
					return err
				}
			}
			res, err := operate[wire.AddResult](c.Context(), a, wire.AdminRequest{Op: wire.OpJoin, Target: id.String(), Join: spec})
			if err != nil {
				return err
			}
			if join.enroll {
				return a.enrolHere(c.Context(), res)
			}
			return a.showJoin(res)
		},
	}
	join.register(c.Flags())
	return c
}
