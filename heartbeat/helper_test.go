package heartbeat_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
)

var (
	reader = agentid.Require("reader")
	pod    = agentid.InstanceOf("reader's first pod")
	pod2   = agentid.InstanceOf("reader's second pod")
)

// call is one thing that a monitor asked of the registry.
type call struct {
	at     time.Duration // since the test began
	what   string        // "expire heartbeat-timeout", "left"
	who    string
	epoch  string
	answer error
}

// registry is a compare-and-set on who is online, as several replicas see it.
type registry struct {
	begin time.Time
	mu    sync.Mutex
	gone  map[string]bool
	calls []call
	// fail answers in place of the registry while it returns an error.
	fail func(n int) error
	// hold delays every answer.
	hold time.Duration
}

func newRegistry() *registry { return &registry{begin: time.Now(), gone: make(map[string]bool)} }

func (r *registry) Expire(ctx context.Context, id agentid.ID, instance agentid.Instance, epoch, reason string) error {
	return r.change(ctx, "expire "+reason, id, instance, epoch)
}

func (r *registry) Left(ctx context.Context, id agentid.ID, instance agentid.Instance, epoch string) error {
	return r.change(ctx, "left", id, instance, epoch)
}

func (r *registry) change(ctx context.Context, what string, id agentid.ID, instance agentid.Instance, epoch string) error {
	r.mu.Lock()
	hold := r.hold
	r.mu.Unlock()
	if hold > 0 {
		select {
		case <-time.After(hold):
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	who := id.String() + "/" + instance.String()
	var err error
	if r.fail != nil {
		err = r.fail(len(r.calls))
	}
	if err == nil && r.gone[who+epoch] {
		err = denial.New(denial.Conflict, "already gone")
	}
	if err == nil {
		r.gone[who+epoch] = true
	}
	r.calls = append(r.calls, call{time.Since(r.begin), what, who, epoch, err})
	return err
}

// all returns the calls so far.
func (r *registry) all() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]call(nil), r.calls...)
}

// mesh is a monitor with a canary that a test can take away.
type mesh struct {
	*testing.T
	*heartbeat.Monitor
	registry *registry
	mu       sync.Mutex
	alarms   []heartbeat.Alarm
	silent   bool          // no canary comes back
	probed   func()        // hears that a canary is asked for
	stop     chan struct{} // closed: the canary dies
	dead     chan struct{}
}

// start makes a monitor whose canary is alive. Call end before the test ends.
func start(t *testing.T, change ...func(*heartbeat.Config)) *mesh {
	t.Helper()
	m := &mesh{T: t, registry: newRegistry()}
	cfg := heartbeat.Config{Registry: m.registry, Clock: time.Now, Log: zerolog.Nop(), Alarm: func(a heartbeat.Alarm) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.alarms = append(m.alarms, a)
	}}
	cfg.Probe = func() {
		m.mu.Lock()
		monitor, probed := m.Monitor, m.probed
		if m.silent {
			monitor = nil
		}
		m.mu.Unlock()
		if probed != nil {
			probed()
		}
		if monitor != nil {
			monitor.CanaryReturned(cfg.Clock())
		}
	}
	for _, c := range change {
		c(&cfg)
	}
	monitor, err := heartbeat.NewMonitor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.Monitor = monitor
	m.mu.Unlock()
	m.sing()
	return m
}

// sing brings the canary back every ten seconds until mute.
func (m *mesh) sing() {
	m.stop, m.dead = make(chan struct{}), make(chan struct{})
	stop, dead := m.stop, m.dead
	m.hush(false)
	m.CanaryReturned(time.Now())
	go func() {
		defer close(dead)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				m.CanaryReturned(time.Now())
			}
		}
	}()
}

func (m *mesh) mute() { m.hush(true); close(m.stop); <-m.dead }

// hush says whether canaries that the monitor asks for stay away.
func (m *mesh) hush(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = yes
}

func (m *mesh) end() { m.mute(); m.Close() }

func (m *mesh) seenAlarms() []heartbeat.Alarm {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]heartbeat.Alarm(nil), m.alarms...)
}

func (m *mesh) watch(id agentid.ID, instance agentid.Instance, epoch string) {
	m.Helper()
	if err := m.Watch(id, instance, epoch, heartbeat.PerSession); err != nil {
		m.Fatalf("Watch(%s/%s, %s): %v", id, instance, epoch, err)
	}
}

// wantCalls compares everything asked of the registry so far.
func (m *mesh) wantCalls(want ...call) {
	m.Helper()
	synctest.Wait()
	got := m.registry.all()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && got[i].what == want[i].what && got[i].who == want[i].who && got[i].epoch == want[i].epoch &&
			(want[i].at == 0 || got[i].at == want[i].at)
	}
	if !ok {
		m.Fatalf("calls to the registry:\n got %s\nwant %s", show(got), show(want))
	}
}

func show(calls []call) string {
	s := ""
	for _, c := range calls {
		s += fmt.Sprintf("\n   %v %s %s %s (%v)", c.at, c.what, c.who, c.epoch, c.answer)
	}
	return s
}

func name(id agentid.ID, instance agentid.Instance) string {
	return id.String() + "/" + instance.String()
}

// voice makes the beats of one session by hand.
type voice struct {
	id       agentid.ID
	instance agentid.Instance
	epoch    string
	session  heartbeat.Session
	sequence uint64
}

func speak(id agentid.ID, instance agentid.Instance, epoch string) *voice {
	return &voice{id: id, instance: instance, epoch: epoch, session: heartbeat.NewSession()}
}

func (v *voice) beat(state heartbeat.State) heartbeat.Beat {
	v.sequence++
	return heartbeat.Beat{Agent: v.id, Instance: v.instance, Session: v.session, Epoch: v.epoch,
		Sequence: v.sequence, State: state, Client: "test/1"}
}

// hear lets the monitor observe b now and compares the refusal.
func (m *mesh) hear(b heartbeat.Beat, want denial.Reason) {
	m.Helper()
	if got := denial.Of(m.Observe(b.Agent, b.Instance, b, time.Now())); got != want {
		m.Errorf("Observe(sequence %d, %s, epoch %s) = %q, want %q", b.Sequence, b.State, b.Epoch, got, want)
	}
}

// crowd watches n agents with one instance each and returns their voices.
func (m *mesh) crowd(n int) []*voice {
	m.Helper()
	out := make([]*voice, n)
	for i := range out {
		id := agentid.Require(fmt.Sprintf("agent-%d", i))
		out[i] = speak(id, agentid.InstanceOf(id.String()), "1.1")
		m.watch(id, out[i].instance, "1.1")
	}
	return out
}

// beatFor lets each voice beat every 30 s for d, one after another within the
// interval as they would in life.
func (m *mesh) beatFor(d time.Duration, voices []*voice) {
	m.Helper()
	const step = heartbeat.DefaultInterval
	for ; d > 0; d -= step {
		begin := time.Now()
		for _, v := range voices {
			m.hear(v.beat(heartbeat.Up), "")
			time.Sleep(step / time.Duration(len(voices)+1))
		}
		time.Sleep(step - time.Since(begin))
	}
}
