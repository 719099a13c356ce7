package heartbeat

import (
	"math"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/envelope"
)

const (
	// maxSessions bounds the open sessions of one instance, so that a key that
	// keeps connecting cannot grow the monitor.
	maxSessions = 16
	// maxOver bounds the memory of those that are over. What falls out of it
	// is old: a replay of it has to pass the envelope's freshness first.
	maxOver = 64
)

// session is what the monitor knows about one connect of an instance.
type session struct {
	name     Session
	epoch    envelope.Epoch // of its newest beat
	sequence uint64
	heard    time.Duration
	silent   bool // for a whole timeout; a beat ends that
	inFlight uint32
}

// sessions are those of one instance: processes that share an agent's key, or
// connects that overlap.
type sessions struct {
	open []session
	over []Session // the oldest first; their beats are replays
}

func (l *sessions) index(name Session) int {
	return slices.IndexFunc(l.open, func(s session) bool { return s.name == name })
}

// replayed reports whether b was heard before, or may have been: it does not
// rise within its session or the session is over.
func (l *sessions) replayed(b Beat) bool {
	if i := l.index(b.Session); i >= 0 {
		return b.Sequence <= l.open[i].sequence
	}
	return slices.Contains(l.over, b.Session)
}

// note takes over b, which is no replay. The good-bye of a session ends it for
// good; where there is no room for a new one, the session that was not heard
// for longest has to go.
func (l *sessions) note(b Beat, e envelope.Epoch, at time.Duration) {
	i := l.index(b.Session)
	switch {
	case b.State == Leaving:
		if i >= 0 {
			l.open = slices.Delete(l.open, i, i+1)
		}
		l.end(b.Session)
		return
	case i < 0:
		if len(l.open) == maxSessions {
			l.evict()
		}
		l.open = append(l.open, session{name: b.Session, heard: at})
		i = len(l.open) - 1
	}
	s := &l.open[i]
	s.epoch, s.sequence, s.heard, s.silent, s.inFlight = e, b.Sequence, max(s.heard, at), false, b.InFlight
}

// evict ends the session that was not heard for longest. Its last sequence is
// lost with it, so it must not come back.
func (l *sessions) evict() {
	oldest := 0
	for i, s := range l.open {
		if s.heard < l.open[oldest].heard {
			oldest = i
		}
	}
	l.end(l.open[oldest].name)
	l.open = slices.Delete(l.open, oldest, oldest+1)
}

// end remembers that a session is over.
func (l *sessions) end(name Session) {
	if len(l.over) == maxOver {
		l.over = slices.Delete(l.over, 0, 1)
	}
	l.over = append(l.over, name)
}

// restart ends the sessions before an admission under epoch e. If that is a new
// one, those that beat under it before the monitor heard of the admission go on.
func (l *sessions) restart(e envelope.Epoch, fresh bool) {
	l.open = slices.DeleteFunc(l.open, func(s session) bool {
		if fresh && s.epoch.Covers(e) {
			return false
		}
		l.end(s.name)
		return true
	})
}

// beating reports whether a session of epoch e or above is still heard. One
// below e belongs to a connection that was cut, since e was verified.
func (l *sessions) beating(e envelope.Epoch) bool {
	return slices.ContainsFunc(l.open, func(s session) bool { return !s.silent && s.epoch.Covers(e) })
}

// inFlight is the sum over the sessions that are still heard.
func (l *sessions) inFlight() uint32 {
	var sum uint64
	for _, s := range l.open {
		if !s.silent {
			sum += uint64(s.inFlight)
		}
	}
	return uint32(min(sum, math.MaxUint32))
}

// hush notes which sessions of w have been silent for a whole timeout. Like the
// silence of an instance, that of a session is judged only while its beats
// could have arrived; until then a session counts as it did before.
func (m *Monitor) hush(w *watch, now time.Duration) {
	if m.blind(now) || m.held != nil {
		return
	}
	for i := range w.sessions.open {
		s := &w.sessions.open[i]
		if now >= max(s.heard, m.base)+m.cfg.Timeout {
			s.silent = true
		}
	}
}
