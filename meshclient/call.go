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
	Sealed      bool   // nobody on its way could read it
}

// pending is a call that waits. Replies are judged by the goroutine that made
// the call: nobody but those who know the nonce can make it work, and then no
// more than the buffer holds at a time.
type pending struct {
	subject string // of the call
	replies chan *nats.Msg
	bytes   atomic.Int64  // in replies
	dropped atomic.Bool   // some were: there were too many
	nobody  chan struct{} // the server says that nobody listens
	barred  chan struct{} // the server says that the grant does not let the call through
	parting bool          // whoever waits for it now forgets it

	// Of whoever was asked by name, or took the call.
	watch   watch
	look    chan struct{}        // its standing may have changed; nil before
	gone    atomic.Pointer[gone] // the newest word that it went away
	taken   agentid.Instance     // under the lock of vanishing, as the next
	takenBy *vanishable

	// Under the lock of the Mesh, of what came whole: no more is taken, and who still
	// sends is told now and then.
	whole func()
	told  time.Time
}

// tooMuch returns what tells a sender that everything came, or nil. It is called
// with the lock of the Mesh held.
func (p *pending) tooMuch(now time.Time) func() {
	if now.Sub(p.told) < askedLeast {
		return nil
	}
	p.told = now
	return p.whole
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
//
// A connection that is lost meanwhile, on either side, costs no answer: the caller
// asks for it once it is back, and a handler says again what it answered within the
// last minute. The work is done once at most. A call that whoever took it could not
// tell from a replay is made once more, as another one: nobody worked on it.
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
	c := callConfig{idle: DefaultIdleTimeout, most: limits.Body}
	for _, o := range opts {
		o(&c)
	}
	if c.most < 1 || c.most > limits.Body {
		return outgoingCall{}, fmt.Errorf("%w: an answer has 1 to %d bytes", ErrConfig, limits.Body)
	}
	if c.idle < time.Millisecond {
		return outgoingCall{}, fmt.Errorf("%w: an idle timeout has at least a millisecond", ErrConfig)
	}
	call := outgoingCall{scope: s, data: data, limited: c.limited, behalf: c.behalf, contentType: c.ct, idle: c.idle, sealed: c.sealed, most: c.most}
	if c.to != "" {
		if call.to, err = agentid.Parse(c.to); err != nil {
			return outgoingCall{}, denied(denial.New(denial.BadInput, "%w", err))
		}
	}
	if call.sealed && (call.to.IsZero() || call.ofMesh()) {
		return outgoingCall{}, fmt.Errorf("%w: Sealed needs To, and an agent that is no part of the mesh itself", ErrConfig)
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
	sealed      bool
	fresh       bool // the list of those to whom it is sealed was found old
	most        int  // bytes of the answer; 0: of what one message holds
}

// mostBytes is how large the answer may be.
func (c outgoingCall) mostBytes() int {
	if c.most == 0 {
		return limits.Payload
	}
	return c.most
}

// ofMesh reports whether the mesh itself is asked. It takes nothing in parts, and
// opens nothing.
func (c outgoingCall) ofMesh() bool {
	return c.scope.Verb() == "admin" || c.scope.Verb() == "self" || c.to == agentid.Control
}

// A call that could not be told from a replay is signed anew, after a pause that
// doubles: whoever lost its connection to the store of used nonces is given the time
// to come back, which a store that changes its leader takes seconds for.
const (
	notBurntPause = 250 * time.Millisecond
	notBurntMost  = 4
)

// call makes a call, and again, as another one, where nobody worked on it for a
// reason that may be gone then.
func (m *Mesh) call(ctx context.Context, c outgoingCall) (*Reply, error) {
	reply, err := m.callOnce(ctx, c)
	var shut *notOpened
	if errors.As(err, &shut) && ctx.Err() == nil {
		c.fresh = true
		reply, err = m.callOnce(ctx, c)
	}
	var lost *notBurnt
	for n := 0; n < notBurntMost && errors.As(err, &lost) && m.pause(ctx, notBurntPause<<n); n++ {
		reply, err = m.callOnce(ctx, c)
	}
	if errors.As(err, &shut) {
		err = shut.error
	}
	return reply, err
}

// pause reports whether there is any time left after it.
func (m *Mesh) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-m.ctx.Done():
	}
	return false
}

func (m *Mesh) callOnce(ctx context.Context, c outgoingCall) (*Reply, error) {
	start := m.cfg.clock()
	at := placeOf(ctx)
	rec := audit.Record{
		Kind: audit.Made, Correlation: at.correlation, Parent: at.parent, Nonce: envelope.NewNonce(),
		Sender: m.info.Agent, Instance: m.info.Instance, Peer: c.to, Scope: c.scope.String(),
	}
	if !c.sealed { // of which only what travels is logged
		rec.Size = len(c.data)
	}
	reply, err := m.doCall(ctx, c, at, &rec)
	rec.Duration = m.cfg.clock().Sub(start)
	rec.Verdict = audit.Accepted
	if rec.Payload == "" && !c.sealed {
		rec.Payload = payloadDigest(c.data) // it was not sent
	}
	if err != nil {
		err = denied(err)
		rec.Verdict, rec.Reason, rec.Detail = verdictOf(err), reasonOf(err), detailOf(err, c.sealed)
	} else {
		rec.Peer = reply.From
	}
	m.audited(rec)
	return reply, err
}

// detailOf is what the log says of an error beside its reason. Where a call is sealed
// the text of a handler's own error stays out of it: it may quote the payload.
func detailOf(err error, sealed bool) string {
	ours := denial.Of(err) != "" || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrCancelled) ||
		errors.Is(err, ErrCallerGone) || errors.Is(err, context.DeadlineExceeded)
	if sealed && !ours {
		return ""
	}
	return clipText(err.Error())
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
	most := limits.Body
	if c.ofMesh() {
		most = m.inline()
	}
	if len(c.data) > most {
		return nil, denial.New(denial.TooLarge, "payload of %d bytes, at most %d", len(c.data), most)
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
	} else if err := m.connected(waiting); err != nil {
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
	data := c.data
	if c.sealed {
		var err error
		if data, err = m.sealRequest(waiting, c.to, f.Nonce, data, c.fresh); err != nil {
			return nil, err
		}
		f.Enc = envelope.X1
	}
	rec.Size = len(data)
	var body []byte
	if len(data) > m.inline() {
		f.Body, body, data = envelope.BodyOf(data), data, nil
		rec.Payload = f.Body.Digest
	} else {
		rec.Payload = payloadDigest(data)
	}
	msg, f, digest, err := m.speaker.Message(subj, f, nil, data, nil)
	if err != nil {
		return nil, err
	}
	rec.Chain, rec.Subject = token, subj
	want.Request = &digest
	msg.Reply = m.noResponderSubject(f.Nonce)

	p := newPending(subj)
	m.mu.Lock()
	m.pending[f.Nonce] = p
	m.mu.Unlock()
	defer func() {
		if !p.parting {
			m.noLonger(f.Nonce)
		}
	}()
	r := newReception(m, want, c, rec, msg, f)
	r.body = body
	r.watch(p)
	defer r.unwatch(p)
	if err := m.conn().PublishMsg(msg); err != nil {
		return nil, unsent(err)
	}
	return r.await(ctx, p)
}

func newPending(subj string) *pending {
	return &pending{
		subject: subj, replies: make(chan *nats.Msg, pendingReplies),
		nobody: make(chan struct{}, 1), barred: make(chan struct{}, 1),
	}
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
func (m *Mesh) present(ctx context.Context) error { return m.there(ctx, false) }

// connected is present for what the agent asks about itself, which every grant lets
// through: a server has to be there, and no more. Whoever tends the connection asks so
// in between, and would wait for what it alone finds out, that the agent is back.
func (m *Mesh) connected(ctx context.Context) error { return m.there(ctx, true) }

func (m *Mesh) there(ctx context.Context, connected bool) error {
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
		case connected && m.conn().IsConnected():
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
	var whole func()
	if p != nil && p.whole != nil {
		whole, p = p.tooMuch(time.Now()), nil
	}
	m.mu.Unlock()
	if whole != nil {
		whole()
	}
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
	return envelope.BodyOf(data).Digest
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
