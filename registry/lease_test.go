package registry_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/registry"
)

// Of writers at a time one has the lease, and what cannot be read is nobody's.
func TestLease(t *testing.T) {
	w := newWorld(t)
	one, two, r := w.store(), w.store(), w.raw()
	if got, seq, err := one.Lease(w.ctx(), "roll"); got != nil || seq != 0 || err != nil {
		t.Fatalf("before there is one: got %v, %d, %v", got, seq, err)
	}
	put := func(s *registry.Store, holder string, seq uint64, won bool) {
		t.Helper()
		if got, err := s.PutLease(w.ctx(), "roll", registry.Lease{Holder: holder}, seq); err != nil || got != won {
			t.Errorf("%s over %d: got %v, %v, want %v", holder, seq, got, err, won)
		}
	}
	put(one, "one", 0, true)
	put(two, "two", 0, false)
	got, seq, err := two.Lease(w.ctx(), "roll")
	if err != nil || got == nil || got.Holder != "one" {
		t.Fatalf("got %+v, %v, want it to be one's", got, err)
	}
	put(two, "two", seq, true)
	put(one, "one", seq, false)
	if got, _, err := one.Lease(w.ctx(), "other"); got != nil || err != nil {
		t.Errorf("another lease: got %+v, %v, want none", got, err)
	}
	for _, text := range []string{"{", `{"holder":"x","more":1}`, `{"holder":"x"} {}`} {
		r.put(registry.JoinsBucket, "lease.roll", text)
		got, seq, err := one.Lease(w.ctx(), "roll")
		if got != nil || err != nil {
			t.Errorf("%s: got %+v, %v, want none", text, got, err)
		}
		put(one, "one", seq, true)
	}
}
