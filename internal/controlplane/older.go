package controlplane

import (
	"context"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/internal/epochlog"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// reconcileWait bounds one look at everything that is remembered of the registry.
	reconcileWait = 5 * time.Minute
	checkWait     = 10 * time.Second
	checkAgain    = time.Second
)

// older knows which records of the registry are to be compared with what is
// remembered of them, and when all of them are.
type older struct {
	memory *epochlog.Log
	wake   chan struct{}

	mu          sync.Mutex
	due         map[string]bool // keys
	incarnation uint64          // in which all were compared
	again       context.CancelFunc
}

func newOlder() *older { return &older{wake: make(chan struct{}, 1), due: map[string]bool{}} }

// recall opens the memory of the registry. Nothing is read from the registry
// before: what is remembered says what to believe of it.
func (p *Plane) recall() (err error) {
	p.older.memory, err = epochlog.Open(p.cfg.Mesh.State(), p.log)
	return err
}

// reconcile compares the registry with what is remembered, where it went back to
// an older state while nobody watched. It comes before anything is served, and
// before a tick is written, by which one could tell no more.
func (p *Plane) reconcile(ctx context.Context) error {
	back, err := p.store.WentBack(ctx)
	if err != nil {
		return err
	}
	if back {
		p.log.Error().Msg("the registry went back to an older state: agents whose records are older are refused until an operator has looked at them")
		return p.store.Reconcile(ctx)
	}
	return nil
}

// compared says that all records were compared in the current incarnation of the
// ticks.
func (p *Plane) compared() {
	p.older.mu.Lock()
	defer p.older.mu.Unlock()
	p.older.incarnation = p.store.Incarnation()
}

// checkSoon has one record compared with what is remembered of it.
func (p *Plane) checkSoon(key string) {
	p.older.mu.Lock()
	defer p.older.mu.Unlock()
	p.older.due[key] = true
	p.older.rouse()
}

func (o *older) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *older) take() map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	due := o.due
	o.due = map[string]bool{}
	return due
}

// lookAtOlder compares what is due for as long as the control plane runs. The
// watch sees records go by that a read has overtaken, so each is read again.
func (p *Plane) lookAtOlder() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.older.wake:
		}
		for key := range p.older.take() {
			ctx, cancel := context.WithTimeout(p.ctx, checkWait)
			err := p.store.Check(ctx, key)
			cancel()
			if err == nil || p.ctx.Err() != nil {
				continue
			}
			p.log.Warn().Err(err).Str("key", key).Msg("record cannot be compared with what is remembered of it")
			p.checkSoon(key)
			select {
			case <-p.ctx.Done():
			case <-time.After(checkAgain):
			}
		}
	}
}

// followIncarnation has everything compared, and watched anew, where the ticks
// began anew: the registry went back while the control plane ran.
func (p *Plane) followIncarnation() {
	o := p.older
	now := p.store.Incarnation()
	o.mu.Lock()
	same := o.incarnation == now
	o.mu.Unlock()
	if same {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, reconcileWait)
	defer cancel()
	if err := p.store.Reconcile(ctx); err != nil {
		p.log.Error().Err(err).Msg("registry cannot be compared with what is remembered of it")
		return // the next tick comes back to it
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.incarnation = now
	if o.again != nil {
		o.again()
	}
}

// watching returns the context of one watch of the registry, which ends when
// everything is to be watched anew.
func (o *older) watching(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.again = cancel
	return ctx, cancel
}

// olderRecords is what operators are told of.
func (p *Plane) olderRecords() []wire.OlderRecord {
	var out []wire.OlderRecord
	for _, o := range p.store.Older() {
		r := wire.OlderRecord{
			Record: o.Key, KnownEpoch: o.Known.Epoch, KnownRevision: o.Known.Revision, KnownStatus: o.Known.Status,
			Epoch: o.Found.Epoch, Revision: o.Found.Revision, Status: o.Found.Status, Gone: o.Found == registry.Floor{},
		}
		out = append(out, r)
	}
	return out
}
