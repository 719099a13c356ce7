package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

func newTokenVerify(a *app) *cobra.Command {
	var scopes []string
	var holder string
	c := &cobra.Command{
		Use:   "verify CHAIN|@FILE|-",
		Short: "Verify a chain offline: exit 0 if it is valid, 3 if not",
		Long: `Verify a capability chain against the roots of the agent that --as names, else
of the mesh directory: every signature up to a root, every rule, and the time.
Whether everybody in it is still active is known to the registry alone.`,
		Args: takes(1, 1, "CHAIN, @FILE or -"),
		RunE: func(c *cobra.Command, args []string) error {
			want, err := scopeArgs(c, scopes)
			if err != nil {
				return err
			}
			text, err := a.chainArg(c, args[0])
			if err != nil {
				return err
			}
			ring, from, err := a.trust()
			if err != nil {
				return err
			}
			chain, err := capability.Verify(text, ring, a.now())
			if err != nil {
				return err
			}
			if holder != "" {
				id, err := agentArg(c, holder)
				if err != nil {
					return err
				}
				if chain.Holder() != id {
					return denial.New(denial.NotHolder, "the chain is held by %q, not %q", chain.Holder(), id)
				}
			}
			for _, s := range want {
				if !chain.Has(s) {
					return denial.New(denial.ScopeNotHeld, "the chain does not hold %q", s)
				}
			}
			doc := chainOf(chain)
			return a.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "valid: %s may %s until %s, by the roots in %s\n", doc.Holder, names(doc.Scopes), when(doc.Expires), from)
			})
		},
	}
	c.Flags().StringSliceVar(&scopes, "scope", nil, "scopes that the chain must hold")
	c.Flags().StringVar(&holder, "holder", "", "agent that must hold the chain")
	return c
}
