package heartbeat

import (
	"time"
)

// stepsPerInterval bounds how often the loop judges, and probesPerInterval how
// often it asks for a canary.
const (
	stepsPerInterval  = 600
	probesPerInterval = 60
)

// expiry is one decision to expire, as the brake counts it.
type expiry struct {
	at   time.Duration
	who  *watch
	void bool // the registry could not be asked, so it has not happened
}

func (m *Monitor) loop() {
	defer m.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.wake:
		case <-timer.C:
		}
		alarm, probe, pause, ok := m.step()
		if alarm != nil {
			m.raise(*alarm)
		}
		if probe && m.cfg.Probe != nil {
			m.cfg.Probe()
		}
		timer.Stop()
		if ok {
			timer.Reset(pause)
		}
	}
}

// step does what is due and says how long to pause; without ok, until poked.
// With probe a canary is wanted at once.
func (m *Monitor) step() (alarm *Alarm, probe bool, pause time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for w := m.retries.next(now); w != nil; w = m.retries.next(now) {
		m.ask(w)
	}
	var wakes []time.Duration
	if due, any := m.retries.first(); any {
		wakes = append(wakes, due)
	}
	// Never judge by an old canary: while it is away, or this process was
	// stopped, beats could not have arrived.
	if blindAt := m.canary + m.blindAfter; now <= blindAt || m.alarmed {
		if !m.alarmed {
			wakes = append(wakes, blindAt+1)
		}
	} else {
		m.seeing, m.alarmed = false, true
		m.blinds++
		alarm = &Alarm{Kind: AlarmBlind, At: m.cfg.Clock(), Watched: m.deadlines.Len()}
	}
	if m.seeing && m.held == nil {
		var braked *Alarm
		if !m.waiting(now) {
			braked, probe = m.judge(now)
		}
		due, any := m.deadlines.first()
		switch {
		case braked != nil:
			m.held, alarm = braked, braked
		case m.waiting(now):
			wakes = append(wakes, m.probed+m.probeEvery())
		case any:
			wakes = append(wakes, due)
		}
	}
	for i, at := range wakes {
		if i == 0 || at-now < pause {
			pause = at - now
		}
	}
	return alarm, probe, max(pause, m.cfg.Interval/stepsPerInterval), len(wakes) > 0
}

// waiting reports whether the canary that was asked for last may still come.
func (m *Monitor) waiting(now time.Duration) bool {
	return m.probed > m.canary && now < m.probed+m.probeEvery()
}

func (m *Monitor) probeEvery() time.Duration { return m.cfg.Interval / probesPerInterval }

// deadline is when the silence of w is long enough. The base moves for
// everybody at once, so it is added here and not to each of them.
func (m *Monitor) deadline(w *watch) time.Duration {
	return max(max(w.heard, m.base)+m.cfg.Timeout+w.extra, w.notBefore)
}

// judge expires who is due, or returns why it does not. With probe somebody is
// due for whom a canary has yet to come back that was sent after that: this
// process may have been stopped for a while, or be behind, and his beats lie in
// its queues. The canary comes in behind them.
func (m *Monitor) judge(now time.Duration) (alarm *Alarm, probe bool) {
	var due, early []*watch
	for w := m.deadlines.next(now); w != nil; w = m.deadlines.next(now) {
		switch at := m.deadline(w); {
		case at > now:
			m.deadlines.put(w, at)
		case at > m.canary:
			early = append(early, w)
		default:
			due = append(due, w)
		}
	}
	for _, w := range due {
		m.deadlines.put(w, now)
	}
	for _, w := range early {
		m.deadlines.put(w, now)
	}
	if probe = len(early) > 0; probe {
		m.probed = now
	}
	if len(due) == 0 {
		return nil, probe
	}
	if alarm := m.brake(now); alarm != nil {
		return alarm, false
	}
	for _, w := range due {
		w.dequeue()
		w.state, w.expiry = settling, nil
		if !w.confirmed {
			w.expiry = &expiry{at: now, who: w}
			m.recent = append(m.recent, w.expiry)
		}
		m.ask(w)
	}
	return nil, probe
}

// brake looks at everybody when somebody is due: a lost network or a lost
// stream shows as many who fell silent together, and those who are due first
// must not be expired merely because they are first.
func (m *Monitor) brake(now time.Duration) *Alarm {
	m.forgetRecent(now)
	silent := m.silent(now)
	would, watched := m.toll(silent)
	if would < m.cfg.Least || float64(would) <= m.cfg.Share*float64(watched) {
		return nil
	}
	return &Alarm{
		Kind: AlarmMassExpiry, Hold: newHold(), At: m.cfg.Clock(),
		WouldExpire: would, Watched: watched, Silent: names(silent),
	}
}

// toll is how many would expire within one timeout, and out of how many.
func (m *Monitor) toll(silent []*watch) (would, watched int) {
	watched = m.deadlines.Len()
	for _, w := range silent {
		if w.confirmed {
			watched--
		} else {
			would++
		}
	}
	for _, x := range m.recent {
		would++
		if x.who.state != live {
			watched++
		}
	}
	return would, watched
}

// forgetRecent drops the expiries that no longer count for the brake.
func (m *Monitor) forgetRecent(now time.Duration) {
	kept := m.recent[:0]
	for _, x := range m.recent {
		if !x.void && now-x.at < m.cfg.Timeout {
			kept = append(kept, x)
		}
	}
	clear(m.recent[len(kept):])
	m.recent = kept
}

// silent returns who has missed beats that could have arrived.
func (m *Monitor) silent(now time.Duration) []*watch {
	var out []*watch
	for _, w := range m.deadlines.items {
		if now-max(w.heard, m.base) >= m.silentFrom {
			out = append(out, w)
		}
	}
	return out
}
