package controlplane

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// self is what every active agent may ask about itself.
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
		return p.endDelegation(ctx, from, req.Chain)
	case wire.SelfRenew:
		var req wire.Renew
		if err := decode(v.Data(), &req); err != nil {
			return nil, err
		}
		return p.renew(ctx, from, inst, req)
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
			resp.Expires, resp.Chains = s.Expires, s.Chains
		}
	}
	if resp.Held, err = p.store.Held(ctx, from); err != nil {
		return nil, err
	}
	return resp, nil
}

// endDelegation voids the delegation that ends a chain, on the word of its
// delegator, and cuts the connections whose grant rested on it.
func (p *Plane) endDelegation(ctx context.Context, by agentid.ID, digest string) (any, error) {
	c, err := p.store.Chain(ctx, digest)
	if err != nil {
		if denial.Of(err) == denial.TokenExpired || denial.Of(err) == denial.UnknownChain {
			return wire.CutResult{Schema: wire.CutSchema, Agent: by, Delegates: []agentid.ID{}, Confirmed: true}, nil // it is over already
		}
		return nil, err
	}
	hops := c.Hops()
	last := hops[len(hops)-1]
	if len(hops) < 2 || last.By != by {
		return nil, denial.New(denial.NotHolder, "%q did not make this delegation", by)
	}
	start := time.Now()
	a, r, err := p.changeAndCut(ctx, by, func() (*registry.Agent, error) {
		a, err := p.store.EndDelegation(ctx, by, last.Token, last.Expires)
		if err == nil {
			p.change(by, c.Holder(), agentid.Instance{}, "end-delegation", registry.ShortDigest(digest), nil)
		}
		return a, err
	})
	if err != nil {
		return nil, err
	}
	return cutResult(a, r, start), nil
}

func (p *Plane) recordCertificate(ctx context.Context, id agentid.ID, inst agentid.Instance, chain []byte) error {
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return err
	}
	c, err := pki.VerifyAgent(certs, p.roots, p.cfg.Mesh.Config.TrustDomain, p.clock())
	if err != nil {
		return err
	}
	return p.store.SetCertificate(ctx, id, inst, c.Serial, c.NotAfter)
}

// cutResult says what a cut did.
func cutResult(a *registry.Agent, r *cutReport, start time.Time) wire.CutResult {
	return wire.CutResult{
		Schema: wire.CutSchema, Agent: a.Agent, Status: a.Status, Epoch: a.Epoch, Cut: r.cut,
		Delegates: list(slices.SortedFunc(maps.Keys(r.delegates), byName)),
		Confirmed: len(r.unreachable) == 0, Unreachable: r.servers(),
		MS: float64(time.Since(start).Microseconds()) / 1000,
	}
}
