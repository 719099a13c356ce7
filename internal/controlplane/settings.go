package controlplane

import (
	"context"

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
	change := func() (*registry.Agent, error) { return p.store.Set(ctx, id, *s, by.String()) }
	var a *registry.Agent
	var err error
	if s.Stock != nil || s.Depth != nil {
		a, _, err = p.changeAndCut(ctx, id, change)
	} else {
		a, err = change()
	}
	if err != nil {
		return nil, err
	}
	return p.view(ctx, a)
}
