package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// placeMost is how many connections an instance may have where its agent has
	// one session at a time: two while the client replaces one by the other.
	placeMost = 2
	// placesRead bounds how many sessions of one instance are looked at for one
	// admission. Where more are listed nobody is let in: who is there may be behind
	// those that somebody with a copy of the key opened and left. What is not open
	// any more is forgotten in passing, so the next one sees all of them.
	placesRead = 32
)

// place is one connection of an instance and what its server says of it.
type place struct {
	registry.Session
	sight
	err error // it could not be asked
}

// takePlace decides whether a session that was just written may stay, where its
// agent has one session at a time. The connection that is open stays: whoever
// comes with a copy of its key is refused, and not the one who was there. Only
// where that fell silent, as a host does whose network changed under it, it is
// closed to make room.
//
// The session was written before the others are read, and so was theirs: of two
// that come at the same moment at least one sees the other. Both may, and both are
// refused, and come again each in its own time.
func (p *Plane) takePlace(ctx context.Context, a *registry.Agent, s registry.Session) error {
	if a.Sessions != registry.SessionsSingle {
		return nil
	}
	err := p.findPlace(ctx, a, s)
	if err != nil {
		// It must not stand in anybody's way.
		if e := p.store.DropSession(context.WithoutCancel(ctx), s); e != nil {
			p.log.Warn().Err(e).Msg("session of a refused connection stays listed")
		}
	}
	return err
}

func (p *Plane) findPlace(ctx context.Context, a *registry.Agent, s registry.Session) error {
	list, err := p.store.InstanceSessions(ctx, s.Agent, s.Instance)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(o registry.Session) bool { return o.Key() == s.Key() })
	all := len(list)
	list = list[:min(all, placesRead)]
	host, here := hostOf(s.Host), 0
	for _, o := range p.places(ctx, list) {
		same := hostOf(o.Host) == host
		switch {
		case same && o.err != nil:
			continue // a server that is away must not lock out the host that was there before
		case same && here < placeMost-1:
			here++
			continue
		}
		if p.silent(a, o.Session) {
			was, err := p.kick(ctx, connection{o.ServerID, o.ClientID})
			if err == nil {
				p.log.Info().Str("agent", s.Agent.String()).Str("instance", s.Instance.String()).Str("host", o.Host).Str("for", s.Host).
					Bool("open", was).Msg("a silent connection made room")
				p.forgetSession(ctx, o.Session)
				continue
			}
			o.err = err
		}
		if o.err != nil {
			return denial.New(denial.SessionTaken, "%s/%s may still be connected from %s: %w", s.Agent, s.Instance, o.Host, o.err)
		}
		if same {
			return denial.New(denial.SessionTaken, "%s/%s is connected from %s %d times already", s.Agent, s.Instance, o.Host, placeMost)
		}
		p.clones.refused(nameOf(s.Agent, s.Instance), host)
		return denial.New(denial.SessionTaken, "%s/%s is connected from %s", s.Agent, s.Instance, o.Host)
	}
	if all > len(list) {
		return denial.New(denial.SessionTaken, "%s/%s has %d sessions listed, more than are looked at", s.Agent, s.Instance, all)
	}
	return nil
}

// places asks the servers for the connections of sessions and returns those that
// are open, or that could not be asked for, the oldest first. The others are
// forgotten.
func (p *Plane) places(ctx context.Context, list []registry.Session) []place {
	out := make([]place, len(list))
	each(ctx, indices(list), func(ctx context.Context, i int) error {
		s := list[i]
		seen, err := p.look(ctx, connection{s.ServerID, s.ClientID}, s.Agent)
		out[i] = place{s, seen, err}
		if err == nil && !seen.open {
			p.forgetSession(ctx, s)
		}
		return nil
	})
	out = slices.DeleteFunc(out, func(o place) bool { return o.err == nil && !o.open })
	slices.SortFunc(out, func(a, b place) int {
		return cmp.Or(a.Issued.Compare(b.Issued), cmp.Compare(a.Key(), b.Key()))
	})
	return out
}

func indices[T any](list []T) []int {
	out := make([]int, len(list))
	for i := range out {
		out[i] = i
	}
	return out
}

func (p *Plane) forgetSession(ctx context.Context, s registry.Session) {
	if err := p.store.DropSession(ctx, s); err != nil {
		p.log.Debug().Err(err).Msg("session stays listed")
	}
}

// silent reports whether the instance that a connection is one of has missed its
// beats, so that nobody is left there who could say that he is. Where no beats
// are due, or they may have been lost on their way, nobody is silent; then the
// server has to notice by itself that a client is gone.
func (p *Plane) silent(a *registry.Agent, s registry.Session) bool {
	m := p.monitor.Status()
	heard := time.Duration(m.TimeoutMS-m.GraceMS) * time.Millisecond // for how long nothing was missed, at least
	if a.Heartbeat == registry.HeartbeatNone || m.State == heartbeat.Blind || m.State == heartbeat.Held || heard < p.beatMissed() {
		return false
	}
	last := s.Issued
	if seen, ok := p.monitor.Seen(s.Agent, s.Instance); ok && seen.LastBeat.After(last) {
		last = seen.LastBeat
	}
	return p.clock().Sub(last) > p.beatMissed()
}

// beatMissed is after how long without one a beat was missed for certain.
func (p *Plane) beatMissed() time.Duration {
	return time.Duration(p.cfg.Mesh.Config.Heartbeat.Interval) * 3 / 2
}

// oneHostEach leaves each instance of an agent the host that was there first,
// after an operator said that there is to be one session at a time. The others'
// authority is the same as before, so no epoch rises: they are closed, and the
// door refuses them.
func (p *Plane) oneHostEach(ctx context.Context, id agentid.ID) error {
	list, err := p.store.Sessions(ctx, id)
	if err != nil {
		return err
	}
	byInstance := map[agentid.Instance][]registry.Session{}
	for _, s := range list {
		byInstance[s.Instance] = append(byInstance[s.Instance], s)
	}
	for inst, list := range byInstance {
		if len(list) < 2 {
			continue
		}
		places := p.places(ctx, list)
		for _, o := range places {
			if hostOf(o.Host) == hostOf(places[0].Host) {
				continue
			}
			if _, err := p.kick(ctx, connection{o.ServerID, o.ClientID}); err != nil {
				return fmt.Errorf("closing a connection of %s/%s from %s: %w", id, inst, o.Host, err)
			}
			p.forgetSession(ctx, o.Session)
		}
	}
	return nil
}
