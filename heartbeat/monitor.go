package heartbeat

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

// Reasons that an expiry is recorded with.
const (
	// ReasonTimeout: an instance was silent for longer than the timeout.
	ReasonTimeout = "heartbeat-timeout"
	// ReasonAbsent: an agent that must always have a live instance had none.
	ReasonAbsent = "no-live-instance"
)

// Registry is what the monitor's judgements go to. Every replica calls it; it
// MUST decide by compare-and-set on the epoch.
//
// A nil error says that the call changed the record. denial.Conflict says that
// somebody else did; since a record may also have been contended for another
// cause, the monitor asks once more, one timeout later. denial.NotFound,
// WrongState, StaleEpoch, Expired and Revoked say that there is nothing left to
// change. After any other error the monitor judges afresh and tries again.
type Registry interface {
	// Expire expires the instance, or the whole agent where the instance is
	// zero (its epoch is then that of the agent with a zero instance part),
	// if it still has that epoch.
	Expire(ctx context.Context, agent agentid.ID, instance agentid.Instance, epoch, reason string) error
	// Left records that the instance said good-bye.
	Left(ctx context.Context, agent agentid.ID, instance agentid.Instance, epoch string) error
}

// Defaults of the brake.
const (
	DefaultShare = 0.3
	DefaultLeast = 5
)

// Config says how to judge. Registry and Clock are required.
type Config struct {
	Registry Registry
	// Clock gives the time with its monotonic reading, as time.Now does.
	Clock func() time.Time
	// Interval is how often instances beat; DefaultInterval if zero.
	Interval time.Duration
	// Timeout is how long an instance may be silent; three intervals if zero,
	// never less than two.
	Timeout time.Duration
	// Share and Least set the brake: it stops the monitor when at least Least
	// instances and more than this share of all would expire within one
	// timeout. DefaultShare and DefaultLeast if zero.
	Share float64
	Least int
	// Stagger bounds how much longer than the timeout this monitor waits, by an
	// amount of its own for each instance, so that of several replicas one is the
	// first; none if zero.
	Stagger time.Duration
	// Probe asks for a canary at once, without waiting for it; see [SenderConfig].
	// Nobody is expired before a canary came back that was sent when his time was
	// up, so without Probe that takes until the next one. It is called by the
	// monitor's own goroutine.
	Probe func()
	// Alarm is told what an operator should know; nil for nobody. It is called
	// by the monitor's own goroutine, which waits for it, and MUST NOT close
	// the monitor.
	Alarm func(Alarm)
	Log   zerolog.Logger
}

// Monitor judges silence. Make one with NewMonitor.
type Monitor struct {
	cfg        Config
	blindAfter time.Duration // how old the canary may be
	silentFrom time.Duration // from this age of the last beat on, one is at risk
	start      time.Time
	seed       maphash.Seed
	wake       chan struct{}
	ctx        context.Context // of the calls to the registry
	cancel     context.CancelFunc
	wg         sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	agents    map[agentid.ID]*agent
	deadlines queue // who is judged
	retries   queue // calls to repeat without judging again
	base      time.Duration
	canary    time.Duration // when the newest canary that returned was sent
	probed    time.Duration // when a canary was asked for last
	seeing    bool          // a canary has returned, and none was missed since
	alarmed   bool          // about not seeing
	held      *Alarm
	aliases   []string // other replicas' names for it
	lifted    []string // holds that were decided about, the oldest first
	recent    []*expiry
	jobs      []job
	running   int
	blinds    int
	gaps      int
}

// NewMonitor starts a monitor that watches nobody yet. It judges nobody before
// its canary has come back and one timeout has passed since.
func NewMonitor(cfg Config) (*Monitor, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * cfg.Interval
	}
	if cfg.Share == 0 {
		cfg.Share = DefaultShare
	}
	if cfg.Least == 0 {
		cfg.Least = DefaultLeast
	}
	switch {
	case cfg.Registry == nil || cfg.Clock == nil:
		return nil, errors.New("heartbeat: monitor needs a registry and a clock")
	case cfg.Interval < 0 || cfg.Timeout < 2*cfg.Interval:
		return nil, errors.New("heartbeat: interval must be positive and the timeout at least two of them")
	case cfg.Stagger < 0:
		return nil, errors.New("heartbeat: what a replica waits longer must not be negative")
	case !(cfg.Share > 0 && cfg.Share <= 1) || cfg.Least < 1:
		return nil, errors.New("heartbeat: brake needs a share above 0 and at most 1, and at least one instance")
	}
	m := &Monitor{
		cfg:        cfg,
		blindAfter: cfg.Interval * 3 / 2,
		// One that missed a beat for certain, and when the first of a lost
		// group falls due, all others of it: they beat one interval apart.
		silentFrom: max(cfg.Interval*3/2, cfg.Timeout-cfg.Interval*5/4),
		start:      cfg.Clock(),
		seed:       maphash.MakeSeed(),
		wake:       make(chan struct{}, 1),
		agents:     make(map[agentid.ID]*agent),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Add(1)
	go m.loop()
	return m, nil
}

// Close stops judging, cancels calls to the registry that are under way, and
// waits for every goroutine. It may be called more than once.
func (m *Monitor) Close() {
	m.mu.Lock()
	m.closed = true
	m.jobs = nil
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
}

func (m *Monitor) since(t time.Time) time.Duration { return t.Sub(m.start) }
func (m *Monitor) now() time.Duration              { return m.since(m.cfg.Clock()) }

// received turns a moment of this process into a duration since the start,
// never later than now. A time without a monotonic reading (it came from a wire
// or a file) is worth nothing after a clock step, so now stands in for it.
func (m *Monitor) received(t time.Time, now time.Duration) time.Duration {
	if wallOnly(t) && !wallOnly(m.start) {
		return now
	}
	return min(m.since(t), now)
}

// wallOnly reports whether t lacks a monotonic reading.
func wallOnly(t time.Time) bool { return t == t.Round(0) }

// blind reports whether beats could now be lost without this monitor's notice.
func (m *Monitor) blind(now time.Duration) bool { return !m.seeing || now-m.canary > m.blindAfter }

// poke makes the loop look again.
func (m *Monitor) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Watch takes an instance on: call it at every admission, with the epoch and
// policy of the record, and after a start for every instance that the registry
// has online. It starts the timeout; for one that is watched already under this
// epoch it changes the policy and no more, so it may be repeated at every change
// of a record. A zero instance stands for the agent itself: it sets the policy
// and, under Always, says that the agent must be alive even if no instance
// follows.
//
// Refusals: denial.StaleEpoch if a higher epoch is known, denial.Expired if this
// very epoch has expired (the admission lost a race), denial.QuotaExceeded,
// denial.BadInput. Whoever is refused here MUST NOT be admitted.
func (m *Monitor) Watch(id agentid.ID, instance agentid.Instance, epochText string, policy Policy) error {
	e, err := parseEpoch(epochText)
	if err != nil {
		return err
	}
	if _, err := ParsePolicy(string(policy)); err != nil {
		return err
	}
	if id.IsZero() {
		return denial.New(denial.BadInput, "cannot watch nobody")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	a := m.agents[id]
	if a == nil {
		a = &agent{id: id, policy: policy}
		a.whole = &watch{agent: a, epoch: envelope.Epoch{Agent: e.Agent}, extra: m.extra(id, agentid.Instance{})}
		m.agents[id] = a
	}
	switch {
	case e.Agent < a.whole.epoch.Agent:
		return denial.New(denial.StaleEpoch, "agent %q is at epoch %d, not %d", id, a.whole.epoch.Agent, e.Agent)
	case e.Agent > a.whole.epoch.Agent:
		a.whole.revive(envelope.Epoch{Agent: e.Agent})
	case a.whole.state == expired:
		return denial.New(denial.Expired, "agent %q expired under epoch %d", id, e.Agent)
	}
	if !instance.IsZero() {
		if err := m.admit(a, instance, e, now); err != nil {
			return err
		}
	}
	a.policy = policy
	m.settle(a, now)
	m.poke()
	return nil
}

func (m *Monitor) admit(a *agent, instance agentid.Instance, e envelope.Epoch, now time.Duration) error {
	w := a.find(instance)
	switch {
	case w == nil:
		if err := a.room(); err != nil {
			return err
		}
		w = &watch{agent: a, instance: instance, epoch: e, heard: now, extra: m.extra(a.id, instance)}
		a.instances = append(a.instances, w)
	case !e.Covers(w.epoch):
		return denial.New(denial.StaleEpoch, "instance %s is at epoch %s, not %s", w.name(), w.epoch, e)
	case e != w.epoch || w.state == left:
		w.revive(e)
		w.heard = now
	case w.state == expired:
		return denial.New(denial.Expired, "instance %s expired under epoch %s", w.name(), e)
	}
	// One that is watched already gains nothing: only its own beats speak for
	// it, or a dead instance would live on whatever changes its agent's record.
	return nil
}

// settle brings the queue into line with what is known of a.
func (m *Monitor) settle(a *agent, now time.Duration) {
	for _, w := range a.instances {
		m.judged(w, w.state == live && a.policy != Unwatched, now)
	}
	m.judged(a.whole, a.whole.state == live && a.policy == Always && !a.anyLive(), now)
}

// judged says whether w is judged from now on. One that was not so far gets a
// full timeout.
func (m *Monitor) judged(w *watch, yes bool, now time.Duration) {
	switch {
	case yes && w.in != &m.deadlines:
		w.heard = max(w.heard, now)
		m.deadlines.put(w, w.heard+m.cfg.Timeout)
	case !yes && w.in == &m.deadlines:
		w.dequeue()
	}
}

// Forget drops an instance, or with a zero instance the whole agent, because
// the registry says that it is revoked, expired or gone. Its beats count for
// nothing from now on.
func (m *Monitor) Forget(id agentid.ID, instance agentid.Instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.agents[id]
	if a == nil {
		return
	}
	now := m.now()
	drop := func(w *watch) bool {
		if !instance.IsZero() && w.instance != instance {
			return false
		}
		m.lost(w, now)
		w.dequeue()
		w.state = expired // for a call that is still under way
		return true
	}
	a.instances = slices.DeleteFunc(a.instances, drop)
	if instance.IsZero() {
		drop(a.whole)
		delete(m.agents, id)
		return
	}
	m.settle(a, now)
	m.poke()
}

// lost counts w for the brake if it was silent: most likely another replica
// expired it, and the brake is about what all of them do.
func (m *Monitor) lost(w *watch, now time.Duration) {
	if w.in == &m.deadlines && !w.confirmed && now-max(w.heard, m.base) >= m.silentFrom {
		m.recent = append(m.recent, &expiry{at: now, who: w})
	}
}

// Expired says that the registry has the instance, or with a zero instance the
// agent, as expired under this epoch, which lies above the one of its life. Where
// another replica did it, this one has nothing left to judge.
func (m *Monitor) Expired(id agentid.ID, instance agentid.Instance, epochText string) error {
	e, err := parseEpoch(epochText)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.agents[id]
	if a == nil {
		return nil
	}
	w := a.whole
	if !instance.IsZero() {
		w = a.find(instance)
	}
	if w == nil || w.epoch == e || !e.Covers(w.epoch) {
		return nil // it is back already
	}
	if w.state == live || w.state == settling {
		now := m.now()
		m.lost(w, now)
		w.dequeue()
		w.state = expired
		m.settle(a, now)
		m.poke()
	}
	return nil
}

// extra is how much longer this replica waits for one instance.
func (m *Monitor) extra(id agentid.ID, instance agentid.Instance) time.Duration {
	if m.cfg.Stagger == 0 {
		return 0
	}
	type key struct {
		id       agentid.ID
		instance agentid.Instance
	}
	return time.Duration(maphash.Comparable(m.seed, key{id, instance}) % uint64(m.cfg.Stagger))
}

// Observe takes a beat whose envelope was verified as the instance's own, and
// when it was received on this process' clock. A nil error says that it counted.
//
// Refusals, none of which is worth more than a counter, since each also happens
// between honest parties: denial.NotFound if the instance is not watched here,
// denial.StaleEpoch, denial.Expired, denial.WrongState after it left,
// denial.Replayed if the sequence does not rise in its session or the session is
// over; and denial.SenderMismatch or denial.BadInput from who is not honest.
//
// A good-bye ends its session. The instance has left with it unless another
// session was heard within the timeout; sessions that this monitor has not heard
// since it started are not known to it.
func (m *Monitor) Observe(id agentid.ID, instance agentid.Instance, b Beat, receivedAt time.Time) error {
	e, err := b.check()
	if err != nil {
		return err
	}
	if b.Agent != id || b.Instance != instance {
		return denial.New(denial.SenderMismatch, "%s/%s signed a beat of %s/%s", id, instance, b.Agent, b.Instance)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.agents[id]
	var w *watch
	if a != nil {
		w = a.find(instance)
	}
	if w == nil {
		return denial.New(denial.NotFound, "instance %s/%s is not watched", id, instance)
	}
	if err := w.accept(b, e); err != nil {
		return err
	}
	now := m.now()
	at := m.received(receivedAt, now)
	m.hush(w, now)
	w.sessions.note(b, e, at)
	w.alive(at)
	w.lastBeat, w.client = receivedAt, b.Client
	gone := b.State == Leaving && !w.sessions.beating(e)
	switch {
	case w.state == settling:
		w.goodbye = gone
	case gone:
		m.leave(w, now)
	}
	return nil
}

// accept checks that b is news. An epoch above the watched one is accepted: the
// envelope was verified against a record that this monitor has yet to hear of,
// and it is alive all the same.
func (w *watch) accept(b Beat, e envelope.Epoch) error {
	switch {
	case !e.Covers(w.epoch):
		return denial.New(denial.StaleEpoch, "beat of %s has epoch %s, not %s", w.name(), e, w.epoch)
	case w.state == expired:
		return denial.New(denial.Expired, "instance %s is expired and needs an admission", w.name())
	case w.state == left:
		return denial.New(denial.WrongState, "instance %s has left and needs an admission", w.name())
	case w.sessions.replayed(b):
		return denial.New(denial.Replayed, "beat %d of %s does not rise in its session, or that is over", b.Sequence, w.name())
	}
	return nil
}

// CanaryReturned says that the monitor's own canary, sent at that moment of
// this process' clock, came back through the stream. [Canary] calls it.
func (m *Monitor) CanaryReturned(sent time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	at := m.received(sent, now)
	if now-at > m.blindAfter || (m.seeing && at < m.canary) {
		return // it proves nothing about the present
	}
	// The gap is found here and not by the loop, which may have been stopped
	// together with everything else in this process.
	if !m.seeing || at-m.canary > m.blindAfter {
		if m.alarmed {
			m.cfg.Log.Info().Msg("heartbeat canary is back")
		}
		m.base, m.alarmed = now, false
	}
	m.canary, m.seeing = at, true
	m.poke()
}

// Gap says that beats may have been lost although the canary came back: after a
// reconnect, or when the connection reported a slow consumer. Everybody gets one
// full timeout.
func (m *Monitor) Gap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base = m.now()
	m.gaps++
}
