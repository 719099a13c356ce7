package controlplane

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// goneSpread is how far replicas of the control plane say the same thing apart:
	// whoever is second has heard it from the first and says nothing.
	goneSpread = 200 * time.Millisecond
	// goneMost bounds the instances of which it is waited whether they come back, and
	// those of which it was said that they did not. It is a hint: whoever waits for
	// one of the others waits for as long as he would have without it.
	goneMost = 1 << 14
	// goneBatch is the least time between two looks: a server that ends takes many
	// along.
	goneBatch = 20 * time.Millisecond
	// goneTimeout bounds the look at the sessions of all whose time has come.
	goneTimeout = 5 * time.Second
)

// who is one instance of an agent.
type who struct {
	agent    agentid.ID
	instance agentid.Instance
}

// absence is an instance of which a connection ended.
type absence struct {
	epoch envelope.Epoch
	at    time.Time // when
	due   time.Time // when to look whether it has another one
}

// absences are those whose time has not come yet, and what was said of others.
type absences struct {
	after time.Duration // registry.GoneAfter
	seed  maphash.Seed  // by which replicas differ

	mu   sync.Mutex
	list map[who]absence
	said map[who]time.Time // when the connection ended of which somebody has told
	wake chan struct{}
}

func newAbsences(after time.Duration) *absences {
	if after == 0 {
		after = registry.GoneAfter
	}
	return &absences{
		after: after, seed: maphash.MakeSeed(),
		list: map[who]absence{}, said: map[who]time.Time{}, wake: make(chan struct{}, 1),
	}
}

// ended notes that a connection ended that was let in by a session. Of more than one
// of an instance the last counts.
func (a *absences) ended(s *registry.Session, now time.Time) {
	w := who{s.Agent, s.Instance}
	spread := time.Duration(maphash.Comparable(a.seed, w) % uint64(goneSpread))
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, waits := a.list[w]; !waits && len(a.list) >= goneMost {
		return
	}
	a.list[w] = absence{envelope.Epoch{Agent: s.AgentEpoch, Instance: s.Epoch}, now, now.Add(a.after + spread)}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// due returns those whose time has come, and in how long that of the next one does;
// zero where nobody waits.
func (a *absences) due(now time.Time) (list map[who]absence, next time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for w, s := range a.list {
		switch left := s.due.Sub(now); {
		case left <= 0:
			if list == nil {
				list = map[who]absence{}
			}
			list[w] = s
			delete(a.list, w)
		case next == 0 || left < next:
			next = left
		}
	}
	for w, at := range a.said {
		if now.Sub(at) > 2*a.after+goneTimeout {
			delete(a.said, w)
		}
	}
	return list, next
}

// heard notes what a replica has said, and spoken whether one has said it of the same
// end of a connection: each has its own clock, and hears of it in its own time.
func (a *absences) heard(w who, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, said := a.said[w]; said || len(a.said) < goneMost {
		a.said[w] = at
	}
}

func (a *absences) spoken(w who, at time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	said, ok := a.said[w]
	return ok && said.Sub(at).Abs() < a.after
}

// startGone says of instances whose last connection ended, and that do not come back,
// that they are gone, for those who wait for their answers.
func (p *Plane) startGone() error {
	if _, err := p.ctrl.Subscribe(p.space.FeedGoneFilter(), p.onGone); err != nil {
		return err
	}
	p.wg.Go(func() {
		for p.ctx.Err() == nil {
			list, in := p.absences.due(p.clock())
			if len(list) > 0 {
				p.sayGone(list)
			}
			var next <-chan time.Time
			wake := p.absences.wake
			if in > 0 {
				// Whoever comes meanwhile is due later, or not much sooner.
				next, wake = time.After(max(in, goneBatch)), nil
			}
			select {
			case <-p.ctx.Done():
			case <-wake:
			case <-next:
			}
		}
	})
	return nil
}

// sayGone says it of those that have no session. Where that cannot be found out,
// nothing is said.
func (p *Plane) sayGone(list map[who]absence) {
	ctx, cancel := context.WithTimeout(p.ctx, goneTimeout)
	defer cancel()
	if err := p.sessions.catchUp(ctx); err != nil {
		p.log.Debug().Err(err).Int("instances", len(list)).Msg("it cannot be found out whether instances are gone")
		return
	}
	for w, a := range list {
		here := slices.ContainsFunc(p.sessions.of(w.agent), func(s registry.Session) bool { return s.Instance == w.instance })
		if here || p.absences.spoken(w, a.at) {
			continue
		}
		text, err := p.store.SignGone(w.agent, w.instance, a.epoch, a.at)
		if err == nil {
			err = p.ctrl.Publish(p.space.FeedGone(w.agent, w.instance), []byte(text))
		}
		if err != nil {
			p.log.Debug().Err(err).Str("agent", w.agent.String()).Msg("it was not said that an instance is gone")
			continue
		}
		p.absences.heard(w, a.at)
	}
}

// onGone hears what other replicas say. The subject is in the control plane's account,
// and all the same only the signature counts.
func (p *Plane) onGone(m *nats.Msg) {
	id, inst, err := p.space.ParseFeedGone(m.Subject)
	if err != nil {
		return
	}
	if g, _, err := registry.DecodeGone(string(m.Data), id, inst, p.store.Ring(), p.clock()); err == nil {
		p.absences.heard(who{id, inst}, time.UnixMilli(g.At))
	}
}
