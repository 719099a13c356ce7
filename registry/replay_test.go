package registry_test

import (
	"maps"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/registry"
)

// The record outlives whoever wrote it, and of writers at a time one wins.
func TestReplayRecord(t *testing.T) {
	w := newWorld(t)
	one, two, r := w.store(), w.store(), w.raw()
	if got, seq, err := one.ReplayRecord(w.ctx()); got != nil || seq != 0 || err != nil {
		t.Fatalf("before there is one: got %v, %d, %v", got, seq, err)
	}
	want := registry.ReplayRecord{Created: 1, Last: 7, Servers: map[string]string{"n1": "NA"}}
	put := func(s *registry.Store, rec registry.ReplayRecord, seq uint64, won bool) {
		t.Helper()
		if got, err := s.PutReplayRecord(w.ctx(), rec, seq); err != nil || got != won {
			t.Errorf("writing over %d: got %v, %v, want %v", seq, got, err, won)
		}
	}
	put(one, want, 0, true)
	put(two, registry.ReplayRecord{Created: 2}, 0, false)
	got, seq, err := two.ReplayRecord(w.ctx())
	if err != nil || got == nil || got.Created != 1 || got.Last != 7 || !maps.Equal(got.Servers, want.Servers) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
	want.Last = 8
	put(two, want, seq, true)
	put(one, want, seq, false)
	// One that cannot be read is none, and can be written over.
	for _, text := range []string{"{", `{"created":1,"more":1}`, `{"created":1} {}`, "null x"} {
		r.put(registry.JoinsBucket, "replay", text)
		got, seq, err := one.ReplayRecord(w.ctx())
		if got != nil || err != nil {
			t.Errorf("%s: got %+v, %v, want none", text, got, err)
		}
		put(one, want, seq, true)
	}
}

func TestTicked(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ticked := func(want bool) {
		t.Helper()
		if got, err := s.Ticked(w.ctx()); err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	ticked(false)
	if err := s.Tick(w.ctx(), 0, time.Time{}, nil); err != nil {
		t.Fatal(err)
	}
	ticked(true)
	r.put(registry.AgentsBucket, registry.TickKey, "") // as a marker is
	ticked(true)
}
