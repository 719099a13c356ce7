package gate_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// tight makes a gate that takes few calls of one sender.
func (w *world) tight(most int) *node {
	w.t.Helper()
	n := w.start(0)
	n.gate = must[*gate.Gate](w.t)(gate.New(gate.Config{
		Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: n.peers, Reader: w.store,
		Burner: w.store, Seen: n.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now, BurnsPerSender: most,
	}))
	return n
}

// One sender can have a receiver burn so many nonces while the store remembers
// them, and no more, whatever the clock does. Others are not held to that, and what
// never asks the store is not counted.
func TestQuotaOfASender(t *testing.T) {
	w := newWorld(t)
	a, other := w.enrol("writer", "read:logs"), w.enrol("other", "read:logs")
	const most = 8
	n := w.tight(most)
	for range most {
		wantReason(t, a.call().to(n), "")
	}
	burns := w.store.burns
	wantReason(t, a.call().to(n), denial.QuotaExceeded)
	wantReason(t, other.call().to(n), "")
	wantReason(t, a.note().to(n), "")
	if got := w.store.burns - burns; got != 1 {
		t.Errorf("the store was written %d times, want once, for the other sender", got)
	}
	if n.seen.Len() != most+2 {
		t.Errorf("memory holds %d nonces, want %d: what is refused for its number takes no room", n.seen.Len(), most+2)
	}
	// Set back, the clock makes no room.
	w.clock.advance(-20 * time.Second)
	wantReason(t, a.call().to(n), denial.QuotaExceeded)
	w.clock.advance(20 * time.Second)
	// As long as the store remembers the first one, the quota does.
	w.clock.advance(limits.Window + limits.Ahead)
	w.tickTo(n)
	wantReason(t, a.call().to(n), denial.QuotaExceeded)
	w.clock.advance(2 * time.Minute)
	w.tickTo(n)
	wantReason(t, a.call().to(n), "")
}

func TestQuotaIsPositive(t *testing.T) {
	w := newWorld(t)
	if _, err := gate.New(gate.Config{
		Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: w.peers, Reader: w.store,
		Burner: w.store, Seen: w.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now, BurnsPerSender: -1,
	}); err == nil {
		t.Error("a gate that takes less than no calls")
	}
}
