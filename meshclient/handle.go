package meshclient

import (
	"context"
	"encoding/json"
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
	Correlation string // of the whole call tree
	Nonce       string
	Parent      string    // nonce of what caused the call, where something did
	Sent        time.Time // by the caller's clock

	fields envelope.Fields // what the sender signed
}

// limit names those on whose behalf a call is made for the request.
func (r *Request) limit() (string, error) {
	if r == nil || r.fields.Token == "" {
		return "", denial.New(denial.BadInput, "a call is made on behalf of a request that a handler was given")
	}
	return r.fields.Behalf()
}

// Handler works on one request. Its context ends when the caller no longer
// waits or the Mesh closes; calls made with it belong to the same call tree.
// What it returns is signed and sent back; of an error the caller sees a code
// ([Error]) and nothing internal.
type Handler func(ctx context.Context, req *Request) ([]byte, error)

type handler struct {
	scope capability.Scope
	fn    Handler
	slots chan struct{}
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
	c := handleConfig{inFlight: DefaultMaxInFlight}
	for _, o := range opts {
		o(&c)
	}
	if c.inFlight < 1 || fn == nil {
		return fmt.Errorf("%w: Handle needs a function and room for at least one request", ErrConfig)
	}
	ctx, cancel := context.WithTimeout(m.ctx, connectTimeout)
	defer cancel()
	if _, err := m.ready(ctx, handles); err != nil {
		return m.notHeld(err, "--handle "+scope)
	}
	h := &handler{scope: s, fn: fn, slots: make(chan struct{}, c.inFlight)}
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
		m.end()
		return
	}
	m.atWork.Add(1)
	go func() {
		defer func() {
			m.atWork.Add(-1)
			<-h.slots
			m.end()
		}()
		m.serve(h, class, msg)
	}()
}

func (m *Mesh) serve(h *handler, class subject.Class, msg *nats.Msg) {
	start := m.cfg.clock()
	ctx, cancel := context.WithTimeout(m.ctx, admitTimeout)
	v, err := m.gate.Admit(ctx, message(msg), gate.Want{Class: class, Dotted: h.scope.Dotted(), Scope: h.scope})
	cancel()
	if err != nil {
		correlation := ""
		if v != nil {
			correlation = v.Fields().Correlation
			m.refuse(h, v, err)
		}
		m.refused(audit.Call, correlation, h.scope.String(), msg, err)
		return
	}
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Call, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: m.info.Agent, Scope: h.scope.String(), Subject: msg.Subject,
		Chain: f.Token, Payload: payloadDigest(msg.Data), Size: len(msg.Data),
	}
	ctx, cancel = within(m.ctx, v), func() {}
	if left, ok := v.Remaining(start); ok {
		ctx, cancel = context.WithTimeout(ctx, left)
	}
	data, err := m.work(ctx, h, v)
	cancel()
	answer := gate.Answer{Data: data}
	if err != nil {
		answer.Err, answer.Data = outgoing(err)
		rec.Verdict, rec.Reason, rec.Detail = audit.Failed, denial.Reason(answer.Err), clipText(err.Error())
	}
	if err := m.answer(h, v, answer); err != nil {
		rec.Verdict, rec.Reason, rec.Detail = audit.Failed, reasonOf(err), "reply: "+clipText(err.Error())
		if len(answer.Data) > 0 {
			// Too large for the server, for one: the caller should not wait for it.
			if err := m.answer(h, v, gate.Answer{Err: CodeInternal}); err != nil {
				m.log.Warn().Err(err).Msg("caller could not be told that its answer failed")
			}
		}
	}
	rec.Duration = m.cfg.clock().Sub(start)
	audit.Write(&m.log, rec)
}

// work runs the application's function; a panic in it is an error of this
// request alone.
func (m *Mesh) work(ctx context.Context, h *handler, v *envelope.Verified) (data []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			m.log.Error().Str("scope", h.scope.String()).Bytes("stack", debug.Stack()).Msg("handler panicked")
			err = &Error{Code: CodeInternal}
		}
	}()
	f := v.Fields()
	return h.fn(ctx, &Request{
		From: f.From, Instance: v.Instance(), Scope: h.scope, Data: v.Data(), ContentType: f.ContentType,
		Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent, Sent: f.Time, fields: f,
	})
}

// refuse tells a sender whose signature was good why it was refused: a code,
// and what helps. Whoever signed badly is told nothing.
func (m *Mesh) refuse(h *handler, v *envelope.Verified, err error) {
	reason := denial.Of(err)
	if reason == denial.Replayed {
		// The copy's sender may be anybody, and the true one has its answer.
		return
	}
	body, e := json.Marshal(wire.Failure{Reason: reason, Hint: denial.Hint(reason)})
	if e != nil {
		return
	}
	if e := m.answer(h, v, gate.Answer{Err: CodeDenied, Data: body}); e != nil {
		m.log.Warn().Err(e).Msg("refusal could not be sent")
	}
}

func (m *Mesh) answer(h *handler, v *envelope.Verified, a gate.Answer) error {
	handles, err := capability.HandleOf(h.scope)
	if err != nil {
		return err
	}
	chain, err := m.chainFor(m.ctx, handles)
	if err != nil {
		return err
	}
	a.Token = chain.Digest()
	reply, err := m.speaker.Reply(v, a)
	if err != nil {
		return err
	}
	if err := m.conn().PublishMsg(reply); err != nil {
		return unsent(err)
	}
	return nil
}
