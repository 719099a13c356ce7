package gate_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// burner is a shared store that does whatever a test wants.
type burner func() error

func (b burner) Burn(context.Context, string, agentid.ID, string) error { return b() }

// Junk that carries a victim's nonce comes first and burns nothing.
func TestJunkBurnsNothing(t *testing.T) {
	w := newWorld(t)
	a, mallory := w.enrol("writer", "read:logs"), w.enrol("mallory", "read:logs")
	at := a.call()
	good := at.message()

	forged := good
	forge(&forged)
	_, err := w.gate.Admit(t.Context(), forged, at.want)
	wantReason(t, err, denial.BadSignature)

	// Another agent's own, well-signed message with the same nonce.
	stolen := mallory.call()
	stolen.fields.Nonce = at.fields.Nonce
	wantReason(t, stolen.to(w.node), "")

	// The sender's own message that is refused for its authority.
	poor := a.call()
	poor.fields.Nonce, poor.fields.Token = at.fields.Nonce, ""
	wantReason(t, poor.to(w.node), denial.NoToken)

	if _, err := w.gate.Admit(t.Context(), good, at.want); err != nil {
		t.Errorf("got %v for the true message after junk with its nonce", err)
	}
}

func TestReplay(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	at := a.call()
	m := at.message()
	if _, err := w.gate.Admit(t.Context(), m, at.want); err != nil {
		t.Fatal(err)
	}
	burns := w.store.burns
	v, err := w.gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, denial.Replayed)
	if v != nil || w.store.burns != burns {
		t.Error("a replay that memory knows got past the look-up")
	}

	// Another replica, and the same process after a restart, ask the shared store.
	w.clock.advance(10 * time.Second)
	other := w.start(0)
	v, err = other.gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, denial.Replayed)
	if v == nil {
		t.Error("the refusal comes without the message that was signed well")
	}
	// And it may take what nobody has taken, though it was signed before it began.
	fresh := a.call()
	fresh.fields.Time = w.clock.Now().Add(-5 * time.Second)
	wantReason(t, fresh.to(other), "")
	// Where memory is all there is, it does not.
	note := a.note()
	note.fields.Time = w.clock.Now().Add(-5 * time.Second)
	wantReason(t, note.to(other), denial.Stale)
}

// Of copies that race, here and at other replicas, one gets in.
func TestRace(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	nodes := []*node{w.node, w.start(0), w.start(0)}
	at := a.call()
	m := at.message()
	var wg sync.WaitGroup
	results := make(chan error, 48)
	for i := range cap(results) {
		wg.Go(func() {
			_, err := nodes[i%len(nodes)].gate.Admit(t.Context(), m, at.want)
			results <- err
		})
	}
	wg.Wait()
	close(results)
	admitted := 0
	for err := range results {
		if err == nil {
			admitted++
		} else {
			wantReason(t, err, denial.Replayed)
		}
	}
	if admitted != 1 {
		t.Errorf("got %d admitted, want 1", admitted)
	}
}

// A write whose answer got lost may have been made: the message is refused, and
// not tried again.
func TestLostAnswer(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	at := a.call()
	m := at.message()
	w.store.lost = true
	_, err := w.gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, denial.ReplayUnavailable)
	if w.store.burns != 1 {
		t.Errorf("the store was written %d times, want once", w.store.burns)
	}
	w.store.lost = false
	_, err = w.gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, denial.Replayed)
	_, err = w.start(0).gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, denial.Replayed)
}

// The tick's replay_since only rises, and older messages are refused.
func TestReplaySince(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	old := a.call()
	w.clock.advance(time.Second)
	since := w.clock.Now()
	w.tick.ReplaySince = since.UnixMilli()
	w.tickTo(w.node)
	wantReason(t, old.to(w.node), denial.Stale)
	wantReason(t, a.call().to(w.node), "")
	w.tick.ReplaySince = 0
	w.tickTo(w.node)
	if got := w.peers.ReplaySince(); !got.Equal(since) {
		t.Errorf("replay_since: got %v, want %v", got, since)
	}
	wantReason(t, old.to(w.node), denial.Stale)
}

// A message that is old by the time it was judged is not let in, and its nonce
// is not used: memory would have forgotten it at once.
func TestTooSlow(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	at := a.call()
	at.fields.Deadline = 0
	w.store.during = func(_ context.Context, key string) {
		if key == a.chain {
			w.clock.advance(limits.Window + time.Second)
		}
	}
	wantReason(t, at.to(w.node), denial.Stale)
	if w.seen.Len() != 0 || w.store.burns != 0 {
		t.Error("the nonce of a stale message was used")
	}
}

// Nobody but the broker-vouched sender can use up what a sender may cause: junk
// of another agent does not make the victim's messages be refused.
func TestBudgetIsTheSenders(t *testing.T) {
	w := newWorld(t)
	a, mallory := w.enrol("writer", "read:logs"), w.enrol("mallory", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	limited := 0
	for range 300 {
		at := mallory.call()
		at.fields.Token = envelope.NewNonce()[:21] + "AAAAAAAAAAAAAAAAAAAAAA"
		at.fields.OnBehalf = a.chain
		if denial.Of(at.to(w.node)) == denial.RateLimited {
			limited++
		}
	}
	if limited < 150 {
		t.Errorf("got %d of 300 limited", limited)
	}
	if n := w.store.count(); n > 150 {
		t.Errorf("junk caused %d reads", n)
	}
	// The victim's share is whole: unknown instance, unknown chain, higher epoch.
	a.newKey("writer two")
	a.grant("read:logs")
	a.change(func(r *registry.Agent) { r.Epoch++ })
	wantReason(t, a.call().to(w.node), "")
	// And mallory's comes back with time.
	w.clock.advance(3 * time.Second)
	wantReason(t, mallory.call().to(w.node), "")
}

// A burst from a sender that was not met yet is let in, and costs one read of
// each document.
func TestBurstOfANewSender(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	release := make(chan struct{})
	w.store.during = func(context.Context, string) { <-release }
	var wg sync.WaitGroup
	results := make(chan error, 300)
	var begun sync.WaitGroup
	for range cap(results) {
		at := a.call()
		m := at.message()
		begun.Add(1)
		wg.Go(func() {
			begun.Done()
			_, err := w.gate.Admit(t.Context(), m, at.want)
			results <- err
		})
	}
	begun.Wait()
	close(release)
	wg.Wait()
	close(results)
	for err := range results {
		wantReason(t, err, "")
	}
	if n := w.store.count(); n > 12 {
		t.Errorf("got %d reads, want about one for each of three documents", n)
	}
}
