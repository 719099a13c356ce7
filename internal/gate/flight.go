package gate

import (
	"context"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// flights lets all who need the same document at the same time share one read.
// A burst of messages from a new peer costs one read, not one each, and none of
// them is refused for the number of the others.
type flights[T any] struct {
	within time.Duration // bounds each read
	mu     sync.Mutex
	all    map[string]*flight[T]
}

type flight[T any] struct {
	done    chan struct{}
	value   T
	err     error
	touched bool       // the feed brought this document while it was read
	next    *flight[T] // for those who need a read that begins later than this one
}

func newFlights[T any](within time.Duration) *flights[T] {
	return &flights[T]{within: within, all: map[string]*flight[T]{}}
}

// do waits for a read of key, and begins one if none is under way. With later
// set, one that is under way already is not enough: its answer may be older than
// what made the caller ask. pay is asked before a read is begun and may refuse
// it; it is nil where nobody pays. joined says that somebody else began the read.
//
// The read does not end with the caller's context, since others wait for it; a
// time of its own bounds it.
func (s *flights[T]) do(ctx context.Context, key string, later bool, pay func() error, read func(context.Context) (T, error)) (value T, joined bool, err error) {
	s.mu.Lock()
	f := s.all[key]
	switch {
	case f == nil || later && f.next == nil:
		if pay != nil {
			if err := pay(); err != nil {
				s.mu.Unlock()
				return value, false, err
			}
		}
		n := &flight[T]{done: make(chan struct{})}
		if f == nil {
			key = strings.Clone(key) // of a header, which it would keep alive
			s.all[key] = n
			go s.fly(context.WithoutCancel(ctx), key, n, read)
		} else {
			f.next = n
		}
		f = n
	case later:
		f, joined = f.next, true
	default:
		joined = true
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, joined, f.err
	case <-ctx.Done():
		return value, joined, denial.New(denial.RegistryUnavailable, "reading %s: %w", key, ctx.Err())
	}
}

func (s *flights[T]) fly(ctx context.Context, key string, f *flight[T], read func(context.Context) (T, error)) {
	for f != nil {
		c, cancel := context.WithTimeout(ctx, s.within)
		f.value, f.err = read(c)
		cancel()
		s.mu.Lock()
		next := f.next
		if next == nil {
			delete(s.all, key)
		} else {
			s.all[key] = next
		}
		s.mu.Unlock()
		close(f.done)
		f = next
	}
}

// touch notes that the feed brought a document, and reports whether it is being
// read at the moment.
func (s *flights[T]) touch(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.all[key]
	if f != nil {
		f.touched = true
	}
	return f != nil
}

// touched reports whether the feed brought the document since its read began.
func (s *flights[T]) touched(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.all[key]
	return f != nil && f.touched
}

// How many reads of what this process does not know one sender may cause.
const (
	readsPerSecond = 50
	readsAtOnce    = 100
)

// budget limits the reads that each sender causes. The name that is charged is
// the one that the broker vouches for, so nobody can use up another's share; a
// read for this process itself (the zero ID) is free.
type budget struct {
	mu  sync.Mutex
	all map[agentid.ID]*rate.Limiter
}

func newBudget() *budget { return &budget{all: map[agentid.ID]*rate.Limiter{}} }

func (b *budget) spend(id agentid.ID, now time.Time) error {
	if id.IsZero() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.all[id]
	if l == nil {
		if len(b.all) >= negativeMost {
			for other, l := range b.all {
				if l.TokensAt(now) >= readsAtOnce {
					delete(b.all, other) // it owes nothing, so nothing is forgotten
				}
			}
		}
		if len(b.all) >= negativeMost {
			clear(b.all)
		}
		l = rate.NewLimiter(readsPerSecond, readsAtOnce)
		b.all[own(id)] = l
	}
	if !l.AllowN(now, 1) {
		return denial.New(denial.RateLimited, "messages of %q caused too many reads of the registry", id)
	}
	return nil
}

// own copies an ID out of the header it was read from, which a map key would
// otherwise keep alive.
func own(id agentid.ID) agentid.ID { return agentid.Require(strings.Clone(id.String())) }
