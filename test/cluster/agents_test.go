//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// duo is a caller and a handler who talk all the time.
type duo struct {
	name             string
	from, to         int // servers
	scope            string
	caller, handler  *meshclient.Mesh
	callerID, handID string

	moving sync.RWMutex // held while caller and handler are replaced
	mu     sync.Mutex
	calls  []call
}

type call struct {
	began, ended time.Time
	err          error
}

func (w *world) duo(from, to int) *duo {
	w.t.Helper()
	d := &duo{
		name: fmt.Sprintf("%s→%s", w.Name(from), w.Name(to)), from: from, to: to, scope: "read:logs-" + w.Name(from),
		callerID: "caller-" + w.Name(from), handID: "handler-" + w.Name(to),
	}
	scope := capability.RequireScope(d.scope)
	w.add(d.handID, to, registry.Rights{Handle: []capability.Scope{scope}})
	w.add(d.callerID, from, registry.Rights{Call: []capability.Scope{scope}})
	w.enter(d)
	return d
}

// enter connects a duo, each to its own server.
func (w *world) enter(d *duo) {
	w.t.Helper()
	d.handler, d.caller = w.connect(w.Agent(d.handID)), w.connect(w.Agent(d.callerID))
	if err := d.handler.Handle(d.scope, func(context.Context, *meshclient.Request) ([]byte, error) { return []byte("ok"), nil }); err != nil {
		w.t.Fatal(err)
	}
	for _, id := range []string{d.handID, d.callerID} {
		w.epochs[id] = w.epoch(w.show(id))
	}
}

// home has all who had to go elsewhere come back to their own servers.
func (w *world) home() {
	w.t.Helper()
	for _, d := range w.duos {
		d.moving.Lock()
		for _, m := range []*meshclient.Mesh{d.caller, d.handler} {
			if err := m.Close(); err != nil {
				w.t.Error(err)
			}
		}
		w.enter(d)
		d.moving.Unlock()
	}
}

// calling has all duos talk until the test ends.
func (w *world) calling() {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	for _, d := range w.duos {
		wg.Go(func() {
			for ctx.Err() == nil {
				d.call(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	w.root.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func (d *duo) call(ctx context.Context) {
	d.moving.RLock()
	defer d.moving.RUnlock()
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := call{began: time.Now()}
	_, c.err = d.caller.Call(try, d.scope, nil)
	c.ended = time.Now()
	if ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	d.calls = append(d.calls, c)
	d.mu.Unlock()
}

// since are the calls that began after a moment.
func (d *duo) since(t time.Time) (out []call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c.began.After(t) {
			out = append(out, c)
		}
	}
	return out
}

// undisturbed fails the test if any call since a moment failed, or hardly any was
// made.
func (w *world) undisturbed(d *duo, since time.Time) {
	w.t.Helper()
	calls := d.since(since)
	if least := int(time.Since(since) / (5 * time.Second)); len(calls) <= least {
		w.t.Errorf("%s: only %d calls in %s", d.name, len(calls), time.Since(since).Round(time.Second))
	}
	for _, c := range calls {
		if c.err != nil {
			w.t.Errorf("%s: a call %s after the blow failed: %v", d.name, c.began.Sub(since).Round(time.Millisecond), c.err)
		}
	}
}

// talks waits until calls of a duo succeed again, ten in a row.
func (w *world) talks(d *duo) {
	w.t.Helper()
	began := time.Now()
	w.eventually(ever, d.name+" talk again", func(context.Context) error {
		calls := d.since(began)
		n := 0
		var last error
		for _, c := range calls {
			if n++; c.err != nil {
				n, last = 0, c.err
			}
		}
		if n < 10 {
			return fmt.Errorf("%d calls, the last failure: %w", n, errors.Join(last))
		}
		return nil
	})
}

// quiet is the longest time without a call that succeeded.
func (d *duo) quiet(since time.Time) (longest time.Duration) {
	last := since
	for _, c := range d.since(since) {
		if c.err == nil {
			longest, last = max(longest, c.ended.Sub(last)), c.ended
		}
	}
	return max(longest, time.Since(last))
}

// ghost is an agent that was revoked and does not give up.
type ghost struct {
	w     *world
	id    string
	dir   string
	scope string
	mesh  *meshclient.Mesh // its connection from before

	tries, refusals atomic.Int64
}

// ghost makes an agent that may call what a duo's handler handles.
func (w *world) ghost(id string, node int) *ghost {
	w.t.Helper()
	g := &ghost{w: w, id: id, scope: w.duos[node].scope}
	g.dir = w.add(id, node, registry.Rights{Call: []capability.Scope{capability.RequireScope(g.scope)}})
	g.mesh = w.connect(g.dir)
	if _, err := g.mesh.Call(w.ctx, g.scope, nil); err != nil {
		w.t.Fatal(err)
	}
	return g
}

// haunt has a revoked agent try to come in and to call until the test ends, and
// fails the test if it is ever let.
func (g *ghost) haunt() {
	ctx, cancel := context.WithCancel(g.w.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			g.knock(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	})
	g.w.root.Cleanup(func() {
		cancel()
		wg.Wait()
		if g.refusals.Load() == 0 {
			g.w.root.Errorf("%s tried %d times and was never refused, so that nothing was tested", g.id, g.tries.Load())
		}
	})
}

func (g *ghost) knock(ctx context.Context) {
	g.tries.Add(1)
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := g.mesh.Call(try, g.scope, nil); err == nil {
		g.w.root.Errorf("%s was revoked and called", g.id)
	}
	m, err := meshclient.Connect(try, meshclient.As(g.dir), meshclient.Log(zerolog.Nop()))
	if err == nil {
		g.w.root.Errorf("%s was revoked and came in", g.id)
		_ = m.Close()
	}
	if refused(err, denial.Revoked) {
		g.refusals.Add(1)
	}
}
