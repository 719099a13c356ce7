package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newTokenTake(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "take CHAIN|@FILE|-",
		Short: "Take up a delegation that was carried here by hand",
		Long: `Take up, as the agent that --as names, a chain that another agent delegated to it
offline: check it, store it in the mesh, where receivers read it, and keep it in
the agent's directory. From then on every instance of the agent may use it. What
was handed over with token delegate --send needs none of this.

It prints the digest of the chain, by which its delegator can end it.`,
		Args: takes(1, 1, "CHAIN, @FILE or -"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := a.chainArg(c, args[0])
			if err != nil {
				return err
			}
			return a.take(c.Context(), text)
		},
	}
}

func (a *app) take(ctx context.Context, text string) error {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, "", log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	chain, err := m.TakeUp(ctx, text)
	if err != nil {
		return err
	}
	if err := m.Flush(ctx); err != nil {
		return err
	}
	doc := delegationDoc{
		Schema: delegationSchema, To: m.ID(), Scopes: chain.Scopes(), Expires: chain.Expires(), Chains: []string{chain.Digest()},
	}
	return a.show(doc, func(w io.Writer) { fmt.Fprintln(w, chain.Digest()) })
}
