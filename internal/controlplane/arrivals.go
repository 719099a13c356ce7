package controlplane

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

const (
	// arrivalGrace is how long the index has to hear of a connection's session,
	// which was written before the connection was admitted.
	arrivalGrace = 500 * time.Millisecond
	// arrivalsMost bounds what is remembered; what does not fit is found when the
	// servers' lists are compared with the index.
	arrivalsMost = 1 << 16
)

// arrivals are connections that were admitted and that the index does not know
// yet. One that it does not come to know was admitted by somebody else who has the
// issuer's key, or by a mistake: no cut would find it.
type arrivals struct {
	mu   sync.Mutex
	list map[connection]agentid.ID // zero where the name is no agent's
	wake chan struct{}

	unlisted atomic.Uint64 // connections that were cut because nobody had listed them
}

func newArrivals() *arrivals {
	return &arrivals{list: map[connection]agentid.ID{}, wake: make(chan struct{}, 1)}
}

// event is what a server says of a connection that begins or ends.
type event struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Client struct {
		ID   uint64 `json:"id"`
		User string `json:"user"`
	} `json:"client"`
}

// onConnect hears of connections that were admitted.
func (p *Plane) onConnect(data []byte) {
	var e event
	if json.Unmarshal(data, &e) != nil || e.Server.ID == "" {
		return
	}
	id, err := agentid.Parse(e.Client.User)
	if err != nil {
		id = agentid.ID{}
	}
	c := connection{e.Server.ID, e.Client.ID}
	if s := p.sessions.at(c); s != nil && s.Agent == id {
		return
	}
	a := p.arrivals
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) < arrivalsMost {
		a.list[c] = id
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *arrivals) take() map[connection]agentid.ID {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = map[connection]agentid.ID{}
	return list
}

// greet looks, a moment later, for the sessions of connections that were admitted.
func (p *Plane) greet() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.arrivals.wake:
		}
		list := p.arrivals.take()
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(arrivalGrace):
		}
		var strangers []target
		for c, id := range list {
			if s := p.sessions.at(c); s == nil || s.Agent != id {
				strangers = append(strangers, target{connection: c, agent: id})
			}
		}
		p.cutStrangers(strangers)
	}
}

// cutStrangers closes those of the connections that the leader does not list
// either, and raises an alarm for each that was really there.
func (p *Plane) cutStrangers(list []target) {
	byAgent := map[agentid.ID][]target{}
	for _, t := range list {
		byAgent[t.agent] = append(byAgent[t.agent], t)
	}
	for _, id := range slices.SortedFunc(maps.Keys(byAgent), byName) {
		ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
		p.cutStrangersOf(ctx, id, byAgent[id])
		cancel()
	}
}

func (p *Plane) cutStrangersOf(ctx context.Context, id agentid.ID, list []target) {
	listed := map[connection]bool{}
	if !id.IsZero() {
		// Who is admitted was listed before.
		sessions, err := p.store.Sessions(ctx, id)
		if err != nil {
			if p.ctx.Err() == nil {
				p.log.Warn().Err(err).Str("agent", id.String()).Msg("sessions of new connections cannot be read")
			}
			p.repairs.soon()
			return
		}
		for _, s := range sessions {
			listed[connectionOf(&s)] = true
		}
	}
	for _, t := range list {
		if listed[t.connection] {
			continue
		}
		was, err := p.kick(ctx, t.connection)
		switch {
		case err != nil:
			p.log.Error().Err(err).Str("agent", id.String()).Str("server_id", t.server).Msg("connection that nobody listed could not be cut")
			p.repairs.soon()
		case was:
			p.arrivals.unlisted.Add(1)
			p.log.Error().Str("agent", id.String()).Str("server_id", t.server).Uint64("client_id", t.client).
				Msg("a connection that no control plane had listed was cut: somebody else may be able to admit connections")
		}
	}
}
