package controlplane

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// Monitor is the plane's heartbeat monitor.
func (p *Plane) Monitor() *heartbeat.Monitor { return p.monitor }

// Deafen makes the plane hear no orders of other replicas.
func (p *Plane) Deafen() error { return p.brakes.sub.Unsubscribe() }

// MonitorOrder is an order to the monitor, signed with a key; nil: the control
// plane's own.
func (p *Plane) MonitorOrder(key jws.Signer, verb string, at time.Time, holds ...string) (string, error) {
	o := p.newOrder(verb)
	o.At, o.Holds = at.UnixMilli(), holds
	if key == nil {
		key = p.brakes.key
	}
	return jws.Sign(o, key)
}

// Obey lets the plane hear an order, as if it came from another replica.
func (p *Plane) Obey(text string) { p.onMonitorOrder(&nats.Msg{Data: []byte(text)}) }

// BeatDoor counts beats.
type BeatDoor struct{ d *beatDoor }

func NewBeatDoor(interval time.Duration) BeatDoor {
	return BeatDoor{newBeatDoor(interval, subject.Default(), subject.Default().Beat(agentid.Control, agentid.InstanceOf("control")))}
}

func (d BeatDoor) Lets(subj string, size int, now time.Time) (ok, first bool) {
	return d.d.lets(subj, size, now)
}

func (d BeatDoor) Flooding(now time.Time) []string { return d.d.flooding(now) }

const (
	BeatsMost    = beatsMost
	CanariesMost = canariesMost
)

// Follow has the plane see an agent's records one after another, and returns how many
// its monitor judges after each.
func (p *Plane) Follow(records ...*registry.Agent) (watched []int) {
	w := watcher{p: p}
	var old *registry.Agent
	for _, a := range records {
		w.always(old, a)
		watched, old = append(watched, p.monitor.Status().Watched), a
	}
	return watched
}

// WithMonitor is a plane that does nothing but watch.
func WithMonitor(m *heartbeat.Monitor) *Plane { return &Plane{monitor: m} }

// SpeakAs signs as an instance of the mesh.
func (p *Plane) SpeakAs(id agentid.ID, key *envelope.Key, e envelope.Epoch) *gate.Speaker {
	return &gate.Speaker{Self: id, Key: key, TrustDomain: p.cfg.Mesh.Config.TrustDomain, Space: p.space, Clock: p.clock, Epoch: func() envelope.Epoch { return e }}
}
