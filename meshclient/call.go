package meshclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Reply is the verified answer to a call.
type Reply struct {
	From        agentid.ID       // who answered
	Instance    agentid.Instance // which of its instances
	Data        []byte
	ContentType string
	Correlation string // of the whole call tree
	Nonce       string // of the call
	Last        bool   // nothing follows; of a [Mesh.Stream] all but the last are without it
}

// pending is a call that waits. Replies are judged by the goroutine that made
// the call: nobody but those who know the nonce can make it work, and then no
// more than the buffer holds at a time.
type pending struct {
	replies chan *nats.Msg
	bytes   atomic.Int64  // in replies
	dropped atomic.Bool   // some were: there were too many
	nobody  chan struct{} // the server says that nobody listens
	parting bool          // whoever waits for it now forgets it
}

// What one call may have waiting for it: what a sender may have under way, and once
// more of two connections of a rotation.
const (
	pendingReplies = 2 * streamParts
	pendingBytes   = 2 * (streamBytes + limits.Payload)
)

// Call asks whoever handles the scope, or one agent (To), and returns its
// verified answer.
//
// Errors: *[Denied] where the scope is not held or the other side refused;
// *[Error] where the handler returned one on purpose; an error wrapping
// [ErrUnavailable] where nobody answered, and [ErrDeadline] where that was for
// lack of time. A call made with the context of a handler belongs to the same
// call tree.
func (m *Mesh) Call(ctx context.Context, scope string, data []byte, opts ...CallOption) (*Reply, error) {
	call, err := m.outgoing(scope, data, opts)
	if err != nil {
		return nil, err
	}
	return m.call(ctx, call)
}

// outgoing checks what a call is made of.
func (m *Mesh) outgoing(scope string, data []byte, opts []CallOption) (outgoingCall, error) {
	s, err := capability.ParseScope(scope)
	if err != nil {
		return outgoingCall{}, denied(err)
	}
	c := callConfig{idle: DefaultIdleTimeout}
	for _, o := range opts {
		o(&c)
	}
	if c.idle < time.Millisecond {
		return outgoingCall{}, fmt.Errorf("%w: an idle timeout has at least a millisecond", ErrConfig)
	}
	call := outgoingCall{scope: s, data: data, limited: c.limited, behalf: c.behalf, contentType: c.ct, idle: c.idle}
	if c.to != "" {
		if call.to, err = agentid.Parse(c.to); err != nil {
			return outgoingCall{}, denied(denial.New(denial.BadInput, "%w", err))
		}
	}
	return call, nil
}

type outgoingCall struct {
	scope       capability.Scope
	to          agentid.ID
	data        []byte
	contentType string
	idle        time.Duration
	limited     bool // by behalf, which an application may have left nil
	behalf      *Request
	parts       *parts // where the parts of a stream go; nil: only the end is wanted
}

func (m *Mesh) call(ctx context.Context, c outgoingCall) (*Reply, error) {
	start := m.cfg.clock()
	at := placeOf(ctx)
	rec := audit.Record{
		Kind: audit.Made, Correlation: at.correlation, Parent: at.parent, Nonce: envelope.NewNonce(),
		Sender: m.info.Agent, Instance: m.info.Instance, Peer: c.to, Scope: c.scope.String(),
		Payload: payloadDigest(c.data), Size: len(c.data),
	}
	reply, err := m.doCall(ctx, c, at, &rec)
	rec.Duration = m.cfg.clock().Sub(start)
	rec.Verdict = audit.Accepted
	if err != nil {
		err = denied(err)
		rec.Verdict, rec.Reason, rec.Detail = verdictOf(err), reasonOf(err), clipText(err.Error())
	} else {
		rec.Peer = reply.From
	}
	audit.Write(&m.log, rec)
	return reply, err
}

func (m *Mesh) doCall(ctx context.Context, c outgoingCall, at place, rec *audit.Record) (*Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, ended(ctx) // nobody waits for it any more
	}
	if c.idle == 0 {
		c.idle = DefaultIdleTimeout
	}
	if at.hop > limits.Hops {
		return nil, denial.New(denial.Loop, "call tree is deeper than %d", limits.Hops)
	}
	if len(c.data) > limits.Payload {
		return nil, denial.New(denial.TooLarge, "payload of %d bytes, at most %d", len(c.data), limits.Payload)
	}
	behalf := ""
	if c.limited {
		var err error
		if behalf, err = c.behalf.limit(); err != nil {
			return nil, err
		}
	}
	want := gate.Want{Class: subject.Reply, From: c.to}
	token := ""
	switch c.scope.Verb() {
	case "admin", "self":
		want.From = agentid.Control // nobody else may answer for the mesh itself
	default:
		handles, err := capability.HandleOf(c.scope)
		if err != nil {
			return nil, err
		}
		want.Scope = handles
	}
	waiting, stop := patient(ctx, c.idle)
	defer stop()
	if c.scope.Verb() != "self" {
		chain, err := m.ready(waiting, c.scope)
		if err != nil {
			return nil, err
		}
		token = chain.Digest()
	} else if err := m.present(waiting); err != nil {
		return nil, err
	}
	f := envelope.Fields{
		Nonce: rec.Nonce, Correlation: at.correlation, Parent: at.parent, Hop: at.hop,
		Token: token, OnBehalf: behalf, ContentType: c.contentType, Deadline: budget(ctx, m.cfg.clock()),
	}
	subj := m.space.Call(m.info.Agent, c.scope.Dotted())
	if !c.to.IsZero() {
		subj = m.space.Ask(m.info.Agent, c.to, c.scope.Dotted())
	}
	msg, f, digest, err := m.speaker.Message(subj, f, nil, c.data, nil)
	if err != nil {
		return nil, err
	}
	rec.Chain, rec.Subject = token, subj
	want.Request = &digest
	msg.Reply = m.noResponderSubject(f.Nonce)

	p := &pending{replies: make(chan *nats.Msg, pendingReplies), nobody: make(chan struct{}, 1)}
	m.mu.Lock()
	m.pending[f.Nonce] = p
	m.mu.Unlock()
	defer func() {
		if !p.parting {
			m.noLonger(f.Nonce)
		}
	}()
	r := newReception(m, want, c, rec, msg, f.Time)
	if err := m.conn().PublishMsg(msg); err != nil {
		return nil, unsent(err)
	}
	return r.await(ctx, p)
}

// noLonger has no more replies of a call taken.
func (m *Mesh) noLonger(nonce string) {
	m.mu.Lock()
	delete(m.pending, nonce)
	m.mu.Unlock()
}

// patient bounds how long somebody without a deadline waits for a connection.
func patient(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, most)
}

// ended is the error of a context that is over: who cancelled it knows why, and
// a deadline is one.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return ErrDeadline
}

// unsent says why a message did not leave.
func unsent(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return denial.New(denial.TooLarge, "the server takes no message of this size: %w", err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// silence says why nothing came, if the reason is known to be a refusal.
func (m *Mesh) silence(err error) error {
	if why := m.Away(); why != nil && !errors.Is(err, context.Canceled) {
		return why
	}
	return err
}

// ready returns the chain for a scope once the connection's grant rests on it.
// A right that was given after the connection was made needs a new one.
func (m *Mesh) ready(ctx context.Context, scope capability.Scope) (*capability.Chain, error) {
	if err := m.present(ctx); err != nil {
		return nil, err
	}
	chain, err := m.chainFor(ctx, scope)
	if err != nil {
		return nil, err
	}
	for {
		m.mu.Lock()
		changed := m.rotated
		m.mu.Unlock()
		if m.link.Load().covers(chain.Digest()) {
			return chain, nil
		}
		m.poke("a new right")
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: waiting for a connection with the new right", ended(ctx))
		case <-m.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// present returns nil when the agent is connected, waits while it is coming
// back, and says why where it was refused.
func (m *Mesh) present(ctx context.Context) error {
	for {
		m.mu.Lock()
		away, closing, changed := m.away, m.closing, m.rotated
		m.mu.Unlock()
		var d *Denied
		switch {
		case m.ctx.Err() != nil || closing && m.atWork.Load() == 0:
			return ErrClosed
		case away == nil:
			return nil
		case errors.As(away, &d):
			return away
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m.silence(ended(ctx))
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
}

// budget is how long the handler may take: until the end of the caller's context,
// and zero, which says nothing, where it has none. The idle time is no part of it:
// whoever gives signs of life may go on.
func budget(ctx context.Context, now time.Time) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(min(end.Sub(now), limits.Budget).Truncate(time.Millisecond), time.Millisecond)
}

func (m *Mesh) onReply(msg *nats.Msg) {
	nonce := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	m.mu.Lock()
	p := m.pending[nonce]
	m.mu.Unlock()
	if p == nil {
		// Late, a copy from the second connection of a rotation, or junk. It is
		// not judged, so it cannot be told which, and a line each would let a
		// handler fill the log.
		m.unmatched.Add(1)
		return
	}
	size := int64(len(msg.Data))
	if p.bytes.Add(size) <= pendingBytes {
		select {
		case p.replies <- msg:
			return
		default:
		}
	}
	p.bytes.Add(-size)
	if !p.dropped.Swap(true) { // one line a call: their number is the sender's choice
		m.log.Warn().Str("reason", string(denial.RateLimited)).Str("nonce", nonce).Msg("replies dropped: too many for one call")
	}
}

// noResponderSubject is where the server itself says that nobody listens. What
// arrives there is a hint and ends a call early at most.
func (m *Mesh) noResponderSubject(nonce string) string {
	return subject.InboxPrefix(m.info.Agent, m.info.Instance) + ".nr." + nonce
}

func (m *Mesh) onNoResponder(msg *nats.Msg) {
	if len(msg.Data) != 0 || msg.Header.Get("Status") != "503" {
		return
	}
	nonce := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	m.mu.Lock()
	p := m.pending[nonce]
	m.mu.Unlock()
	if p != nil {
		select {
		case p.nobody <- struct{}{}:
		default:
		}
	}
}

func message(msg *nats.Msg) envelope.Message {
	return envelope.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Reply: msg.Reply}
}

func payloadDigest(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	return jws.Digest(string(data))
}

func clip(s string) string {
	if len(s) > limits.Subject {
		return s[:limits.Subject]
	}
	return s
}

func verdictOf(err error) audit.Verdict {
	var d *Denied
	if errors.As(err, &d) {
		return audit.Refused
	}
	return audit.Failed
}

func reasonOf(err error) denial.Reason {
	var e *Error
	switch {
	case denial.Of(err) != "":
		return denial.Of(err)
	case errors.As(err, &e):
		return denial.Reason(e.Code)
	case errors.Is(err, ErrDeadline):
		return denial.DeadlinePassed
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return ""
}
