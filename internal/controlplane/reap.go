package controlplane

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// reapEvery is how often instances are looked for that are gone.
const reapEvery = 10 * time.Minute

// reapGone reaps, of agents whose instances come and go by themselves, those that
// are gone: after one more life of a certificate than they could come back in, so
// that a host that was cut off from the control plane finds its place again. Every
// replica does; of two that meet, one writes.
func (p *Plane) reapGone() {
	t := time.NewTimer(rand.N(reapEvery))
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
		}
		t.Reset(reapEvery)
		if err := p.reapAll(p.ctx); err != nil && p.ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("looking for instances that are gone")
		}
	}
}

func (p *Plane) reapAll(ctx context.Context) error {
	agents, err := p.store.Agents(ctx, false)
	for _, a := range agents {
		if a.Join.IsZero() {
			continue
		}
		if _, e := p.reap(ctx, a.Agent, time.Duration(p.cfg.Mesh.Config.Certificate.TTL)); e != nil {
			err = e
		}
	}
	return err
}

// reap reaps the instances of one agent that could not come back for longer than
// grace, and returns how many.
func (p *Plane) reap(ctx context.Context, id agentid.ID, grace time.Duration) (int, error) {
	a, err := p.store.Agent(ctx, id)
	if err != nil {
		return 0, err
	}
	reaped, err := p.store.Reap(ctx, id, p.cfg.Mesh.Config.Certificate.RenewAfterExpiry.Of(a.AgentKind)+grace)
	for _, inst := range reaped {
		p.change(agentid.Control, id, inst, "reap", "its certificate ended and it did not come back", nil)
	}
	if len(reaped) > 0 {
		p.log.Info().Str("agent", id.String()).Int("instances", len(reaped)).Msg("reaped instances that are gone")
	}
	return len(reaped), err
}
