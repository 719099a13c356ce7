package load

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
)

// lentFor is how long something more is lent each time, and the pause after it.
const lentFor = 2 * time.Second

// loans lends the borrower something more again and again, has it used, and takes it
// back: each time the borrower's connection is replaced twice, and the second time in
// haste.
type loans struct {
	lender, borrower *actor
	lane             *lane // whose calls these are
	made             atomic.Int64
	skipped          atomic.Int64 // for want of a control plane
}

func (l *loans) run(ctx, loaded context.Context, find *findings) {
	for loaded.Err() == nil {
		if err := l.once(ctx, find); err != nil {
			l.skipped.Add(1)
		}
		if pause(loaded, lentFor) != nil {
			return
		}
	}
}

func (l *loans) once(ctx context.Context, find *findings) error {
	d, err := l.lender.Delegate(ctx, "borrower", meshclient.Grant{Scopes: []string{"do:extra"}, For: time.Hour})
	if err != nil {
		return err
	}
	l.made.Add(1)
	if err := l.borrower.holds(ctx, "do:extra"); err != nil {
		return err
	}
	for end := time.Now().Add(lentFor); time.Now().Before(end); {
		n := l.lane.made.Add(1)
		if err := l.lane.ask(ctx, l.borrower, n); err != nil {
			l.lane.failed.note(n)
			find.add("%s: call %d failed: %v", l.lane.scope, n, err)
		}
		l.lane.ended.Add(1)
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	for range 100 {
		if err = d.End(ctx); err == nil {
			return nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	return err
}
