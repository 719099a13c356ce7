package gate_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// The floor is that of the shared store. What never asks it has the receiver's own
// memory, and is not refused because that store forgot.
func TestFloorIsTheSharedStores(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs", "publish:news")
	call, note, event := a.call(), a.note(), a.event()
	w.clock.advance(time.Second)
	w.tick.ReplaySince = w.clock.Now().UnixMilli()
	w.tickTo(w.node)
	wantReason(t, call.to(w.node), denial.Stale)
	wantReason(t, note.to(w.node), "")
	wantReason(t, event.to(w.node), "")
	wantReason(t, note.to(w.node), denial.Replayed)
}

// A tick that was lost while the connection was away is read before a call is
// relied on: the server may have lost the store at the same moment.
func TestFloorAfterAGap(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	old := a.call()
	w.clock.advance(time.Second)
	w.tick.ReplaySince = w.clock.Now().UnixMilli()
	w.beat() // which nobody hears
	w.peers.Gap()
	w.store.set(func(s *store) { clear(s.reads) })
	wantReason(t, old.to(w.node), denial.Stale)
	wantReason(t, a.call().to(w.node), "")
	if n := w.store.count(registry.TickKey); n != 1 {
		t.Errorf("the tick was read %d times after one gap, want once", n)
	}

	// While it cannot be read, no call is let in; what does not ask the store is.
	w.peers.Gap()
	w.store.set(func(s *store) { s.down = errors.New("down") })
	wantReason(t, a.call().to(w.node), denial.ReplayUnavailable)
	wantReason(t, a.note().to(w.node), "")
	w.store.set(func(s *store) { s.down = nil })
	w.clock.advance(3 * time.Second)
	wantReason(t, a.call().to(w.node), "")
}

// The floor rises while a call is judged: what the store said meanwhile counts for
// nothing.
func TestFloorRisesMeanwhile(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	n := w.start(0)
	at := a.call()
	w.clock.advance(time.Second)
	n.gate = must[*gate.Gate](t)(gate.New(gate.Config{
		Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: n.peers, Reader: w.store,
		Seen: n.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
		Burner: burner(func() error {
			w.tick.ReplaySince = w.clock.Now().UnixMilli()
			w.tickTo(n)
			return nil
		}),
	}))
	wantReason(t, at.to(n), denial.Stale)
}

// Calls and asks are signed for no earlier time than receivers take, and nothing
// else is.
func TestSpeakerSignsAboveTheFloor(t *testing.T) {
	w := newWorld(t)
	key, err := envelope.NewKey(must[[]byte](t)(keyOf(t, nkeys.PrefixByteUser, "speaker").Seed()))
	if err != nil {
		t.Fatal(err)
	}
	since := t0.Add(20 * time.Second)
	space := subject.Default()
	s := &gate.Speaker{
		Self: agentid.Require("writer"), Key: key, TrustDomain: domain, Space: space, Clock: w.clock.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
		Since: func() time.Time { return since },
	}
	self, other := s.Self, agentid.Require("reader")
	for subj, want := range map[string]time.Time{
		space.Call(self, "read.logs"):       since,
		space.Ask(self, other, "read.logs"): since,
		space.Event(self, "news"):           t0,
		space.Note(self, other, "cancel"):   t0,
	} {
		_, f, _, err := s.Message(subj, envelope.Fields{}, nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !f.Time.Equal(want) {
			t.Errorf("%s: signed for %s, want %s", subj, f.Time, want)
		}
	}
	w.clock.advance(time.Minute)
	if _, f, _, err := s.Message(space.Call(self, "read.logs"), envelope.Fields{}, nil, nil, nil); err != nil || !f.Time.Equal(w.clock.Now()) {
		t.Errorf("after the floor: signed for %s (%v), want %s", f.Time, err, w.clock.Now())
	}
}

// A store that goes back has forgotten. Its answers are no first uses until the
// time from which replays can be told has risen.
func TestStoreGoesBack(t *testing.T) {
	store, writes, connect := fakeStore(t)
	since := t0
	b := &gate.NATSBurner{Conn: conn(connect()), Since: func() time.Time { return since }}
	answer := func(seq string) error {
		done := background(t.Context(), b)
		publish(t, store, (<-writes).Reply, `{"stream":"KV_MESH_REPLAY","seq":`+seq+`}`)
		return <-done
	}
	wantReason(t, answer("7"), "")
	wantReason(t, answer("9"), "")
	wantReason(t, answer("9"), denial.ReplayUnavailable)
	wantReason(t, answer("1"), denial.ReplayUnavailable)
	wantReason(t, answer("10"), "")
	since = since.Add(-time.Second) // it never goes back
	wantReason(t, answer("2"), denial.ReplayUnavailable)
	since = t0.Add(time.Second)
	wantReason(t, answer("1"), "")
	wantReason(t, answer("2"), "")
	wantReason(t, answer("2"), denial.ReplayUnavailable)

	// One that was begun before the store was made anew says nothing about the new
	// one.
	late := background(t.Context(), b)
	w := <-writes
	since = since.Add(time.Second)
	wantReason(t, answer("1"), "")
	publish(t, store, w.Reply, `{"stream":"KV_MESH_REPLAY","seq":900}`)
	wantReason(t, <-late, "")
	wantReason(t, answer("2"), "")

	// Two that are under way at a time are answered in any order.
	one, two := background(t.Context(), b), background(t.Context(), b)
	w1, w2 := <-writes, <-writes
	publish(t, store, w2.Reply, `{"stream":"KV_MESH_REPLAY","seq":4}`)
	publish(t, store, w1.Reply, `{"stream":"KV_MESH_REPLAY","seq":3}`)
	wantReason(t, <-one, "")
	wantReason(t, <-two, "")
}

// A full store refuses, and pushes nothing out. A replay is refused as one or
// because nobody can tell; neither is a first use.
func TestFullStore(t *testing.T) {
	m := natstest.Start(t)
	inMesh := must[jetstream.JetStream](t)(jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI))
	c := natsconf.Replay(5*time.Minute, 1)
	if c.MaxMsgs <= 0 || c.MaxBytes <= 0 {
		t.Fatalf("got %d messages and %d bytes, want bounds", c.MaxMsgs, c.MaxBytes)
	}
	c.MaxMsgs = 3
	must[jetstream.Stream](t)(inMesh.CreateStream(t.Context(), c))
	nc, _ := m.Connect(t, "reader", []string{subject.ReplayGrant(natsconf.ReplayBucket, "read.logs")}, nil)
	b := &gate.NATSBurner{Conn: conn(nc)}
	first := envelope.NewNonce()
	sender := agentid.Require("writer")
	wantReason(t, b.Burn(t.Context(), "read.logs", sender, first), "")
	for range 2 {
		wantReason(t, b.Burn(t.Context(), "read.logs", sender, envelope.NewNonce()), "")
	}
	for range 3 {
		wantReason(t, b.Burn(t.Context(), "read.logs", sender, envelope.NewNonce()), denial.ReplayUnavailable)
	}
	if got := denial.Of(b.Burn(t.Context(), "read.logs", sender, first)); got != denial.Replayed && got != denial.ReplayUnavailable {
		t.Errorf("a replay at a full store: got %q", got)
	}
	// Long names fill the bytes first.
	c.MaxMsgs, c.MaxBytes = 1000, 20_000
	must[jetstream.Stream](t)(inMesh.UpdateStream(t.Context(), c))
	refused := 0
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := b.Burn(ctx, "read.logs", sender, longNonce())
		cancel()
		if denial.Of(err) == denial.ReplayUnavailable {
			refused++
		}
	}
	if refused < 50 {
		t.Errorf("%d of 100 long names were refused", refused)
	}
}

func longNonce() string {
	out := envelope.NewNonce()
	for range 6 {
		out += out
	}
	return out
}
