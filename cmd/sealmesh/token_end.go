package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// endedDoc is sealmesh.ended/v1.
type endedDoc struct {
	Schema string `json:"schema"`
	Chain  string `json:"chain"`
}

func newTokenEnd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "end DIGEST",
		Short: "Take back a delegation, by the digest of its chain",
		Long: `Take back the last delegation of the chain with this digest, and cut what rests
on it. An agent may end what it lent itself; one that holds admin:registry, which
is meant unless --as says otherwise, may end any.`,
		Args: takes(1, 1, "DIGEST"),
		RunE: func(c *cobra.Command, args []string) error {
			if !jws.IsDigest(args[0]) {
				return usage(c, "%q is not the digest of a chain; sealmesh agent show ID lists them", args[0])
			}
			return a.end(c.Context(), args[0])
		},
	}
}

func (a *app) end(ctx context.Context, digest string) error {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, adminID, log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	scopes, err := m.Scopes(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(scopes, capability.RequireScope(wire.AdminScope)) {
		res, err := operateOn[wire.CutResult](ctx, m, wire.AdminRequest{Op: wire.OpEnd, Chain: digest})
		if err != nil {
			return err
		}
		return a.showCut("no longer lends it", res)
	}
	if err := m.EndDelegation(ctx, digest); err != nil {
		return err
	}
	return a.show(endedDoc{"sealmesh.ended/v1", digest}, func(w io.Writer) { fmt.Fprintf(w, "ended %s\n", digest) })
}
