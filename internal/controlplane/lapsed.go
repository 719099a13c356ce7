package controlplane

import (
	"context"
	"slices"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// lapsed reports whether an agent has rights of its own and no root token that
// stands: everything was off for longer than tokens live, and the sweep that renews
// them has not come to this agent yet.
func lapsed(a *registry.Agent, chains []*capability.Chain) bool {
	own, _, err := a.Rights.Scopes()
	return err == nil && len(own) > 0 &&
		!slices.ContainsFunc(chains, func(c *capability.Chain) bool { return slices.Contains(a.Tokens, c.Digest()) })
}

// relive issues the root tokens of one agent anew, before it is let in: it would find
// itself without rights else, and its first calls refused. What it may do stands in
// its record; a token that cannot be issued takes nothing else away.
func (a *admitter) relive(ctx context.Context, agent *registry.Agent, presented []string, chains []*capability.Chain) ([]*capability.Chain, error) {
	p := a.p
	renewed, err := p.store.RenewTokensOf(ctx, agent.Agent)
	switch {
	case err == nil:
		return a.chains(ctx, renewed, presented, p.store.Chain)
	case denial.Of(err) == "":
		return nil, err // refuse now, another try may succeed
	}
	p.log.Error().Err(err).Str("agent", agent.Agent.String()).Msg("root tokens that ended could not be renewed")
	return chains, nil
}
