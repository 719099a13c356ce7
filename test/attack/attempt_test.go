package attack_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// attempt is one attack. What it wins is said once and holds for both runs: in
// the control run all of it has to be won, in the mesh none.
type attempt struct {
	name   string
	covers []int // numbers of attacks
	grant  grant // of the control run
	do     func(x *try)

	changes string // part of a change of state
	reaches string // a subject at which carol, or whoever keeps the registry, hears of it
	hears   bool   // mallory hears what is not for her
	answer  bool   // the server does as she asks
	// deputy: it is the server that speaks, and in the mesh it may be heard where
	// mallory says. Nothing may come of it.
	deputy bool
}

// try is an attempt being made.
type try struct {
	*arena
	t      *testing.T
	m      *nats.Conn // mallory's
	self   person
	mark   string
	ear    *ear // what she must not hear
	inbox  *ear // what she is answered
	before state
	won    bool // for attempts that find out themselves
}

func (x *try) publish(subj, body string) { x.publishAs(subj, "", body, nil) }

func (x *try) publishAs(subj, reply, body string, header nats.Header) {
	x.t.Helper()
	if err := x.m.PublishMsg(&nats.Msg{Subject: subj, Reply: reply, Header: header, Data: []byte(body)}); err != nil {
		x.t.Fatalf("publishing to %q: %v", subj, err)
	}
}

// listen subscribes to what is not hers.
func (x *try) listen(subjects ...string) { x.t.Helper(); x.ear = listen(x.t, x.m, subjects...) }

// ask sends a request and lets the answer come to where she may be answered.
func (x *try) ask(subj, body string) {
	x.t.Helper()
	inbox := "_INBOX_" + mallory + "_" + x.self.inst.String()
	x.inbox = listen(x.t, x.m, inbox+".answers")
	x.publishAs(subj, inbox+".answers", body, nil)
}

// answered reports whether the answer is one of success.
func (x *try) answered() bool {
	return x.inbox != nil && x.inbox.find(func(m *nats.Msg) bool {
		return m.Header.Get("Status") != "503" && m.Header.Get("Status") != "404" && m.Header.Get("Status") != "408" && !strings.Contains(string(m.Data), `"error":`)
	}) != nil
}

// reached reports whether something was heard at a subject. What comes out of a
// stream shows the subject under which it was stored: then the subscription that
// it came by tells.
func (x *try) reached(subj string) bool {
	at := func(m *nats.Msg) bool {
		if x.mesh && m.Subject == tickSubject && string(m.Data) != x.mark {
			return false // the control plane's own, which comes every few seconds
		}
		return m.Subject == subj || !matches(m.Sub.Subject, m.Subject) && matches(m.Sub.Subject, subj)
	}
	return x.carol.find(at) != nil || x.tap.find(at) != nil
}

// tickSubject is where the control plane speaks by itself.
const tickSubject = "mesh.feed.agents.sealmesh.tick"

// matches reports whether a subject is one of a pattern's.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, tok := range p {
		switch {
		case tok == ">":
			return i < len(s)
		case i >= len(s) || tok != "*" && tok != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// make runs the attempt and its honest traffic.
func (a attempt) make(t *testing.T, in *arena) *try {
	t.Helper()
	x := &try{arena: in, t: t, self: in.person(mallory), mark: in.mark()}
	x.m = in.connect(t, a.grant)
	var err error
	if x.before, err = in.state(); err != nil {
		t.Fatal(err)
	}
	in.carol.reset()
	in.tap.reset()
	a.do(x)
	flush(t, x.m)
	return x
}

// control reports whether everything was won.
func (a attempt) control(x *try) bool {
	changed := a.changes == ""
	if !changed {
		after, err := x.state()
		if err != nil {
			return false
		}
		for _, c := range x.before.changes(after) {
			changed = changed || strings.Contains(c, a.changes)
		}
	}
	heard := !a.hears || x.ear != nil && x.ear.find(func(*nats.Msg) bool { return true }) != nil
	none := a.changes == "" && a.reaches == "" && !a.hears && !a.answer
	return changed && heard && (a.reaches == "" || x.reached(a.reaches)) && (!a.answer || x.answered()) && (!none || x.won)
}

// loot says what was won in the mesh.
func (a attempt) loot(x *try) []string {
	x.t.Helper()
	var out []string
	if n := x.accepted.Load(); n > 0 {
		x.accepted.Store(0)
		out = append(out, "honest agents accepted what nobody said")
	}
	if x.ear != nil {
		if m := x.ear.find(func(*nats.Msg) bool { return true }); m != nil {
			out = append(out, "mallory heard "+m.Subject)
		}
	}
	if a.reaches != "" && !a.deputy && x.reached(a.reaches) {
		out = append(out, "it was heard at "+a.reaches)
	}
	if a.answer && x.answered() {
		out = append(out, "the server did as it was asked")
	}
	if x.won {
		out = append(out, "mallory found that it worked")
	}
	after, err := x.state()
	if err != nil {
		x.t.Fatal(err)
	}
	return append(out, x.before.changes(after)...)
}
