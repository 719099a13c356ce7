package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgentJoinCancel(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel ID|HANDLE",
		Short: "Cancel the join tokens of an agent, or one of them",
		Long: `Cancel all join tokens of an agent, or the one with a handle that sealmesh agent
join ls shows. Whoever comes with it from now on is refused. What was enrolled
with it until then stays; sealmesh agent revoke ends that.`,
		Args: takes(1, 1, "ID|HANDLE"),
		RunE: func(c *cobra.Command, args []string) error {
			if !registry.IsJoinHandle(args[0]) {
				if _, err := agentArg(c, args[0]); err != nil {
					return err
				}
			}
			list, err := operate[wire.JoinList](c.Context(), a, wire.AdminRequest{Op: wire.OpJoinCancel, Target: args[0]})
			if err != nil {
				return err
			}
			return a.showJoins(list)
		},
	}
}
