package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	cutTimeout = 10 * time.Second
	// cutsAtOnce bounds the cuts that nobody waits for, each of which asks every
	// server.
	cutsAtOnce = 8
	// cutAgain is the pause before a cut that was not complete is repeated; it
	// doubles up to cutAgainMost.
	cutAgain     = time.Second
	cutAgainMost = time.Minute
)

// cutting knows which agents an operation is cutting right now, so that the
// watcher, which sees the record change as well, leaves them to it, and which
// agents are to be cut without anybody waiting for it.
type cutting struct {
	mu      sync.Mutex
	agents  map[agentid.ID]*operation
	queued  map[agentid.ID]bool          // true: changed again since its cut began
	wake    map[agentid.ID]chan struct{} // of those that are queued: no pause
	pending map[agentid.ID]wire.PendingCut
	later   map[agentid.ID]bool // to be cut in a moment
	slots   chan struct{}
	patient chan struct{} // for those who wait for others to leave
}

// operation is what goes on with one agent.
type operation struct {
	running int
	seen    uint64               // highest revision that the watcher left to it
	records chan *registry.Agent // that the watcher saw meanwhile
}

// recordsWaiting is how many records wait for an operation; what does not fit is
// seen by the cut that ends it.
const recordsWaiting = 4

func newCutting() *cutting {
	return &cutting{
		agents: map[agentid.ID]*operation{}, queued: map[agentid.ID]bool{}, wake: map[agentid.ID]chan struct{}{}, later: map[agentid.ID]bool{}, pending: map[agentid.ID]wire.PendingCut{},
		slots: make(chan struct{}, cutsAtOnce), patient: make(chan struct{}, patientMost),
	}
}

// begin says that an operation is about to change an agent and to cut it. end
// takes the revision that the cut saw, zero where there was none, and reports
// whether the watcher has seen a newer one, which is then still to be cut.
func (c *cutting) begin(id agentid.ID) (op *operation, end func(revision uint64) (missed bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op = c.agents[id]
	if op == nil {
		op = &operation{records: make(chan *registry.Agent, recordsWaiting)}
		c.agents[id] = op
	}
	op.running++
	return op, func(revision uint64) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		if op.running--; op.running == 0 {
			delete(c.agents, id)
		}
		return op.seen > revision
	}
}

// busy reports whether an operation will cut the agent by itself.
func (c *cutting) busy(id agentid.ID, revision uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.agents[id]
	if op != nil {
		op.seen = max(op.seen, revision)
	}
	return op != nil
}

// tell hands a record to the operation that is changing it, if there is one.
func (c *cutting) tell(a *registry.Agent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op := c.agents[a.Agent]; op != nil {
		select {
		case op.records <- a:
		default:
		}
	}
}

// unfinished has a cut tried again until it is confirmed, and seen until then.
func (p *Plane) unfinished(id agentid.ID, r *cutReport) {
	p.stillPending(id, r)
	p.cutSoon(id)
}

func (p *Plane) stillPending(id agentid.ID, r *cutReport) {
	c := p.cutting
	c.mu.Lock()
	defer c.mu.Unlock()
	w, known := c.pending[id]
	if !known {
		w = wire.PendingCut{Agent: id, Since: p.clock().UTC()}
	}
	w.Unreachable, w.Bound = list(r.unreachable()), nil
	if p.sys == nil {
		w.Bound = p.bound(r)
	}
	c.pending[id] = w
}

// confirmed forgets that a cut is pending.
func (p *Plane) confirmed(id agentid.ID) {
	c := p.cutting
	c.mu.Lock()
	w, known := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if known {
		p.log.Info().Str("agent", id.String()).Dur("after", p.clock().Sub(w.Since)).Msg("a cut that was pending is complete")
	}
}

// pendingCuts lists the cuts of this replica that were not confirmed, by agent.
func (c *cutting) pendingCuts() []wire.PendingCut {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Collect(maps.Values(c.pending))
	slices.SortFunc(out, func(a, b wire.PendingCut) int { return byName(a.Agent, b.Agent) })
	return list(out)
}

// cutSoon cuts an agent beside everything else, and does not give up before
// every server has said that nothing is left. It does not block, and costs one
// goroutine for each agent that is to be cut, however often it is called.
func (p *Plane) cutSoon(id agentid.ID) {
	c := p.cutting
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, queued := c.queued[id]; queued {
		c.queued[id] = true
		select {
		case c.wake[id] <- struct{}{}:
		default:
		}
		return
	}
	c.queued[id], c.wake[id] = false, make(chan struct{}, 1)
	p.wg.Go(func() { p.cutUntilDone(id) })
}

func (p *Plane) cutUntilDone(id agentid.ID) {
	c := p.cutting
	for pause := cutAgain; ; pause = min(2*pause, cutAgainMost) {
		select {
		case <-p.ctx.Done():
			return
		case c.slots <- struct{}{}:
		}
		c.mu.Lock()
		c.queued[id] = false
		c.mu.Unlock()
		done := p.cutAndLog(id)
		<-c.slots
		c.mu.Lock()
		again := c.queued[id]
		if done && !again {
			delete(c.queued, id)
			delete(c.wake, id)
			c.mu.Unlock()
			return
		}
		changed := c.wake[id]
		c.mu.Unlock()
		if done {
			continue
		}
		select {
		case <-p.ctx.Done():
			return
		case <-changed: // what it does now may be in reach
		case <-time.After(p.againIn(id, pause)):
		}
	}
}

// againIn is when to try a cut again that was not complete: where nobody can do
// more than wait, not before it is over.
func (p *Plane) againIn(id agentid.ID, pause time.Duration) time.Duration {
	c := p.cutting
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.pending[id]; w.Bound != nil {
		return min(max(w.Bound.Sub(p.clock()), cutAgain), cutAgainMost)
	}
	return pause
}

// cutAndLog is the cut that nobody waits for. It reports whether it is complete.
func (p *Plane) cutAndLog(id agentid.ID) bool {
	ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
	defer cancel()
	r, err := p.cut(ctx, id)
	n := r.cut()
	switch {
	case p.ctx.Err() != nil:
		return true
	case denial.Of(err) == denial.UnlistedAgent:
		p.confirmed(id)
		return true
	case err != nil:
		p.log.Error().Err(err).Str("agent", id.String()).Int("cut", n).Msg("connections could not be cut")
	case n > 0 || len(r.unreachable()) > 0:
		p.log.Info().Str("agent", id.String()).Int("cut", n).Strs("unreachable", r.unreachable()).Msg("connections cut")
	}
	if !r.over(p.sys == nil) {
		p.stillPending(id, r)
		return false
	}
	p.confirmed(id)
	return true
}

// changeAndCut changes an agent and cuts it. Whatever of that fails, the watcher was
// told to leave the agent alone, so what is not cut here is cut soon: a record
// may be written although the change failed. Where the record is written, what is
// wrong with the cut stands in its report and is no error.
func (p *Plane) changeAndCut(ctx context.Context, id agentid.ID, change func() (*registry.Agent, error)) (*registry.Agent, *cutReport, error) {
	return p.changeAndCutAs(ctx, id, atOnce, change)
}

func (p *Plane) changeAndCutAs(ctx context.Context, id agentid.ID, how manner, change func() (*registry.Agent, error)) (a *registry.Agent, _ *cutReport, err error) {
	op, done := p.cutting.begin(id)
	r := newReport()
	r.before, r.beforeVia = p.sessions.of(id), p.sessions.via(id)
	defer func() {
		missed := done(r.revision)
		switch {
		case a != nil && !r.complete():
			p.unfinished(id, r)
		case missed || err != nil && !changedNothing(err):
			p.cutSoon(id)
		}
	}()
	// A change may go on when its record is written: with the record of each
	// instance, one by one.
	stop := p.strikeEarly(ctx, op, r)
	a, err = change()
	stop()
	if err != nil {
		return nil, nil, err
	}
	r.changed = time.Now()
	if err := p.cutBy(ctx, a, how, r); err != nil {
		p.log.Error().Err(err).Str("agent", id.String()).Int("cut", r.cut()).Msg("cut is not confirmed")
	}
	return a, r, nil
}

// strikeEarly closes what memory knows of the agent's connections as soon as the
// watcher sees its record, until stop is called.
func (p *Plane) strikeEarly(ctx context.Context, op *operation, r *cutReport) (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case a := <-op.records:
				p.strike(ctx, a, r)
			case <-over:
				return
			}
		}
	})
	return func() {
		close(over)
		wg.Wait()
	}
}

// changedNothing reports whether a change was refused before it wrote anything.
func changedNothing(err error) bool {
	switch denial.Of(err) {
	case denial.UnlistedAgent, denial.UnlistedKey, denial.NotFound, denial.BadInput, denial.WrongState, denial.ReservedName, denial.QuotaExceeded:
		return true
	}
	return false
}

// ended are connections whose sessions are to be forgotten, by agent. Sessions
// are listed agent by agent, so one who opens and closes many connections costs
// few listings.
type ended struct {
	mu    sync.Mutex
	list  map[agentid.ID]map[connection]bool
	count int
	wake  chan struct{}
}

func newEnded() *ended {
	return &ended{list: map[agentid.ID]map[connection]bool{}, wake: make(chan struct{}, 1)}
}

// onDisconnect hears of connections that ended.
func (p *Plane) onDisconnect(data []byte) {
	var e event
	if json.Unmarshal(data, &e) != nil {
		return
	}
	if id, err := agentid.Parse(e.Client.User); err == nil {
		c := connection{e.Server.ID, e.Client.ID}
		p.departures.left(c)
		p.ended.add(id, c)
	}
}

// endedMost bounds what is remembered; a session that is not forgotten here ends
// with its JWT.
const endedMost = 1 << 16

func (e *ended) add(id agentid.ID, c connection) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count == endedMost {
		return
	}
	e.count++
	if e.list[id] == nil {
		e.list[id] = map[connection]bool{}
	}
	e.list[id][c] = true
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *ended) take() map[agentid.ID]map[connection]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list, e.count = map[agentid.ID]map[connection]bool{}, 0
	return list
}

// tidy forgets the sessions of connections that ended.
func (p *Plane) tidy() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.ended.wake:
		}
		list := p.ended.take()
		for _, id := range slices.SortedFunc(maps.Keys(list), byName) {
			p.forget(id, list[id])
		}
	}
}

func (p *Plane) forget(id agentid.ID, gone map[connection]bool) {
	ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
	defer cancel()
	var over []registry.Session
	unknown := false
	for c := range gone {
		if s := p.sessions.at(c); s != nil {
			over = append(over, *s)
		} else {
			unknown = true
		}
	}
	if unknown {
		// Forgotten already, or so short that memory has not heard of it.
		sessions, err := p.store.Sessions(ctx, id)
		if err != nil {
			p.log.Debug().Err(err).Msg("sessions cannot be read")
		}
		for _, s := range sessions {
			if c := connectionOf(&s); gone[c] && !slices.ContainsFunc(over, func(o registry.Session) bool { return connectionOf(&o) == c }) {
				over = append(over, s)
			}
		}
	}
	for _, s := range over {
		p.absences.ended(&s, p.clock())
	}
	for _, err := range each(ctx, over, p.store.DropSession) {
		p.log.Debug().Err(err).Msg("session stays listed")
	}
}

func byName(a, b agentid.ID) int { return cmp.Compare(a.String(), b.String()) }
