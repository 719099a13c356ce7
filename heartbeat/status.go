package heartbeat

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// What a monitor is doing.
const (
	Judging = "judging"
	Grace   = "grace" // waiting one full timeout after a start, a gap or a release
	Blind   = "blind" // its canary is away
	Held    = "held"  // the brake is on
)

// Status is how a monitor fares.
type Status struct {
	State       string   `json:"state"`
	Watched     int      `json:"watched"`          // judged by their silence
	SilentCount int      `json:"silent_count"`     // of those, who has missed beats
	Silent      []string `json:"silent,omitempty"` // some of them
	WouldExpire int      `json:"would_expire"`     // within one timeout, as the brake counts
	Expired     int      `json:"expired"`          // within the last timeout
	Expiring    int      `json:"expiring"`         // calls to the registry that wait
	CanaryMS    int64    `json:"canary_age_ms"`    // -1 if none has come back
	GraceMS     int64    `json:"grace_ms"`         // until anybody can be expired
	Held        *Alarm   `json:"held,omitempty"`
	Blinds      int      `json:"blind_spells"` // since the start
	Gaps        int      `json:"gaps"`         // since the start
	IntervalMS  int64    `json:"interval_ms"`
	TimeoutMS   int64    `json:"timeout_ms"`
}

// Status returns how the monitor fares.
func (m *Monitor) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.forgetRecent(now)
	silent := m.silent(now)
	would, _ := m.toll(silent)
	s := Status{
		State:       Judging,
		Watched:     m.deadlines.Len(),
		SilentCount: len(silent),
		Silent:      names(silent),
		WouldExpire: would,
		Expired:     len(m.recent),
		Expiring:    len(m.jobs) + m.running,
		CanaryMS:    -1,
		Blinds:      m.blinds,
		Gaps:        m.gaps,
		IntervalMS:  m.cfg.Interval.Milliseconds(),
		TimeoutMS:   m.cfg.Timeout.Milliseconds(),
	}
	if m.seeing {
		s.CanaryMS = (now - m.canary).Milliseconds()
	}
	grace := max(0, m.base+m.cfg.Timeout-now)
	s.GraceMS = grace.Milliseconds()
	switch {
	case m.held != nil:
		s.State = Held
		held := *m.held
		s.Held = &held
	case m.blind(now):
		s.State = Blind
	case grace > 0:
		s.State = Grace
	}
	return s
}

// Seen is what the monitor last heard of an instance, whose sessions may be
// several: the newest beat of any, and the calls that they handle together.
type Seen struct {
	LastBeat time.Time // zero if it has not beaten since this monitor started
	InFlight uint32    // the sum over the sessions heard within the timeout
	Client   string    // in the newest beat
}

// Seen returns what was last heard of an instance; false if it is not known.
func (m *Monitor) Seen(id agentid.ID, instance agentid.Instance) (Seen, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.agents[id]; a != nil {
		if w := a.find(instance); w != nil {
			m.hush(w, m.now())
			return Seen{LastBeat: w.lastBeat, InFlight: w.sessions.inFlight(), Client: w.client}, true
		}
	}
	return Seen{}, false
}
