package controlplane

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// manner is how the connections of others end that rested on what an agent
// delegated.
type manner bool

const (
	// atOnce closes them: their delegator was cut.
	atOnce manner = false
	// gently lets them leave by themselves before they are closed. Receivers refuse
	// what was taken back already, so that nothing is won by staying; and a client
	// that replaces its connection loses none of what it does by its own rights.
	gently manner = true
)

const (
	// leaveGrace is how long they have from the change on: what was taken back is
	// gone from the broker within a second.
	leaveGrace = 850 * time.Millisecond
	// patientMost bounds those who wait for it at the same time, each of which
	// keeps a worker from others. Beyond, connections are closed at once.
	patientMost = 8
)

// seeOff waits for the connections of a cut that may leave by themselves, closes
// those that have not left, and asks the servers for what is left.
func (p *Plane) seeOff(ctx context.Context, id agentid.ID, r *cutReport) {
	if len(r.leaving) == 0 {
		return
	}
	if p.sys != nil {
		select {
		case p.cutting.patient <- struct{}{}:
			for _, c := range p.departures.await(ctx, r.leaving, time.Until(r.changed.Add(leaveGrace))) {
				r.left(c)
			}
			<-p.cutting.patient
		default:
		}
	}
	late := r.late()
	p.closeAll(ctx, slices.DeleteFunc(late, func(t target) bool { return r.passes(t.connection) }), r)
	p.unlistAll(ctx, r)
	if err := p.verify(ctx, nil, r); err != nil {
		r.failed = errors.Join(r.failed, err)
		p.log.Error().Err(err).Str("agent", id.String()).Int("cut", r.cut()).Msg("cut is not confirmed")
	}
	if !r.complete() {
		p.unfinished(id, r)
	}
}

// cutLater cuts an agent once those who rest on what it took back had their time
// to leave.
func (p *Plane) cutLater(id agentid.ID) {
	c := p.cutting
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.later[id] {
		return
	}
	c.later[id] = true
	p.wg.Go(func() {
		select {
		case <-p.ctx.Done():
		case <-time.After(leaveGrace):
		}
		c.mu.Lock()
		delete(c.later, id)
		c.mu.Unlock()
		if p.ctx.Err() == nil {
			p.cutSoon(id)
		}
	})
}

// departures tells those who wait for it that a connection has ended. The zero
// value is ready.
type departures struct {
	mu      sync.Mutex
	waiting map[connection]*departure
}

type departure struct {
	over    chan struct{}
	waiters int
}

func (d *departures) expect(c connection) *departure {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.waiting == nil {
		d.waiting = map[connection]*departure{}
	}
	w := d.waiting[c]
	if w == nil {
		w = &departure{over: make(chan struct{})}
		d.waiting[c] = w
	}
	w.waiters++
	return w
}

func (d *departures) forget(c connection, w *departure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.waiters--; w.waiters == 0 && d.waiting[c] == w {
		delete(d.waiting, c)
	}
}

// left notes that a connection has ended.
func (d *departures) left(c connection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.waiting[c]; w != nil {
		delete(d.waiting, c)
		close(w.over)
	}
}

// await waits for the end of all connections, at most that long, and returns those
// that ended.
func (d *departures) await(ctx context.Context, list []target, most time.Duration) (ended []connection) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	expected := make([]*departure, len(list))
	for i, t := range list {
		expected[i] = d.expect(t.connection)
	}
	for i, t := range list {
		select {
		case <-expected[i].over:
			ended = append(ended, t.connection)
		case <-ctx.Done():
		}
		d.forget(t.connection, expected[i])
	}
	return ended
}
