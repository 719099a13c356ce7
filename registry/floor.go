package registry

import (
	"context"
	"errors"
	"sync"
)

// Floor is the newest state of a record that was seen. Of the tick, the epoch is
// the incarnation; the list of topics has a revision alone.
type Floor struct {
	Epoch    uint64
	Revision uint64
	Status   string // of an agent, or the state of an instance; empty: not known
}

// Over returns the newer of two states of the record under a key.
func (f Floor) Over(key string, g Floor) Floor {
	if key == TickKey {
		// Ticks begin anew in each incarnation.
		if f.behind(key, g) {
			return g
		}
		return f
	}
	out := Floor{max(f.Epoch, g.Epoch), max(f.Revision, g.Revision), f.Status}
	if f.Status == "" || f.Revision < g.Revision || f.Revision == g.Revision && f.Epoch < g.Epoch {
		out.Status = g.Status
	}
	return out
}

// behind reports whether a record that was found in state f is older than one in
// state g.
func (f Floor) behind(key string, g Floor) bool {
	if key == TickKey {
		return f.Epoch < g.Epoch || f.Epoch == g.Epoch && f.Revision < g.Revision
	}
	return f.Epoch < g.Epoch || f.Revision < g.Revision
}

// Memory keeps floors beyond the life of a process and outside of JetStream: a
// bucket that is put back to an older state brings its epochs back with it. It is
// safe for concurrent use.
type Memory interface {
	// Floors returns what is remembered, by key of the record.
	Floors() map[string]Floor
	// Remember takes a newer state of a record. It may reach the disk later.
	Remember(key string, f Floor)
	// Keep returns when all that was remembered before outlives a crash.
	Keep() error
}

// errOlder: the record was genuine once. Somebody wrote an old copy back, or the
// bucket lost writes: a status or a right in it may have been taken back since.
var errOlder = errors.New("older than one that was seen before")

// errDeleted: a record has gone, which the registry never does.
var errDeleted = errors.New("was deleted, which the mesh never does; agent add --replace gives the name new keys")

// recall takes over what outlived earlier processes.
func (s *Store) recall() {
	if s.cfg.Memory == nil {
		return
	}
	for key, f := range s.cfg.Memory.Floors() {
		s.floors[key] = f
	}
}

// floor returns what a read that begins now must at least find.
func (s *Store) floor(key string) Floor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floors[key]
}

// raise refuses a record below the floor as it was when its read began: one
// taken later may belong to a write that overtook the answer. Any other lifts
// the floor.
func (s *Store) raise(key string, is, least Floor) error {
	if is.behind(key, least) {
		s.noteOlder(Older{Key: key, Known: least, Found: is})
		return errOlder
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.floors[key]
	f := was.Over(key, is)
	s.floors[key] = f
	if f == is {
		delete(s.older, key)
	}
	if f != was && s.cfg.Memory != nil {
		s.cfg.Memory.Remember(key, f)
	}
	return nil
}

// keep returns when what was written cannot be forgotten any more, where anything
// was that must not be: whoever is told that authority was taken away relies on
// it. A write that failed to be kept was made all the same.
func (s *Store) keep(ctx context.Context, firm bool) error {
	if !firm || s.cfg.Memory == nil {
		return nil
	}
	if b, ok := ctx.Value(batchKey{}).(*batch); ok {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.firm = true
		return nil
	}
	return s.cfg.Memory.Keep()
}

// batch are writes that are kept together, by one look at the disk.
type batch struct {
	mu   sync.Mutex
	firm bool
}

type batchKey struct{}

// together has the changes made with the context that it returns kept at once, by
// the function that it returns.
func (s *Store) together(ctx context.Context) (context.Context, func() error) {
	if _, nested := ctx.Value(batchKey{}).(*batch); nested {
		return ctx, func() error { return nil }
	}
	b := &batch{}
	return context.WithValue(ctx, batchKey{}, b), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		return s.keep(ctx, b.firm)
	}
}
