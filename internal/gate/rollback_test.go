package gate_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// restart makes a new process of the receiver that remembers what the one before
// wrote down.
func (w *world) restart(kept *floors.Set) *node {
	w.t.Helper()
	text := must[[]byte](w.t)(kept.Encode())
	again := must[*floors.Set](w.t)(floors.Parse(text))
	return w.startWith(func(c *gate.PeersConfig) { c.Floors = again })
}

// A process that begins anew believes no record of a lower epoch than the one
// before saw, whoever serves it: not of the agent, nor of the instance.
func TestNoLowerEpochAfterRestart(t *testing.T) {
	for name, tt := range map[string]struct {
		key  func(*actor) string
		rise func(*actor) string
	}{
		"agent": {(*actor).recordKey, func(a *actor) string { a.change(suspend); return a.change(resume) }},
		"instance": {(*actor).instanceKey, func(a *actor) string {
			return a.changeInstance(func(r *registry.Instance) { r.Epoch += 2 })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.enrol("writer", "read:logs")
			old, before := w.store.records[tt.key(a)], a.epoch()
			kept := floors.New()
			n := w.startWith(func(c *gate.PeersConfig) { c.Floors = kept })
			wantReason(t, a.call().to(n), "")
			n.peers.Observe(tt.key(a), tt.rise(a))
			now := w.store.records[tt.key(a)]
			wantReason(t, a.call().to(n), "")

			n = w.restart(kept)
			w.store.set(func(s *store) { s.records[tt.key(a)] = old })
			at := a.call()
			at.fields.Epoch = before
			wantReason(t, at.to(n), denial.BadRecord)
			n.peers.Observe(tt.key(a), old)
			wantReason(t, at.to(n), denial.BadRecord)
			// Nor what nobody showed this process, before it met the agent.
			other := w.restart(kept)
			other.peers.Observe(tt.key(a), old)
			wantReason(t, at.to(other), denial.BadRecord)
			// The true one ends that.
			w.store.set(func(s *store) { s.records[tt.key(a)] = now })
			wantReason(t, a.call().to(n), "")
			wantReason(t, at.to(n), denial.StaleEpoch)
		})
	}
}

// What a tick said of a peer is kept as well, before any record showed it.
func TestTickedEpochAfterRestart(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	kept := floors.New()
	n := w.startWith(func(c *gate.PeersConfig) { c.Floors = kept })
	wantReason(t, a.call().to(n), "")
	w.tickTo(n, registry.EpochEntry{Agent: a.id, Epoch: 4})
	w.beat()
	wantReason(t, a.call().to(w.restart(kept)), denial.BadRecord)
	a.change(func(r *registry.Agent) { r.Epoch++ })
	wantReason(t, a.call().to(w.restart(kept)), "")
}

// Ticks go forward only, also over a restart, and so does the time from which
// replays can be told. The last one that was seen counts again: the control plane
// may have been away since.
func TestTicksAfterRestart(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	kept := floors.New()
	n := w.startWith(func(c *gate.PeersConfig) { c.Floors = kept })
	old := w.store.records[registry.TickKey]
	w.clock.advance(time.Minute)
	w.tick.ReplaySince = w.clock.Now().UnixMilli()
	w.tickTo(n)
	last := w.store.records[registry.TickKey]

	if n := w.restart(kept); n.peers.Silence() != 0 {
		t.Errorf("the newest tick does not count: silence is %v", n.peers.Silence())
	}
	w.store.set(func(s *store) { s.records[registry.TickKey] = old })
	n = w.restart(kept)
	if got := n.peers.Silence(); got != time.Minute {
		t.Errorf("served an old tick: silence is %v, want since then", got)
	}
	if got, want := n.peers.ReplaySince(), w.clock.Now(); !got.Equal(want) {
		t.Errorf("replays can be told since %v, want %v", got, want)
	}
	at := a.call()
	at.fields.Time = w.clock.Now().Add(-time.Second)
	wantReason(t, at.to(n), denial.Stale)
	n.peers.Observe(registry.TickKey, old)
	if got := n.peers.Silence(); got != time.Minute {
		t.Errorf("an old tick came: silence is %v", got)
	}
	n.peers.Observe(registry.TickKey, last)
	if got := n.peers.Silence(); got != 0 {
		t.Errorf("the newest tick came: silence is %v", got)
	}
	// One of a later incarnation counts, whatever its revision; one of an earlier
	// never does.
	w.tick.Incarnation, w.tick.Revision, w.tick.ReplaySince = 2, 0, 0
	next := floors.New()
	next.Merge(kept)
	w.beat()
	n = w.startWith(func(c *gate.PeersConfig) { c.Floors = next })
	if got := n.peers.ReplaySince(); n.peers.Silence() != 0 || !got.Equal(w.clock.Now()) {
		t.Errorf("the next incarnation: silence is %v and replays are told since %v", n.peers.Silence(), got)
	}
	w.tick.Incarnation, w.tick.Revision = 1, 1<<40
	w.beat()
	n = w.restart(next)
	w.clock.advance(time.Second)
	w.tickTo(n)
	if got := n.peers.Silence(); got != time.Second {
		t.Errorf("a tick of the incarnation before counted: silence is %v", got)
	}
}

// A process that begins while the control plane is silent relies on nothing for
// having heard it: it reads each record, again and again though not with every
// message, until ticks come.
func TestStartsWhileSilent(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	w.clock.advance(time.Hour) // since the last tick
	n := w.start(0)
	for i := range 4 {
		for range 3 {
			wantReason(t, a.call().to(n), "")
		}
		if got, want := w.store.count("writer", a.instanceKey()), 2*(i+1); got != want {
			t.Errorf("got %d reads, want %d", got, want)
		}
		w.clock.advance(2 * time.Second)
	}
	old := a.call()
	a.change(suspend) // of which no feed tells
	wantReason(t, old.to(n), denial.Suspended)
	a.change(resume)
	w.tickTo(n)
	wantReason(t, a.call().to(n), "")
	reads := w.store.count()
	w.clock.advance(10 * time.Second)
	wantReason(t, a.call().to(n), "")
	if got := w.store.count() - reads; got != 0 {
		t.Errorf("got %d reads while ticks came", got)
	}
}

// Nor does it let in whom it cannot read, for any grace: there is nothing that it
// knew before.
func TestStartsCutOff(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	w.clock.advance(time.Hour)
	n := w.start(0)
	w.store.setDown(away)
	wantReason(t, a.call().to(n), denial.RegistryUnavailable)
	w.store.setDown(nil)
	wantReason(t, a.call().to(n), "")
	w.store.setDown(away)
	w.clock.advance(gate.DefaultFeedGrace)
	wantReason(t, a.call().to(n), "")
	w.clock.advance(time.Second)
	wantReason(t, a.call().to(n), denial.FeedStale)
}

// Ticks of the past, genuine and replayed, and those that nobody signed, do not
// stand in for a control plane that is silent.
func TestReplayedTicksEndNoSilence(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	var past []string
	for range 5 {
		w.clock.advance(gate.TickInterval)
		past = append(past, w.beat())
		w.peers.Observe(registry.TickKey, past[len(past)-1])
	}
	wantReason(t, a.call().to(w.node), "")
	forged := []string{w.forgedTick(), w.selfSignedTick(a), w.store.records["writer"]}
	for i := range 4 {
		w.clock.advance(gate.TickInterval)
		for _, text := range append(past, forged...) {
			w.peers.Observe(registry.TickKey, text)
		}
		if got, want := w.peers.Silence(), time.Duration(i+1)*gate.TickInterval; got != want {
			t.Fatalf("got a silence of %v, want %v", got, want)
		}
	}
	old := a.call()
	a.change(suspend)
	wantReason(t, old.to(w.node), denial.Suspended)
}

// selfSignedTick is a tick of a far revision, signed by an agent.
func (w *world) selfSignedTick(a *actor) string {
	records, tick, old := w.records, w.tick, w.store.records[registry.TickKey]
	defer func() { w.records, w.tick, w.store.records[registry.TickKey] = records, tick, old }()
	w.records, w.tick.Revision, w.tick.Incarnation = a.pair, 1<<60, 1<<60
	return w.beat()
}
