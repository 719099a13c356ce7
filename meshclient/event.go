package meshclient

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Event is a verified event.
type Event struct {
	From        agentid.ID
	Instance    agentid.Instance
	Topic       string
	Data        []byte
	ContentType string
	Correlation string
	Nonce       string
	Sent        time.Time // by the publisher's clock

	// What a durable subscription brought besides; zero for any other.
	Sequence    uint64    // its place among all stored events
	Stored      time.Time // by the server's clock
	Redelivered bool      // it was handed out before and not acknowledged

	again *time.Duration
}

// Retry asks a durable subscription to bring the event again after that time, or
// later: to this instance or to another one. Call it before the function that was
// given the event returns. Events that were stored later do not wait for it. For
// an event that is not stored it does nothing.
func (e *Event) Retry(after time.Duration) {
	after = max(after, 0)
	e.again = &after
}

type topic struct {
	name  string
	scope capability.Scope // publish:<topic>, what the sender must hold
	fn    func(context.Context, *Event)
	turn  sync.Mutex // held for each event: a rotation has two connections bring them
}

type subscribeConfig struct {
	durable bool
	name    string
}

// SubscribeOption configures one subscription.
type SubscribeOption func(*subscribeConfig)

// Subscribe calls fn for every verified event on the topic, one at a time and
// in the order in which they came. It fails at once if the agent may not
// subscribe the topic. [Durable] makes it bring what was published while the
// agent was away as well.
func (m *Mesh) Subscribe(name string, fn func(ctx context.Context, e *Event), opts ...SubscribeOption) error {
	scope, err := capability.SubscribeOf(name)
	if err != nil {
		return denied(err)
	}
	publish, err := capability.PublishOf(name)
	if err != nil {
		return denied(err)
	}
	if fn == nil {
		return fmt.Errorf("%w: Subscribe needs a function", ErrConfig)
	}
	var c subscribeConfig
	for _, o := range opts {
		o(&c)
	}
	t := &topic{name: name, scope: publish, fn: fn}
	if c.durable {
		return m.subscribeDurable(c.name, scope, t)
	}
	ctx, cancel := context.WithTimeout(m.ctx, connectTimeout)
	defer cancel()
	if _, err := m.ready(ctx, scope); err != nil {
		return m.notHeld(err, "--subscribe "+name)
	}
	m.attaching.Lock()
	defer m.attaching.Unlock()
	m.mu.Lock()
	if m.closing || m.topics[name] != nil {
		defer m.mu.Unlock()
		if m.closing {
			return ErrClosed
		}
		return fmt.Errorf("%w: %s is subscribed already", ErrConfig, name)
	}
	m.topics[name] = t
	m.mu.Unlock()
	return m.link.Load().place(func(l *link) error { return l.attachTopic(t) }, func() { delete(m.topics, name) })
}

func (m *Mesh) onEvent(l *link, t *topic, msg *nats.Msg) {
	if !m.begin() {
		return
	}
	defer m.end()
	if l.predecessor != nil {
		select {
		case <-l.predecessor:
		case <-m.ctx.Done():
			return
		}
	}
	t.turn.Lock()
	defer t.turn.Unlock()
	start := m.cfg.clock()
	came := m.recent.came(l, msg)
	ctx, cancel := context.WithTimeout(m.ctx, admitTimeout)
	v, err := m.gate.Admit(ctx, message(msg), gate.Want{Class: subject.Event, Dotted: t.name, Scope: t.scope})
	cancel()
	if err != nil {
		if denial.Of(err) == denial.Replayed && m.recent.isCopy(came) {
			return // the same message on the second connection of a rotation
		}
		m.refused(audit.Event, v, correlationOf(v), t.name, msg, err)
		return
	}
	m.deliver(t, v, msg, start, &Event{})
}

// deliver gives a verified event to the application and logs it. What else is
// known of the event is in e. It reports whether the function ended well.
func (m *Mesh) deliver(t *topic, v *envelope.Verified, msg *nats.Msg, start time.Time, e *Event) (ok bool) {
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Event, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: m.info.Agent, Scope: t.name, Subject: msg.Subject, Chain: f.Token,
		Payload: payloadDigest(msg.Data), Size: len(msg.Data), // before the application has it: it may change the bytes
	}
	e.From, e.Instance, e.Topic, e.Data, e.ContentType = f.From, v.Instance(), t.name, v.Data(), f.ContentType
	e.Correlation, e.Nonce, e.Sent = f.Correlation, f.Nonce, f.Time
	m.atWork.Add(1)
	if ok = m.hand(within(m.ctx, v), t, e); !ok {
		rec.Verdict, rec.Reason = audit.Failed, CodeInternal
	}
	m.atWork.Add(-1)
	if ok && e.again != nil && e.Sequence != 0 {
		rec.Verdict, rec.Reason = audit.Failed, reasonRetry
	}
	rec.Duration = m.cfg.clock().Sub(start)
	m.audited(rec)
	return ok
}

// reasonRetry stands in the log where the application asked for an event again.
const reasonRetry denial.Reason = "retry"

func correlationOf(v *envelope.Verified) string { return v.Fields().Correlation }

// hand runs the application's function. A panic in it is the matter of this event
// alone: else whoever may publish could end every subscriber.
func (m *Mesh) hand(ctx context.Context, t *topic, e *Event) (ok bool) {
	defer func() {
		if r := recover(); r != nil {
			m.log.Error().Str("topic", t.name).Bytes("stack", debug.Stack()).Msg("subscriber panicked")
			ok = false
		}
	}()
	t.fn(ctx, e)
	return true
}
