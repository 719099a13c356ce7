package meshclient

import (
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/registry"
)

// Of the agents that work on calls of this one the client hears when an instance went
// away for good. It subscribes that once a call was taken, and for a while after: one
// that asks the same agents again and again does not come and go at the server.
const (
	vanishLinger = 5 * time.Second
	// vanishMost bounds the subscriptions, of which a connection has so many. Calls
	// beyond end by their time-outs.
	vanishMost = 256
	// vanishSlack is how far after a connection ended something may have been heard
	// of it: by then it had not come back, and clocks differ.
	vanishSlack = registry.GoneAfter / 2
)

// vanishing are those of whom it is heard. The zero value is ready.
type vanishing struct {
	mu    sync.Mutex
	links []*link
	of    map[agentid.ID]*vanishable
}

// vanishable is one agent.
type vanishable struct {
	calls  int // that it works on
	subs   []*nats.Subscription
	linger *time.Timer
}

// gone is a verified word of the control plane that an instance went away.
type gone struct {
	epoch envelope.Epoch
	at    time.Time
}

// join has a connection hear of them as well. Of those that it replaces nothing is
// taken away: what comes twice does no harm.
func (m *Mesh) joinVanishing(l *link) error {
	v := &m.vanishing
	v.mu.Lock()
	defer v.mu.Unlock()
	v.links = append(slices.DeleteFunc(v.links, func(l *link) bool { return l.nc.IsClosed() }), l)
	for id, s := range v.of {
		s.subs = slices.DeleteFunc(s.subs, func(sub *nats.Subscription) bool { return !sub.IsValid() })
		if err := s.subscribe(m, l, id); err != nil {
			return err
		}
	}
	return nil
}

func (s *vanishable) subscribe(m *Mesh, l *link, id agentid.ID) error {
	sub, err := l.nc.Subscribe(m.space.FeedGoneOf(id), m.onGone)
	if err == nil {
		s.subs = append(s.subs, sub)
	}
	return err
}

// hearOf has a call hear of the instance that took it, until heardEnough.
func (m *Mesh) hearOf(p *pending, id agentid.ID, inst agentid.Instance) {
	v := &m.vanishing
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.of[id]
	if s == nil {
		if len(v.of) >= vanishMost {
			return
		}
		s = &vanishable{}
		for _, l := range v.links {
			if err := s.subscribe(m, l, id); err != nil && !l.nc.IsClosed() {
				m.log.Debug().Err(err).Str("peer", id.String()).Msg("it will not be heard whether it goes away")
			}
		}
		if v.of == nil {
			v.of = map[agentid.ID]*vanishable{}
		}
		v.of[id] = s
	}
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
	}
	s.calls++
	p.taken, p.takenBy = inst, s
}

func (m *Mesh) heardEnough(p *pending, id agentid.ID) {
	v := &m.vanishing
	v.mu.Lock()
	defer v.mu.Unlock()
	s := p.takenBy
	if s == nil {
		return
	}
	p.takenBy = nil
	if s.calls--; s.calls > 0 {
		return
	}
	s.linger = time.AfterFunc(vanishLinger, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if s.calls > 0 || v.of[id] != s {
			return
		}
		delete(v.of, id)
		for _, sub := range s.subs {
			sub.Unsubscribe() //nolint:errcheck // the connection may be gone, and the subscription with it
		}
	})
}

// onGone hears that an instance went away. Only the signature of the records key makes
// it count, and only for calls that this instance took; it expires nobody.
func (m *Mesh) onGone(msg *nats.Msg) {
	id, inst, err := m.space.ParseFeedGone(msg.Subject)
	if err != nil {
		return
	}
	var calls []*pending
	m.vanishing.mu.Lock()
	for _, w := range m.watches.of(id) {
		if p, ok := w.(*pending); ok && p.takenBy != nil && p.taken == inst {
			calls = append(calls, p)
		}
	}
	m.vanishing.mu.Unlock()
	if len(calls) == 0 {
		return // whoever sends it has nobody verify it for nothing
	}
	doc, e, err := registry.DecodeGone(string(msg.Data), id, inst, m.peers.Ring(), m.cfg.clock())
	if err != nil {
		m.log.Warn().Err(err).Str("peer", id.String()).Msg("word of an instance that went away refused")
		return
	}
	for _, p := range calls {
		p.gone.Store(&gone{e, time.UnixMilli(doc.At)})
		p.changed()
	}
}
