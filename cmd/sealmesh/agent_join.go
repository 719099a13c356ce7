package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentJoin(a *app) *cobra.Command {
	var join joinFlags
	c := &cobra.Command{
		Use:   "join ID",
		Short: "Make a join token for a further instance of an agent; list and cancel them",
		Long: `Make a join token for a further instance of an agent, and print it. The token is a
secret; sealmesh enroll takes it on the instance's host. It lives --ttl and works
--uses times.

sealmesh agent join ls shows which are out, and sealmesh agent join cancel ends
them. For an agent that has the name of one of those, write --ttl before it or --
in between: sealmesh agent join -- ls.`,
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
	c.AddCommand(newAgentJoinLs(a), newAgentJoinCancel(a))
	return c
}
