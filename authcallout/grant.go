package authcallout

import (
	"cmp"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
)

// Line is one permission and the reason why it is there.
type Line struct {
	Subject string // may have wildcards
	Queue   string // subscriptions only: the one queue group that may be used
	From    string // the scope that it comes from, or one of the From constants
}

// Why a line is in a grant, where it is not one scope.
const (
	// FromEvery marks what every agent of the mesh may do.
	FromEvery = "every agent"
	// FromHandlers marks what an agent may do that handles anything at all.
	FromHandlers = "every handler"
	// FromCallers marks what an agent may do that calls anything at all.
	FromCallers = "every caller"
	// FromDurable begins the reason of what a durable subscription needs; its name
	// follows.
	FromDurable = "durable"
	// FromPlain marks a plain right, and that what comes there proves nothing.
	FromPlain = "plain (unsigned)"
)

// Grant is what one instance of an agent may do on its connection. The zero
// Grant permits nothing. Grants come from [Compile]; treat them as immutable.
type Grant struct {
	Publish   []Line
	Subscribe []Line
}

// everything is what an empty side denies: to nats-server a missing list means
// that all is allowed.
const everything = ">"

// Permissions returns the grant in the form of a user JWT. Both sides are always
// explicit and there is no response permission.
func (g Grant) Permissions() jwt.Permissions {
	return jwt.Permissions{Pub: side(g.Publish), Sub: side(g.Subscribe)}
}

func side(lines []Line) jwt.Permission {
	if len(lines) == 0 {
		return jwt.Permission{Deny: jwt.StringList{everything}}
	}
	allow := make(jwt.StringList, len(lines))
	for i, l := range lines {
		allow[i] = l.Subject
		if l.Queue != "" {
			allow[i] += " " + l.Queue
		}
	}
	return jwt.Permission{Allow: allow}
}

// systemQueue is a queue group that nats-server keeps for itself.
const systemQueue = "_sys_"

// Allows reports whether nats-server lets a client with this grant publish to or
// subscribe subj, and by which line. A subscription may be written "subject
// queue". To the server a wildcard that is asked for is a token like any other:
// it lets "a.>" be subscribed under a line that ends in "a.*", and a message be
// published to the literal subject "a.*". Where a line with a queue group
// matches, lines without one say nothing about groups.
func (g Grant) Allows(subj string, publish bool) (Line, bool) {
	subj, queue, queued := strings.Cut(subj, " ")
	if queued && (publish || queue == "" || strings.Contains(queue, " ") || queue == systemQueue) {
		return Line{}, false
	}
	tokens := strings.Split(subj, ".")
	if !wellFormed(tokens, publish) {
		return Line{}, false
	}
	lines := g.Subscribe
	if publish {
		lines = g.Publish
	}
	var by Line
	ok, group := false, false
	for _, l := range lines {
		if !covers(strings.Split(l.Subject, "."), tokens) {
			continue
		}
		switch {
		case l.Queue == "":
			if !ok && !group {
				by, ok = l, true
			}
		case l.Queue == queue:
			return l, true
		case queued:
			by, ok, group = Line{}, false, true
		}
	}
	return by, ok
}

// wellFormed reports whether tokens are those of a subject: none empty, and in a
// subscription ">" only at the end.
func wellFormed(tokens []string, publish bool) bool {
	for i, t := range tokens {
		if t == "" || !publish && t == ">" && i != len(tokens)-1 {
			return false
		}
	}
	return true
}

// covers reports whether the server finds subj, token by token, under pattern.
func covers(pattern, subj []string) bool {
	for i, p := range pattern {
		switch {
		case p == ">":
			return i < len(subj)
		case i >= len(subj) || p != "*" && p != subj[i]:
			return false
		}
	}
	return len(pattern) == len(subj)
}

// normal sorts lines and drops duplicates; of two reasons for one line the first
// in order stays, so that the result does not depend on the order of the input.
func normal(lines []Line) []Line {
	slices.SortFunc(lines, func(a, b Line) int {
		if n := strings.Compare(a.Subject, b.Subject); n != 0 {
			return n
		}
		return cmp.Or(strings.Compare(a.Queue, b.Queue), strings.Compare(a.From, b.From))
	})
	return slices.CompactFunc(lines, func(a, b Line) bool {
		return a.Subject == b.Subject && a.Queue == b.Queue
	})
}
