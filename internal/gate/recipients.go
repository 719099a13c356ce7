package gate

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// listFor is how long a list of instances is relied on before it is asked for
	// again, whatever the feed says: it bounds what a document that the feed lost
	// can do.
	listFor = time.Minute
	// listTimeout bounds all pages of one list.
	listTimeout = 10 * time.Second
)

// InstancesFunc asks the control plane for the records of those instances of an
// agent whose keys count, by page: of those behind after, in their order. next is
// where the list goes on; zero: it ended. What it returns must be of the control
// plane itself, which signed this answer to this question: an older list would be
// believed.
type InstancesFunc func(ctx context.Context, agent agentid.ID, after agentid.Instance) (records map[agentid.Instance]string, next agentid.Instance, err error)

// listing is which instances an agent has, as the control plane said when it was
// asked. What became of each since is in its own record, which the feed brings. A
// record of one that is not in the list puts the list in doubt and not the
// instance into the list: it may be an old one of an instance that was revoked,
// and nobody but the control plane can tell.
type listing struct {
	doc
	asked bool // records of all instances of this agent are kept from now on
	all   map[agentid.Instance]bool
}

// Recipients returns the curve keys of the instances of an agent to which a
// payload is sealed: of all whose keys count, whether they are connected or not.
// One that left, or never came yet, may come and take the message before it is too
// old, and who holds its key could do so today; one that is expired or revoked, or
// was enrolled before the name was given new keys, cannot. An agent that is not
// active, or has no such instance, is refused.
//
// The list comes from the control plane and is relied on for a minute. Of what
// changes meanwhile the feed tells; while that is in doubt, and the control plane
// cannot be asked, the list counts for as long as the agent's record does.
func (p *Peers) Recipients(ctx context.Context, id agentid.ID) ([]seal.Recipient, error) {
	return p.recipients(ctx, id, query{})
}

// RefreshRecipients is Recipients by a list that is asked for now, whatever is
// known: for a sender that was told denial.CannotOpen.
func (p *Peers) RefreshRecipients(ctx context.Context, id agentid.ID) ([]seal.Recipient, error) {
	return p.recipients(ctx, id, p.afresh(query{}))
}

func (p *Peers) recipients(ctx context.Context, id agentid.ID, q query) ([]seal.Recipient, error) {
	a, err := p.agent(ctx, id, q)
	if err != nil {
		return nil, err
	}
	if err := a.Status.Standing(); err != nil {
		return nil, denial.New(denial.Of(err), "agent %q is %s", id, a.Status)
	}
	to, s := p.knownRecipients(id, q)
	if to == nil || !s.certain && !s.wait {
		err = p.list(ctx, id, q)
		to, s = p.knownRecipients(id, q)
	}
	switch {
	case to == nil && err != nil:
		return nil, err
	case to == nil:
		return nil, denial.New(denial.RegistryUnavailable, "record of %q changed while its instances were listed", id)
	case !s.certain && !s.within:
		return nil, stale("the instances of "+id.String(), s, err)
	case len(to) == 0:
		return nil, denial.New(denial.NotFound, "agent %q has no instance that a payload can be sealed to", id)
	}
	return to, nil
}

// knownRecipients returns nil where no list is at hand, or no standing.
func (p *Peers) knownRecipients(id agentid.ID, q query) ([]seal.Recipient, state) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	known := p.peers[id]
	if known == nil || known.agent == nil || known.agent.Status.Standing() != nil || known.listing.all == nil {
		return nil, state{}
	}
	to := make([]seal.Recipient, 0, len(known.listing.all))
	for inst := range known.listing.all {
		if i := known.instances[inst]; i == nil || !i.stands(known.agent) {
			continue
		} else if r, err := seal.ParseRecipient(i.member.passport.Curve); err == nil {
			// One with a key to which nothing can be sealed harms itself alone.
			to = append(to, r)
		}
	}
	s := p.judge(&known.listing.doc, q, id, 0)
	s.certain = s.certain && p.cfg.Clock().Sub(known.listing.read) <= listFor
	return to, s
}

// stands reports whether the instance's key counts, by its newest record.
func (i *instance) stands(a *registry.Agent) bool {
	return i.member != nil && i.member.record.State.Standing() == nil && (a == nil || i.member.record.Belongs(a) == nil)
}

// list asks for the instances of an agent. All who need them at the same time
// share one question.
func (p *Peers) list(ctx context.Context, id agentid.ID, q query) error {
	_, _, err := p.lists.do(ctx, id.String(), q.since != 0, nil, func(ctx context.Context) (struct{}, error) {
		// First, so that nothing that happens behind the answer goes unseen.
		p.mu.Lock()
		p.peer(own(id)).listing.asked = true
		p.mu.Unlock()
		from := p.begin(id)
		all, whole, err := p.ask(ctx, id)
		p.mu.Lock()
		defer p.mu.Unlock()
		known := p.peer(id)
		l := &known.listing
		if err != nil {
			l.tried = p.cfg.Clock()
			return struct{}{}, err
		}
		l.all, l.confirmed, l.stretch, l.read, l.asOf, l.tried = all, from.stamp, from.stretch, from.began, from.began, time.Time{}
		l.again = from.again
		for inst, i := range known.instances {
			if i.kept > from.stamp {
				p.unlisted(known, inst)
			}
		}
		if !whole {
			p.doubt(l)
			l.tried = p.cfg.Clock() // not at once again
		}
		return struct{}{}, nil
	})
	return err
}

// unlisted is called with the lock held for an instance of which a newer record
// came. Where the list lacks it, the list is in doubt.
func (p *Peers) unlisted(known *peer, inst agentid.Instance) {
	if l := &known.listing; l.all != nil && !l.all[inst] && known.instances[inst].stands(known.agent) {
		p.doubt(l)
	}
}

// doubt is called with the lock held: the list is asked for again before it is
// relied on.
func (p *Peers) doubt(l *listing) {
	p.settle(&l.doc)
	l.stretch = 0
}

// ask takes all pages of a list. It is whole unless a record in it was refused.
func (p *Peers) ask(ctx context.Context, id agentid.ID) (all map[agentid.Instance]bool, whole bool, err error) {
	if p.cfg.Instances == nil {
		return nil, false, denial.New(denial.RegistryUnavailable, "there is nobody to ask for the instances of %q", id)
	}
	all, whole = map[agentid.Instance]bool{}, true
	for after := (agentid.Instance{}); ; {
		records, next, err := p.cfg.Instances(ctx, id, after)
		switch {
		case denial.Of(err) != "":
			return nil, false, err
		case err != nil:
			return nil, false, denial.New(denial.RegistryUnavailable, "listing the instances of %q: %w", id, err)
		case len(all)+len(records) > limits.Instances:
			return nil, false, denial.New(denial.BadRecord, "more than %d instances of %q are listed", limits.Instances, id)
		}
		for inst, text := range records {
			if err := p.take(ctx, id, inst, text); err != nil {
				p.refused(registry.InstanceKey(id, inst), err)
				whole = false
				continue
			}
			all[inst] = true
		}
		switch {
		case next.IsZero():
			return all, whole, nil
		case next.String() <= after.String():
			return nil, false, denial.New(denial.RegistryUnavailable, "list of the instances of %q does not go on after %q", id, after)
		}
		after = next
	}
}

// take keeps one record of a list by its signature.
func (p *Peers) take(ctx context.Context, id agentid.ID, inst agentid.Instance, text string) error {
	_, err := p.keepInstance(id, inst, text, origin{})
	if denial.Of(err) == denial.UnknownSigner && p.learnRing(ctx) {
		_, err = p.keepInstance(id, inst, text, origin{})
	}
	if err == errOlder {
		return nil // the feed was faster
	}
	return err
}
