package meshclient

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
)

// cutError is the cause with which a handler's context ends because what its request
// rests on has ended, or its own agent was cut.
type cutError struct {
	why  error // of the gate
	gone bool  // the caller itself is out: there is nobody to tell
	self bool  // this agent is: there is nobody whom it could tell
}

func (c *cutError) Error() string {
	switch {
	case c.self:
		return "meshclient: this agent was taken out of the mesh: " + c.why.Error()
	case c.gone:
		return "meshclient: the caller was taken out of the mesh: " + c.why.Error()
	}
	return "meshclient: what the request rests on has ended: " + c.why.Error()
}

// Unwrap makes errors.As find a *Denied.
func (c *cutError) Unwrap() []error {
	all := []error{denied(c.why), c.why}
	if c.gone {
		all = append(all, ErrCallerGone)
	}
	return all
}

// silent reports whether nothing more is to be sent.
func (c *cutError) silent() bool { return c.gone || c.self }

// cutOf returns why a handler's context ended, where that was a cut, or nil.
func cutOf(ctx context.Context) (cut *cutError) {
	errors.As(context.Cause(ctx), &cut)
	return cut
}

// out reports whether somebody has no standing any more. What could not be found out
// changes nothing: messages are judged one by one.
func out(err error) bool {
	switch denial.Of(err) {
	case denial.Revoked, denial.Suspended, denial.Expired, denial.Pending, denial.UnlistedAgent, denial.UnlistedKey:
		return true
	}
	return false
}

// ground is what a request rests on: the standing of who sent it, in the epoch in
// which it was sent, and the chains by which it came.
type ground struct {
	agent    agentid.ID
	instance agentid.Instance
	key      string
	epoch    envelope.Epoch
	taken    time.Time // rights that ran then may run out meanwhile
	own      *capability.Chain
	behalf   []*capability.Chain // of those on whose behalf it was sent
}

// groundOf takes the chains that the gate has just checked.
func (m *Mesh) groundOf(v *envelope.Verified, now time.Time) ground {
	f := v.Fields()
	g := ground{agent: f.From, instance: v.Instance(), key: f.Key, epoch: f.Epoch, taken: now}
	if f.Token != "" {
		g.own, _ = m.gate.Chain(m.ctx, f.Token) //nolint:errcheck // it was there for the gate
	}
	if f.OnBehalf != "" {
		for digest := range f.Principals() {
			if c, err := m.gate.Chain(m.ctx, digest); err == nil {
				g.behalf = append(g.behalf, c)
			}
		}
	}
	return g
}

// lost says why a request rests on nothing any more, by the records at hand, or nil.
func (g *ground) lost(known gate.Known) *cutError {
	if err := known.Sender(g.agent, g.instance, g.epoch); err != nil {
		return &cutError{why: err, gone: out(err)}
	}
	return g.rights(known)
}

// reread is lost by records that are read again where they are in doubt.
func (g *ground) reread(ctx context.Context, peers *gate.Peers) *cutError {
	if _, err := peers.Sender(ctx, g.agent, g.key); out(err) {
		return &cutError{why: err, gone: true}
	}
	if cut := g.rights(peers.Directory(ctx)); cut != nil {
		return cut
	}
	return g.lost(peers.Known())
}

// rights looks at the chains. Those who lent something may be cut, or have taken it
// back; that a right's time is over meanwhile ends nothing that was begun.
func (g *ground) rights(dir capability.Directory) *cutError {
	if cut := g.right(g.own, dir); cut != nil {
		return cut
	}
	for _, c := range g.behalf {
		if cut := g.right(c, dir); cut != nil {
			return cut
		}
	}
	return nil
}

func (g *ground) right(c *capability.Chain, dir capability.Directory) *cutError {
	if c == nil {
		return nil
	}
	err := c.Check(g.taken, dir)
	switch denial.Of(err) {
	case denial.DelegatorCut, denial.TokenTakenBack:
		return &cutError{why: err}
	}
	return nil
}

// watched watches the request for what it rests on, from now on. What changed between
// the gate and this moment is seen here.
func (w *work) watched() {
	w.mesh.watches.add(&w.sender, w.ground.agent, w)
	w.lentBy(w.ground.own)
	for _, c := range w.ground.behalf {
		w.lentBy(c)
	}
	w.changed()
}

func (w *work) lentBy(c *capability.Chain) {
	for id := range c.Agents() {
		if id != w.ground.agent {
			l := new(watch)
			w.lenders = append(w.lenders, l)
			w.mesh.watches.add(l, id, w)
		}
	}
}

func (w *work) unwatched() {
	w.mesh.watches.drop(&w.sender)
	for _, l := range w.lenders {
		w.mesh.watches.drop(l)
	}
}

// changed implements watcher.
func (w *work) changed() {
	if cut := w.ground.lost(w.mesh.peers.Known()); cut != nil {
		w.cutOff(cut)
	}
}

// cutOff ends a request that rests on nothing any more. Who is out of the mesh is sent
// nothing from then on, and what waited for it is dropped.
func (w *work) cutOff(cut *cutError) {
	w.cancel(cut)
	if cut.silent() {
		w.close()
	}
}

// endWork ends whatever is worked on where this agent itself was cut: its answers would
// be refused, and what its handlers go on doing nobody has asked for who may.
func (m *Mesh) endWork() {
	why := m.barred()
	if why == nil {
		return
	}
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.works))
	m.mu.Unlock()
	for _, w := range all {
		w.cutOff(&cutError{why: why, self: true})
	}
}
