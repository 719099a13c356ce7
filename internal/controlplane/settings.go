package controlplane

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// set changes an agent's settings. Where one of them may take authority away it
// returns when the connections are closed that had it.
func (p *Plane) set(ctx context.Context, by, id agentid.ID, s *wire.Settings) (any, error) {
	if s == nil {
		return nil, denial.New(denial.BadInput, "set needs settings")
	}
	if s.Join != nil {
		if err := p.listed(*s.Join); err != nil {
			return nil, err
		}
	}
	change := func() (*registry.Agent, error) { return p.store.Set(ctx, id, *s, by.String()) }
	start := time.Now()
	var a *registry.Agent
	var r *cutReport
	var err error
	if s.Stock != nil || s.Depth != nil {
		a, r, err = p.changeAndCut(ctx, id, change)
	} else {
		a, err = change()
	}
	if err != nil {
		return nil, err
	}
	if s.Sessions != nil && a.Sessions == registry.SessionsSingle {
		// The setting stands; what stays open now, the next admission meets.
		if err := p.oneHostEach(ctx, id); err != nil {
			p.log.Warn().Err(err).Str("agent", id.String()).Msg("some instance stays connected from several hosts for now")
		}
	}
	v, err := p.view(ctx, a)
	if err == nil && r != nil {
		cut := p.cutResult(a, r, start)
		v.Cut = &cut
	}
	return v, err
}
