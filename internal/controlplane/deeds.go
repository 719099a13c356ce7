package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

const (
	// deedRows is how many rows of each list are told.
	deedRows = 100
	// deedsMost bounds what is counted apart: names in records are other agents'
	// to choose.
	deedsMost = 10_000
)

// deeds counts what an agent did, by what others say of it.
type deeds struct {
	of       agentid.ID
	instance agentid.Instance // zero: all of them
	calls    map[callKey]*wire.CallCount
	answers  map[callKey]*wire.CallCount
	events   map[string]*wire.TopicCount
	refused  map[reasonKey]*wire.ReasonCount
	changes  map[reasonKey]*wire.ReasonCount
	omitted  int
}

type callKey struct {
	scope string
	peer  agentid.ID
}

type reasonKey struct {
	kind   string
	reason denial.Reason
}

func newDeeds(of agentid.ID, instance agentid.Instance) *deeds {
	return &deeds{
		of: of, instance: instance, calls: map[callKey]*wire.CallCount{}, answers: map[callKey]*wire.CallCount{}, events: map[string]*wire.TopicCount{},
		refused: map[reasonKey]*wire.ReasonCount{}, changes: map[reasonKey]*wire.ReasonCount{},
	}
}

// sent reports whether the agent, by the word of a receiver, sent what the record
// is about. The instance of what was refused is not known: nobody verified it.
func (a *deeds) sent(r reported) bool {
	return r.Sender == a.of && (a.instance.IsZero() || r.Instance == a.instance)
}

// took reports whether a handler or subscriber took what the record is about.
func took(r reported) bool { return r.Verdict == audit.Accepted || r.Verdict == audit.Failed }

// ofSelf reports whether a call is one of those that every client makes to keep its
// connection.
func ofSelf(r reported) bool { return strings.HasPrefix(r.Scope, "self:") }

func (a *deeds) add(r reported) {
	switch r.Kind {
	case audit.Call:
		switch {
		case r.Sender != a.of || ofSelf(r) && took(r):
		case r.Verdict == audit.Refused:
			a.refuse(r)
		case took(r) && a.sent(r):
			a.call(a.calls, r, r.by)
		}
	case audit.Made:
		// Who was asked, and was not the one, did not answer.
		if r.Peer == a.of && r.Verdict == audit.Accepted && a.instance.IsZero() {
			a.call(a.answers, r, r.by)
		}
	case audit.Event:
		switch {
		case r.Sender != a.of:
		case r.Verdict == audit.Refused && r.by != a.of:
			a.refuse(r)
		case r.Verdict == audit.Sent && a.sent(r):
			if t := a.topic(r); t != nil {
				t.Published++
			}
		case took(r) && r.by == r.Peer && a.sent(r):
			if t := a.topic(r); t != nil {
				t.Accepted++
			}
		}
	case audit.Reply, audit.Note, audit.Beat:
		if r.Sender == a.of && r.Verdict == audit.Refused {
			a.refuse(r)
		}
	case audit.Connect:
		if r.Sender == a.of && r.Verdict == audit.Refused {
			a.refuse(r)
		}
	case audit.Change:
		if r.Sender == a.of && a.instance.IsZero() {
			count(a, a.changes, reasonKey{kind: r.Scope, reason: r.Reason}, r.Time, 1)
		}
	}
}

func (a *deeds) refuse(r reported) {
	count(a, a.refused, reasonKey{string(r.Kind), r.Reason}, r.Time, 1+r.Suppressed)
}

func count(a *deeds, m map[reasonKey]*wire.ReasonCount, k reasonKey, at time.Time, n uint64) {
	c := m[k]
	if c == nil {
		if len(m) == deedsMost {
			a.omitted++
			return
		}
		c = &wire.ReasonCount{Kind: k.kind, Reason: k.reason, First: at}
		m[k] = c
	}
	c.Count += n
	span(&c.First, &c.Last, at)
}

func (a *deeds) call(m map[callKey]*wire.CallCount, r reported, peer agentid.ID) {
	k := callKey{r.Scope, peer}
	c := m[k]
	if c == nil {
		if len(m) == deedsMost {
			a.omitted++
			return
		}
		c = &wire.CallCount{Scope: r.Scope, Peer: peer, First: r.Time}
		m[k] = c
	}
	c.Count++
	if r.Verdict == audit.Failed {
		c.Failed++
	}
	span(&c.First, &c.Last, r.Time)
}

func (a *deeds) topic(r reported) *wire.TopicCount {
	t := a.events[r.Scope]
	if t == nil {
		if len(a.events) == deedsMost {
			a.omitted++
			return nil
		}
		t = &wire.TopicCount{Topic: r.Scope, First: r.Time}
		a.events[r.Scope] = t
	}
	span(&t.First, &t.Last, r.Time)
	return t
}

func span(first, last *time.Time, at time.Time) {
	if at.Before(*first) {
		*first = at
	}
	if at.After(*last) {
		*last = at
	}
}

// view is what was counted, the most of each first.
func (a *deeds) view() wire.Activity {
	calls := func(m map[callKey]*wire.CallCount) []wire.CallCount {
		return rows(a, m, func(x, y wire.CallCount) int {
			return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Scope, y.Scope), byName(x.Peer, y.Peer))
		})
	}
	reasons := func(m map[reasonKey]*wire.ReasonCount) []wire.ReasonCount {
		return rows(a, m, func(x, y wire.ReasonCount) int {
			return cmp.Or(cmp.Compare(y.Count, x.Count), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Reason, y.Reason))
		})
	}
	out := wire.Activity{
		Calls: calls(a.calls), Answers: calls(a.answers), Refused: reasons(a.refused), Changes: reasons(a.changes),
		Published: rows(a, a.events, func(x, y wire.TopicCount) int {
			return cmp.Or(cmp.Compare(y.Published+y.Accepted, x.Published+x.Accepted), cmp.Compare(x.Topic, y.Topic))
		}),
	}
	out.Omitted = a.omitted
	return out
}

func rows[K comparable, V any](a *deeds, m map[K]*V, by func(x, y V) int) []V {
	out := make([]V, 0, len(m))
	for v := range maps.Values(m) {
		out = append(out, *v)
	}
	slices.SortFunc(out, by)
	if n := len(out); n > deedRows {
		a.omitted += n - deedRows
		out = out[:deedRows]
	}
	return out
}
