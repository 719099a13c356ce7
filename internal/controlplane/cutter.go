package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	cutTimeout = 10 * time.Second
	// cutsAtOnce bounds the cuts that nobody waits for, each of which reads the
	// sessions of everybody.
	cutsAtOnce = 4
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
	queued  map[agentid.ID]bool // true: changed again since its cut began
	later   map[agentid.ID]bool // to be cut in a moment
	slots   chan struct{}
	patient chan struct{} // for those who wait for others to leave
}

// operation is what goes on with one agent.
type operation struct {
	running int
	seen    uint64 // highest revision that the watcher left to it
}

func newCutting() *cutting {
	return &cutting{
		agents: map[agentid.ID]*operation{}, queued: map[agentid.ID]bool{}, later: map[agentid.ID]bool{},
		slots: make(chan struct{}, cutsAtOnce), patient: make(chan struct{}, patientMost),
	}
}

// begin says that an operation is about to change an agent and to cut it. end
// takes the revision that the cut saw, zero where there was none, and reports
// whether the watcher has seen a newer one, which is then still to be cut.
func (c *cutting) begin(id agentid.ID) (end func(revision uint64) (missed bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	op := c.agents[id]
	if op == nil {
		op = &operation{}
		c.agents[id] = op
	}
	op.running++
	return func(revision uint64) bool {
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

// cutSoon cuts an agent beside everything else, and does not give up before
// every server has said that nothing is left. It does not block, and costs one
// goroutine for each agent that is to be cut, however often it is called.
func (p *Plane) cutSoon(id agentid.ID) {
	c := p.cutting
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, queued := c.queued[id]; queued {
		c.queued[id] = true
		return
	}
	c.queued[id] = false
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
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if done {
			continue
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// cutAndLog is the cut that nobody waits for. It reports whether it is complete.
func (p *Plane) cutAndLog(id agentid.ID) bool {
	ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
	defer cancel()
	r, err := p.cut(ctx, id)
	switch {
	case p.ctx.Err() != nil || denial.Of(err) == denial.UnlistedAgent:
		return true
	case err != nil:
		p.log.Error().Err(err).Str("agent", id.String()).Int("cut", r.cut).Msg("connections could not be cut")
		return false
	case r.cut > 0 || len(r.unreachable) > 0:
		p.log.Info().Str("agent", id.String()).Int("cut", r.cut).Strs("unreachable", r.servers()).Msg("connections cut")
	}
	return len(r.unreachable) == 0
}

// lookThrough finds, once through all sessions and connections, who is connected
// without being entitled to it, and has him cut: what was cut while nobody
// watched, or was left half done by a replica that died.
func (p *Plane) lookThrough(agents map[agentid.ID]*registry.Agent, instances map[agentid.ID]map[agentid.Instance]*registry.Instance) {
	for pause := cutAgain; ; pause = min(2*pause, cutAgainMost) {
		suspects, err := p.suspects(agents, instances)
		for id := range suspects {
			p.cutSoon(id)
		}
		if err == nil || p.ctx.Err() != nil {
			return
		}
		p.log.Error().Err(err).Msg("sessions could not be looked through")
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *Plane) suspects(agents map[agentid.ID]*registry.Agent, instances map[agentid.ID]map[agentid.Instance]*registry.Instance) (map[agentid.ID]bool, error) {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	out := map[agentid.ID]bool{}
	r := &cutReport{unreachable: map[string]bool{}}
	found, err := p.connections(ctx, agentid.ID{}, r)
	if err != nil {
		return out, err
	}
	// Read after the servers were asked: whoever is connected was listed before.
	sessions, err := p.store.Sessions(ctx, agentid.ID{})
	if err != nil {
		return out, err
	}
	listed := map[connection]bool{}
	chains := map[string]error{}
	for _, s := range sessions {
		listed[connection{s.ServerID, s.ClientID}] = true
		if !stands(&s, agents[s.Agent], instances[s.Agent][s.Instance]) {
			out[s.Agent] = true
		}
		for _, digest := range s.Chains {
			if len(s.Via) == 0 {
				break // its own root tokens: they end with an epoch
			}
			if _, seen := chains[digest]; !seen {
				chains[digest] = (&admitter{p}).recheck(ctx, []string{digest})
			}
			if err := chains[digest]; err != nil && denial.Of(err) == "" {
				return out, err
			} else if err != nil {
				for _, id := range s.Via {
					out[id] = true // whoever of them ended it takes the session along
				}
			}
		}
	}
	for _, c := range found {
		if !listed[c.connection] {
			out[c.agent] = true
		}
	}
	return out, nil
}

// changeAndCut changes an agent and cuts it. Whatever of that fails, the watcher was
// told to leave the agent alone, so what is not cut here is cut soon: a record
// may be written although the change failed.
func (p *Plane) changeAndCut(ctx context.Context, id agentid.ID, change func() (*registry.Agent, error)) (*registry.Agent, *cutReport, error) {
	return p.changeAndCutAs(ctx, id, atOnce, change)
}

func (p *Plane) changeAndCutAs(ctx context.Context, id agentid.ID, how manner, change func() (*registry.Agent, error)) (a *registry.Agent, r *cutReport, err error) {
	done := p.cutting.begin(id)
	defer func() {
		revision := uint64(0)
		if r != nil {
			revision = r.revision
		}
		if done(revision) || err != nil && !changedNothing(err) || r != nil && len(r.unreachable) > 0 {
			p.cutSoon(id)
		}
	}()
	if a, err = change(); err != nil {
		return nil, nil, err
	}
	changed := time.Now()
	r, err = p.cutAs(ctx, id, how)
	r.changed = changed
	return a, r, err
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
func (p *Plane) onDisconnect(m *nats.Msg) {
	var e struct {
		Server struct {
			ID string `json:"id"`
		} `json:"server"`
		Client struct {
			ID   uint64 `json:"id"`
			User string `json:"user"`
		} `json:"client"`
	}
	if json.Unmarshal(m.Data, &e) != nil {
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
	sessions, err := p.store.Sessions(ctx, id)
	if err != nil {
		p.log.Debug().Err(err).Msg("sessions cannot be read")
		return
	}
	for _, s := range sessions {
		if gone[connection{s.ServerID, s.ClientID}] {
			if err := p.store.DropSession(ctx, s); err != nil {
				p.log.Debug().Err(err).Msg("session stays listed")
			}
		}
	}
}

func byName(a, b agentid.ID) int { return cmp.Compare(a.String(), b.String()) }
