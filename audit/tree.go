package audit

import (
	"cmp"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// Entry is a record and the instance that signed it: what is in it is that
// instance's word.
type Entry struct {
	Record
	By         agentid.ID
	ByInstance agentid.Instance
}

// Gap is what the two sides of a message do not agree on. Records need not be there
// yet when a trace is made: a gap in what is seconds old may close.
type Gap string

// The gaps.
const (
	// MissingReceipt: the caller says who answered it, and that one has no record of
	// the call.
	MissingReceipt Gap = "missing-receipt"
	// MissingRequest: somebody has a record of a message which its sender has none of:
	// the sender kept it back, or is still waiting for the answer.
	MissingRequest Gap = "missing-request"
	// Mismatch: sender and receiver name another payload, scope or parent.
	Mismatch Gap = "mismatch"
)

// Step is one message of a call tree: a call or an event, with what its sender and
// its receivers wrote of it, and the messages that were sent while it was worked on.
type Step struct {
	Nonce    string
	Kind     Kind // Call or Event
	Sender   agentid.ID
	Instance agentid.Instance
	Scope    string
	Sent     *Entry  // the sender's word, nil where it has none
	Received []Entry // the receivers' words, by time
	Gaps     []Gap
	Steps    []*Step // by the time at which they were sent, as their senders say
}

// At is when it was sent, as far as is known: the sender writes its record when the
// answer is there.
func (s *Step) At() time.Time {
	if s.Sent != nil {
		return s.Sent.Time.Add(-s.Sent.Duration)
	}
	if len(s.Received) > 0 {
		return s.Received[0].Time.Add(-s.Received[0].Duration)
	}
	return time.Time{}
}

// Tree joins the records of one correlation ID: messages by their nonces, and each to
// the one in whose handler it was sent by the nonce that it names as its parent. No
// clock has a say in that, since those of two hosts may differ. A message whose parent
// has no record is a root; so is one of a circle, which no honest client writes.
//
// Others are the records that belong to no message whose nonce somebody verified.
func Tree(list []Entry) (roots []*Step, others []Entry) {
	steps := map[string]*Step{}
	var order []*Step
	for _, e := range list {
		if e.Nonce == "" || e.Kind != Made && e.Kind != Call && e.Kind != Event {
			others = append(others, e)
			continue
		}
		s := steps[e.Nonce]
		if s == nil {
			s = &Step{Nonce: e.Nonce}
			steps[e.Nonce] = s
			order = append(order, s)
		}
		s.add(e)
	}
	parents := map[*Step]*Step{}
	for _, s := range order {
		s.settle()
		if up := steps[s.parent()]; up != nil && !above(parents, up, s) {
			parents[s] = up
			up.Steps = append(up.Steps, s)
		} else {
			roots = append(roots, s)
		}
	}
	for _, s := range order {
		slices.SortFunc(s.Steps, bySending)
	}
	slices.SortFunc(roots, bySending)
	return roots, others
}

func bySending(a, b *Step) int { return cmp.Or(a.At().Compare(b.At()), cmp.Compare(a.Nonce, b.Nonce)) }

// above reports whether s is up or stands above it.
func above(parents map[*Step]*Step, up, s *Step) bool {
	for ; up != nil; up = parents[up] {
		if up == s {
			return true
		}
	}
	return false
}

// add takes one side's word. Of two by the same signer the first counts: a second one
// is a copy, or an attempt to say something else later.
func (s *Step) add(e Entry) {
	if e.Sender == e.By && e.Instance == e.ByInstance && (e.Kind == Made || e.Kind == Event && e.Peer != e.By) {
		if s.Sent == nil {
			s.Sent = &e
		}
		return
	}
	same := func(o Entry) bool { return o.By == e.By && o.ByInstance == e.ByInstance }
	if e.Kind == Event || !slices.ContainsFunc(s.Received, same) {
		s.Received = append(s.Received, e)
	}
}

// settle says what the message was, by its sender where that has a record.
func (s *Step) settle() {
	slices.SortStableFunc(s.Received, func(a, b Entry) int { return a.Time.Compare(b.Time) })
	first := s.Sent
	if first == nil {
		first = &s.Received[0]
		s.Gaps = append(s.Gaps, MissingRequest)
	}
	s.Sender, s.Instance, s.Scope, s.Kind = first.Sender, first.Instance, first.Scope, Call
	if first.Kind == Event {
		s.Kind = Event
	}
	if s.Sent == nil {
		return
	}
	answered := s.Kind == Call && s.Sent.Verdict == Accepted
	if answered && !slices.ContainsFunc(s.Received, func(e Entry) bool { return e.By == s.Sent.Peer }) {
		s.Gaps = append(s.Gaps, MissingReceipt)
	}
	if slices.ContainsFunc(s.Received, s.differs) {
		s.Gaps = append(s.Gaps, Mismatch)
	}
}

// differs reports whether a receiver writes of another message than the sender does.
// Of what was refused little is verified, so nothing is compared; of what was sealed
// neither names the payload.
func (s *Step) differs(e Entry) bool {
	if e.Verdict == Refused {
		return false
	}
	payload := e.Payload != "" && s.Sent.Payload != "" && e.Payload != s.Sent.Payload
	return payload || e.Sender != s.Sender || e.Instance != s.Instance || e.Scope != s.Scope || e.Parent != s.Sent.Parent
}

func (s *Step) parent() string {
	if s.Sent != nil {
		return s.Sent.Parent
	}
	return s.Received[0].Parent
}

// Outcome is what became of the message: by its sender's word a call's answer, by its
// receivers' an event or a call whose sender has no record.
func (s *Step) Outcome() Entry {
	if s.Sent != nil && (s.Kind == Call || s.Sent.Verdict != Sent || len(s.Received) == 0) {
		return *s.Sent
	}
	for _, e := range s.Received {
		if e.Verdict != Accepted {
			return e
		}
	}
	return s.Received[0]
}
