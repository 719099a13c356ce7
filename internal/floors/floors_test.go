package floors_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/internal/limits"
)

var now = time.Unix(1795408791, 0)

func encoded(t testing.TB, s *floors.Set) []byte {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parsed(t testing.TB, b []byte) *floors.Set {
	t.Helper()
	s, err := floors.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantEpoch(t *testing.T, s *floors.Set, key string, want uint64) {
	t.Helper()
	if got := s.Epoch(key); got != want {
		t.Errorf("floor of %s: got %d, want %d", key, got, want)
	}
}

func TestEpochsOnlyRise(t *testing.T) {
	s := floors.New()
	for _, epoch := range []uint64{1, 3, 2, 0, 3} {
		s.Raise("alice", epoch, now)
	}
	s.Raise("bob", 1, now)
	s.Raise("alice.7f3c2k9q", 2, now)
	wantEpoch(t, s, "alice", 3)
	wantEpoch(t, s, "alice.7f3c2k9q", 2)
	wantEpoch(t, s, "bob", 0)
	if got := s.Len(); got != 2 {
		t.Errorf("got %d floors, want 2: below the first epoch there is nothing", got)
	}
	again := parsed(t, encoded(t, s))
	wantEpoch(t, again, "alice", 3)
	wantEpoch(t, again, "alice.7f3c2k9q", 2)
}

func TestTicksOnlyRise(t *testing.T) {
	s := floors.New()
	for _, tt := range []struct{ tick, want floors.Tick }{
		{floors.Tick{1, 5, 100}, floors.Tick{1, 5, 100}},
		{floors.Tick{1, 4, 90}, floors.Tick{1, 5, 100}},
		{floors.Tick{1, 6, 0}, floors.Tick{1, 6, 100}},
		{floors.Tick{2, 0, 50}, floors.Tick{2, 0, 100}},
		{floors.Tick{1, 900, 200}, floors.Tick{2, 0, 200}},
	} {
		s.RaiseTick(tt.tick)
		if got := s.Tick(); got != tt.want {
			t.Errorf("after %v: got %v, want %v", tt.tick, got, tt.want)
		}
	}
	if got := parsed(t, encoded(t, s)).Tick(); got != s.Tick() {
		t.Errorf("read again: got %v, want %v", got, s.Tick())
	}
}

// What is worth the disk: epochs that rise, a new incarnation, a new time of
// replays, and of ticks one in an hour.
func TestNews(t *testing.T) {
	s := floors.New()
	s.RaiseTick(floors.Tick{1, 5, 100})
	for _, tt := range []struct {
		what string
		do   func()
		want bool
	}{
		{"the first tick", func() {}, true},
		{"nothing", func() {}, false},
		{"an epoch", func() { s.Raise("alice", 2, now) }, true},
		{"the same epoch", func() { s.Raise("alice", 2, now.Add(time.Hour)) }, false},
		{"the first epoch", func() { s.Raise("bob", 1, now) }, false},
		{"the next tick", func() { s.RaiseTick(floors.Tick{1, 6, 100}) }, false},
		{"an hour of ticks", func() { s.RaiseTick(floors.Tick{1, 5 + 3600/5, 100}) }, true},
		{"replays", func() { s.RaiseTick(floors.Tick{1, 800, 101}) }, true},
		{"an incarnation", func() { s.RaiseTick(floors.Tick{2, 1, 101}) }, true},
		{"what was not written", s.Unwritten, true},
		{"what somebody else wrote", func() {
			o := floors.New()
			o.Raise("carol", 7, now)
			o.RaiseTick(floors.Tick{3, 1, 500})
			s.Merge(o)
		}, false},
	} {
		tt.do()
		if got := s.News(); got != tt.want {
			t.Errorf("%s: got news %v, want %v", tt.what, got, tt.want)
		}
	}
	select {
	case <-s.Rose():
	default:
		t.Error("nobody was told that something rose")
	}
}

func TestMerge(t *testing.T) {
	a, b := floors.New(), floors.New()
	a.Raise("alice", 5, now)
	a.Raise("bob", 2, now)
	a.RaiseTick(floors.Tick{1, 9, 10})
	b.Raise("alice", 4, now)
	b.Raise("bob", 3, now)
	b.Raise("carol", 2, now)
	b.RaiseTick(floors.Tick{2, 1, 5})
	a.Merge(b)
	a.Merge(a)
	for key, want := range map[string]uint64{"alice": 5, "bob": 3, "carol": 2} {
		wantEpoch(t, a, key, want)
	}
	if got, want := a.Tick(), (floors.Tick{2, 1, 10}); got != want {
		t.Errorf("got tick %v, want %v", got, want)
	}
	wantEpoch(t, b, "alice", 4)
}

// A full set forgets what rose longest ago, and its text stays within its bound.
func TestBound(t *testing.T) {
	s := floors.New()
	key := func(i int) string { return fmt.Sprintf("%s%05d.7f3c2k9q", strings.Repeat("a", 58), i) }
	for i := range limits.Floors + 10 {
		s.Raise(key(i), 1<<63, now.Add(time.Duration(i)*time.Second))
	}
	if got := s.Len(); got > limits.Floors || got < limits.Floors*7/8 {
		t.Errorf("got %d floors, want at most %d, and most of them", got, limits.Floors)
	}
	wantEpoch(t, s, key(0), 0)
	wantEpoch(t, s, key(limits.Floors+9), 1<<63)
	b := encoded(t, s)
	if len(b) > limits.FloorsText {
		t.Errorf("the text has %d bytes, at most %d are read", len(b), limits.FloorsText)
	}
	parsed(t, b)
}

func TestParseRefuses(t *testing.T) {
	s := floors.New()
	s.Raise("alice", 3, now)
	s.RaiseTick(floors.Tick{1, 5, 100})
	good := string(encoded(t, s))
	parsed(t, []byte(good))
	for name, text := range map[string]string{
		"nothing":       "",
		"null":          "null\n",
		"cut short":     good[:len(good)/2],
		"no end":        strings.TrimSuffix(good, "\n"),
		"more":          good + good,
		"spaces":        strings.Replace(good, ":", ": ", 1),
		"schema":        strings.Replace(good, "/v1", "/v2", 1),
		"long schema":   strings.Replace(good, "/v1", strings.Repeat("x", 500), 1),
		"unknown field": strings.Replace(good, `"tick"`, `"x":1,"tick"`, 1),
		"twice":         strings.Replace(good, `"epochs":{`, `"epochs":{"alice":{"epoch":2,"at":1},`, 1),
		"no epochs":     strings.Replace(good, `{"alice":{"epoch":3,"at":1795408791}}`, `null`, 1),
		"low epoch":     strings.Replace(good, `"epoch":3`, `"epoch":1`, 1),
		"no epoch":      strings.Replace(good, `"epoch":3`, `"epoch":-3`, 1),
		"huge epoch":    strings.Replace(good, `"epoch":3`, `"epoch":18446744073709551616`, 1),
		"time":          strings.Replace(good, `"at":1795408791`, `"at":-1`, 1),
		"replays":       strings.Replace(good, `"replay_since":100`, `"replay_since":-1`, 1),
		"name":          strings.Replace(good, `"alice"`, `"Alice"`, 1),
		"instance":      strings.Replace(good, `"alice"`, `"alice.x"`, 1),
		"empty tail":    strings.Replace(good, `"alice"`, `"alice."`, 1),
		"deep":          strings.Replace(good, `"alice"`, `"alice.7f3c2k9q.x"`, 1),
		"too long":      good + strings.Repeat(" ", limits.FloorsText),
	} {
		if text == good {
			t.Fatalf("%s: not spoilt", name)
		}
		if s, err := floors.Parse([]byte(text)); err == nil {
			t.Errorf("%s: read as %s", name, encoded(t, s))
		} else if len(err.Error()) > 300 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// Whatever is read has one text, and that is it.
func FuzzParse(f *testing.F) {
	s := floors.New()
	f.Add(encoded(f, s))
	s.Raise("alice", 3, now)
	s.Raise("alice.7f3c2k9q", 2, now)
	s.RaiseTick(floors.Tick{1, 5, 100})
	f.Add(encoded(f, s))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := floors.Parse(b)
		if err == nil && !bytes.Equal(encoded(t, s), b) {
			t.Errorf("%q is read as %q", b, encoded(t, s))
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	s := floors.New()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 200 {
				s.Raise("alice", uint64(n), now)
				s.RaiseTick(floors.Tick{1, uint64(n), int64(i)})
				o := floors.New()
				o.Raise("bob", uint64(n), now)
				s.Merge(o)
				s.News()
				if _, err := s.Encode(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantEpoch(t, s, "alice", 199)
	wantEpoch(t, s, "bob", 199)
}
