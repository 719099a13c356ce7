package meshclient

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
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
			m.held[c.Digest()] = newLoan(c, m.cfg.clock())
		}
	}
	m.noteLenders()
}

// refreshSelf reads the agent's own record afresh, takes over its epoch and
// returns it.
func (m *Mesh) refreshSelf(ctx context.Context) (*registry.Agent, error) {
	s, err := m.peers.Refresh(ctx, m.info.Agent, m.key.PublicKey())
	if err != nil {
		return nil, err
	}
	e := s.Epoch()
	m.epoch.Store(&e)
	m.takePassport(s.Instance.Passport)
	return s.Agent, nil
}

// onPeerChange hears of records from the feed. A change of one's own matters: an
// epoch that rose makes what is signed under the old one worthless. So does one
// of somebody who lent something.
func (m *Mesh) onPeerChange(id agentid.ID) {
	m.lookAfter(id)
	m.mu.Lock()
	lender := m.lenders[id]
	m.mu.Unlock()
	switch {
	case id == m.info.Agent:
		m.poke("own record changed")
	case lender:
		m.poke(lenderChanged)
	}
}

// basis names what a connection rests on that the control plane makes now: by
// digests, the agent's own root tokens, what is presented of the delegated
// chains, and whatever no chain tells of.
func (m *Mesh) basis(self *registry.Agent) []string {
	return slices.Concat(self.Tokens, m.presented(), []string{self.Footing()})
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
	// A stored event counts while the token under which it was published is listed.
	slices.SortFunc(out, lastFirst)
	var held []*capability.Chain
	for _, l := range m.loans() {
		held = append(held, l.chain)
	}
	slices.SortFunc(held, lastFirst)
	return append(out, held...), nil
}

// usable returns the digests of the chains that a connection made now could rest
// on: the root tokens and the delegated ones that stand. A root token that has
// ended is still listed until the control plane looks through them.
func (m *Mesh) usable(ctx context.Context, roots []string) []string {
	now, dir := m.cfg.clock(), m.peers.Directory(ctx)
	var out []string
	for _, d := range roots {
		if c, err := m.gate.Chain(ctx, d); err == nil && c.Expires().Sub(now) > endsSoon {
			out = append(out, d)
		}
	}
	for _, c := range m.chosen() {
		if err := c.Check(now, dir); err == nil {
			out = append(out, c.Digest())
		} else {
			m.forget(c, err)
		}
	}
	return out
}

// chainFor returns a chain by which the agent holds the scope now. Delegated
// chains that are worth nothing any more are forgotten on the way.
func (m *Mesh) chainFor(ctx context.Context, scope capability.Scope) (*capability.Chain, error) {
	if c, err := m.firstFor(ctx, scope); c != nil || err != nil {
		return c, err
	}
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	// One that the connection rests on already costs no rotation, and one that no
	// connection will present is waited for in vain.
	chosen, l := m.chosen(), m.link.Load()
	rank := func(c *capability.Chain) int {
		switch {
		case l.covers(c.Digest()):
			return 0
		case len(c.Hops()) == 1 || slices.Contains(chosen, c):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(chains, func(a, b *capability.Chain) int { return cmp.Compare(rank(a), rank(b)) })
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
		if rank(c) == 2 {
			refused = m.notPresented(c, now)
			continue
		}
		return c, nil
	}
	if refused != nil {
		return nil, refused
	}
	return nil, denial.New(denial.ScopeNotHeld, "%q does not hold %q", m.info.Agent, scope)
}

// firstFor returns the chain that chainFor would look at first, if that one will
// do, as it nearly always does: both ends of every call ask, and to put all that
// was lent in order can take longer than to verify a signature.
func (m *Mesh) firstFor(ctx context.Context, scope capability.Scope) (*capability.Chain, error) {
	roots, err := m.roots(ctx)
	if err != nil {
		return nil, err
	}
	l := m.link.Load()
	var first *capability.Chain
	consider := func(c *capability.Chain) {
		if c.Has(scope) && l.covers(c.Digest()) && (first == nil || lastFirst(c, first) < 0) {
			first = c
		}
	}
	for _, d := range roots {
		if c, err := m.gate.Chain(ctx, d); err == nil {
			consider(c)
		}
	}
	if first == nil {
		for _, c := range m.lent(scope) {
			consider(c)
		}
	}
	if first == nil || first.Check(m.cfg.clock(), m.peers.Directory(ctx)) != nil {
		return nil, nil
	}
	return first, nil
}

// lent returns the delegated chains that cover a scope, in no order.
func (m *Mesh) lent(scope capability.Scope) (out []*capability.Chain) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.held {
		if l.chain.Has(scope) {
			out = append(out, l.chain)
		}
	}
	return out
}

// notPresented says why no connection will rest on a chain that is good.
func (m *Mesh) notPresented(c *capability.Chain, now time.Time) error {
	m.mu.Lock()
	l, held := m.held[c.Digest()]
	m.mu.Unlock()
	if held && !l.presentable(now) {
		return denial.New(denial.TokenExpired, "what %q lent ends in a moment", delegator(c))
	}
	return denial.New(denial.QuotaExceeded, "%q was lent more chains than a connection may present", m.info.Agent)
}

// final reports whether what was refused stays refused. Who is suspended or
// expired may come back, and what it lent with it.
func final(why error) bool {
	switch denial.Of(why) {
	case denial.TokenExpired, denial.TokenTakenBack:
		return true
	case denial.DelegatorCut:
		return errors.Is(why, denial.Revoked)
	}
	return false
}

// forget drops a delegated chain for good where its refusal is final.
func (m *Mesh) forget(c *capability.Chain, why error) {
	if !final(why) {
		return
	}
	m.mu.Lock()
	_, held := m.held[c.Digest()]
	delete(m.held, c.Digest())
	m.noteLenders()
	m.mu.Unlock()
	if !held {
		return
	}
	if err := m.dir.DropChain(c.Digest()); err != nil {
		m.log.Warn().Err(err).Msg("ended chain could not be removed")
	}
}

// chosen returns the delegated chains that a connection rests on, at most as many
// as it may present: in turn one of each delegator, those that end last first. So
// nobody who may lend anything can crowd out what others lent.
func (m *Mesh) chosen() []*capability.Chain {
	now := m.cfg.clock()
	lent := map[agentid.ID][]*capability.Chain{}
	for _, l := range m.loans() {
		if l.presentable(now) {
			lent[delegator(l.chain)] = append(lent[delegator(l.chain)], l.chain)
		}
	}
	by := slices.SortedFunc(maps.Keys(lent), func(a, b agentid.ID) int { return cmp.Compare(a.String(), b.String()) })
	for _, id := range by {
		slices.SortFunc(lent[id], lastFirst)
	}
	var out []*capability.Chain
	for turn := 0; ; turn++ {
		before := len(out)
		for _, id := range by {
			switch {
			case len(out) == limits.Presented:
				return out
			case turn < len(lent[id]):
				out = append(out, lent[id][turn])
			}
		}
		if len(out) == before {
			return out
		}
	}
}

func lastFirst(a, b *capability.Chain) int {
	return cmp.Or(b.Expires().Compare(a.Expires()), cmp.Compare(a.Digest(), b.Digest()))
}

// delegator returns who handed the chain to its holder.
func delegator(c *capability.Chain) agentid.ID {
	hops := c.Hops()
	return hops[len(hops)-1].By
}

// crowded returns what to drop for one more delegated chain where the limit is
// reached, and nil where it is not: the new one where nobody has lent more than
// its delegator, else of whoever has lent most the one that ends first. It is
// called with the lock held.
func (m *Mesh) crowded(c *capability.Chain) *capability.Chain {
	if len(m.held) < limits.UploadedChains {
		return nil
	}
	count := map[agentid.ID]int{}
	for _, h := range m.held {
		count[delegator(h.chain)]++
	}
	most := delegator(c)
	for id, n := range count {
		if n > count[most] {
			most = id
		}
	}
	if most == delegator(c) {
		return c
	}
	var first *capability.Chain
	for _, h := range m.held {
		if delegator(h.chain) == most && (first == nil || lastFirst(h.chain, first) > 0) {
			first = h.chain
		}
	}
	return first
}
