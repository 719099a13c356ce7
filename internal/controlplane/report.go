package controlplane

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// cutReport is what a cut did. The fields below mu are set by whoever runs the
// cut, when nothing of it runs beside.
type cutReport struct {
	mu        sync.Mutex
	at        map[string]*atServer
	claims    map[connection]bool // closed, or about to be
	pass      map[connection]bool // not there, as their server says, or closed behind the answer
	gone      []registry.Session  // to be forgotten
	delegates map[agentid.ID]bool
	leaving   []target            // what is given a moment to leave by itself
	stays     map[connection]bool // likewise
	bound     time.Time           // when the last ends by itself that nobody can close
	open      int                 // connections that nobody can close
	verified  bool

	// What was known before the change. Another replica, which hears of it at the
	// same time, may close the connections and forget their sessions first; they
	// count as closed all the same.
	before, beforeVia []registry.Session

	failed   error
	revision uint64    // of the agent's record that was cut by
	changed  time.Time // when that was written, in an operation
}

// atServer is what a cut did at one server.
type atServer struct {
	silent bool // a request timed out: it is not waited for again
	failed bool // something could not be done there, or asked
	asked  bool // it told what it has, and nothing failed since
	closed int
	left   int
}

func newReport() *cutReport {
	return &cutReport{
		at: map[string]*atServer{}, claims: map[connection]bool{}, pass: map[connection]bool{}, delegates: map[agentid.ID]bool{},
		stays: map[connection]bool{},
	}
}

func (r *cutReport) server(id string) *atServer {
	if r.at[id] == nil {
		r.at[id] = &atServer{}
	}
	return r.at[id]
}

// claim returns those of the targets that nobody closes yet: memory, the leader
// and the servers find the same ones.
func (r *cutReport) claim(list []target) []target {
	r.mu.Lock()
	defer r.mu.Unlock()
	var mine []target
	for _, t := range list {
		if !r.claims[t.connection] {
			r.claims[t.connection] = true
			mine = append(mine, t)
		}
	}
	return mine
}

// closed reports whether a connection should have ended.
func (r *cutReport) closed(c connection) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.claims[c] && !r.stays[c]
}

// passes reports whether a connection that is listed does not count.
func (r *cutReport) passes(c connection) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pass[c]
}

// spare notes a connection that is closed behind the answer.
func (r *cutReport) spare(c connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pass[c] = true
	r.server(c.server).closed++
}

func (r *cutReport) isSilent(server string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.server(server).silent
}

// kicked notes what came of closing a connection.
func (r *cutReport) kicked(c connection, was bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.server(c.server)
	switch {
	case err != nil:
		s.silent, s.failed = true, true
	case was:
		s.closed++
	default:
		r.pass[c] = true
	}
}

// left notes a connection that ended by itself.
func (r *cutReport) left(c connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server(c.server).closed++
	r.pass[c] = true
}

func (r *cutReport) unlist(s registry.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = append(r.gone, s)
}

func (r *cutReport) unlisted() []registry.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.gone
	r.gone = nil
	return out
}

// rested notes whose connections ended because they rested on a delegation.
func (r *cutReport) rested(list []target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range list {
		r.delegates[t.agent] = true
	}
}

func (r *cutReport) leave(list []target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = append(r.leaving, list...)
	for _, t := range list {
		r.stays[t.connection] = true
	}
}

// late returns what was given a moment, which is over.
func (r *cutReport) late() []target {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.leaving
	r.leaving = nil
	clear(r.stays)
	return list
}

// wait notes connections that nobody can close. One whose session is over has
// ended, and is listed a moment longer.
func (r *cutReport) wait(list []target, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range list {
		if t.session != nil && now.After(t.session.Expires.Add(endsLate)) {
			continue
		}
		r.open++
		if t.session != nil && t.session.Expires.After(r.bound) {
			r.bound = t.session.Expires
		}
	}
}

// concerned lists the agents whose connections a cut has to do with.
func (r *cutReport) concerned(h *holder) []agentid.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []agentid.ID
	if len(r.leaving) == 0 {
		ids = slices.SortedFunc(maps.Keys(r.delegates), byName)
	}
	if h != nil {
		ids = append(ids, h.agent.Agent)
	}
	return ids
}

// heard notes what the servers said that they have left.
func (r *cutReport) heard(c *census, left []target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verified = true
	for id := range c.silent {
		s := r.server(id)
		s.failed, s.asked = true, false
	}
	for id := range c.asked {
		s := r.server(id)
		s.asked, s.failed, s.silent, s.left = true, false, false, 0
	}
	for _, t := range left {
		r.server(t.server).left++
	}
}

// unheard notes that nobody said what is left.
func (r *cutReport) unheard(servers map[string]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range servers {
		s := r.server(id)
		s.failed, s.asked = true, false
	}
}

// complete reports whether every server said that nothing is left.
func (r *cutReport) complete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed != nil || !r.verified {
		return false
	}
	for _, s := range r.at {
		if s.failed || s.left > 0 {
			return false
		}
	}
	return true
}

// cut is how many connections ended.
func (r *cutReport) cut() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.at {
		n += s.closed
	}
	return n
}

// unreachable lists the servers that were not heard.
func (r *cutReport) unreachable() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for id, s := range r.at {
		if s.failed {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// views says what was done at each server.
func (r *cutReport) views(name func(string) string) []wire.ServerCut {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []wire.ServerCut{}
	for _, id := range slices.Sorted(maps.Keys(r.at)) {
		s := r.at[id]
		out = append(out, wire.ServerCut{Server: id, Name: name(id), Asked: s.asked, Closed: s.closed, Left: s.left})
	}
	return out
}

// cutResult says what a cut did.
func (p *Plane) cutResult(a *registry.Agent, r *cutReport, start time.Time) wire.CutResult {
	out := wire.CutResult{
		Schema: wire.CutSchema, Agent: a.Agent, Status: a.Status, Epoch: a.Epoch, Cut: r.cut(),
		Delegates: list(slices.SortedFunc(maps.Keys(r.delegates), byName)), Servers: r.views(p.servers.name),
		Confirmed: r.complete(), Unreachable: r.unreachable(), MS: millis(start),
	}
	if p.sys == nil {
		out.Bound = p.bound(r)
	}
	p.metrics.cut(out.Confirmed, time.Since(start))
	return out
}

// millis is the time since then.
func millis(then time.Time) float64 { return float64(time.Since(then).Microseconds()) / 1000 }
