package controlplane

import (
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
)

// DeafTo has the plane not hear the beats of an agent, as if they were lost on the
// way from another server.
func (p *Plane) DeafTo(id agentid.ID) error {
	if err := p.hears.sub.Unsubscribe(); err != nil {
		return err
	}
	var err error
	p.hears.sub, err = p.hears.nc.Subscribe(p.space.BeatFilter(), func(m *nats.Msg) {
		if s, err := p.space.Parse(m.Subject); err != nil || s.Sender != id {
			p.hear(m)
		}
	})
	return err
}
