package heartbeat

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

const (
	// callers bounds the calls to the registry at one time.
	callers = 16
	// callTimeout bounds one of them.
	callTimeout = 10 * time.Second
)

// job is one call to the registry. What it was asked for is kept beside the
// watch, which may have moved on when the answer comes.
type job struct {
	w     *watch
	epoch envelope.Epoch
	left  bool
}

// moot reports whether w was readmitted since the job was made.
func (j job) moot() bool {
	return j.w.epoch != j.epoch || j.left != (j.w.state == left) || j.w.state == live
}

// leave records that the last session of w said good-bye.
func (m *Monitor) leave(w *watch, now time.Duration) {
	w.dequeue()
	w.state, w.conflicts = left, 0
	m.ask(w)
	m.settle(w.agent, now)
	m.poke()
}

// ask hands what w's state calls for to a caller. Callers end when there is
// nothing left to do.
func (m *Monitor) ask(w *watch) {
	if m.closed {
		return
	}
	m.jobs = append(m.jobs, job{w: w, epoch: w.epoch, left: w.state == left})
	if m.running < callers {
		m.running++
		m.wg.Add(1)
		go m.call()
	}
}

func (m *Monitor) call() {
	defer m.wg.Done()
	for {
		m.mu.Lock()
		if len(m.jobs) == 0 {
			m.running--
			m.mu.Unlock()
			return
		}
		j := m.jobs[0]
		m.jobs = m.jobs[1:]
		moot := j.moot()
		m.mu.Unlock()
		if !moot {
			m.answer(j, m.do(j))
		}
	}
}

func (m *Monitor) do(j job) error {
	ctx, cancel := context.WithTimeout(m.ctx, callTimeout)
	defer cancel()
	id, instance := j.w.agent.id, j.w.instance
	switch {
	case j.left:
		return m.cfg.Registry.Left(ctx, id, instance, j.epoch.String())
	case instance.IsZero():
		return m.cfg.Registry.Expire(ctx, id, instance, j.epoch.String(), ReasonAbsent)
	default:
		return m.cfg.Registry.Expire(ctx, id, instance, j.epoch.String(), ReasonTimeout)
	}
}

// answer draws the conclusion from what the registry said.
func (m *Monitor) answer(j job, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	w, now := j.w, m.now()
	log := m.cfg.Log.With().Stringer("agent", w.agent.id).Stringer("instance", w.instance).Stringer("epoch", j.epoch).Bool("left", j.left).Logger()
	done := final(err)
	switch {
	case err == nil:
		log.Info().Msg("heartbeat judgement recorded")
	case done:
		log.Debug().Err(err).Msg("heartbeat judgement was recorded already")
	default:
		log.Warn().Err(err).Msg("heartbeat judgement not recorded")
	}
	if j.moot() {
		return
	}
	switch {
	case done:
		if !j.left {
			w.state = expired
		}
		if denial.Of(err) == denial.Conflict && w.conflicts == 0 {
			w.conflicts++
			m.again(w, now+m.cfg.Timeout)
		}
	case j.left || w.state == expired:
		m.again(w, now+m.retryAfter())
	default:
		m.resume(w, now)
	}
	m.settle(w.agent, now)
	m.poke()
}

// final reports whether the registry has nothing left to change.
func final(err error) bool {
	switch denial.Of(err) {
	case denial.Conflict, denial.NotFound, denial.WrongState, denial.StaleEpoch, denial.Expired, denial.Revoked:
		return true
	}
	return err == nil
}

// again repeats the call without judging again, unless w was forgotten.
func (m *Monitor) again(w *watch, at time.Duration) {
	if a := m.agents[w.agent.id]; a == w.agent && (w == a.whole || a.find(w.instance) == w) {
		m.retries.put(w, at)
	}
}

// resume takes w back among the living: the registry could not be asked, so
// nothing has happened, and what was heard meanwhile counts.
func (m *Monitor) resume(w *watch, now time.Duration) {
	w.state = live
	if w.expiry != nil {
		w.expiry.void, w.expiry = true, nil
	}
	if w.goodbye {
		w.goodbye = false
		m.leave(w, now)
		return
	}
	w.notBefore = now + m.retryAfter()
	m.deadlines.put(w, m.deadline(w))
}

func (m *Monitor) retryAfter() time.Duration { return m.cfg.Interval / 3 }
