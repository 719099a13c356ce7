package meshclient

import (
	"errors"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

// Refusal is a message that was refused, and of which nothing else was handed on.
type Refusal struct {
	Class  string // call, reply, event or note
	Reason denial.Reason
	Detail string // what rule was broken; it may quote the sender, escaped
	// Sender is who the broker says it was, by the subject; zero where the subject
	// names nobody. Without Verified no signature backs it.
	Sender agentid.ID
	// Scope is the scope, topic or kind of note, where one is known.
	Scope string
	// Correlation is what a verified message says, and of a reply that of the call
	// which it claims to answer.
	Correlation string
	// Verified says that the signature was good: the sender is who it says, and was
	// refused for something else.
	Verified bool
	// Missed is how many refusals before this one could not be told of, because the
	// function was still busy with others.
	Missed uint64
}

// refusalsMost is how many refusals wait for an application that is busy.
const refusalsMost = 256

// refusals passes refusals on to the application.
type refusals struct {
	queue  chan Refusal
	missed atomic.Uint64
}

// OnRefused tells f of every message that is refused, one at a time and on a
// goroutine of its own. Nothing waits for f: whoever can have messages refused
// could else stop the agent. What comes while more wait than have room is counted
// in place of that ([Refusal.Missed]). f must not close the Mesh, which waits for
// it. The log has a line for each refusal all the same.
func OnRefused(f func(Refusal)) Option {
	return func(c *config) error { c.onRefused = f; return nil }
}

// tellRefused never blocks.
func (m *Mesh) tellRefused(r audit.Record, verified bool) {
	if m.cfg.onRefused == nil {
		return
	}
	told := Refusal{
		Class: string(r.Kind), Reason: r.Reason, Detail: r.Detail, Sender: r.Sender, Scope: strings.Clone(r.Scope),
		Correlation: strings.Clone(r.Correlation), Verified: verified,
	}
	if !r.Sender.IsZero() {
		told.Sender = agentid.Require(strings.Clone(r.Sender.String())) // not the message's own bytes
	}
	select {
	case m.refusals.queue <- told:
	default:
		m.refusals.missed.Add(1)
	}
}

// tellRefusals calls the application until the Mesh is closed, and then for what
// still waits.
func (m *Mesh) tellRefusals() {
	tell := func(r Refusal) {
		r.Missed = m.refusals.missed.Swap(0)
		m.cfg.onRefused(r)
	}
	for {
		select {
		case r := <-m.refusals.queue:
			tell(r)
		case <-m.ctx.Done():
			for {
				select {
				case r := <-m.refusals.queue:
					tell(r)
				default:
					return
				}
			}
		}
	}
}

// refused logs a message that did not get in, and tells the application. What is
// written of it was not verified, and says so. v is what the gate gave back: nil
// where the signature was not good, or not looked at.
func (m *Mesh) refused(kind audit.Kind, v *envelope.Verified, correlation, scope string, msg *nats.Msg, err error) {
	rec := audit.Record{
		Kind: kind, Verdict: audit.Refused, Reason: denial.Of(err), Detail: denial.Detail(err),
		Peer: m.info.Agent, Correlation: correlation, Scope: scope, Subject: clip(msg.Subject), Size: len(msg.Data),
	}
	if p, e := m.space.Parse(msg.Subject); e == nil {
		rec.Sender = p.Sender // the broker vouches for it, nobody signed it
	}
	m.audited(rec)
	m.tellRefused(rec, v != nil)
}

// signed is an error of a call that somebody is known to have worked on.
type signed struct {
	error
	from     agentid.ID
	instance agentid.Instance
}

func (s *signed) Unwrap() error { return s.error }

// signedBy notes by whose key the parts of the answer were signed, or the error
// itself was.
func (r *reception) signedBy(err error) error {
	if err == nil || r.key == "" {
		return err
	}
	return &signed{denied(err), r.from, agentid.InstanceOf(r.key)}
}

// Answered returns who answered a call that ended in this error, or was known to
// work on it by then: an instance whose signature was verified, and who may handle
// the scope. False says that nobody is known to have taken the call.
func Answered(err error) (from agentid.ID, instance agentid.Instance, ok bool) {
	var s *signed
	if !errors.As(err, &s) {
		return agentid.ID{}, agentid.Instance{}, false
	}
	return s.from, s.instance, true
}
