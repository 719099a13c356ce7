package gate_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// What the feed brought while the connection was away is read afterwards: a signing
// key that was taken away counts no more, and the newest trust document is handed on.
// One more read does it once the subscriptions are in effect, and none is made while
// nothing can be missing.
func TestCatchUp(t *testing.T) {
	w := newWorld(t)
	const settle = 2 * time.Second
	var told []string
	w.store.set(func(s *store) { s.records[registry.TrustKey] = "one" })
	n := w.startWith(func(c *gate.PeersConfig) {
		c.Settle, c.OnTrust = settle, func(text string) { told = append(told, text) }
	})
	catchUp := func(want ...string) {
		t.Helper()
		told = nil
		if err := n.peers.CatchUp(t.Context()); err != nil || !slices.Equal(told, want) {
			t.Fatalf("got %v, %v, want %v", told, err, want)
		}
	}
	catchUp("one") // as the start read before the subscriptions were in effect
	w.clock.advance(settle)
	catchUp("one")
	catchUp()

	w.store.set(func(s *store) {
		s.records[registry.TrustKey], s.records[registry.RingKey] = "two", registry.JoinRing(w.certificates[:1])
	})
	catchUp()
	n.peers.Gap()
	w.store.set(func(s *store) { s.down = errors.New("away") })
	if err := n.peers.CatchUp(t.Context()); err == nil {
		t.Fatal("caught up with a registry that is away")
	}
	w.store.set(func(s *store) { s.down = nil })
	catchUp("two")
	if got := n.peers.Ring().Certificates(); !slices.Equal(got, w.certificates[:1]) {
		t.Errorf("%d signing keys count, want one", len(got))
	}
	w.clock.advance(settle)
	catchUp("two")
	catchUp()
}
