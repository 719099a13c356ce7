package controlplane

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// repairEvery is how often the sessions are compared with what the servers
	// have, give or take a third: replicas should not do it together.
	repairEvery = 3 * time.Minute
	// repairPause is the least time between two, repairAgain that behind one that
	// failed.
	repairPause   = 2 * time.Second
	repairAgain   = 15 * time.Second
	repairTimeout = time.Minute
	// settled is how long ago a session was opened that ought to have its
	// connection: the server waits ten seconds for an answer, and clocks differ.
	settled = time.Minute
	// awayLong is how long a server that counts as gone is, besides, away before
	// its sessions are forgotten.
	awayLong = 2 * time.Minute
)

// repairs keeps the index true where an event was lost.
type repairs struct {
	wake chan struct{}

	mu       sync.Mutex           // one at a time
	away     map[string]time.Time // servers with sessions that nobody hears of
	awayLong time.Duration
	settled  time.Duration
}

func newRepairs() *repairs {
	return &repairs{wake: make(chan struct{}, 1), away: map[string]time.Time{}, awayLong: awayLong, settled: settled}
}

// soon has a repair made.
func (r *repairs) soon() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// keepRepaired repairs at the start, when a server is met, and from time to time.
func (p *Plane) keepRepaired() {
	for {
		pause := repairEvery*2/3 + rand.N(repairEvery*2/3)
		if err := p.repair(p.ctx); err != nil {
			if p.ctx.Err() != nil {
				return
			}
			p.log.Warn().Err(err).Msg("sessions could not be compared with connections")
			pause = repairAgain
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(repairPause):
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		case <-p.repairs.wake:
		}
	}
}

// repair compares the sessions with the connections that the servers have: it
// forgets sessions without a connection, and closes connections without a
// session.
func (p *Plane) repair(ctx context.Context) error {
	p.repairs.mu.Lock()
	defer p.repairs.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	began := p.clock()
	c, err := p.connections(ctx, agentid.ID{})
	if err != nil {
		return err
	}
	// After the servers were asked: who is connected was listed before.
	if err := p.sessions.catchUp(ctx); err != nil {
		return err
	}
	open := map[connection]bool{}
	var strangers []target
	for _, t := range c.found {
		open[t.connection] = true
		if s := p.sessions.at(t.connection); s == nil || s.Agent != t.agent {
			strangers = append(strangers, t)
		}
	}
	var over []registry.Session
	away := map[string]bool{}
	for _, s := range p.sessions.all() {
		switch {
		case open[connectionOf(&s)]:
		case c.asked[s.ServerID]:
			if began.Sub(s.Issued) > p.repairs.settled {
				over = append(over, s)
			}
		case !p.servers.known(s.ServerID):
			away[s.ServerID] = true
			if since, ok := p.repairs.away[s.ServerID]; ok && began.Sub(since) >= p.repairs.awayLong {
				over = append(over, s)
			}
		}
	}
	for id := range p.repairs.away {
		if !away[id] {
			delete(p.repairs.away, id)
		}
	}
	for id := range away {
		if _, ok := p.repairs.away[id]; !ok {
			p.repairs.away[id] = began
		}
	}
	for _, err := range each(ctx, over, p.store.DropSession) {
		p.log.Debug().Err(err).Msg("session stays listed")
	}
	if len(over)+len(strangers) > 0 {
		p.log.Info().Int("forgotten", len(over)).Int("unlisted", len(strangers)).Msg("sessions set right")
	}
	p.cutStrangers(strangers)
	return nil
}

// lookThrough finds, once through all sessions, who is connected without being
// entitled to it, and has him cut: what was cut while nobody watched, or was left
// half done by a replica that died.
func (p *Plane) lookThrough(agents map[agentid.ID]*registry.Agent, instances map[agentid.ID]map[agentid.Instance]*registry.Instance) {
	for pause := cutAgain; ; pause = min(2*pause, cutAgainMost) {
		suspects, err := p.suspects(agents, instances)
		for id := range suspects {
			p.cutSoon(id)
		}
		if err == nil || p.ctx.Err() != nil {
			return
		}
		p.log.Error().Err(err).Msg("sessions could not be looked through")
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *Plane) suspects(agents map[agentid.ID]*registry.Agent, instances map[agentid.ID]map[agentid.Instance]*registry.Instance) (map[agentid.ID]bool, error) {
	ctx, cancel := context.WithTimeout(p.ctx, repairTimeout)
	defer cancel()
	out := map[agentid.ID]bool{}
	if err := p.sessions.catchUp(ctx); err != nil {
		return out, err
	}
	chains := map[string]error{}
	for _, s := range p.sessions.all() {
		if !stands(&s, agents[s.Agent], instances[s.Agent][s.Instance]) {
			out[s.Agent] = true
		}
		for _, digest := range s.Chains {
			if len(s.Via) == 0 {
				break // its own root tokens: they end with an epoch
			}
			if _, seen := chains[digest]; !seen {
				chains[digest] = (&admitter{p}).recheck(ctx, []string{digest})
			}
			if err := chains[digest]; err != nil && denial.Of(err) == "" {
				return out, err
			} else if err != nil {
				for _, id := range s.Via {
					out[id] = true // whoever of them ended it takes the session along
				}
			}
		}
	}
	return out, nil
}
