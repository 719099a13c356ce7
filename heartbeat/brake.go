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
	// calls Release or Confirm.
	AlarmMassExpiry AlarmKind = "mass-expiry"
	// AlarmBlind: the canary has not come back, so nobody is judged until it does.
	AlarmBlind AlarmKind = "blind"
)

// Alarm is something that an operator should know.
type Alarm struct {
	Kind        AlarmKind `json:"kind"`
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
	m.cfg.Log.Error().Str("alarm", string(a.Kind)).Int("would_expire", a.WouldExpire).
		Int("watched", a.Watched).Strs("silent", a.Silent).Msg("heartbeat alarm")
	if m.cfg.Alarm != nil {
		m.cfg.Alarm(a)
	}
}

// Release takes the brake off because the silence was not the instances' own:
// everybody gets one full timeout. denial.WrongState if the brake is not on.
func (m *Monitor) Release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unbrake(); err != nil {
		return err
	}
	m.base = m.now()
	return nil
}

// Confirm takes the brake off because they are dead indeed: who is silent now
// may expire and no longer counts, unless it beats again; who falls silent from
// now on counts for the brake anew. denial.WrongState if the brake is not on.
func (m *Monitor) Confirm() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.unbrake(); err != nil {
		return err
	}
	for _, w := range m.silent(m.now()) {
		w.confirmed = true
	}
	return nil
}

func (m *Monitor) unbrake() error {
	if m.held == nil {
		return denial.New(denial.WrongState, "monitor is not held")
	}
	m.held, m.recent = nil, nil
	m.poke()
	return nil
}
