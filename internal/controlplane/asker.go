package controlplane

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
)

const (
	// askerGrace is how long the connections of who asked outlive the change at
	// most: what was taken back is gone from the broker within a second.
	askerGrace = leaveGrace
	// askerLeaves is how long who asked has to go by itself once the answer is out,
	// which takes another way through a cluster than what closes the connection.
	askerLeaves = 200 * time.Millisecond
)

// asker is the instance that asked for an operation. Where that cuts the instance
// itself, the answer would be lost with the connection on which it comes; so its
// own connections are closed behind the answer.
type asker struct {
	plane *Plane
	agent agentid.ID
	inst  agentid.Instance

	mu    sync.Mutex
	kept  map[connection]target
	over  bool          // nothing is kept any more
	ended chan struct{} // closed when the answer is out
}

type askerKey struct{}

// askedBy returns who asked, and a context in which cuts keep its connections
// until part is called.
func (p *Plane) askedBy(ctx context.Context, v *envelope.Verified) (context.Context, *asker) {
	a := &asker{plane: p, agent: v.From(), inst: v.Instance(), kept: map[connection]target{}, ended: make(chan struct{})}
	return context.WithValue(ctx, askerKey{}, a), a
}

// spare returns the connections that may be closed now, and counts those that are
// closed behind the answer.
func spare(ctx context.Context, list []target, r *cutReport) []target {
	a, ok := ctx.Value(askerKey{}).(*asker)
	if !ok {
		return list
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := make([]target, 0, len(list))
	for _, t := range list {
		_, kept := a.kept[t.connection]
		switch s := t.session; {
		case a.over:
			now = append(now, t)
		case kept:
			// Found again at the server.
		case s != nil && s.Agent == a.agent && s.Instance == a.inst:
			if len(a.kept) == 0 {
				a.plane.wg.Go(a.notForLong)
			}
			a.kept[t.connection] = t
			r.spare(t.connection)
		default:
			now = append(now, t)
		}
	}
	return now
}

// notForLong bounds how long a cut that does not come to its end, because of a
// server that is silent, may hold off this one.
func (a *asker) notForLong() {
	select {
	case <-a.ended:
	case <-a.plane.ctx.Done():
	case <-time.After(askerGrace):
		a.close()
	}
}

// part closes what was kept, behind the answer that was sent.
func (a *asker) part() {
	defer close(a.ended)
	a.mu.Lock()
	list, over := slices.Collect(maps.Values(a.kept)), a.over
	a.mu.Unlock()
	if len(list) == 0 || over {
		return
	}
	ctx, cancel := context.WithTimeout(a.plane.ctx, askerLeaves)
	defer cancel()
	if err := a.plane.ctrl.FlushWithContext(ctx); err == nil {
		a.plane.departures.await(ctx, list, askerLeaves)
	}
	a.close()
}

func (a *asker) close() {
	a.mu.Lock()
	list, again := slices.Collect(maps.Values(a.kept)), a.over
	a.over = true
	a.mu.Unlock()
	if again {
		return
	}
	// Also while the control plane ends: it waits for those who are at work.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.plane.ctx), cutTimeout)
	defer cancel()
	r := newReport()
	a.plane.closeAll(ctx, list, r)
	a.plane.unlistAll(ctx, r)
	if len(r.unreachable()) > 0 {
		a.plane.unfinished(a.agent, r)
	}
}
