package heartbeat

import (
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/denial"
)

// AlarmKind is what an alarm is about.
type AlarmKind string

// The alarms.
const (
	// AlarmMassExpiry: the brake is on and nobody is expired until an operator
	// decides; see Release and Confirm.
	AlarmMassExpiry AlarmKind = "mass-expiry"
	// AlarmBlind: the canary has not come back, so nobody is judged until it does.
	AlarmBlind AlarmKind = "blind"
)

// Alarm is something that an operator should know.
type Alarm struct {
	Kind        AlarmKind `json:"kind"`
	Hold        string    `json:"hold,omitempty"` // names one time that the brake came on
	At          time.Time `json:"at"`
	WouldExpire int       `json:"would_expire"`     // within one timeout, those just expired included
	Watched     int       `json:"watched"`          // out of how many
	Silent      []string  `json:"silent,omitempty"` // some of them: "reader/7f3c2k9q"
}

// shown bounds the names in an alarm or a status.
const shown = 20

func names(ws []*watch) []string {
	out := make([]string, 0, len(ws))
	for _, w := range ws {
		out = append(out, w.name())
	}
	slices.Sort(out)
	return slices.Clip(out[:min(len(out), shown)])
}

func (m *Monitor) raise(a Alarm) {
	e := m.cfg.Log.Error().Str("alarm", string(a.Kind))
	if a.Kind == AlarmMassExpiry {
		e = e.Str("hold", a.Hold).Int("would_expire", a.WouldExpire)
	}
	e.Int("watched", a.Watched).Strs("silent", a.Silent).Msg("heartbeat alarm")
	if m.cfg.Alarm != nil {
		m.cfg.Alarm(a)
	}
}

// maxLifted bounds the holds that are remembered as decided about, maxAliases those
// of other replicas that mean the same as this one's, and maxHold the name of one
// in bytes.
const (
	maxLifted  = 256
	maxAliases = 64
	maxHold    = 64
)

func newHold() string { return NewSession().String() }

// Held returns why the brake is on; false if it is not.
func (m *Monitor) Held() (Alarm, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		return Alarm{}, false
	}
	return *m.held, true
}

// Hold puts the brake on because another replica's is: what it holds back, this
// one must not expire, although it may see fewer silent or more others. It
// reports whether that changed anything; a hold that was decided about never
// comes back, however late word of it does.
func (m *Monitor) Hold(a Alarm) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Kind != AlarmMassExpiry || a.Hold == "" || len(a.Hold) > maxHold || slices.Contains(m.lifted, a.Hold) {
		return false
	}
	if m.held != nil {
		// The same silence under another name. It is decided about together with
		// this one, or a replica that missed that would put the brake on again.
		if a.Hold != m.held.Hold && !slices.Contains(m.aliases, a.Hold) && len(m.aliases) < maxAliases {
			m.aliases = append(m.aliases, a.Hold)
		}
		return false
	}
	a.Silent = slices.Clone(a.Silent[:min(len(a.Silent), shown)])
	m.held = &a
	m.cfg.Log.Error().Str("alarm", string(a.Kind)).Str("hold", a.Hold).Int("would_expire", a.WouldExpire).
		Int("watched", a.Watched).Msg("heartbeat alarm of another replica")
	return true
}

// Release takes the brake off because the silence was not the instances' own:
// everybody gets one full timeout. With names of holds it does so only if the
// brake is on under one of them: nobody decides about what he has not seen. None
// of them puts the brake on again. denial.WrongState if the brake stays as it is.
func (m *Monitor) Release(holds ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unbrake(holds); err != nil {
		return err
	}
	m.base = m.now()
	return nil
}

// Confirm takes the brake off because they are dead indeed: who is silent now
// may expire and no longer counts, unless it beats again; who falls silent from
// now on counts for the brake anew. Names of holds mean what they do for Release.
func (m *Monitor) Confirm(holds ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unbrake(holds); err != nil {
		return err
	}
	now := m.now()
	for _, w := range m.silent(now) {
		w.confirmed = true
		// All replicas are told at once, and not all should write the same.
		w.notBefore = max(w.notBefore, now+w.extra)
	}
	return nil
}

func (m *Monitor) unbrake(holds []string) error {
	for _, h := range holds {
		m.lift(h)
	}
	switch {
	case m.held == nil:
		return denial.New(denial.WrongState, "monitor is not held")
	case len(holds) > 0 && !slices.Contains(holds, m.held.Hold):
		return denial.New(denial.WrongState, "monitor is held for another cause by now")
	}
	m.lift(m.held.Hold)
	for _, h := range m.aliases {
		m.lift(h)
	}
	m.held, m.aliases, m.recent = nil, nil, nil
	m.poke()
	return nil
}

// lift remembers that a hold was decided about.
func (m *Monitor) lift(hold string) {
	if hold == "" || len(hold) > maxHold || slices.Contains(m.lifted, hold) {
		return
	}
	if m.lifted = append(m.lifted, hold); len(m.lifted) > maxLifted {
		m.lifted = slices.Delete(m.lifted, 0, 1)
	}
}
