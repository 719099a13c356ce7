package meshclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
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
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Request is a verified request: it would not be here otherwise.
type Request struct {
	From        agentid.ID       // who calls
	Instance    agentid.Instance // which of its instances
	Scope       capability.Scope
	Data        []byte
	ContentType string
	Sealed      bool   // nobody on its way could read it, and nobody will read the answer
	Correlation string // of the whole call tree
	Nonce       string
	Parent      string    // nonce of what caused the call, where something did
	Sent        time.Time // by the caller's clock

	fields  envelope.Fields // what the sender signed
	work    *work
	answers string // content type of the answer
}

// Send sends a part of the answer, before what the handler returns, which is the
// last one: text as a model writes it, or how far a long task has come. It waits
// while the caller is slower and returns the cause where nobody waits for the
// answer any more. A caller that asked for no stream ([Mesh.Call]) gets only what
// the handler returns. An empty part is none. The bytes must not be changed after
// Send was called. Parts are sent in the order of the calls.
//
// While a handler works, its callers are given signs of life without it.
func (r *Request) Send(ctx context.Context, part []byte) error {
	switch {
	case r == nil || r.work == nil:
		return fmt.Errorf("%w: Send needs a request that a handler was given", ErrConfig)
	case len(part) == 0:
		return nil
	}
	return denied(r.work.send(ctx, r.work.ctx, part))
}

// limit names those on whose behalf a call is made for the request.
func (r *Request) limit() (string, error) {
	if r == nil || r.fields.Token == "" {
		return "", denial.New(denial.BadInput, "a call is made on behalf of a request that a handler was given")
	}
	return r.fields.Behalf()
}

// Handler works on one request. Its context ends when the caller no longer waits,
// for which context.Cause is [ErrCancelled], [ErrCallerGone] or
// context.DeadlineExceeded, or the Mesh closes; calls made with it belong to the same call tree.
// It ends as well, at once, when the caller is suspended, revoked or expired, its epoch
// rises, or somebody is cut, or takes back, on whose rights the request rests, and when
// the handler's own agent is cut: then the cause is a *[Denied] with the reason. What a
// handler that goes on returns is sent to nobody.
// What it returns is signed and sent back; of an error the caller sees a code
// ([Error]) and nothing internal.
type Handler func(ctx context.Context, req *Request) ([]byte, error)

type handler struct {
	scope   capability.Scope
	handles capability.Scope // what its answers rest on
	fn      Handler
	slots   chan struct{}
	most    int // bytes of a request
}

// admitTimeout bounds the checks of one message, which may need to read the
// registry.
const admitTimeout = 5 * time.Second

// Handle answers the calls of a scope, together with every other instance that
// does. It fails at once if the agent may not handle the scope, with the
// administrator's command as hint.
func (m *Mesh) Handle(scope string, fn Handler, opts ...HandleOption) error {
	s, err := capability.ParseScope(scope)
	if err != nil {
		return denied(err)
	}
	handles, err := capability.HandleOf(s)
	if err != nil {
		return denied(err)
	}
	c := handleConfig{inFlight: DefaultMaxInFlight, most: limits.Body}
	for _, o := range opts {
		o(&c)
	}
	if c.inFlight < 1 || fn == nil {
		return fmt.Errorf("%w: Handle needs a function and room for at least one request", ErrConfig)
	}
	if c.most < 1 || c.most > limits.Body {
		return fmt.Errorf("%w: a request has 1 to %d bytes", ErrConfig, limits.Body)
	}
	ctx, cancel := context.WithTimeout(m.ctx, connectTimeout)
	defer cancel()
	if _, err := m.ready(ctx, handles); err != nil {
		return m.notHeld(err, "--handle "+scope)
	}
	h := &handler{scope: s, handles: handles, fn: fn, slots: make(chan struct{}, c.inFlight), most: c.most}
	m.attaching.Lock()
	defer m.attaching.Unlock()
	m.mu.Lock()
	if m.closing || m.handlers[s] != nil {
		defer m.mu.Unlock()
		if m.closing {
			return ErrClosed
		}
		return fmt.Errorf("%w: %s is handled already", ErrConfig, s)
	}
	m.handlers[s] = h
	m.mu.Unlock()
	return m.link.Load().place(func(l *link) error { return l.attachHandler(h) }, func() { delete(m.handlers, s) })
}

// notHeld gives a refusal for a missing right the command that grants it.
func (m *Mesh) notHeld(err error, flag string) error {
	err = denied(err)
	if d, ok := err.(*Denied); ok && d.Reason == denial.ScopeNotHeld {
		return &Denied{Reason: d.Reason, Detail: d.Detail, Hint: "sealmesh agent grant " + m.info.Agent.String() + " " + flag}
	}
	return err
}

func (m *Mesh) onRequest(h *handler, class subject.Class, msg *nats.Msg) {
	// Waiting here holds back the subscription, not the process: the queue group
	// has other members.
	if !m.begin() {
		return
	}
	select {
	case h.slots <- struct{}{}:
	case <-m.ctx.Done():
		m.serve(h, class, msg, nil) // turns it away
		m.end()
		return
	}
	m.atWork.Add(1)
	go func() {
		s := &slot{of: h.slots, held: true}
		defer func() {
			m.atWork.Add(-1)
			s.leave()
			m.end()
		}()
		m.serve(h, class, msg, s)
	}()
}

// slot is one place among the requests that a handler works on. It belongs to one
// goroutine.
type slot struct {
	of   chan struct{}
	held bool
}

func (s *slot) leave() {
	if s.held {
		<-s.of
		s.held = false
	}
}

// enter waits for a place.
func (s *slot) enter(ctx context.Context) error {
	select {
	case s.of <- struct{}{}:
		s.held = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *Mesh) serve(h *handler, class subject.Class, msg *nats.Msg, s *slot) {
	start := m.cfg.clock()
	// Also in a Mesh that closes: who is told that the work was not done may send it
	// elsewhere, so this one must not pass a second time.
	ctx, cancel := context.WithTimeout(context.Background(), admitTimeout)
	v, err := m.gate.Admit(ctx, message(msg), gate.Want{Class: class, Dotted: h.scope.Dotted(), Scope: h.scope})
	cancel()
	if err != nil {
		if denial.Of(err) == denial.Replayed {
			m.copied(msg)
		}
		correlation := ""
		if v != nil {
			correlation = v.Fields().Correlation
			m.refuse(h, v, err)
		}
		m.refused(audit.Call, v, correlation, h.scope.String(), msg, err)
		return
	}
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Call, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: m.info.Agent, Scope: h.scope.String(), Subject: msg.Subject,
		Chain: f.Token, Payload: payloadDigest(msg.Data), Size: len(msg.Data),
	}
	if !f.Body.IsZero() {
		rec.Payload, rec.Size = f.Body.Digest, f.Body.Size
	}
	if m.ctx.Err() != nil {
		rec.Verdict, rec.Reason = audit.Failed, causeDraining
		err = m.answer(h, v, gate.Answer{Err: CodeUnavailable, Data: []byte(causeDraining)})
	} else {
		err = m.carryOut(h, v, start, &rec, s)
	}
	if err != nil {
		m.log.Warn().Err(err).Msg("caller could not be told that its answer failed")
	}
	rec.Duration = m.cfg.clock().Sub(start)
	m.audited(rec)
}

// carryOut works on a verified request and answers it. It returns the error of an
// answer that could not even say that it failed.
func (m *Mesh) carryOut(h *handler, v *envelope.Verified, start time.Time, rec *audit.Record, s *slot) error {
	ctx, cancel := context.WithCancelCause(within(m.ctx, v))
	defer cancel(nil)
	if left, ok := v.Remaining(start); ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, left)
		defer stop()
	}
	w := m.begun(ctx, cancel, h, v, s)
	if w == nil {
		rec.Verdict, rec.Reason = audit.Failed, reasonCancelled
		return nil
	}
	defer w.end()
	data, err := m.payload(w)
	if denial.Of(err) != "" && cutOf(ctx) == nil {
		rec.Verdict, rec.Reason, rec.Detail = audit.Refused, denial.Of(err), denial.Detail(err)
		m.tellRefused(*rec, true)
		return w.finish(refusal(err))
	}
	var answer gate.Answer
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		answer, err = m.work(ctx, w, data)
	}
	if err == nil && ctx.Err() != nil {
		// What is done past the end is no answer any more, whoever still listens.
		answer, err = gate.Answer{}, context.Cause(ctx)
	}
	if err != nil {
		answer = gate.Answer{}
		answer.Err, answer.Data = outgoing(err)
		if m.ctx.Err() != nil && answer.Err == CodeUnavailable {
			answer.Data = []byte(causeDraining)
		}
		rec.Verdict, rec.Reason, rec.Detail = audit.Failed, denial.Reason(answer.Err), detailOf(err, bool(v.Fields().Enc))
		switch cause, cut := context.Cause(ctx), cutOf(ctx); {
		case cut != nil:
			rec.Reason, rec.Detail = denial.Of(cut), denial.Detail(cut)
			if cut.silent() {
				return nil
			}
			answer = refusal(cut)
		case errors.Is(cause, ErrCancelled):
			rec.Reason = reasonCancelled
			return nil // nobody waits for it
		case errors.Is(cause, ErrCallerGone):
			rec.Reason = reasonCallerGone
		}
	}
	err = w.finish(answer)
	if err == nil {
		return nil
	}
	rec.Verdict, rec.Reason, rec.Detail = audit.Failed, reasonOf(err), "reply: "+clipText(err.Error())
	if len(answer.Data) == 0 || errors.Is(err, ErrUnavailable) {
		return nil
	}
	// Too large for the server, for one: the caller should not wait for it.
	rest := gate.Answer{}
	if rest.Err, _ = outgoing(err); m.ctx.Err() != nil && rest.Err == CodeUnavailable {
		rest.Data = []byte(causeDraining)
	}
	return w.finish(rest)
}

// What stands in the log where a caller no longer waited, or was not there any more.
const (
	reasonCancelled  denial.Reason = "cancelled"
	reasonCallerGone denial.Reason = "caller-gone"
)

// payload returns what the request says: what it brought itself, or promised to
// bring, opened where it is sealed.
func (m *Mesh) payload(w *work) ([]byte, error) {
	f, data := w.request.Fields(), w.request.Data()
	most := w.handler.most
	if f.Enc {
		most += sealMost
	}
	if size := max(len(data), f.Body.Size); size > most {
		return nil, denial.New(denial.TooLarge, "request of %d bytes, at most %d", size, w.handler.most)
	}
	if !f.Body.IsZero() {
		var err error
		if data, err = w.gather(); err != nil {
			return nil, err
		}
	}
	if f.Enc {
		var err error
		if data, err = m.openRequest(f, data); err != nil {
			return nil, err
		}
	}
	if len(data) > w.handler.most {
		return nil, denial.New(denial.TooLarge, "request of %d bytes, at most %d", len(data), w.handler.most)
	}
	return data, nil
}

// work runs the application's function; a panic in it is an error of this
// request alone.
func (m *Mesh) work(ctx context.Context, w *work, data []byte) (answer gate.Answer, err error) {
	h, v := w.handler, w.request
	defer func() {
		if r := recover(); r != nil {
			m.log.Error().Str("scope", h.scope.String()).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = &Error{Code: CodeInternal}
		}
	}()
	f := v.Fields()
	req := &Request{
		From: f.From, Instance: v.Instance(), Scope: h.scope, Data: data, ContentType: f.ContentType, Sealed: bool(f.Enc),
		Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent, Sent: f.Time, fields: f, work: w,
	}
	data, err = h.fn(ctx, req)
	return gate.Answer{Data: data, ContentType: req.answers}, err
}

// refuse tells a sender whose signature was good why it was refused: a code,
// and what helps. Whoever signed badly is told nothing.
func (m *Mesh) refuse(h *handler, v *envelope.Verified, err error) {
	reason := denial.Of(err)
	if reason == denial.Replayed {
		// The copy's sender may be anybody, and the true one has its answer.
		return
	}
	if e := m.answer(h, v, refusal(err)); e != nil {
		m.log.Warn().Err(e).Msg("refusal could not be sent")
	}
}

// refusal is the answer that says why there is none.
func refusal(err error) gate.Answer {
	reason := denial.Of(err)
	body, err := json.Marshal(wire.Failure{Reason: reason, Hint: denial.Hint(reason)})
	if err != nil {
		return gate.Answer{Err: CodeInternal}
	}
	return gate.Answer{Err: CodeDenied, Data: body}
}

func (m *Mesh) answer(h *handler, v *envelope.Verified, a gate.Answer) error {
	reply, _, err := m.reply(h, v, a)
	if err != nil {
		return err
	}
	if err := m.conn().PublishMsg(reply); err != nil {
		return unsent(err)
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers.keep(&answer{
		id: callOf(v), instance: v.Instance(), parts: []openPart{{0, reply, now, now}}, ended: now,
	}, m.lookAtAnswers)
	return nil
}
