package controlplane

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// self is what every active agent may ask about itself, and about whom it sends
// to.
func (p *Plane) self(ctx context.Context, scope string, v *envelope.Verified) (any, error) {
	from, inst := v.From(), v.Instance()
	switch scope {
	case wire.SelfSession:
		var req wire.SessionRequest
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.session(ctx, from, inst, req)
	case wire.SelfChainPut:
		var req wire.ChainPut
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		c, err := p.store.Upload(ctx, from, req.Chain)
		if err != nil {
			return nil, err
		}
		p.change(from, c.Holder(), agentid.Instance{}, "delegate", registry.ShortDigest(c.Digest()), nil)
		return struct{}{}, nil
	case wire.SelfDelegationEnd:
		var req wire.DelegationEnd
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.endOwn(ctx, from, req)
	case wire.SelfDurable:
		var req wire.DurableRequest
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.durable(ctx, from, req)
	case wire.SelfDurableEnd:
		var req wire.DurableEnd
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.endDurable(ctx, from, req)
	case wire.SelfRenew:
		var req wire.Renew
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.renew(ctx, from, inst, req)
	case wire.SelfInstances:
		var req wire.InstancesRequest
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.instances(ctx, req)
	case wire.SelfStored:
		var req wire.StoredRequest
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.ownStored(ctx, v, req)
	}
	return nil, denial.New(denial.NotFound, "the control plane does not handle %q", scope)
}

func (p *Plane) session(ctx context.Context, from agentid.ID, inst agentid.Instance, req wire.SessionRequest) (any, error) {
	resp := wire.SessionResponse{HeartbeatMS: time.Duration(p.cfg.Mesh.Config.Heartbeat.Interval).Milliseconds()}
	a, err := p.store.Agent(ctx, from)
	if err != nil {
		return nil, err
	}
	resp.Watched = a.Heartbeat != registry.HeartbeatNone
	sessions, err := p.store.Sessions(ctx, from)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		if s.Instance == inst && s.ServerID == req.Server && s.ClientID == req.Client {
			resp.Expires, resp.Chains, resp.Footing = s.Expires, s.Chains, s.Footing
		}
	}
	if resp.Held, err = p.store.Held(ctx, from); err != nil {
		return nil, err
	}
	return resp, nil
}

// chainToEnd finds the chain whose last delegation is to be voided. It may have
// been made offline and never stored: then its text, where there is one, says what
// to void before somebody stores it. Without a text nobody knows whether one that
// is not stored is over or still to come, and nobody must believe that it ended.
func (p *Plane) chainToEnd(ctx context.Context, digest, text string) (*capability.Chain, error) {
	c, err := p.store.Chain(ctx, digest)
	if denial.Of(err) != denial.UnknownChain || text == "" {
		return c, err
	}
	if c, err = capability.Verify(text, p.store.Ring(), p.clock()); err == nil && c.Digest() != digest {
		err = denial.New(denial.BadInput, "the chain is not the one that the digest names")
	}
	return c, err
}

// endOwn voids a delegation on the word of its delegator.
func (p *Plane) endOwn(ctx context.Context, by agentid.ID, req wire.DelegationEnd) (any, error) {
	c, err := p.chainToEnd(ctx, req.Chain, req.Text)
	switch {
	case denial.Of(err) == denial.TokenExpired:
		return wire.CutResult{Schema: wire.CutSchema, Agent: by, Delegates: []agentid.ID{}, Servers: []wire.ServerCut{}, Confirmed: true}, nil // it is over already
	case err != nil:
		return nil, err
	}
	if hops := c.Hops(); len(hops) < 2 || hops[len(hops)-1].By != by {
		return nil, denial.New(denial.NotHolder, "%q did not make this delegation", by)
	}
	return p.endDelegation(ctx, c)
}

// endDelegation voids the delegation that ends a chain and sees to it that no
// connection rests on it any more.
func (p *Plane) endDelegation(ctx context.Context, c *capability.Chain) (any, error) {
	hops := c.Hops()
	last := hops[len(hops)-1]
	start := time.Now()
	a, r, err := p.changeAndCutAs(ctx, last.By, gently, func() (*registry.Agent, error) {
		a, err := p.store.EndDelegation(ctx, last.By, last.Token, last.Expires)
		if err == nil {
			p.change(last.By, c.Holder(), agentid.Instance{}, "end-delegation", registry.ShortDigest(c.Digest()), nil)
		}
		return a, err
	})
	if err != nil {
		return nil, err
	}
	p.seeOff(ctx, last.By, r)
	return p.cutResult(a, r, start), nil
}
