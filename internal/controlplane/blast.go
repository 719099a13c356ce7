package controlplane

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// blastPast is how far back blast looks for what an agent did.
	blastPast = 24 * time.Hour
	// reachRows is how many agents are named of those whom a right reaches.
	reachRows = 50
	// sessionRows is how many connections are told.
	sessionRows = 256
)

// blast says what whoever has an agent's keys can reach, and what they were used
// for lately. One that is suspended or expired is looked at as it would come back.
func (p *Plane) blast(ctx context.Context, id agentid.ID) (any, error) {
	a, err := p.store.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	out := wire.Blast{
		Schema: wire.BlastSchema, Agent: id, Status: a.Status, Epoch: a.Epoch, Sessions: []wire.SessionView{},
		MayDelegate: list(a.Rights.MayDelegate),
		Plain:       wire.PlainView{Publish: list(a.Rights.Plain.Publish), Subscribe: list(a.Rights.Plain.Subscribe)},
	}
	tree, err := p.delegated(ctx, id)
	if err != nil {
		return nil, err
	}
	if t, ok := tree.(wire.DelegationTree); ok {
		out.Lent, out.Held = t.Lent, t.Held
	}
	sessions, err := p.store.Sessions(ctx, id)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(sessions, func(x, y registry.Session) int { return x.Issued.Compare(y.Issued) })
	for _, s := range sessions[:min(len(sessions), sessionRows)] {
		out.Sessions = append(out.Sessions, wire.SessionView{
			Instance: s.Instance, Server: s.ServerID, Client: s.ClientID, Host: s.Host, Since: s.Issued.UTC(), Expires: s.Expires.UTC(),
		})
	}
	if err := p.reach(ctx, a, &out); err != nil {
		return nil, err
	}
	did := newDeeds(id, agentid.Instance{})
	if out.Audit, err = p.readAudit(ctx, p.clock().Add(-blastPast), [][]byte{quotedID(id)}, did.add); err != nil {
		return nil, err
	}
	out.Did = did.view()
	return out, nil
}

// quotedID is how a record names an agent.
func quotedID(id agentid.ID) []byte { return []byte(`"` + id.String() + `"`) }

// reach fills in what an agent holds, and who holds the other end of it.
func (p *Plane) reach(ctx context.Context, a *registry.Agent, out *wire.Blast) error {
	out.Call, out.Handle, out.Publish, out.Subscribe = []wire.ReachView{}, []wire.ReachView{}, []wire.ReachView{}, []wire.ReachView{}
	if a.Status == registry.Revoked {
		return nil
	}
	back := *a
	back.Status = registry.Active
	holds, err := p.holdings(ctx, &back, comingBack{p.store.Directory(ctx), a.Agent})
	if err != nil {
		return err
	}
	held, err := p.heldBy(ctx, a.Agent)
	if err != nil {
		return err
	}
	for _, s := range slices.SortedFunc(maps.Keys(holds), byText) {
		name, other, to, err := otherEnd(s, out)
		if err != nil {
			return err
		}
		if to == nil {
			out.Admin = true
			continue
		}
		reached := held[other]
		slices.SortFunc(reached, byName)
		reached = slices.Compact(reached)
		*to = append(*to, wire.ReachView{
			Scope: name, Lent: !slices.Contains(holds[s], own), Count: len(reached), Agents: list(reached[:min(len(reached), reachRows)]),
		})
	}
	return nil
}

// otherEnd is the right without which one of the kind of s reaches nobody, and the
// list that s belongs into; none for rights over the mesh itself.
func otherEnd(s capability.Scope, out *wire.Blast) (name string, other capability.Scope, to *[]wire.ReachView, err error) {
	if handled, ok := s.Handled(); ok {
		return handled.String(), handled, &out.Handle, nil
	}
	switch s.Verb() {
	case "admin":
		return "", capability.Scope{}, nil, nil
	case "publish":
		other, err = capability.SubscribeOf(s.Dotted())
		return s.Dotted(), other, &out.Publish, err
	case "subscribe":
		other, err = capability.PublishOf(s.Dotted())
		return s.Dotted(), other, &out.Subscribe, err
	}
	other, err = capability.HandleOf(s)
	return s.String(), other, &out.Call, err
}

// heldBy is which other active agents hold a scope, own or lent.
func (p *Plane) heldBy(ctx context.Context, but agentid.ID) (map[capability.Scope][]agentid.ID, error) {
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return nil, err
	}
	lent, err := p.store.AllHeld(ctx) // at once: a question for each agent would take seconds
	if err != nil {
		return nil, err
	}
	dir := p.store.Directory(ctx)
	out := map[capability.Scope][]agentid.ID{}
	for _, a := range agents {
		if a.Agent == but || a.Agent.Reserved() || a.Status.Standing() != nil {
			continue
		}
		scopes, _, err := a.Rights.Scopes()
		if err != nil {
			return nil, err
		}
		for _, digest := range lent[a.Agent] {
			c, err := p.store.Chain(ctx, digest)
			if err == nil {
				err = c.Check(p.clock(), dir)
			}
			switch {
			case err == nil:
				scopes = append(scopes, c.Scopes()...)
			case denial.Of(err) == "":
				return nil, err
			}
		}
		for _, s := range scopes {
			out[s] = append(out[s], a.Agent)
		}
	}
	return out, nil
}
