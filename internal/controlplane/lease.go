package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// rollLease is who reloads nats-servers.
	rollLease = "roll"
	// leaseBeat is how often a holder says that it is there, leaseLost how long it
	// may be silent before others take over. They go by their own clocks and by what
	// they saw, so that nobody's wall clock counts.
	leaseBeat = 3 * time.Second
	leaseLost = 15 * time.Second
	leaseLook = 250 * time.Millisecond
	leaseWait = 5 * time.Second // bounds one write or read of it
)

// errLeaseLost ends what was done under a lease that another replica took.
var errLeaseLost = errors.New("controlplane: another replica took over")

// lease is work that no other replica does at the same time.
type lease struct {
	p      *Plane
	name   string
	holder string
	ctx    context.Context // ends when it is lost or released
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	rec  registry.Lease
	seq  uint64
	done bool
}

// takeLease takes a lease that nobody has, or whose holder fell silent. Where wait is
// set it waits for that until ctx ends, else it is refused with denial.WrongState
// while somebody is there.
func (p *Plane) takeLease(ctx context.Context, name string, wait bool) (*lease, error) {
	l := &lease{p: p, name: name, holder: p.brakes.name + "-" + rand.Text()[:8]}
	for {
		rec, seq, err := p.store.Lease(ctx, name)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			rec = &registry.Lease{}
		}
		if rec.Holder == "" || p.leases.silent(name, seq) {
			l.rec = registry.Lease{Holder: l.holder, Beat: rec.Beat + 1, Note: rec.Note}
			won, err := p.store.PutLease(ctx, name, l.rec, seq)
			if err != nil {
				return nil, err
			}
			if won {
				return l, l.hold(ctx)
			}
			continue // somebody was faster
		}
		if !wait {
			return nil, denial.New(denial.WrongState, "%s is under way, by %s", name, rec.Holder)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("controlplane: waiting for %s: %w", name, ctx.Err())
		case <-time.After(leaseLook):
		}
	}
}

// hold learns the sequence of what was written and keeps the lease.
func (l *lease) hold(ctx context.Context) error {
	rec, seq, err := l.p.store.Lease(ctx, l.name)
	if err != nil {
		return err
	}
	if rec == nil || rec.Holder != l.holder {
		return errLeaseLost
	}
	l.seq = seq
	l.ctx, l.cancel = context.WithCancelCause(l.p.ctx)
	l.p.wg.Go(func() {
		tick := time.NewTicker(leaseBeat)
		defer tick.Stop()
		said := time.Now()
		for {
			select {
			case <-l.ctx.Done():
				return
			case <-tick.C:
			}
			err := l.write(func(*registry.Lease) {})
			if err == nil {
				said = time.Now()
			}
			// Others may take it over from here, and do so by a longer time of their own.
			if errors.Is(err, errLeaseLost) || time.Since(said) > leaseLost-leaseBeat {
				l.cancel(errLeaseLost)
				return
			}
		}
	})
	return nil
}

// write changes the lease, by compare-and-set.
func (l *lease) write(change func(*registry.Lease)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.p.ctx, leaseWait)
	defer cancel()
	next := l.rec
	next.Beat++
	change(&next)
	won, err := l.p.store.PutLease(ctx, l.name, next, l.seq)
	if err != nil && ctx.Err() == nil {
		return err
	}
	// An answer that was lost looks like one of somebody who was faster.
	rec, seq, readErr := l.p.store.Lease(ctx, l.name)
	switch {
	case readErr != nil:
		return readErr
	case rec == nil || rec.Holder != next.Holder || rec.Beat != next.Beat:
		if won || err == nil {
			return errLeaseLost
		}
		return err
	}
	l.rec, l.seq = next, seq
	return nil
}

// note writes what the holder says of its work. It tries for as long as the lease is
// its own: what it waits for may be the very server that it reloads.
func (l *lease) note(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	for {
		err := l.write(func(r *registry.Lease) { r.Note = text })
		if err == nil || errors.Is(err, errLeaseLost) {
			return err
		}
		select {
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-time.After(leaseLook):
		}
	}
}

// release gives the lease back; its note stays.
func (l *lease) release() {
	if err := l.write(func(r *registry.Lease) { r.Holder = "" }); err != nil && !errors.Is(err, errLeaseLost) {
		l.p.log.Warn().Err(err).Str("lease", l.name).Msg("lease cannot be given back; it ends by itself")
	}
	l.mu.Lock()
	l.done = true
	l.mu.Unlock()
	l.cancel(context.Canceled)
}

// leases are those that others hold, as this replica saw them.
type leases struct {
	lost time.Duration // how long a holder may be silent
	mu   sync.Mutex
	seen map[string]leaseSeen
}

type leaseSeen struct {
	seq uint64
	at  time.Time
}

// silent reports whether a lease has been the same for so long that nobody holds it.
func (s *leases) silent(name string, seq uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]leaseSeen{}
	}
	was, ok := s.seen[name]
	if !ok || was.seq != seq {
		s.seen[name] = leaseSeen{seq, time.Now()}
		return false
	}
	return time.Since(was.at) > s.lost
}
