package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// refusedDoc is sealmesh.refused/v1: messages of one sender that were refused for
// one reason. Those of the first of them are class, scope, detail and correlation.
type refusedDoc struct {
	Schema      string        `json:"schema"`
	Time        time.Time     `json:"time"`
	Class       string        `json:"class,omitempty"`
	Scope       string        `json:"scope,omitempty"`
	Sender      agentid.ID    `json:"sender,omitzero"` // who the broker says it was
	Reason      denial.Reason `json:"reason,omitempty"`
	Detail      string        `json:"detail,omitempty"`
	Verified    bool          `json:"verified"` // the signature was good
	Correlation string        `json:"correlation,omitempty"`
	Count       uint64        `json:"count"`
	Others      bool          `json:"others,omitempty"` // of more senders and reasons than are listed
}

const refusedSchema = "sealmesh.refused/v1"

// How refused messages are gathered. Whoever can have messages refused can have
// many refused: it must not be able to fill a terminal or a disk with them, nor to
// push what else is said out of sight.
const (
	gatherFor    = time.Second
	gatheredMost = 64 // senders and reasons that are listed apart
)

// refusals prints the messages that an agent refuses: the first of a sender and
// reason at once, and how many more of them came each second. It is safe for
// concurrent use.
type refusals struct {
	w    io.Writer
	json bool
	now  func() time.Time

	mu     sync.Mutex
	groups map[refusalKey]*refusedDoc // with a count of what was not printed yet
	others uint64
	timer  *time.Timer // runs while there are groups
	ended  bool
}

type refusalKey struct {
	sender   agentid.ID
	reason   denial.Reason
	verified bool
}

func (a *app) refusals() *refusals {
	return &refusals{w: a.stderr, json: a.json, now: a.now, groups: map[refusalKey]*refusedDoc{}}
}

// add takes one refusal. It is what meshclient.OnRefused is given.
func (r *refusals) add(one meshclient.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.others += one.Missed
	key := refusalKey{one.Sender, one.Reason, one.Verified}
	doc := r.groups[key]
	first := doc == nil
	switch {
	case first && len(r.groups) >= gatheredMost:
		r.others++
		return
	case first:
		doc = &refusedDoc{}
		r.groups[key] = doc
	}
	if doc.Count == 0 {
		*doc = docOf(one, r.now())
	}
	doc.Count++
	if first || r.ended {
		r.print(doc)
	}
	if r.timer == nil && !r.ended {
		r.timer = time.AfterFunc(gatherFor, r.tick)
	}
}

func docOf(one meshclient.Refusal, now time.Time) refusedDoc {
	return refusedDoc{
		Schema: refusedSchema, Time: now.UTC(), Class: one.Class, Scope: one.Scope, Sender: one.Sender, Reason: one.Reason,
		Detail: one.Detail, Verified: one.Verified, Correlation: one.Correlation,
	}
}

// tick prints what came since the last one. Those of whom nothing came are
// forgotten, so that their next one is printed at once.
func (r *refusals) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.flush()
	if r.timer = nil; len(r.groups) > 0 {
		r.timer = time.AfterFunc(gatherFor, r.tick)
	}
}

// end prints what is left. What comes after is printed as it comes.
func (r *refusals) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.ended = true
	r.flush()
}

func (r *refusals) flush() {
	keys := slices.SortedFunc(maps.Keys(r.groups), func(a, b refusalKey) int {
		return cmp.Or(cmp.Compare(a.sender.String(), b.sender.String()), cmp.Compare(a.reason, b.reason))
	})
	for _, key := range keys {
		if doc := r.groups[key]; doc.Count > 0 {
			r.print(doc)
		} else {
			delete(r.groups, key)
		}
	}
	if r.others > 0 {
		r.print(&refusedDoc{Schema: refusedSchema, Time: r.now().UTC(), Count: r.others, Others: true})
		r.others = 0
	}
}

// print prints one line in one write, and sets its count back.
func (r *refusals) print(doc *refusedDoc) {
	if r.json {
		writeJSON(r.w, doc, false) //nolint:errcheck // nowhere left to say it
	} else {
		io.WriteString(r.w, doc.String()+"\n") //nolint:errcheck // likewise
	}
	doc.Count = 0
}

// String is the line for people.
func (d *refusedDoc) String() string {
	if d.Others {
		return fmt.Sprintf("refused: %d more messages, of more senders and reasons than are listed", d.Count)
	}
	what, sender, signature := d.Class, d.Sender.String(), "signature good"
	if d.Scope != "" {
		what += " " + d.Scope
	}
	if d.Sender.IsZero() {
		sender = "somebody"
	}
	if !d.Verified {
		signature = "not verified"
	}
	s := fmt.Sprintf("refused: %s of %s: %s (%s)", what, sender, d.Reason, signature)
	if d.Count > 1 {
		s = fmt.Sprintf("%s, %d times, the first", s, d.Count)
	}
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return clean(s)
}

// serveLog is the log of an agent whose refusals are gathered. Who asks for a log
// gets every one of them there as well.
func (a *app) serveLog() zerolog.Logger {
	log := a.runLog()
	if a.logLevel == "" && !a.verbose {
		log = log.Output(zerolog.SyncWriter(&withoutRefusals{a.stderr}))
	}
	return log
}

// withoutRefusals drops the log's lines of single refused messages. A line is one
// write, and inside of a field the quotes would be escaped, so no message can
// have another line dropped.
type withoutRefusals struct{ w io.Writer }

func (l *withoutRefusals) Write(line []byte) (int, error) {
	for _, mark := range refusedLines {
		if bytes.Contains(line, mark) {
			return len(line), nil
		}
	}
	return l.w.Write(line)
}

// refusedLines are how such lines look.
var refusedLines = func() (out [][]byte) {
	for _, k := range []audit.Kind{audit.Call, audit.Reply, audit.Event, audit.Note} {
		out = append(out, fmt.Appendf(nil, `"audit":%q,"verdict":%q`, k, audit.Refused))
	}
	return out
}()
