package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// How a durable subscription hands out what is stored.
const (
	// ackWait is how long an instance may be silent about a message before another
	// one gets it; clients say that they are still at it.
	ackWait = 30 * time.Second
	// ackPending is how many messages may be out at a time.
	ackPending = 256
	// pullsWaiting is how many pulls of all instances may wait for messages.
	pullsWaiting = 512
	// durablesAgain is the pause before consumers that could not be set right are
	// tried again.
	durablesAgain = time.Second
	// durablesEvery is how often all of them are looked at: a replica may have died
	// between what it read and what it should have written after that.
	durablesEvery = 5 * time.Minute
	// durablesAtOnce is how many agents' consumers are set right at the same time,
	// so that one who holds very many chains does not hold up the others.
	durablesAtOnce = 4
)

// consumersOf are the consumers of one agent as its rights are now.
type consumersOf struct {
	names []string       // durable subscriptions
	via   []agentid.ID   // whose delegations that rests on, or would if they stood
	held  []string       // the delegations among which those were found
	until time.Time      // when the first of them ends; zero: none does
	want  []wantConsumer // all of them
}

type wantConsumer struct {
	name    string
	filters []string
}

// subscriptions says what an agent's durable subscriptions may hand out now: what
// the agent may subscribe by any valid chain, of the topics that are durable.
// Where nothing is left a consumer waits on a subject on which nobody speaks: it
// keeps its place, and an empty filter would be everything.
func (p *Plane) subscriptions(ctx context.Context, a *registry.Agent, read readChain) (consumersOf, error) {
	var out consumersOf
	if len(a.Durables) == 0 {
		return out, nil
	}
	held, err := p.store.Held(ctx, a.Agent)
	if err != nil {
		return out, err
	}
	out.held = held
	chains, err := (&admitter{p}).chains(ctx, a, held, read)
	if err != nil {
		return out, err
	}
	topics, err := p.store.Topics(ctx)
	if err != nil {
		return out, err
	}
	standing := a.Status.Standing() == nil
	for _, d := range a.Durables {
		w := wantConsumer{name: subject.Consumer(a.Agent, d.Name)}
		for _, t := range d.Topics {
			scope, err := capability.SubscribeOf(t)
			if err != nil {
				return out, err
			}
			c := best(chains, scope)
			if _, durable := topics.Find(t); c == nil || !durable || !standing {
				continue
			}
			w.filters = append(w.filters, p.space.EventFilter(t))
			if out.until.IsZero() || c.Expires().Before(out.until) {
				out.until = c.Expires()
			}
		}
		if len(w.filters) == 0 {
			w.filters = []string{p.space.NoEvent()}
		}
		out.names = append(out.names, d.Name)
		out.want = append(out.want, w)
	}
	out.via, err = lenders(ctx, held, read)
	return out, err
}

// readChain reads and verifies a stored chain.
type readChain func(ctx context.Context, digest string) (*capability.Chain, error)

// chainsOnce reads each chain once: a digest names it for ever, and what others
// stored for an agent must not make its consumers slow to be set right.
func (p *Plane) chainsOnce() readChain {
	known := map[string]*capability.Chain{}
	return func(ctx context.Context, digest string) (*capability.Chain, error) {
		if c := known[digest]; c != nil {
			return c, nil
		}
		c, err := p.store.Chain(ctx, digest)
		if err == nil {
			known[digest] = c
		}
		return c, err
	}
}

// lenders lists everybody whose delegation is in one of the chains, whether it
// stands or not: one who was suspended may come back.
func lenders(ctx context.Context, digests []string, read readChain) ([]agentid.ID, error) {
	var out []agentid.ID
	for _, digest := range digests {
		c, err := read(ctx, digest)
		if err != nil && denial.Of(err) == "" {
			return nil, err
		}
		if err != nil {
			continue // over, or never valid
		}
		for _, h := range c.Hops()[1:] {
			if !slices.Contains(out, h.By) {
				out = append(out, h.By)
			}
		}
	}
	return out, nil
}

// best is the chain that holds the scope and ends last; nil where none does.
func best(chains []*capability.Chain, s capability.Scope) *capability.Chain {
	var out *capability.Chain
	for _, c := range chains {
		if c.Has(s) && (out == nil || c.Expires().After(out.Expires())) {
			out = c
		}
	}
	return out
}

// syncDurables sets the consumers of an agent right and returns the names of its
// durable subscriptions. A consumer is narrowed before a connection is admitted
// that could pull from it. What is read may change before it is written, by
// another replica as well, so it is read again after that. Where it fails it is
// done again soon, whoever asked: it may have written a filter that was already
// too wide.
func (p *Plane) syncDurables(ctx context.Context, id agentid.ID) (names []string, err error) {
	defer func() {
		if err != nil && denial.Of(err) != denial.UnlistedAgent {
			p.durables.soonAgain(id)
		}
	}()
	var last *consumersOf
	var failed error // of the last write
	read := p.chainsOnce()
	for try := range 8 {
		if failed != nil {
			// Somebody else may have deleted what was being written.
			select {
			case <-ctx.Done():
				return nil, failed
			case <-time.After(time.Duration(try) * 10 * time.Millisecond):
			}
		}
		a, err := p.store.Agent(ctx, id)
		if err != nil {
			return nil, err
		}
		if a.Status == registry.Revoked {
			if err := p.dropConsumers(ctx, id); err != nil {
				return nil, err
			}
			p.durables.note(p, id, consumersOf{})
			return nil, nil
		}
		now, err := p.subscriptions(ctx, a, read)
		if err != nil {
			return nil, err
		}
		if last != nil && failed == nil && slices.EqualFunc(last.want, now.want, wantConsumer.equal) {
			p.durables.note(p, id, now)
			return now.names, nil
		}
		failed = p.setConsumers(ctx, last, now)
		last = &now
		if failed == nil && len(now.want) == 0 {
			p.durables.note(p, id, now)
			return nil, nil
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, denial.New(denial.Conflict, "rights of %q change too often", id)
}

// setConsumers writes what an agent's consumers are to be. One that was written a
// moment ago and that the record no longer asks for was given up meanwhile: who
// deleted it may have done so before it was written, and nobody would ever narrow
// it.
func (p *Plane) setConsumers(ctx context.Context, last *consumersOf, now consumersOf) error {
	if last != nil {
		for _, w := range last.want {
			if slices.ContainsFunc(now.want, func(o wantConsumer) bool { return o.name == w.name }) {
				continue
			}
			if err := p.deleteConsumer(ctx, w.name); err != nil {
				p.durables.soonAgain(everybody)
				return err
			}
		}
	}
	for _, w := range now.want {
		if err := p.setConsumer(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func (w wantConsumer) equal(o wantConsumer) bool {
	return w.name == o.name && slices.Equal(w.filters, o.filters)
}

func (p *Plane) setConsumer(ctx context.Context, w wantConsumer) error {
	c := jetstream.ConsumerConfig{
		Durable: w.name, Description: "durable subscription", DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: ackPending, MaxWaiting: pullsWaiting,
		FilterSubjects: w.filters,
	}
	if _, err := p.stored.CreateOrUpdateConsumer(ctx, natsconf.EventsStream, c); err != nil {
		return fmt.Errorf("controlplane: consumer %s: %w", w.name, err)
	}
	return nil
}

// dropConsumers deletes all consumers of an agent that has none any more.
func (p *Plane) dropConsumers(ctx context.Context, id agentid.ID) error {
	all, err := p.consumers(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range all[id] {
		errs = append(errs, p.deleteConsumer(ctx, subject.Consumer(id, name)))
	}
	return errors.Join(errs...)
}

// consumers lists the names of all durable subscriptions that have a consumer.
func (p *Plane) consumers(ctx context.Context) (map[agentid.ID][]string, error) {
	stream, err := p.stored.Stream(ctx, natsconf.EventsStream)
	if err != nil {
		return nil, fmt.Errorf("controlplane: stream of durable topics: %w", err)
	}
	out := map[agentid.ID][]string{}
	list := stream.ConsumerNames(ctx)
	for name := range list.Name() {
		owner, durable, _ := strings.Cut(name, "_")
		if id, err := agentid.Parse(owner); err == nil {
			out[id] = append(out[id], durable)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("controlplane: consumers: %w", err)
	}
	return out, nil
}

func (p *Plane) deleteConsumer(ctx context.Context, name string) error {
	if err := p.stored.DeleteConsumer(ctx, natsconf.EventsStream, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("controlplane: consumer %s: %w", name, err)
	}
	return nil
}

// dropOrphans deletes the consumers that no record asks for: of an agent that was
// revoked, or a subscription that was given up, while no control plane ran.
func (p *Plane) dropOrphans(ctx context.Context) error {
	// Listed before the records are read: a consumer is made after its record.
	all, err := p.consumers(ctx)
	for id, names := range all {
		var has []registry.Durable
		a, e := p.store.Agent(ctx, id)
		switch {
		case e == nil:
			has = a.Durables
		case denial.Of(e) != denial.UnlistedAgent:
			err = errors.Join(err, e)
			continue
		}
		for _, name := range names {
			if !slices.ContainsFunc(has, func(d registry.Durable) bool { return d.Name == name }) {
				err = errors.Join(err, p.deleteConsumer(ctx, subject.Consumer(id, name)))
				p.durables.soon(id) // it may have come back just now
			}
		}
	}
	return err
}

// durable answers an agent that asks for a durable subscription.
func (p *Plane) durable(ctx context.Context, from agentid.ID, req wire.DurableRequest) (any, error) {
	topics, err := p.store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range req.Topics {
		if _, ok := topics.Find(t); !ok {
			return nil, denial.New(denial.NotFound, "%q is no durable topic", t)
		}
	}
	if _, err := p.store.SetDurable(ctx, from, registry.Durable{Name: req.Name, Topics: req.Topics}); err != nil {
		return nil, err
	}
	p.change(from, from, agentid.Instance{}, "durable", req.Name, nil)
	if _, err := p.syncDurables(ctx, from); err != nil {
		return nil, err
	}
	return wire.DurableResponse{Consumer: subject.Consumer(from, req.Name)}, nil
}

// endDurable gives a durable subscription up.
func (p *Plane) endDurable(ctx context.Context, from agentid.ID, req wire.DurableEnd) (any, error) {
	if _, err := agentid.Parse(req.Name); err != nil {
		return nil, denial.New(denial.BadInput, "name of a durable subscription: %w", err)
	}
	if _, err := p.store.EndDurable(ctx, from, req.Name); err != nil {
		return nil, err
	}
	p.change(from, from, agentid.Instance{}, "durable-end", req.Name, nil)
	if err := p.deleteConsumer(ctx, subject.Consumer(from, req.Name)); err != nil {
		// Connections of before may still pull from it, and no record says any more
		// that it is to be narrowed.
		p.durables.soonAgain(everybody)
		return nil, err
	}
	return struct{}{}, nil
}

// durables knows which agents have consumers to be kept right, what they rest on
// and which are to be looked at.
type durables struct {
	mu    sync.Mutex
	rests map[agentid.ID]consumersOf // agents with durable subscriptions; whose delegations they rest on
	ends  map[agentid.ID]*time.Timer
	due   map[agentid.ID]bool
	wake  chan struct{}
}

func newDurables() *durables {
	return &durables{
		rests: map[agentid.ID]consumersOf{}, ends: map[agentid.ID]*time.Timer{}, due: map[agentid.ID]bool{}, wake: make(chan struct{}, 1),
	}
}

// note takes what an agent's consumers rest on now, and has them looked at when
// the first right among it ends.
func (d *durables) note(p *Plane, id agentid.ID, c consumersOf) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.ends[id]; t != nil {
		t.Stop()
		delete(d.ends, id)
	}
	if len(c.want) == 0 {
		delete(d.rests, id)
		return
	}
	d.rests[id] = c
	if !c.until.IsZero() && p.ctx.Err() == nil {
		d.ends[id] = time.AfterFunc(max(c.until.Sub(p.clock()), 0), func() { d.soon(id) })
	}
}

// restOn lists the agents whose consumers have to be looked at when id changes.
func (d *durables) restOn(id agentid.ID) []agentid.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []agentid.ID
	for agent, c := range d.rests {
		if agent == id || slices.Contains(c.via, id) {
			out = append(out, agent)
		}
	}
	return out
}

// none reports whether nobody has a durable subscription, as far as is known here.
func (d *durables) none() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.rests) == 0
}

// lentSince lists the agents for which delegations are stored that were not there
// when their consumers were looked at here: those may rest on anybody.
func (d *durables) lentSince(held map[agentid.ID][]string) []agentid.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []agentid.ID
	for agent, c := range d.rests {
		known := make(map[string]bool, len(c.held))
		for _, digest := range c.held {
			known[digest] = true
		}
		if slices.ContainsFunc(held[agent], func(digest string) bool { return !known[digest] }) {
			out = append(out, agent)
		}
	}
	return out
}

// everybody stands among those that are due for the stream itself and for the
// consumers that no record asks for.
var everybody agentid.ID

// soon has the consumers of an agent set right beside everything else.
func (d *durables) soon(ids ...agentid.ID) {
	d.mu.Lock()
	for _, id := range ids {
		d.due[id] = true
	}
	d.mu.Unlock()
	d.call()
}

// call wakes one of those who set consumers right.
func (d *durables) call() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// soonAgain is soon after a pause.
func (d *durables) soonAgain(id agentid.ID) {
	time.AfterFunc(durablesAgain, func() { d.soon(id) })
}

func (d *durables) soonAll() {
	d.mu.Lock()
	ids := make([]agentid.ID, 1, len(d.rests)+1) // everybody comes first
	for id := range d.rests {
		ids = append(ids, id)
	}
	d.mu.Unlock()
	d.soon(ids...)
}

// take takes one of those that are due, the stream before its consumers: they
// cannot wait for topics that it does not have.
func (d *durables) take() (id agentid.ID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if ok = d.due[everybody]; !ok {
		for id = range d.due {
			ok = true
			break
		}
	}
	delete(d.due, id)
	if len(d.due) > 0 {
		d.call()
	}
	return id, ok
}

func (d *durables) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.ends {
		t.Stop()
	}
}

// changed is told of every record: consumers follow the rights of their agent and
// of those who lent it some.
func (d *durables) changed(a *registry.Agent) {
	ids := d.restOn(a.Agent)
	if len(a.Durables) > 0 && !slices.Contains(ids, a.Agent) {
		ids = append(ids, a.Agent)
	}
	if len(ids) > 0 {
		d.soon(ids...)
	}
}

// keepDurables sets consumers right until the control plane ends. One that could
// not be is tried again: it may hand out what its agent may no longer have.
func (p *Plane) keepDurables() {
	for range durablesAtOnce {
		p.wg.Go(func() {
			for {
				select {
				case <-p.ctx.Done():
					return
				case <-p.durables.wake:
				}
				if id, ok := p.durables.take(); ok {
					p.keepOne(id)
				}
			}
		})
	}
	p.wg.Go(func() {
		defer p.durables.stop()
		tick := time.NewTicker(durablesEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
				p.durables.soonAll()
			}
		}
	})
}

func (p *Plane) keepOne(id agentid.ID) {
	ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
	defer cancel()
	var err error
	if id == everybody {
		if err = errors.Join(p.syncEvents(ctx), p.dropOrphans(ctx)); err != nil {
			p.durables.soonAgain(everybody)
		}
	} else {
		_, err = p.syncDurables(ctx, id)
	}
	if err != nil && p.ctx.Err() == nil && denial.Of(err) != denial.UnlistedAgent {
		p.log.Error().Err(err).Str("agent", id.String()).Msg("durable subscriptions could not be set right")
	}
}

// narrow sets the consumers right that rest on an agent that was just cut, also
// where another replica knows of it alone: it may have died. What is stored for
// everybody is not listed for it where nobody has a durable subscription: a cut
// waits for this.
func (p *Plane) narrow(ctx context.Context, id agentid.ID) error {
	if p.durables.none() {
		return nil
	}
	held, err := p.store.AllHeld(ctx)
	agents := p.durables.restOn(id)
	for _, agent := range p.durables.lentSince(held) {
		if !slices.Contains(agents, agent) {
			agents = append(agents, agent)
		}
	}
	if err != nil {
		p.durables.soonAll()
	}
	errs := make([]error, len(agents))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(durablesAtOnce, len(agents)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(agents); i = int(next.Add(1)) - 1 {
				if _, e := p.syncDurables(ctx, agents[i]); denial.Of(e) != denial.UnlistedAgent {
					errs[i] = e
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}
