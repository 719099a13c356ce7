package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// endedDoc is sealmesh.ended/v1.
type endedDoc struct {
	Schema string `json:"schema"`
	Chain  string `json:"chain"` // digest
}

func newTokenEnd(a *app) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "end DIGEST|CHAIN|@FILE|-",
		Short: "Take back a delegation",
		Long: `Take back the last delegation of a chain, and with it what was passed on under
it: no connection rests on it a second later. The chain is named by its digest;
one that was signed offline, and may be stored by nobody yet, is given itself.

An agent may end what it lent itself; one that holds admin:registry, which is
meant unless --as says otherwise, may end any, and may ask before what that would
do.`,
		Args: takes(1, 1, "DIGEST, CHAIN, @FILE or -"),
		RunE: func(c *cobra.Command, args []string) error {
			chain, err := a.textArg(args[0], "the chain", limits.Chain)
			if err != nil {
				return err
			}
			if !jws.IsDigest(chain) && len(chain) < len(jws.Digest("")) {
				return usage(c, "%q is not the digest of a chain, nor a chain; sealmesh agent show ID --delegated --json lists them", clean(chain))
			}
			return a.end(c.Context(), chain, dry)
		},
	}
	dryRun(c, &dry)
	return c
}

func (a *app) end(ctx context.Context, chain string, dry bool) error {
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
		res, err := operateOn[wire.CutResult](ctx, m, wire.AdminRequest{Op: wire.OpEnd, Chain: chain, DryRun: dry})
		if err != nil {
			return notStored(err, chain)
		}
		return a.showCut("no longer lends it", res)
	}
	if dry {
		return &hinted{errors.New("what others hold is told to administrators alone"), "leave --as out, or name one that holds admin:registry"}
	}
	if err := m.EndDelegation(ctx, chain); err != nil {
		return notStored(err, chain)
	}
	digest := chain
	if !jws.IsDigest(chain) {
		digest = jws.Digest(chain)
	}
	return a.show(endedDoc{"sealmesh.ended/v1", digest}, func(w io.Writer) { fmt.Fprintf(w, "ended %s\n", digest) })
}

// notStored says what helps where a digest names no chain: it may be over, or
// somebody may still carry it somewhere.
func notStored(err error, chain string) error {
	if denial.Of(err) == denial.UnknownChain && jws.IsDigest(chain) {
		return &hinted{err, "a chain that was signed offline and is stored by nobody yet is ended with sealmesh token end @FILE"}
	}
	return err
}
