package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentRevoke(a *app) *cobra.Command {
	var reason, since string
	var dry bool
	var sel selector
	c := &cobra.Command{
		Use:   "revoke ID[/INSTANCE]",
		Short: "End an agent or one instance for ever",
		Long: `End an agent or one instance for ever; or, in place of ID, all agents that --label,
--subtree or --all-except selects, for which --yes is needed where it is more than
one. The agent that acts is not among those unless --subtree names it.

What a revoked key signed is refused wherever it waits, however old it is. With
--compromised-since, a time or how long ago, the command also lists what was
accepted of the agent since then: calls, events, connections, and what it lent.
With --dry-run it lists that and revokes nobody.`,
		Example: `  sealmesh agent revoke reader --reason 'host was sold'
  sealmesh agent revoke reader --compromised-since 2h --dry-run
  sealmesh agent revoke --label team=logs --yes`,
		Args: sel.takes("ID[/INSTANCE]"),
		RunE: func(c *cobra.Command, args []string) error {
			req := wire.AdminRequest{Op: wire.OpRevoke, Reason: reason, DryRun: dry}
			switch {
			case len(args) == 0 && since != "":
				return usage(c, "--compromised-since is about one agent: name it")
			case len(args) == 0:
				return a.cutSelected(c.Context(), c, &sel, "revoked", req)
			}
			target, err := targetArg(c, args[0])
			if err != nil {
				return err
			}
			req.Target = target
			did := "revoked"
			if _, inst, ok := strings.Cut(target, "/"); ok {
				did = "lost instance " + inst
			}
			if since != "" {
				if req.Since, err = sinceArg(c, since); err != nil {
					return err
				}
				return a.revokeCompromised(c.Context(), did, req)
			}
			res, err := operate[wire.CutResult](c.Context(), a, req)
			if err != nil {
				return err
			}
			return a.showCut(did, res)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	c.Flags().StringVar(&since, "compromised-since", "", "list what was accepted since: a time such as 2026-01-31T14:00:00Z, or how long ago, such as 2h")
	dryRun(c, &dry)
	sel.flags(c)
	return c
}
