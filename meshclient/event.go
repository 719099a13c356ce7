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
}

type topic struct {
	name  string
	scope capability.Scope // publish:<topic>, what the sender must hold
	fn    func(context.Context, *Event)
	turn  sync.Mutex // held for each event: a rotation has two connections bring them
}

// Publish sends an event to whoever subscribes the topic now. It returns once
// the message is on its way to the server; Flush waits until it is there. While
// the agent is away it waits for ctx, at most DefaultIdleTimeout where ctx has no
// deadline.
func (m *Mesh) Publish(ctx context.Context, name string, data []byte) error {
	start := m.cfg.clock()
	at := placeOf(ctx)
	rec := audit.Record{
		Kind: audit.Event, Verdict: audit.Sent, Correlation: at.correlation, Parent: at.parent, Nonce: envelope.NewNonce(),
		Sender: m.info.Agent, Instance: m.info.Instance, Scope: clip(name), Payload: payloadDigest(data), Size: len(data),
	}
	err := m.publish(ctx, name, data, at, &rec)
	rec.Duration = m.cfg.clock().Sub(start)
	if err != nil {
		err = m.notHeld(err, "--publish "+name)
		rec.Verdict, rec.Reason, rec.Detail = verdictOf(err), reasonOf(err), err.Error()
	}
	audit.Write(&m.log, rec)
	return err
}

func (m *Mesh) publish(ctx context.Context, name string, data []byte, at place, rec *audit.Record) error {
	scope, err := capability.PublishOf(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	waiting, stop := patient(ctx, DefaultIdleTimeout)
	defer stop()
	chain, err := m.ready(waiting, scope)
	if err != nil {
		return err
	}
	subj := m.space.Event(m.info.Agent, name)
	msg, _, _, err := m.speaker.Message(subj, envelope.Fields{
		Nonce: rec.Nonce, Correlation: at.correlation, Parent: at.parent, Hop: at.hop, Token: chain.Digest(),
	}, nil, data, nil)
	if err != nil {
		return err
	}
	rec.Chain, rec.Subject = chain.Digest(), subj
	if err := m.conn().PublishMsg(msg); err != nil {
		return unsent(err)
	}
	return nil
}

// Flush waits until the server has everything that was sent so far, at most a few
// seconds where ctx has no deadline.
func (m *Mesh) Flush(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, connectTimeout)
		defer cancel()
	}
	if err := m.conn().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Subscribe calls fn for every verified event on the topic, one at a time and
// in the order in which they came. It fails at once if the agent may not
// subscribe the topic.
func (m *Mesh) Subscribe(name string, fn func(ctx context.Context, e *Event)) error {
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
	ctx, cancel := context.WithTimeout(m.ctx, connectTimeout)
	defer cancel()
	if _, err := m.ready(ctx, scope); err != nil {
		return m.notHeld(err, "--subscribe "+name)
	}
	t := &topic{name: name, scope: publish, fn: fn}
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
		correlation := ""
		if v != nil {
			correlation = v.Fields().Correlation
		}
		m.refused(audit.Event, correlation, t.name, msg, err)
		return
	}
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Event, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: m.info.Agent, Scope: t.name, Subject: msg.Subject, Chain: f.Token,
		Payload: payloadDigest(msg.Data), Size: len(msg.Data), // before the application has it: it may change the bytes
	}
	m.atWork.Add(1)
	if !m.hand(within(m.ctx, v), t, &Event{
		From: f.From, Instance: v.Instance(), Topic: t.name, Data: v.Data(), ContentType: f.ContentType,
		Correlation: f.Correlation, Nonce: f.Nonce, Sent: f.Time,
	}) {
		rec.Verdict, rec.Reason = audit.Failed, CodeInternal
	}
	m.atWork.Add(-1)
	rec.Duration = m.cfg.clock().Sub(start)
	audit.Write(&m.log, rec)
}

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
