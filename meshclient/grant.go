package meshclient

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// Times of a lent right.
const (
	// endsSoon is how little must be left of a chain for no connection to be made
	// for it; the control plane leaves it out as well.
	endsSoon = 3 * time.Second
	// A lent right that ends by time is laid down before: at its end the broker
	// closes whatever rests on it, and what is under way there would be lost. Half
	// of what was left when it came, within these bounds; the least is what the
	// broker takes off (two seconds at most) and a new connection.
	layDownMost  = 5 * time.Second
	layDownLeast = 2500 * time.Millisecond
)

// loan is a delegated chain that this agent holds.
type loan struct {
	chain *capability.Chain
	until time.Time // from then on no connection is made that rests on it
}

func newLoan(c *capability.Chain, now time.Time) loan {
	left := c.Expires().Sub(now)
	return loan{c, c.Expires().Add(-min(max(left/2, layDownLeast), layDownMost))}
}

// presentable reports whether a connection made now may rest on the loan.
func (l loan) presentable(now time.Time) bool {
	return now.Before(l.until) && l.chain.Expires().Sub(now) > endsSoon
}

// loans returns the delegated chains that are held.
func (m *Mesh) loans() []loan {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.held))
}

// noteLenders notes whose records decide about what is held. It is called with
// the lock held.
func (m *Mesh) noteLenders() {
	m.lenders = map[agentid.ID]bool{}
	for _, l := range m.held {
		for _, h := range l.chain.Hops() {
			m.lenders[h.To] = true
		}
	}
	delete(m.lenders, m.info.Agent)
}

// rest is what a connection rests on of what was lent.
func (l *link) rest() []loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.lent))
}

// fallen returns what the connection rests on and should not any more: what was
// taken back, or whose lender was cut, or is to be laid down. What cannot be
// found out has not fallen.
func (m *Mesh) fallen(ctx context.Context, l *link) []loan {
	now, dir := m.cfg.clock(), m.peers.Directory(ctx)
	return slices.DeleteFunc(l.rest(), func(lent loan) bool {
		return now.Before(lent.until) && !worthless(lent.chain.Check(now, dir))
	})
}

// worthless reports whether a chain was refused for what is known of it.
func worthless(err error) bool {
	switch denial.Of(err) {
	case denial.TokenExpired, denial.TokenTakenBack, denial.DelegatorCut:
		return true
	}
	return false
}

// layDown returns when the next of what the connection rests on is to be laid
// down; zero where there is none.
func (l *link) layDown(now time.Time) time.Time {
	var first time.Time
	for _, lent := range l.rest() {
		if lent.until.After(now) && (first.IsZero() || lent.until.Before(first)) {
			first = lent.until
		}
	}
	return first
}

// endsWithLoan reports whether a user JWT that ends then does so because
// something that was lent ends.
func (l *link) endsWithLoan(end time.Time) bool {
	return slices.ContainsFunc(l.rest(), func(lent loan) bool {
		left := lent.chain.Expires().Sub(end)
		return left > 0 && left <= endsSoon
	})
}

// effect says what the agent may do over this connection at this moment: by
// chains that the broker's grant rests on and that receivers accept. It is
// unknown where a record cannot be read.
func (m *Mesh) effect(ctx context.Context, l *link, self *registry.Agent) (what string, known bool) {
	chains, err := m.chains(ctx)
	if err != nil {
		return "", false
	}
	now, dir := m.cfg.clock(), m.peers.Directory(ctx)
	var lines []string
	for _, c := range chains {
		if !l.covers(c.Digest()) {
			continue
		}
		if err := c.Check(now, dir); worthless(err) {
			continue
		} else if err != nil {
			return "", false
		}
		for _, s := range c.Scopes() {
			lines = append(lines, s.String())
		}
	}
	if l.covers(self.Footing()) {
		for _, s := range self.Rights.Plain.Publish {
			lines = append(lines, "publish "+s)
		}
		for _, s := range self.Rights.Plain.Subscribe {
			lines = append(lines, "subscribe "+s)
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n"), true
}

// granted notes what is in effect, and tells the application where that is not
// what it was.
func (m *Mesh) granted(ctx context.Context, l *link, self *registry.Agent) {
	what, known := m.effect(ctx, l, self)
	if !known || what == m.tended.effect {
		return
	}
	m.tended.effect = what
	select {
	case m.news <- struct{}{}:
	default: // it has not been told of the last one yet
	}
}

// tellGrants calls the application beside everything else, so that what it calls
// in turn waits for nothing that waits for it.
func (m *Mesh) tellGrants() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.news:
			m.cfg.onGrant()
		}
	}
}
