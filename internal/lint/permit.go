package lint

import (
	"strings"

	"github.com/sealmesh/sealmesh/authcallout"
)

// systemQueue is a queue group that the server keeps for itself.
const systemQueue = "_sys_"

// Permits reports whether nats-server lets a client with this grant publish to
// subj, or subscribe it; a subscription may be written "subject queue". It is the
// server's answer and not a judgement: what is permitted and unwanted is for
// [Check] to find.
func Permits(g authcallout.Grant, subj string, publish bool) bool {
	if publish {
		return mayPublish(g.Publish, subj)
	}
	subj, queue, queued := strings.Cut(subj, " ")
	if queued && (queue == "" || strings.ContainsAny(queue, " \t")) {
		return false
	}
	return maySubscribe(g.Subscribe, subj, queue)
}

// mayPublish asks as the server does: a client that does not ask to be corrected
// may publish to "a.*", and then that is a subject with the token "*".
func mayPublish(lines []authcallout.Line, subj string) bool {
	t, ok := tokens(subj)
	// Between servers only, and for the consensus between them.
	if !ok || strings.HasPrefix(subj, "_GR_.") || strings.HasPrefix(subj, "$GR.") || strings.HasPrefix(subj, "$NRG.") {
		return false
	}
	for _, l := range lines {
		if literally(split(l.Subject), t) {
			return true
		}
	}
	return false
}

// maySubscribe asks as the server does. Where a permission with a queue group
// matches, one without says nothing about groups any more.
func maySubscribe(lines []authcallout.Line, subj, queue string) bool {
	t, ok := tokens(subj)
	if !ok || !wellFormed(subj) || queue == systemQueue {
		return false
	}
	plain, queued, named := false, false, false
	for _, l := range lines {
		if !literally(split(l.Subject), t) {
			continue
		}
		if l.Queue == "" {
			plain = true
			continue
		}
		queued = true
		named = named || l.Queue == queue || strings.ContainsAny(l.Queue, "*>") && covers(split(l.Queue), split(queue))
	}
	if queue != "" && queued {
		return named
	}
	return plain
}

// tokens takes a subject apart; the server matches none with an empty token.
func tokens(subj string) ([]string, bool) {
	t := split(subj)
	for _, tok := range t {
		if tok == "" || strings.ContainsAny(tok, " \t\r\n") {
			return nil, false
		}
	}
	return t, true
}
