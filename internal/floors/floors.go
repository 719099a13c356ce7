// Package floors remembers below what a process must never go back: the highest
// epochs of agents and instances that it has seen, and the newest tick. A broker
// that serves an old record, genuine and signed, brings nothing back to who holds
// its floors, also after a restart: they are kept on disk (internal/agentdir).
package floors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Schema is that of the text form.
const Schema = "sealmesh.agent-state/v1"

// first is the epoch with which every record begins. Below it there is nothing to
// go back to, so it is no floor.
const first = 1

// tickStep is by how many revisions a tick must be ahead of the one that was kept
// to be news by itself: an hour of ticks. Between two of them nothing is lost: an
// old tick carries its own time, so that it cannot pass for a sign of life.
const tickStep = 720

// Tick is what must not go back of the control plane's ticks.
type Tick struct {
	Incarnation uint64 `json:"incarnation"`
	Revision    uint64 `json:"revision"`
	ReplaySince int64  `json:"replay_since"` // Unix milliseconds
}

// Before reports whether t is older than o, as ticks are ordered.
func (t Tick) Before(o Tick) bool {
	return t.Incarnation < o.Incarnation || t.Incarnation == o.Incarnation && t.Revision < o.Revision
}

// over returns the newer of two ticks, with the later of their replay times.
func (t Tick) over(o Tick) Tick {
	since := max(t.ReplaySince, o.ReplaySince)
	if t.Before(o) {
		t = o
	}
	t.ReplaySince = since
	return t
}

// floor is the highest epoch of one record.
type floor struct {
	Epoch uint64 `json:"epoch"`
	At    int64  `json:"at"` // when it rose here, Unix seconds
}

// Set is the floors of one process, made by New or Parse. It is safe for concurrent
// use and holds at most [limits.Floors] records: past that, those that have not
// risen for longest are forgotten.
type Set struct {
	mu    sync.RWMutex
	tick  Tick
	kept  Tick   // what of it is on disk
	trust uint64 // version of the trust document
	all   map[string]floor
	news  bool
	rose  chan struct{}
}

// New returns a set that remembers nothing yet.
func New() *Set { return &Set{all: map[string]floor{}, rose: make(chan struct{}, 1)} }

// Epoch returns the least epoch that is believed of a record, by its key in the
// registry: an agent, or an agent, a dot and an instance.
func (s *Set) Epoch(key string) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all[key].Epoch
}

// Tick returns the newest tick.
func (s *Set) Tick() Tick {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tick
}

// Len is how many records have a floor.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// Raise lifts the floor of a record. What is no higher changes nothing.
func (s *Set) Raise(key string, epoch uint64, now time.Time) {
	if epoch <= first || epoch <= s.Epoch(key) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raise(strings.Clone(key), floor{epoch, max(now.Unix(), 0)}) {
		s.tell()
	}
}

// raise is called with the lock held.
func (s *Set) raise(key string, f floor) bool {
	if f.Epoch <= s.all[key].Epoch {
		return false
	}
	if _, known := s.all[key]; !known && len(s.all) >= limits.Floors {
		s.forget()
	}
	s.all[key] = f
	return true
}

// forget drops the eighth that has not risen for longest, so that a full set is
// not sorted for each that comes.
func (s *Set) forget() {
	keys := slices.SortedFunc(maps.Keys(s.all), func(a, b string) int {
		if d := s.all[a].At - s.all[b].At; d != 0 {
			return int(max(min(d, 1), -1))
		}
		return strings.Compare(a, b)
	})
	for _, key := range keys[:len(keys)/8] {
		delete(s.all, key)
	}
}

// RaiseTick takes over a newer tick.
func (s *Set) RaiseTick(t Tick) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick = t.over(s.tick)
	if s.tick.Incarnation != s.kept.Incarnation || s.tick.ReplaySince != s.kept.ReplaySince || s.tick.Revision-s.kept.Revision >= tickStep {
		s.tell()
	}
}

// Trust returns the version of the newest trust document that was taken over.
func (s *Set) Trust() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.trust
}

// RaiseTrust takes over a higher version.
func (s *Set) RaiseTrust(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if version > s.trust {
		s.trust = version
		s.tell()
	}
}

// tell is called with the lock held.
func (s *Set) tell() {
	s.news = true
	select {
	case s.rose <- struct{}{}:
	default:
	}
}

// Rose holds a value when something rose that is worth writing down.
func (s *Set) Rose() <-chan struct{} { return s.rose }

// News reports whether something rose that is worth writing down, since the last
// time that this was asked and all was taken for written.
func (s *Set) News() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.news {
		return false
	}
	s.news, s.kept = false, s.tick
	return true
}

// Unwritten makes the next News true: what was to be written was not.
func (s *Set) Unwritten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = true
}

// Merge takes over what is higher in another set, which was read from disk and is
// no news.
func (s *Set) Merge(o *Set) {
	if s == o {
		return
	}
	o.mu.RLock()
	all, tick, trust := maps.Clone(o.all), o.tick, o.trust
	o.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, f := range all {
		s.raise(key, f)
	}
	s.tick, s.kept = s.tick.over(tick), s.kept.over(tick)
	s.trust = max(s.trust, trust)
}

// text is the form on disk.
type text struct {
	Schema string           `json:"schema"`
	Tick   Tick             `json:"tick"`
	Trust  uint64           `json:"trust,omitempty"`
	Epochs map[string]floor `json:"epochs"`
}

// Encode returns the text form, which Parse reads.
func (s *Set) Encode() ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return encode(text{Schema, s.tick, s.trust, s.all})
}

func encode(t text) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("floors: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads what Encode wrote, and nothing else: each set has one text, so that
// one that was cut short or edited by halves is found out.
func Parse(b []byte) (*Set, error) {
	if len(b) > limits.FloorsText {
		return nil, fmt.Errorf("floors: longer than %d bytes", limits.FloorsText)
	}
	var t text
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&t); err != nil {
		return nil, fmt.Errorf("floors: %w", err)
	}
	switch {
	case t.Schema != Schema:
		return nil, fmt.Errorf("floors: schema is %q, not %q", clip(t.Schema), Schema)
	case len(t.Epochs) > limits.Floors:
		return nil, fmt.Errorf("floors: %d records, at most %d are remembered", len(t.Epochs), limits.Floors)
	case t.Epochs == nil || t.Tick.ReplaySince < 0:
		return nil, fmt.Errorf("floors: incomplete")
	}
	for key, f := range t.Epochs {
		if err := check(key, f); err != nil {
			return nil, err
		}
	}
	if again, err := encode(t); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("floors: not as it was written")
	}
	s := New()
	s.tick, s.kept, s.trust, s.all = t.Tick, t.Tick, t.Trust, t.Epochs
	return s, nil
}

func check(key string, f floor) error {
	name, tail, isInstance := strings.Cut(key, ".")
	_, err := agentid.Parse(name)
	if err == nil && isInstance {
		_, err = agentid.ParseInstance(tail)
	}
	if err != nil {
		return fmt.Errorf("floors: record %q: %w", clip(key), err)
	}
	if f.Epoch <= first || f.At < 0 {
		return fmt.Errorf("floors: record %q has an epoch of %d, at %d", key, f.Epoch, f.At)
	}
	return nil
}

// clip shortens foreign text for an error.
func clip(s string) string { return s[:min(len(s), 80)] }
