package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
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
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	admitTimeout = 5 * time.Second
	workTimeout  = 20 * time.Second
	controlGroup = "sealmesh-control"
	// controlWorkers bounds the calls that are worked on at once.
	controlWorkers = 32
)

// startControl takes the calls to the reserved agent "control". They pass the
// same gate as any agent's.
func (p *Plane) startControl() error {
	slots := make(chan struct{}, controlWorkers)
	for _, s := range []struct {
		class  subject.Class
		filter string
	}{
		{subject.Call, p.space.CallFilter("admin.*")},
		{subject.Ask, p.space.AskFilter(agentid.Control, ">")},
	} {
		sub, err := p.ctrl.QueueSubscribe(s.filter, controlGroup, func(msg *nats.Msg) {
			select {
			case slots <- struct{}{}:
			case <-p.ctx.Done():
				return
			}
			if !p.working.begin() {
				<-slots
				return
			}
			go func() {
				defer func() {
					<-slots
					p.working.end()
				}()
				p.serve(s.class, msg)
			}()
		})
		if err != nil {
			return fmt.Errorf("controlplane: %w", err)
		}
		p.calls = append(p.calls, sub)
	}
	return p.ctrl.Flush()
}

// drainCalls stops taking calls and waits for those that the server had already
// sent here: another replica does not get them.
func (p *Plane) drainCalls() {
	timeout := time.NewTimer(workTimeout)
	defer timeout.Stop()
	for _, sub := range p.calls {
		done := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(done) })
		if !p.ctrl.IsConnected() || sub.Drain() != nil {
			continue
		}
		select {
		case <-done:
		case <-timeout.C:
			return
		}
	}
}

// working counts what Close waits for. Callbacks may still come while it waits
// where the connection is away and cannot be drained.
type working struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

func (w *working) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.wg.Add(1)
	}
	return !w.ended
}

func (w *working) end() { w.wg.Done() }

// endWork takes nothing any more and waits for what is under way.
func (p *Plane) endWork() {
	p.working.mu.Lock()
	p.working.ended = true
	p.working.mu.Unlock()
	p.working.wg.Wait()
}

// serve judges one call and answers it. What the caller wants is not looked at
// before the gate let it in.
func (p *Plane) serve(class subject.Class, msg *nats.Msg) {
	start := p.clock()
	s, err := p.space.Parse(msg.Subject)
	if err != nil {
		p.refusedMessage(audit.Call, "", msg, denial.New(denial.WrongSubject, "not a call"))
		return
	}
	scope, err := capability.CallScope(s.Dotted)
	if err == nil && scope.Verb() != "self" && scope.String() != wire.AdminScope {
		err = denial.New(denial.NotFound, "the control plane does not handle %q", scope)
	}
	if err != nil {
		p.refusedMessage(audit.Call, "", msg, err)
		return
	}
	want := gate.Want{Class: class, Dotted: s.Dotted, Scope: scope}
	if scope.Verb() == "self" {
		want.Scope = capability.Scope{} // being an active agent is the right
	}
	ctx, cancel := context.WithTimeout(p.ctx, workTimeout)
	defer cancel()
	v, err := p.gate.Admit(ctx, envelope.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Reply: msg.Reply}, want)
	if err != nil {
		p.refusedMessage(audit.Call, scope.String(), msg, err)
		if v != nil && denial.Of(err) != denial.Replayed {
			p.answer(v, nil, err)
		}
		return
	}
	var result any
	ctx, who := p.askedBy(ctx, v)
	if err = p.current(ctx, scope, v); err == nil {
		err = plain(v)
	}
	if err == nil {
		result, err = p.work(ctx, scope, v)
	}
	defer who.part()
	p.answer(v, result, err)
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Call, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: agentid.Control, Scope: scope.String(), Subject: msg.Subject,
		Chain: f.Token, Size: len(msg.Data), Duration: p.clock().Sub(start),
	}
	if err != nil {
		rec.Verdict, rec.Reason, rec.Detail = audit.Failed, denial.Of(err), denial.Detail(err)
	}
	p.audited(rec)
}

// current refuses what the gate could not know of yet: whoever was cut a moment
// ago changes nothing any more, whatever this replica has heard of it. It also
// bounds what one instance asks: behind the signature, since the name in a
// subject alone may be put there by others.
func (p *Plane) current(ctx context.Context, scope capability.Scope, v *envelope.Verified) error {
	from, inst := v.From(), v.Instance()
	if scope.Verb() == "self" && !p.asks.allow(registry.InstanceKey(from, inst), costOf(scope), p.clock()) {
		return denial.New(denial.RateLimited, "%s/%s asks too often", from, inst)
	}
	a, err := p.store.Agent(ctx, from)
	if err != nil {
		return err
	}
	i, err := p.store.Instance(ctx, from, inst)
	if err != nil {
		return err
	}
	if err := a.Status.Standing(); err != nil {
		return denial.New(denial.Of(err), "agent %q is %s", from, a.Status)
	}
	if err := i.State.Standing(); err != nil {
		return denial.New(denial.Of(err), "instance %s/%s is %s", from, inst, i.State)
	}
	if err := i.Belongs(a); err != nil {
		return err
	}
	now := envelope.Epoch{Agent: a.Epoch, Instance: i.Epoch}
	if e := v.Fields().Epoch; !e.Covers(now) {
		return denial.New(denial.StaleEpoch, "epoch %s is over, %s is current", e, now)
	}
	return nil
}

// plain refuses a payload that is to come in parts, or is sealed: the control plane
// asks nobody for the former, and has no key for the latter.
func plain(v *envelope.Verified) error {
	if f := v.Fields(); bool(f.Enc) || !f.Body.IsZero() {
		return denial.New(denial.BadInput, "the control plane takes a payload in the message itself, and not sealed")
	}
	return nil
}

func costOf(scope capability.Scope) int {
	switch scope.String() {
	case wire.SelfRenew:
		return askCostRenew
	case wire.SelfDelegationEnd:
		return askCostEnd
	case wire.SelfDurable, wire.SelfDurableEnd:
		return askCostDurable
	case wire.SelfInstances:
		return askCostInstances
	case wire.SelfStored:
		return askCostStored
	}
	return askCost
}

func (p *Plane) work(ctx context.Context, scope capability.Scope, v *envelope.Verified) (result any, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error().Str("scope", scope.String()).Bytes("stack", debug.Stack()).Msg("control plane panicked")
			err = denial.Internal
		}
	}()
	if scope.Verb() == "self" {
		return p.self(ctx, scope.String(), v)
	}
	var req wire.AdminRequest
	if err := decode(v.Data(), &req); err != nil {
		return nil, err
	}
	return p.admin(ctx, v.From(), req)
}

// decode reads a request strictly.
func decode(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if r := denial.Of(err); r != "" {
			return err
		}
		// A field's name is the sender's, and stands in the log.
		return denial.New(denial.BadInput, "request does not parse: %.120s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if d.More() {
		return denial.New(denial.BadInput, "something follows the request")
	}
	return nil
}

// answer sends the signed reply. A refusal tells its reason; the detail goes to
// admins, who may know it, and to those who asked about themselves.
func (p *Plane) answer(v *envelope.Verified, result any, err error) {
	a := gate.Answer{ContentType: "application/json"}
	if err != nil {
		reason := denial.Of(err)
		switch {
		case reason != "":
			a.Err = "denied"
			result = wire.Failure{Reason: reason, Detail: denial.Detail(err), Hint: denial.Hint(reason)}
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders),
			errors.Is(err, pki.ErrUnavailable):
			a.Err = "unavailable"
		default:
			a.Err = "internal"
		}
		p.log.Debug().Err(err).Msg("operation refused")
	}
	if result != nil {
		data, err := json.Marshal(result)
		if err != nil {
			p.log.Error().Err(err).Msg("answer does not encode")
			a.Err = "internal"
		}
		a.Data = data
	}
	if err := p.send(v, a); err != nil {
		p.log.Warn().Err(err).Msg("answer could not be sent")
		if len(a.Data) == 0 {
			return
		}
		// Nobody should wait for it.
		a.Err, a.Data = "internal", nil
		if errors.Is(err, nats.ErrMaxPayload) {
			a.Err, a.Data = "denied", tooLarge
		}
		if err := p.send(v, a); err != nil {
			p.log.Warn().Err(err).Msg("caller could not be told so")
		}
	}
}

// tooLarge refuses what has an answer that no message takes.
var tooLarge = []byte(`{"reason":"` + denial.TooLarge + `","detail":"the answer is larger than a message"}`)

func (p *Plane) send(v *envelope.Verified, a gate.Answer) error {
	msg, _, err := p.speaker.Reply(v, a)
	if err != nil {
		return err
	}
	return p.ctrl.PublishMsg(msg)
}
