package meshclient

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Durable makes a subscription one of a durable topic that outlives connection
// and process: events that were published since it was first made, and while
// nobody was there to take them, come as soon as somebody is, in order, for as
// long as the topic keeps them. The name is the agent's own, a DNS label; all its
// instances share it, and each event goes to one of them. Several topics may be
// subscribed under one name: their events come one at a time.
//
// An event is acknowledged when the function returns. Until then the server is
// told that it is being worked on, for however long that takes. If the function
// panics, or calls [Event.Retry], or the process ends, the event comes again,
// marked as redelivered: whatever it does must bear being done twice.
func Durable(name string) SubscribeOption {
	return func(c *subscribeConfig) { c.durable, c.name = true, name }
}

// durable is one durable subscription of this process.
type durable struct {
	name     string
	consumer string
	seen     *envelope.StoredMemory
	turn     chan struct{}     // full while somebody pulls: a rotation has two connections
	topics   map[string]*topic // under Mesh.mu
	missing  map[string]bool   // topics that come and that nobody here subscribed; whose turn it is
	doubts   doubts            // likewise
	ended    chan struct{}     // closed by EndDurable
}

// enlistTimeout bounds how long Subscribe waits for a durable subscription to be
// made and granted, which takes a new connection.
const enlistTimeout = DefaultConnectTimeout

func (m *Mesh) subscribeDurable(name string, scope capability.Scope, t *topic) error {
	if _, err := agentid.Parse(name); err != nil {
		return fmt.Errorf("%w: the name of a durable subscription is a DNS label, not %q", ErrConfig, name)
	}
	ctx, cancel := context.WithTimeout(m.ctx, enlistTimeout)
	defer cancel()
	if _, err := m.ready(ctx, scope); err != nil {
		return m.notHeld(err, "--subscribe "+t.name)
	}
	_, ok, err := m.peers.Topic(ctx, t.name)
	if err != nil {
		return denied(err)
	}
	if !ok {
		return &Denied{
			Reason: denial.NotFound, Detail: fmt.Sprintf("topic %q is not durable: nothing of it is stored", t.name),
			Hint: "sealmesh topic add " + t.name,
		}
	}
	if err := m.enlist(ctx, name, t.name); err != nil {
		return denied(err)
	}
	m.attaching.Lock()
	defer m.attaching.Unlock()
	m.mu.Lock()
	d := m.durables[name]
	switch {
	case m.closing:
		m.mu.Unlock()
		return ErrClosed
	case d != nil && d.topics[t.name] != nil:
		m.mu.Unlock()
		return fmt.Errorf("%w: %s is subscribed as %s already", ErrConfig, t.name, name)
	case d != nil:
		d.topics[t.name] = t
		m.mu.Unlock()
		return nil // it pulls
	}
	seen, err := envelope.NewStoredMemory(envelope.StoredMemoryConfig{Window: envelope.DefaultWindow()})
	if err != nil {
		m.mu.Unlock()
		return err
	}
	d = &durable{
		name: name, consumer: subject.Consumer(m.info.Agent, name), seen: seen, turn: make(chan struct{}, 1),
		topics: map[string]*topic{t.name: t}, missing: map[string]bool{}, doubts: doubts{}, ended: make(chan struct{}),
	}
	m.durables[name] = d
	m.mu.Unlock()
	if err := m.link.Load().attachDurable(d); err != nil {
		m.mu.Lock()
		delete(m.durables, name)
		m.mu.Unlock()
		return err
	}
	return nil
}

// enlist sees to it that the agent's record has the topic under the name, and
// waits until the connection's grant rests on such a record. Nothing is asked of
// the control plane where the record has it: an agent that comes back gets its
// backlog without it.
func (m *Mesh) enlist(ctx context.Context, name, topic string) error {
	m.enlisting.Lock() // one request has the topics of those before it
	defer m.enlisting.Unlock()
	for {
		self, err := m.refreshSelf(ctx)
		if err != nil {
			return err
		}
		topics := topicsOf(self, name)
		if slices.Contains(topics, topic) {
			break
		}
		// The request replaces the topics of that name. Those that stand there
		// stay, though nobody here subscribed them yet: a consumer that gives one up
		// for a moment has lost what waited for it.
		want := []string{topic}
		for _, t := range topics {
			if _, ok, err := m.peers.Topic(ctx, t); err != nil {
				return err
			} else if ok {
				want = append(want, t)
			}
		}
		if err := m.ask(ctx, wire.SelfDurable, wire.DurableRequest{Name: name, Topics: want}, nil); err != nil {
			return err
		}
	}
	for {
		m.mu.Lock()
		changed := m.rotated
		m.mu.Unlock()
		self, err := m.peers.Agent(ctx, m.info.Agent)
		if err != nil {
			return err
		}
		if len(topicsOf(self, name)) > 0 && m.link.Load().covers(self.Footing()) {
			return nil
		}
		m.poke("a durable subscription")
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: waiting for a connection with the durable subscription", ended(ctx))
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
}

func topicsOf(a *registry.Agent, name string) []string {
	for _, d := range a.Durables {
		if d.Name == name {
			return d.Topics
		}
	}
	return nil
}

// EndDurable gives a durable subscription up, for all instances of the agent:
// what it had not brought is gone. A name that is not in use is no error.
func (m *Mesh) EndDurable(ctx context.Context, name string) error {
	if err := m.ask(ctx, wire.SelfDurableEnd, wire.DurableEnd{Name: name}, nil); err != nil {
		return denied(err)
	}
	m.mu.Lock()
	d := m.durables[name]
	delete(m.durables, name)
	m.mu.Unlock()
	if d != nil {
		close(d.ended)
	}
	return nil
}

// Times of redelivery.
const (
	// progressEvery is how often the server is told that an event is being worked
	// on: it gives it to somebody else after 30 s of silence.
	progressEvery = 8 * time.Second
	retryLeast    = time.Second
	retryMost     = time.Minute
	// doubtTries is how often an event is looked at again whose refusal blames what
	// the registry says: that may be about to change, or be wrong for good.
	doubtTries = 8
)

// retryAfter spreads the redeliveries of one event.
func retryAfter(delivered uint64) time.Duration {
	return min(retryLeast<<min(max(delivered, 1)-1, 10), retryMost)
}

// onStored works on one event that the subscription pulled. What it returns is
// for how long nothing else should be pulled: where it could not be decided about
// this event, the next one would fare no better, and they stay in order.
func (m *Mesh) onStored(p *puller, got delivery) (pause time.Duration) {
	d, ack := p.durable, got.ack
	if !m.begin() {
		m.nak(got, 0)
		return 0
	}
	defer m.end()
	start := m.cfg.clock()
	parsed, err := m.space.Parse(got.msg.Subject)
	if err == nil && parsed.Class != subject.Event {
		err = denial.New(denial.WrongSubject, "message does not belong to the subscription it came in on")
	}
	if err != nil {
		m.refused(audit.Event, nil, "", "", got.msg, denial.New(denial.WrongSubject, "%w", err))
		m.term(got, denial.WrongSubject)
		return 0
	}
	m.mu.Lock()
	t := d.topics[parsed.Dotted]
	m.mu.Unlock()
	if t == nil {
		// The next Subscribe may be about to come, here or at another instance.
		if !d.missing[parsed.Dotted] && len(d.missing) < 64 {
			d.missing[parsed.Dotted] = true
			m.log.Warn().Str("durable", d.name).Str("topic", clip(parsed.Dotted)).Msg("events wait for a subscription that this process does not have")
		}
		m.nak(got, retryAfter(ack.Delivered))
		return 0
	}
	ctx, cancel := context.WithTimeout(m.ctx, admitTimeout)
	v, err := m.admitStored(ctx, d, t, got)
	cancel()
	if err != nil {
		m.refused(audit.Event, v, correlationOf(v), t.name, got.msg, err)
		return m.turnAway(d, parsed.Sender, got, err)
	}
	d.doubts.over(parsed.Sender, ack.Sequence)
	e := &Event{Sequence: ack.Sequence, Stored: ack.Time, Redelivered: ack.Delivered > 1}
	done := m.progress(got)
	ok := m.deliver(t, v, got.msg, start, e)
	done()
	switch {
	case !ok:
		m.nak(got, retryAfter(ack.Delivered))
	case e.again != nil:
		m.nak(got, *e.again)
	default:
		// From here on another message with this nonce is a replay.
		if err := d.seen.Use(v, ack.Sequence, ack.Time); err != nil {
			m.log.Error().Err(err).Uint64("sequence", ack.Sequence).Msg("event was worked on and is not remembered")
		}
		m.acknowledge(got, "+ACK")
	}
	return 0
}

func (m *Mesh) admitStored(ctx context.Context, d *durable, t *topic, got delivery) (*envelope.Verified, error) {
	known, ok, err := m.peers.Topic(ctx, t.name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, denial.New(denial.NotFound, "topic %q is no longer durable", t.name)
	}
	return m.gate.Admit(ctx, message(got.msg), gate.Want{
		Class: subject.Event, Dotted: t.name, Scope: t.scope,
		Stored: &gate.Stored{Consumer: d.consumer, MaxAge: time.Duration(known.MaxAge) * time.Second, Seen: d.seen},
	})
}

// turnAway decides what becomes of an event that was refused: what could not be
// decided comes again, the rest never.
func (m *Mesh) turnAway(d *durable, from agentid.ID, got delivery, err error) (pause time.Duration) {
	reason := denial.Of(err)
	again := retryAfter(got.ack.Delivered)
	switch {
	case m.ctx.Err() != nil:
		m.nak(got, 0)
	case byItsSender(reason):
		// Whoever may publish can make as many of these as may be stored. They hold up
		// nobody else's events: neither by a pause, nor by filling what may be out at a
		// time.
		if got.ack.Delivered < doubtTries && d.doubts.may(from, got.ack.Sequence, m.cfg.clock()) {
			m.nak(got, again)
			return 0
		}
		d.doubts.over(from, got.ack.Sequence)
		m.term(got, reason)
	case reason == "" || transient(reason):
		m.nak(got, again)
		return again
	case inDoubt(reason) && got.ack.Delivered < doubtTries:
		m.nak(got, again)
	default:
		m.term(got, reason)
	}
	return 0
}

// inDoubt reports whether a refusal blames a document of the registry, or clocks
// that differ: a signing key that is not known yet, for one.
func inDoubt(r denial.Reason) bool {
	switch r {
	case denial.UnknownSigner, denial.BadRecord, denial.Internal:
		return true
	}
	return false
}

// byItsSender reports whether a refusal that may be about to change is one that
// the sender can bring about with what it signs: a chain that nobody stored, one
// name after the other that has to be looked up, a time to come.
func byItsSender(r denial.Reason) bool {
	switch r {
	case denial.UnknownChain, denial.RateLimited, denial.Future:
		return true
	}
	return false
}

// doubts are the events that come again because of what their senders signed, by
// sender and sequence, with the time of the last look. What was settled elsewhere
// is forgotten after a while.
type doubts map[agentid.ID]map[uint64]time.Time

// doubtsOfOne is how many events of one sender may be in doubt at a time: few
// beside what the server has out at a time.
const doubtsOfOne = 16

// may notes an event that is in doubt, and reports whether it may come again.
func (d doubts) may(from agentid.ID, sequence uint64, now time.Time) bool {
	of := d[from]
	if of == nil {
		of = map[uint64]time.Time{}
		d[agentid.Require(strings.Clone(from.String()))] = of // not the message's own bytes
	}
	for s, seen := range of {
		if now.Sub(seen) > 2*retryMost {
			delete(of, s)
		}
	}
	if _, known := of[sequence]; !known && len(of) >= doubtsOfOne {
		return false
	}
	of[sequence] = now
	return true
}

// over notes that an event is settled.
func (d doubts) over(from agentid.ID, sequence uint64) {
	if of := d[from]; of != nil {
		if delete(of, sequence); len(of) == 0 {
			delete(d, from)
		}
	}
}

// progress tells the server in time that an event is being worked on, until it is
// done.
func (m *Mesh) progress(got delivery) (done func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				m.acknowledge(got, "+WPI")
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}

func (m *Mesh) nak(got delivery, after time.Duration) {
	if after <= 0 {
		m.acknowledge(got, "-NAK")
		return
	}
	m.acknowledge(got, fmt.Sprintf(`-NAK {"delay": %d}`, after.Nanoseconds()))
}

func (m *Mesh) term(got delivery, why denial.Reason) { m.acknowledge(got, "+TERM "+string(why)) }

// acknowledge says what became of a delivery, over whatever connection there is
// now: the one that brought it may be gone when a long piece of work is done.
func (m *Mesh) acknowledge(got delivery, what string) {
	if err := m.conn().Publish(got.msg.Reply, []byte(what)); err != nil && !m.isClosing() {
		m.log.Warn().Err(err).Uint64("sequence", got.ack.Sequence).Msg("event could not be acknowledged; it comes again")
	}
}
