package heartbeat

import (
	"context"
	"sync"
	"time"
)

// Canary recognises a monitor's own beats when they come back through the
// stream. A replica makes a [Sender] whose Send is wrapped by [Canary.Wrap], and
// hands the beats it receives under its own name to [Canary.Returned].
//
// What counts is when a canary was sent, not when it came back: a stream that
// delivers with a minute's delay delays everybody's beats by a minute, and
// nobody may be judged by it. Each canary counts once and only for the replica
// that sent it, so neither a replay nor another replica's canary opens the eyes
// of a monitor that is blind.
type Canary struct {
	monitor *Monitor
	mu      sync.Mutex
	out     map[canaryID]time.Time
}

type canaryID struct {
	session  Session
	sequence uint64
}

// maxCanaries bounds the canaries that are still out; while the stream is away
// none comes back.
const maxCanaries = 16

// NewCanary returns the canary of m.
func NewCanary(m *Monitor) *Canary {
	return &Canary{monitor: m, out: make(map[canaryID]time.Time)}
}

// Wrap returns a Send function that notes when each beat goes out.
func (c *Canary) Wrap(send func(context.Context, Beat) error) func(context.Context, Beat) error {
	return func(ctx context.Context, b Beat) error {
		// Noted before it is sent: it may be back before send returns.
		c.note(canaryID{b.Session, b.Sequence}, c.monitor.cfg.Clock())
		return send(ctx, b)
	}
}

func (c *Canary) note(id canaryID, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out[id] = at
	if len(c.out) <= maxCanaries {
		return
	}
	oldest := id
	for other, t := range c.out {
		if t.Before(c.out[oldest]) {
			oldest = other
		}
	}
	delete(c.out, oldest)
}

// Returned takes a verified beat that the control plane sent and reports
// whether it is one of this canary's, back for the first time.
func (c *Canary) Returned(b Beat) bool {
	id := canaryID{b.Session, b.Sequence}
	c.mu.Lock()
	sent, ok := c.out[id]
	delete(c.out, id)
	c.mu.Unlock()
	if ok {
		c.monitor.CanaryReturned(sent)
	}
	return ok
}
