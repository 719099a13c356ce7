package controlplane

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// cut closes every connection that no longer has the authority it was admitted
// with: those of the agent under older epochs, and those of others whose grant
// rested on what the agent delegated. It changes no record, so it can be
// repeated at any time by anybody; whoever is entitled to a connection gets a new
// one.
func (p *Plane) cut(ctx context.Context, id agentid.ID) (*cutReport, error) {
	r := newReport()
	a, err := p.store.Agent(ctx, id)
	if err != nil {
		r.failed = err
		return r, err
	}
	return r, p.cutBy(ctx, a, atOnce, r)
}

// cutBy is cut by a record that is known; how says what becomes of the others'
// connections. Those that may leave by themselves are left to [Plane.seeOff].
//
// What memory knows is closed at once. Meanwhile the leader is asked what memory
// may have missed, and nothing waits for another: how long the rest takes depends
// on how many sessions others have. Then every server is asked what it has left.
// Nothing that fails keeps the rest from being done.
func (p *Plane) cutBy(ctx context.Context, a *registry.Agent, how manner, r *cutReport) error {
	r.revision = a.Revision
	own := holder{agent: a}
	var errs [4]error
	var wg sync.WaitGroup
	wg.Go(func() { p.strike(ctx, a, r) })
	wg.Go(func() { errs[0] = p.cutOwn(ctx, &own, r) })
	wg.Go(func() { errs[1] = p.cutDelegates(ctx, a, how, r) })
	wg.Go(func() { errs[2] = p.narrow(ctx, a.Agent) })
	wg.Wait()
	wg.Go(func() { p.unlistAll(ctx, r) })
	errs[3] = p.verify(ctx, &own, r)
	wg.Wait()
	r.failed = errors.Join(errs[:]...)
	return r.failed
}

// strike closes what memory knows of the agent's own connections that do not
// stand by its record.
func (p *Plane) strike(ctx context.Context, a *registry.Agent, r *cutReport) {
	var stale []target
	for _, s := range slices.Concat(p.sessions.of(a.Agent), r.before) {
		// One of a newer epoch was admitted by a newer record: this one came late.
		if s.AgentEpoch < a.Epoch || a.Status.Standing() != nil && s.AgentEpoch == a.Epoch {
			stale = append(stale, targetOf(&s))
		}
	}
	p.closeAll(ctx, r.claim(stale), r)
}

func targetOf(s *registry.Session) target {
	return target{connection: connectionOf(s), agent: s.Agent, session: s}
}

// holder is an agent as the leader knows it.
type holder struct {
	agent     *registry.Agent
	instances map[agentid.Instance]*registry.Instance
	entitled  map[connection]bool // by a session that stands
}

// cutOwn closes what the leader lists of the agent's own connections that do not
// stand.
func (p *Plane) cutOwn(ctx context.Context, h *holder, r *cutReport) error {
	stale, err := p.ownSessions(ctx, h)
	if err != nil {
		return err
	}
	for _, s := range r.before {
		if !stands(&s, h.agent, h.instances[s.Instance]) {
			stale = append(stale, targetOf(&s))
		}
	}
	p.closeAll(ctx, r.claim(stale), r)
	return nil
}

// ownSessions tells the agent's sessions that it is entitled to from the others.
func (p *Plane) ownSessions(ctx context.Context, h *holder) (stale []target, err error) {
	var list []*registry.Instance
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { list, failed = p.store.Instances(ctx, h.agent.Agent) })
	sessions, err := p.store.Sessions(ctx, h.agent.Agent)
	wg.Wait()
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	h.instances = map[agentid.Instance]*registry.Instance{}
	for _, i := range list {
		h.instances[i.Instance] = i
	}
	h.entitled = map[connection]bool{}
	for _, s := range sessions {
		if stands(&s, h.agent, h.instances[s.Instance]) {
			h.entitled[connectionOf(&s)] = true
		} else {
			stale = append(stale, targetOf(&s))
		}
	}
	return stale, nil
}

// stands reports whether a session was admitted by records that still say so.
func stands(s *registry.Session, a *registry.Agent, i *registry.Instance) bool {
	return a != nil && i != nil && a.Status.Standing() == nil && i.State.Standing() == nil && !s.Older(a.Epoch, i.Epoch)
}

// cutDelegates closes the connections of others that rested on what the agent
// delegated: those that memory knows, and then those that it had still to hear of.
func (p *Plane) cutDelegates(ctx context.Context, a *registry.Agent, how manner, r *cutReport) error {
	f := fallen{plane: p, id: a.Agent, dir: p.store.Directory(ctx), all: a.Status.Standing() != nil, standing: map[string]error{}}
	cut := func() error {
		lost, err := f.find(ctx, slices.Concat(p.sessions.via(a.Agent), r.beforeVia))
		lost = r.claim(lost)
		r.rested(lost)
		if how == gently {
			r.leave(lost)
		} else {
			p.closeAll(ctx, lost, r)
		}
		return err
	}
	first := cut()
	if err := p.sessions.catchUp(ctx); err != nil {
		return errors.Join(first, err)
	}
	return cut() // asks again what could not be found out
}

// fallen finds the sessions of others that rested on what an agent delegated and
// that, as a directory says, have nothing left to stand on.
type fallen struct {
	plane    *Plane
	id       agentid.ID
	dir      capability.Directory
	all      bool             // the agent has no standing, and so none of its chains
	standing map[string]error // by chain: many sessions may rest on one
}

// find returns them. What could not be found out is the error's matter, and has
// not ended.
func (f *fallen) find(ctx context.Context, sessions []registry.Session) (lost []target, failed error) {
	for _, s := range sessions {
		if s.Agent == f.id || !slices.Contains(s.Via, f.id) {
			continue
		}
		if f.all {
			lost = append(lost, targetOf(&s))
			continue
		}
		for _, digest := range s.Chains {
			err, known := f.standing[digest]
			if !known {
				err = f.plane.stillStands(ctx, digest, f.dir)
				if err == nil || denial.Of(err) != "" {
					f.standing[digest] = err
				}
			}
			if err != nil && denial.Of(err) == "" {
				failed = err
			} else if err != nil {
				lost = append(lost, targetOf(&s))
				break
			}
		}
	}
	return lost, failed
}

// verifyRounds bounds how often the servers are asked. Whoever was found is closed
// in between, and may have been found because he is entitled to come back.
const verifyRounds = 4

// verify asks every server, after the connections were closed, for what the cut
// concerns, and closes what is left: no connection without entitlement may be
// left, whether anybody knew of it or not. h is nil where no agent itself was cut.
func (p *Plane) verify(ctx context.Context, h *holder, r *cutReport) error {
	if p.sys == nil {
		return nil // the report says until when
	}
	for round := 1; ; round++ {
		c, err := p.censusOf(ctx, r.concerned(h))
		if err != nil {
			r.unheard(p.servers.all())
			return err
		}
		left, err := p.withoutEntitlement(ctx, h, c, r)
		if err != nil {
			r.unheard(p.servers.all())
			return err
		}
		r.heard(c, left)
		if len(left) == 0 || round == verifyRounds {
			return nil
		}
		p.closeAll(ctx, left, r)
	}
}

// askedApart is of how many agents the connections are asked for one by one. Of
// more all are asked for at once.
const askedApart = 8

// censusOf asks every server for the connections of these agents.
func (p *Plane) censusOf(ctx context.Context, ids []agentid.ID) (*census, error) {
	if len(ids) > askedApart {
		return p.connections(ctx, agentid.ID{})
	}
	all := make([]*census, len(ids))
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { all[i], errs[i] = p.connections(ctx, id) })
	}
	wg.Wait()
	out := &census{asked: map[string]bool{}, silent: map[string]bool{}}
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	for _, c := range all {
		out.merge(c)
	}
	return out, nil
}

// withoutEntitlement returns which of the connections that were found should not
// be there.
func (p *Plane) withoutEntitlement(ctx context.Context, h *holder, c *census, r *cutReport) ([]target, error) {
	var left, unknown []target
	for _, t := range c.found {
		switch {
		case r.passes(t.connection):
		case h != nil && t.agent == h.agent.Agent:
			if !h.entitled[t.connection] {
				unknown = append(unknown, t)
			}
		case r.closed(t.connection):
			left = append(left, t)
		}
	}
	if len(unknown) == 0 {
		return left, nil
	}
	// Whoever is entitled may have come back since the sessions were read, and an
	// agent that was taken out may have been let in again. Who is connected was
	// listed before.
	a, err := p.store.Agent(ctx, h.agent.Agent)
	if err != nil {
		return nil, err
	}
	if a.Revision > h.agent.Revision {
		h.agent = a
	}
	stale, err := p.ownSessions(ctx, h)
	if err != nil {
		return nil, err
	}
	listed := map[connection]target{}
	for _, t := range stale {
		listed[t.connection] = t
	}
	for _, t := range unknown {
		if h.entitled[t.connection] {
			continue
		}
		if known, ok := listed[t.connection]; ok {
			t = known
		}
		left = append(left, t)
	}
	return left, nil
}
