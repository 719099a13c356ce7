package gate_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

var away = denial.New(denial.RegistryUnavailable, "away")

func (s *store) setDown(err error) { s.set(func(s *store) { s.down = err }) }

// While ticks come, a record that was read is relied on without being read again,
// until it is as old as a receiver may be behind.
func TestTicksVouch(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	reads := w.store.count()
	for range 9 {
		w.pass(30 * time.Second)
		wantReason(t, a.call().to(w.node), "")
	}
	if got := w.store.count() - reads; got != 0 {
		t.Errorf("got %d reads while ticks came", got)
	}
	// One document of the feed was lost, and no tick lists what it said.
	w.changeInstanceSilently(a)
	w.pass(gate.DefaultFeedGrace - 4*time.Minute)
	wantReason(t, a.call().to(w.node), denial.Revoked)
}

func (w *world) changeInstanceSilently(a *actor) {
	a.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked })
}

// After the alarm each record is read before it is relied on, though not with
// every message.
func TestAlarm(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	reads := w.store.count()
	w.clock.advance(gate.TickAlarm)
	wantReason(t, a.call().to(w.node), "")
	if got := w.store.count() - reads; got != 0 {
		t.Errorf("got %d reads before the alarm", got)
	}
	w.clock.advance(time.Second)
	for range 5 {
		wantReason(t, a.call().to(w.node), "")
	}
	if got := w.store.count() - reads; got != 2 {
		t.Errorf("got %d reads after the alarm, want one of each record", got)
	}
	w.clock.advance(2 * time.Second)
	a.change(suspend) // by another control plane, whose feed does not come here
	wantReason(t, a.call().to(w.node), denial.Suspended)
}

// An outage of the control plane alone does not stop the mesh, however long.
func TestControlPlaneOutage(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	for range 10 {
		wantReason(t, a.call().to(w.node), "")
		w.clock.advance(time.Hour)
	}
	b := w.enrol("newcomer", "read:logs")
	wantReason(t, b.call().to(w.node), "")
}

// A receiver that is cut off from everything refuses after the grace, not
// before, and does not make each message wait for the registry until then.
func TestCutOff(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	w.store.setDown(away)
	reads := w.store.count()
	for range 20 {
		w.clock.advance(gate.DefaultFeedGrace / 20)
		for range 3 {
			wantReason(t, a.call().to(w.node), "")
		}
	}
	if got := w.store.count() - reads; got > 2*20 {
		t.Errorf("got %d failing reads for 60 messages at 20 times", got)
	}
	wantReason(t, w.enrol("newcomer").note().to(w.node), denial.RegistryUnavailable)
	w.clock.advance(time.Second)
	for range 3 {
		wantReason(t, a.call().to(w.node), denial.FeedStale)
	}
	// Who comes back is let in by a read alone.
	w.store.setDown(nil)
	w.clock.advance(2 * time.Second)
	wantReason(t, a.call().to(w.node), "")
}

// The same where ticks come and reads alone fail, as when somebody holds them
// back: it takes longer, and not for ever.
func TestReadsHeldBack(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	w.store.setDown(away)
	w.pass(2 * gate.DefaultFeedGrace)
	wantReason(t, a.call().to(w.node), "")
	w.pass(10 * time.Second)
	wantReason(t, a.call().to(w.node), denial.FeedStale)
}

// Those who drive the control plane, and the control plane itself, get little
// grace.
func TestAdminGrace(t *testing.T) {
	w := newWorld(t)
	admin, control := w.enrol("boss", "admin:registry", "read:logs"), w.enrol("control")
	scope := capability.RequireScope("admin:registry")
	manage := func() *attempt {
		at := admin.call()
		at.subject, at.want.Scope, at.want.Dotted = "mesh.call.boss.admin.registry", scope, "admin.registry"
		return at
	}
	wantReason(t, manage().to(w.node), "")
	wantReason(t, control.note().to(w.node), "")
	w.store.setDown(away)
	w.clock.advance(gate.AdminFeedGrace)
	wantReason(t, manage().to(w.node), "")
	wantReason(t, control.note().to(w.node), "")
	w.clock.advance(time.Second)
	wantReason(t, manage().to(w.node), denial.FeedStale)
	wantReason(t, control.note().to(w.node), denial.FeedStale)
	wantReason(t, admin.call().to(w.node), "") // its ordinary rights are like anybody's
}

// After a silence nothing is believed for having been heard before it: what
// changed meanwhile was not heard, and ticks do not list it for ever.
func TestSilenceEndsTheStretch(t *testing.T) {
	for name, gap := range map[string]func(*world){
		"silence": func(w *world) { w.clock.advance(time.Minute); w.tickTo(w.node) },
		"gap":     func(w *world) { w.clock.advance(time.Second); w.peers.Gap(); w.tickTo(w.node) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a, b := w.enrol("writer", "read:logs"), w.enrol("other", "read:logs")
			wantReason(t, a.call().to(w.node), "")
			wantReason(t, b.call().to(w.node), "")
			old := a.call()
			a.change(suspend)
			gap(w)
			w.pass(gate.TickInterval)
			old.fields.Time, old.fields.Deadline = w.clock.Now(), 0
			wantReason(t, old.to(w.node), denial.Suspended)
			// The others are read once.
			reads := w.store.count()
			for range 5 {
				wantReason(t, b.call().to(w.node), "")
			}
			if got := w.store.count() - reads; got != 2 {
				t.Errorf("got %d reads, want 2", got)
			}
			// And believed for the grace where that fails, counted from when they were
			// last known to be current.
			w.pass(4 * time.Minute)
			w.peers.Gap()
			w.store.setDown(away)
			w.pass(gate.DefaultFeedGrace - gate.TickInterval)
			wantReason(t, b.call().to(w.node), "")
			w.pass(2 * gate.TickInterval)
			wantReason(t, b.call().to(w.node), denial.FeedStale)
		})
	}
}

// The first tick may be an old one, and one that was held back proves nothing.
func TestOldTicks(t *testing.T) {
	w := newWorld(t)
	w.clock.advance(time.Hour)
	n := w.start(0)
	if got := n.peers.Silence(); got != time.Hour {
		t.Errorf("silence after an old first tick: got %v, want 1h", got)
	}
	w.tickTo(n)
	if got := n.peers.Silence(); got != 0 {
		t.Errorf("silence after a tick: got %v, want none", got)
	}
	held := w.beat()
	w.clock.advance(10 * time.Minute)
	n.peers.Observe(registry.TickKey, held)
	if got := n.peers.Silence(); got != 5*time.Minute {
		t.Errorf("silence after a tick that was held back for 10m: got %v, want what no clock explains", got)
	}
	// A sender's clock that is ahead of ours is no reason for alarm.
	w.tick.Time = w.clock.Now().Add(time.Hour).UnixMilli()
	w.tickTo(n)
	if got := n.peers.Silence(); got != 0 {
		t.Errorf("silence: got %v", got)
	}
}

// Without any tick the clock of silence starts with the process.
func TestNoTick(t *testing.T) {
	w := newWorld(t)
	delete(w.store.records, registry.TickKey)
	delete(w.store.records, registry.RingKey)
	n := w.start(time.Minute)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(n), "")
	w.store.setDown(away)
	w.clock.advance(time.Minute + time.Second)
	wantReason(t, a.call().to(n), denial.FeedStale)
	if err := n.peers.Start(t.Context()); denial.Of(err) != denial.RegistryUnavailable {
		t.Errorf("Start without a registry: got %v", err)
	}
}

// Whoever waits for a read gives up with its own context; the read goes on for
// the others.
func TestContextOfReads(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	reading, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.store.during = func(ctx context.Context, _ string) {
		once.Do(func() { close(reading) })
		select {
		case <-release:
		case <-ctx.Done():
			t.Error("the read ended with the context of the one who began it")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	one, two := a.call(), a.call()
	go func() {
		_, err := w.gate.Admit(ctx, one.message(), one.want)
		first <- err
	}()
	<-reading
	go func() { second <- two.to(w.node) }()
	cancel()
	err := <-first
	wantReason(t, err, denial.RegistryUnavailable)
	close(release)
	wantReason(t, <-second, "")
	if got := w.store.count("writer"); got != 1 {
		t.Errorf("got %d reads, want 1", got)
	}
}

// What a read that began before the message came says is not good enough where
// the message claims to know better; all that do share the next one.
func TestFreshReadBeginsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs")
		wantReason(t, a.call().to(w.node), "")
		release := w.hold("writer", 2)
		done := make(chan error, 4)
		go func() {
			_, err := w.peers.Refresh(t.Context(), a.id, a.key.PublicKey())
			done <- err
		}()
		synctest.Wait() // the answer with the old epoch is on its way
		a.change(func(r *registry.Agent) { r.Epoch++ })
		reads := w.store.count("writer")
		for range 3 {
			at := a.call()
			m := at.message()
			go func() {
				_, err := w.gate.Admit(t.Context(), m, at.want)
				done <- err
			}()
		}
		synctest.Wait()
		close(release[0])
		wantReason(t, <-done, "") // of the one who began the first read
		synctest.Wait()
		close(release[1])
		for range 3 {
			wantReason(t, <-done, "")
		}
		if got := w.store.count("writer") - reads; got != 1 {
			t.Errorf("got %d further reads, want 1", got)
		}
	})
}

// A chain that is stored while somebody else's question is answered with no is
// there for a message that came meanwhile.
func TestChainStoredMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, user := w.enrol("writer", "read:logs"), w.enrol("user", "read:logs")
		text := w.store.chains[user.chain]
		delete(w.store.chains, user.chain)
		early, late := a.call(), user.call()
		early.fields.OnBehalf = user.chain
		one, two := early.message(), late.message()
		release := w.hold(user.chain, 1)
		first, second := make(chan error), make(chan error)
		go func() {
			_, err := w.gate.Admit(t.Context(), one, early.want)
			first <- err
		}()
		synctest.Wait()
		w.store.set(func(s *store) { s.chains[user.chain] = text })
		go func() {
			_, err := w.gate.Admit(t.Context(), two, late.want)
			second <- err
		}()
		synctest.Wait()
		close(release[0])
		wantReason(t, <-first, denial.UnknownChain)
		wantReason(t, <-second, "")
	})
}

// hold holds the answers of the next reads of a key, taken already, each until
// its channel is closed.
func (w *world) hold(key string, reads int) []chan struct{} {
	release := make([]chan struct{}, reads)
	for i := range release {
		release[i] = make(chan struct{})
	}
	var next atomic.Int64
	w.store.during = func(_ context.Context, k string) {
		if k == key {
			if i := int(next.Add(1)) - 1; i < reads {
				<-release[i]
			}
		}
	}
	return release
}

// Peers' own questions: no sender pays, and what was not there is not asked for
// again at once.
func TestOwnQuestions(t *testing.T) {
	w := newWorld(t)
	id := agentid.Require("nobody")
	for range 300 {
		_, err := w.peers.Agent(t.Context(), id)
		wantReason(t, err, denial.UnlistedAgent)
	}
	if got := w.store.count("nobody"); got != 1 {
		t.Errorf("got %d reads, want 1", got)
	}
	a := w.enrol("writer")
	s, err := w.peers.Sender(t.Context(), a.id, a.key.PublicKey())
	if err != nil || s.Epoch() != a.epoch() || s.Curve == "" {
		t.Errorf("got %+v, %v", s, err)
	}
	a.change(suspend)
	if s, err := w.peers.Refresh(t.Context(), a.id, a.key.PublicKey()); denial.Of(err) != denial.Suspended || s.Agent != nil || s.Epoch() != (envelope.Epoch{}) {
		t.Errorf("Refresh: got %+v, %v, want nothing and %q", s, err, denial.Suspended)
	}
}
