package meshclient

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// loadHeld reads the delegated chains that were kept on disk. What no longer
// verifies is dropped there, too.
func (m *Mesh) loadHeld() {
	texts, err := m.dir.Chains()
	if err != nil {
		m.log.Warn().Err(err).Msg("delegated chains could not be read")
		return
	}
	for _, text := range texts {
		if c, err := capability.Verify(text, m.peers.Ring(), m.cfg.clock()); err == nil && c.Holder() == m.info.Agent {
			m.held[c.Digest()] = c
		}
	}
}

// refreshSelf reads the agent's own record afresh, takes over its epoch and
// returns the digests of its live root tokens.
func (m *Mesh) refreshSelf(ctx context.Context) ([]string, error) {
	s, err := m.peers.Refresh(ctx, m.info.Agent, m.key.PublicKey())
	if err != nil {
		return nil, err
	}
	e := s.Epoch()
	m.epoch.Store(&e)
	return s.Agent.Tokens, nil
}

// onPeerChange hears of records from the feed. A change of one's own matters: an
// epoch that rose makes what is signed under the old one worthless.
func (m *Mesh) onPeerChange(id agentid.ID) {
	if id == m.info.Agent {
		m.poke("own record changed")
	}
}

// roots returns the agent's own root tokens.
func (m *Mesh) roots(ctx context.Context) ([]string, error) {
	a, err := m.peers.Agent(ctx, m.info.Agent)
	if err != nil {
		return nil, err
	}
	return a.Tokens, nil
}

// Chains returns every chain that the agent holds, own first. Whether each is
// worth something now is for receivers to check.
func (m *Mesh) Chains(ctx context.Context) ([]*capability.Chain, error) { return m.chains(ctx) }

// chains returns every chain that the agent holds, own first.
func (m *Mesh) chains(ctx context.Context) ([]*capability.Chain, error) {
	roots, err := m.roots(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*capability.Chain, 0, len(roots)+2)
	for _, d := range roots {
		c, err := m.gate.Chain(ctx, d)
		if err != nil {
			m.log.Debug().Err(err).Str("chain", d).Msg("own root token cannot be used")
			continue
		}
		out = append(out, c)
	}
	m.mu.Lock()
	for _, c := range m.held {
		out = append(out, c)
	}
	m.mu.Unlock()
	return out, nil
}

// usable returns the digests of the chains that a connection made now could rest
// on: the root tokens, and the delegated ones that stand.
func (m *Mesh) usable(ctx context.Context, roots []string) []string {
	out := slices.Clone(roots)
	m.mu.Lock()
	held := slices.Collect(maps.Values(m.held))
	m.mu.Unlock()
	now, dir := m.cfg.clock(), m.peers.Directory(ctx)
	for _, c := range held {
		err := c.Check(now, dir)
		if err == nil && c.Expires().Sub(now) > endsSoon {
			out = append(out, c.Digest())
		} else if err != nil {
			m.forget(c, err)
		}
	}
	return out
}

// endsSoon is how little must be left of a chain for no connection to be made
// for it; the control plane leaves it out as well.
const endsSoon = 3 * time.Second

// chainFor returns a chain by which the agent holds the scope now. Delegated
// chains that are worth nothing any more are forgotten on the way.
func (m *Mesh) chainFor(ctx context.Context, scope capability.Scope) (*capability.Chain, error) {
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	now := m.cfg.clock()
	var refused error
	for _, c := range chains {
		if !c.Has(scope) {
			continue
		}
		if err := c.Check(now, m.peers.Directory(ctx)); err != nil {
			refused = err
			m.forget(c, err)
			continue
		}
		return c, nil
	}
	if refused != nil {
		return nil, refused
	}
	return nil, denial.New(denial.ScopeNotHeld, "%q does not hold %q", m.info.Agent, scope)
}

// forget drops a delegated chain for good where its refusal is final.
func (m *Mesh) forget(c *capability.Chain, why error) {
	switch denial.Of(why) {
	case denial.TokenExpired, denial.TokenTakenBack:
	default:
		return
	}
	m.mu.Lock()
	_, held := m.held[c.Digest()]
	delete(m.held, c.Digest())
	m.mu.Unlock()
	if !held {
		return
	}
	if err := m.dir.DropChain(c.Digest()); err != nil {
		m.log.Warn().Err(err).Msg("ended chain could not be removed")
	}
	m.granted()
}

func (m *Mesh) granted() {
	if m.cfg.onGrant != nil {
		m.cfg.onGrant()
	}
}

// newest returns the digests of the chains that end last, as many as a
// connection may present.
func newest(list []*capability.Chain) []string {
	slices.SortFunc(list, func(a, b *capability.Chain) int { return b.Expires().Compare(a.Expires()) })
	out := make([]string, 0, len(list))
	for _, c := range list[:min(len(list), limits.Presented)] {
		out = append(out, c.Digest())
	}
	return out
}
