package controlplane

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// delegated draws what an agent lent, with what was passed on of it, and lists
// what it holds of others.
func (p *Plane) delegated(ctx context.Context, id agentid.ID) (any, error) {
	a, err := p.store.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	chains, err := p.store.Delegations(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := p.sessions.catchUp(ctx); err != nil {
		return nil, err
	}
	d := drawing{p: p, dir: p.store.Directory(ctx), resting: map[string]int{}, drawn: map[string]*branch{}}
	for _, s := range p.sessions.all() {
		for _, digest := range s.Chains {
			d.resting[digest]++
		}
	}
	var lent, held branch
	for _, c := range chains {
		hops := c.Hops()
		at := slices.IndexFunc(hops, func(h capability.Hop) bool { return h.By == id })
		if at < 0 {
			held.add(d.leaf(c, len(hops)-1))
			continue
		}
		under := &lent
		for n := at; n < len(hops); n++ {
			next := d.drawn[hops[n].Token]
			if next == nil {
				next = d.leaf(c, n)
				d.drawn[hops[n].Token] = next
				under.add(next)
			}
			under = next
		}
	}
	return wire.DelegationTree{
		Schema: wire.DelegatedSchema, Agent: id, Status: a.Status, Lent: lent.views(), Held: held.views(),
	}, nil
}

// drawing is a tree while it is drawn.
type drawing struct {
	p       *Plane
	dir     capability.Directory
	resting map[string]int     // connections by chain
	drawn   map[string]*branch // by the delegation's own digest
}

type branch struct {
	view wire.LentView
	lent []*branch
}

func (b *branch) add(c *branch) { b.lent = append(b.lent, c) }

func (b *branch) views() []wire.LentView {
	out := make([]wire.LentView, 0, len(b.lent))
	for _, c := range b.lent {
		c.view.Lent = c.views()
		out = append(out, c.view)
	}
	slices.SortFunc(out, func(x, y wire.LentView) int {
		return cmp.Or(byName(x.To, y.To), byName(x.From, y.From), x.Expires.Compare(y.Expires), cmp.Compare(x.Chain, y.Chain))
	})
	return out
}

// leaf is the delegation that is hop n of a chain. What it is worth is asked of
// the chain as it was handed to its holder: what was passed on later ends without
// it.
func (d *drawing) leaf(c *capability.Chain, n int) *branch {
	text := c.UpTo(n + 1)
	hops := c.Hops()
	v := wire.LentView{
		From: hops[n].By, To: hops[n].To, Scopes: list(hops[n].Scopes), MayDelegate: []capability.Scope{},
		Expires: hops[n].Expires.UTC(), Chain: jws.Digest(text), Through: []agentid.ID{},
	}
	for _, h := range hops[1:n] {
		v.Through = append(v.Through, h.By)
	}
	v.Connections = d.resting[v.Chain]
	lent, err := capability.Verify(text, d.p.store.Ring(), d.p.clock())
	if err == nil {
		v.MayDelegate, v.Depth, v.Expires = list(lent.Delegatable()), lent.Depth(), lent.Expires()
		err = lent.Check(d.p.clock(), d.dir)
	}
	if err != nil {
		v.Ended = cmp.Or(denial.Of(err), denial.RegistryUnavailable)
	}
	return &branch{view: v}
}

// preview is the registry as an operation would leave it.
type preview struct {
	capability.Directory // as it is
	after                *registry.Agent
	revoked              func(agentid.Instance) bool // instances of that agent
}

func (d preview) Standing(id agentid.ID) error {
	if id == d.after.Agent {
		return d.after.Status.Standing()
	}
	return d.Directory.Standing(id)
}

func (d preview) SignerStanding(id agentid.ID, key string) error {
	if id == d.after.Agent && d.revoked(agentid.InstanceOf(key)) {
		return denial.Revoked
	}
	return d.Directory.SignerStanding(id, key)
}

func (d preview) TokenLive(holder agentid.ID, token string) error {
	if holder == d.after.Agent {
		return d.after.TokenLive(token)
	}
	return d.Directory.TokenLive(holder, token)
}

func (d preview) NotVoided(issuer agentid.ID, token string) error {
	if issuer == d.after.Agent {
		return d.after.NotVoided(token)
	}
	return d.Directory.NotVoided(issuer, token)
}

// dry reports whether an operation can say what it would cut.
func dry(op wire.Op) bool {
	switch op {
	case wire.OpSuspend, wire.OpUngrant, wire.OpRevoke, wire.OpRemove, wire.OpEnd:
		return true
	}
	return false
}

// dryRun says what an operation would cut, and changes nothing.
func (p *Plane) dryRun(ctx context.Context, id agentid.ID, inst agentid.Instance, req wire.AdminRequest) (any, error) {
	none := func(agentid.Instance) bool { return false }
	all := func(agentid.Instance) bool { return true }
	var after *registry.Agent
	var err error
	revoked := none
	switch req.Op {
	case wire.OpSuspend:
		after, err = p.store.WouldSuspend(ctx, id)
	case wire.OpUngrant:
		after, err = p.store.WouldUngrant(ctx, id, req.Rights)
	case wire.OpRevoke, wire.OpRemove:
		if inst.IsZero() {
			after, err = p.store.WouldRevoke(ctx, id)
			revoked = all
			break
		}
		if _, err := p.store.Instance(ctx, id, inst); err != nil {
			return nil, err
		}
		after, err = p.store.Agent(ctx, id)
		revoked = func(i agentid.Instance) bool { return i == inst }
	}
	if err != nil {
		return nil, err
	}
	return p.would(ctx, after, revoked)
}

// dryEnd is dryRun for the end of a delegation.
func (p *Plane) dryEnd(ctx context.Context, c *capability.Chain) (any, error) {
	hops := c.Hops()
	last := hops[len(hops)-1]
	after, err := p.store.WouldEnd(ctx, last.By, last.Token, last.Expires)
	if err != nil {
		return nil, err
	}
	return p.would(ctx, after, func(agentid.Instance) bool { return false })
}

// would tells what a cut would do once a record and its instances were as given.
// It goes by what the cut itself goes by: sessions, connections, chains.
func (p *Plane) would(ctx context.Context, after *registry.Agent, revoked func(agentid.Instance) bool) (wire.CutResult, error) {
	start := time.Now()
	id := after.Agent
	now := p.store.Directory(ctx)
	then := preview{now, after, revoked}
	r := newReport()

	found, err := p.everyConnection(ctx, r)
	if err != nil {
		return wire.CutResult{}, err
	}
	// Behind the question to the servers: whoever is connected was listed before.
	if err := p.sessions.catchUp(ctx); err != nil {
		return wire.CutResult{}, err
	}
	sessions := p.sessions.all()
	instances, err := p.store.Instances(ctx, id)
	if err != nil {
		return wire.CutResult{}, err
	}
	entitled, of := map[connection]bool{}, map[connection]agentid.Instance{}
	for _, s := range sessions {
		c := connectionOf(&s)
		of[c] = s.Instance
		if s.Agent != id {
			continue
		}
		i := slices.IndexFunc(instances, func(i *registry.Instance) bool { return i.Instance == s.Instance })
		entitled[c] = i >= 0 && stands(&s, after, instances[i]) && !revoked(s.Instance)
	}
	f := fallen{plane: p, id: id, dir: then, standing: map[string]error{}}
	lost, err := f.find(ctx, sessions)
	if err != nil {
		return wire.CutResult{}, err
	}
	ends := map[connection]bool{}
	for _, t := range lost {
		ends[t.connection] = true
		r.delegates[t.agent] = true
	}
	out := p.cutResult(after, r, start)
	out.DryRun, out.Bound, out.Closes = true, nil, []wire.ConnectionView{}
	for _, t := range found {
		if t.agent == id && !entitled[t.connection] || ends[t.connection] {
			out.Closes = append(out.Closes, wire.ConnectionView{Agent: t.agent, Instance: of[t.connection], Server: t.server, Client: t.client})
		}
	}
	slices.SortFunc(out.Closes, func(x, y wire.ConnectionView) int {
		return cmp.Or(byName(x.Agent, y.Agent), cmp.Compare(x.Instance.String(), y.Instance.String()), cmp.Compare(x.Server, y.Server), cmp.Compare(x.Client, y.Client))
	})
	out.Cut = len(out.Closes)
	if out.Would, err = p.losses(ctx, after, now, then); err != nil {
		return wire.CutResult{}, err
	}
	out.MS = millis(start)
	return out, nil
}

// everyConnection asks the servers, or where there is nobody to ask goes by the
// sessions.
func (p *Plane) everyConnection(ctx context.Context, r *cutReport) ([]target, error) {
	if p.sys != nil {
		c, err := p.connections(ctx, agentid.ID{})
		if err != nil {
			return nil, err
		}
		r.heard(c, nil)
		return c.found, nil
	}
	err := p.sessions.catchUp(ctx)
	var list []target
	for _, s := range p.sessions.all() {
		list = append(list, targetOf(&s))
	}
	return list, err
}

// losses says who would hold what no more.
func (p *Plane) losses(ctx context.Context, after *registry.Agent, now, then capability.Directory) ([]wire.Loss, error) {
	chains, err := p.store.Delegations(ctx, after.Agent)
	if err != nil {
		return nil, err
	}
	concerned := []agentid.ID{after.Agent}
	for _, c := range chains {
		if h := c.Holder(); !slices.Contains(concerned, h) {
			concerned = append(concerned, h)
		}
	}
	slices.SortFunc(concerned[1:], byName)
	out := []wire.Loss{}
	for _, id := range concerned {
		before, err := p.store.Agent(ctx, id)
		if err != nil {
			return nil, err
		}
		later := before
		if id == after.Agent {
			later = after
		}
		had, err := p.holdings(ctx, before, now)
		if err != nil {
			return nil, err
		}
		has, err := p.holdings(ctx, later, then)
		if err != nil {
			return nil, err
		}
		l := wire.Loss{Agent: id, Loses: []capability.Scope{}, Keeps: []capability.Scope{}}
		for s, by := range had {
			switch {
			case len(has[s]) == 0:
				l.Loses = append(l.Loses, s)
			case slices.ContainsFunc(by, func(chain string) bool { return !slices.Contains(has[s], chain) }):
				l.Keeps = append(l.Keeps, s)
			}
		}
		if len(l.Loses)+len(l.Keeps) > 0 {
			slices.SortFunc(l.Loses, byText)
			slices.SortFunc(l.Keeps, byText)
			out = append(out, l)
		}
	}
	return out, nil
}

// own stands for the root tokens of an agent in its holdings: which of them gives
// a right does not matter, and an operation may issue another.
const own = "own"

// holdings is by what an agent holds each of its scopes.
func (p *Plane) holdings(ctx context.Context, a *registry.Agent, dir capability.Directory) (map[capability.Scope][]string, error) {
	out := map[capability.Scope][]string{}
	if a.Status.Standing() != nil {
		return out, nil
	}
	scopes, _, err := a.Rights.Scopes()
	if err != nil {
		return nil, err
	}
	for _, s := range scopes {
		out[s] = append(out[s], own)
	}
	held, err := p.store.Held(ctx, a.Agent)
	if err != nil {
		return nil, err
	}
	for _, digest := range held {
		c, err := p.store.Chain(ctx, digest)
		if err == nil {
			err = c.Check(p.clock(), dir)
		}
		switch {
		case err != nil && denial.Of(err) == "":
			return nil, err
		case err != nil:
			continue
		}
		for _, s := range c.Scopes() {
			out[s] = append(out[s], digest)
		}
	}
	return out, nil
}

func byText(a, b capability.Scope) int { return cmp.Compare(a.String(), b.String()) }
