package controlplane

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// resume brings an agent back, or one of its instances where inst names it.
func (p *Plane) resume(ctx context.Context, by, id agentid.ID, inst agentid.Instance, reason string) (any, error) {
	var a *registry.Agent
	var err error
	if inst.IsZero() {
		a, err = p.store.Resume(ctx, id, by.String(), reason)
	} else {
		a, err = p.store.ResumeInstance(ctx, id, inst, by.String(), reason)
	}
	if err != nil {
		return nil, err
	}
	return p.view(ctx, a)
}

// addStanding adds to the view of an instance what keeps it away, and who else has
// its key.
func (p *Plane) addStanding(v *wire.InstanceView, i *registry.Instance) {
	flaps, until := i.Flapping(p.clock())
	v.Flaps = flaps
	if !until.IsZero() {
		until = until.UTC()
		v.NotBefore = &until
	}
	if i.State != registry.InstanceRevoked {
		v.Clones = p.clones.alarm(nameOf(i.Agent, i.Instance), p.clock())
	}
}
