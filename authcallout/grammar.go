package authcallout

import (
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// grammar is the second opinion on a grant: all that a line may look like, taken
// apart token by token and written without the functions that built it. A
// mistake in the compiler or in package subject, or a scope with a form that
// nobody thought of, has to get past both.
type grammar struct {
	prefix, agent, instance string
	calls                   map[string]bool // dotted scopes that may be called
	handles                 map[string]bool // dotted scopes that may be handled
	publishes, subscribes   map[string]bool // topics
	durables                map[string]bool // consumer names
	plainPub, plainSub      map[string]bool
}

func newGrammar(space subject.Space, in Subject) *grammar {
	g := &grammar{
		prefix: space.Prefix(), agent: in.Agent.String(), instance: in.Instance.String(),
		calls: map[string]bool{}, handles: map[string]bool{},
		publishes: map[string]bool{}, subscribes: map[string]bool{},
		plainPub: map[string]bool{}, plainSub: map[string]bool{}, durables: map[string]bool{},
	}
	for _, name := range in.Durables {
		g.durables[g.agent+"_"+name] = true
	}
	for _, s := range in.Scopes {
		verb, rest, _ := strings.Cut(s.String(), ":")
		switch verb {
		case "handle":
			g.handles[strings.Replace(rest, ":", ".", 1)] = true
		case "publish":
			g.publishes[rest] = true
		case "subscribe":
			g.subscribes[rest] = true
		case "self": // never comes from a token
		default:
			g.calls[verb+"."+rest] = true
		}
	}
	for _, s := range in.Plain.Publish {
		g.plainPub[s] = true
	}
	for _, s := range in.Plain.Subscribe {
		g.plainSub[s] = true
	}
	return g
}

// check returns nil only if every line is one that the grammar knows.
func (g *grammar) check(grant Grant) error {
	for _, l := range grant.Publish {
		if l.Queue != "" || !g.mayPublish(l.Subject) {
			return denial.New(denial.Internal, "the compiled grant would publish %q, which no rule permits", l.Subject)
		}
	}
	for _, l := range grant.Subscribe {
		if !g.maySubscribe(l.Subject, l.Queue) {
			return denial.New(denial.Internal, "the compiled grant would subscribe %q in queue %q, which no rule permits", l.Subject, l.Queue)
		}
	}
	return nil
}

func (g *grammar) mayPublish(s string) bool {
	t := strings.Split(s, ".")
	if !clean(t) || t[len(t)-1] == ">" {
		return false
	}
	switch t[0] {
	case "$JS":
		return g.mayConsume(t) ||
			s == "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*" ||
			s == "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.*" ||
			s == "$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.*"
	case "$KV":
		n := len(t)
		return n > 4 && t[1] == "MESH_REPLAY" && t[n-2] == "*" && t[n-1] == "*" && g.handles[tail(t[:n-2], 2)]
	case g.prefix:
	default:
		return g.plain(t) && g.plainPub[s]
	}
	if len(t) == 3 && t[1] == "leader" {
		return t[2] == "MESH_AGENTS" || t[2] == "MESH_CHAINS"
	}
	// Everything else carries the sender in its third token.
	if len(t) < 4 || t[2] != g.agent {
		return false
	}
	switch t[1] {
	case "call":
		return g.calls[tail(t, 3)]
	case "ask":
		return len(t) > 4 && t[3] == "*" && g.calls[tail(t, 4)] || tail(t, 3) == "control.self.*"
	case "reply":
		return len(g.handles) > 0 && tail(t, 3) == "*.*.*"
	case "body":
		return len(g.calls) > 0 && tail(t, 3) == "*.*.*"
	case "event":
		return g.publishes[tail(t, 3)]
	case "note":
		switch tail(t, 3) {
		case "*.delegation", "*.cancel", "*.received":
			return true
		}
	case "beat", "audit":
		return len(t) == 4 && t[3] == g.instance
	}
	return false
}

func (g *grammar) maySubscribe(s, queue string) bool {
	t := strings.Split(s, ".")
	if !clean(t) {
		return false
	}
	switch t[0] {
	case "_INBOX_" + g.agent + "_" + g.instance:
		return queue == "" && len(t) == 2 && t[1] == ">"
	case g.prefix:
	default:
		return g.plain(t) && queue == "" && g.plainSub[s]
	}
	if len(t) < 3 {
		return false
	}
	if t[1] == "feed" {
		return queue == "" && len(t) == 3 && t[2] == ">"
	}
	if len(t) < 4 || t[2] != "*" {
		return false
	}
	switch t[1] {
	case "reply":
		return queue == "" && tail(t, 3) == g.agent+"."+g.instance+".>"
	case "body":
		return queue == "" && len(g.handles) > 0 && tail(t, 3) == g.agent+"."+g.instance+".>"
	case "note":
		return queue == "" && tail(t, 3) == g.agent+".*"
	case "call":
		return queue == tail(t, 3) && g.handles[queue]
	case "ask":
		return len(t) > 4 && t[3] == g.agent && queue == tail(t, 4) && g.handles[queue]
	case "event":
		return queue == "" && g.subscribes[tail(t, 3)]
	}
	return false
}

// plain reports whether t has the form of a plain right: literal, and neither
// the server's nor the mesh's.
func (g *grammar) plain(t []string) bool {
	for _, tok := range t {
		if strings.ContainsAny(tok, "*>") {
			return false
		}
	}
	return t[0][0] != '$' && t[0][0] != '_' && t[0] != g.prefix
}

// clean reports whether t is a subject that means to the server what it seems to
// mean: no empty token, no white space (a second word in a subscription is its
// queue), a literal first token, ">" only at the end.
func clean(t []string) bool {
	if len(t) == 0 || t[0] == "*" || t[0] == ">" {
		return false
	}
	for i, tok := range t {
		if tok == "" || tok == ">" && i != len(t)-1 {
			return false
		}
		for j := range len(tok) {
			if tok[j] <= ' ' || tok[j] > '~' {
				return false
			}
		}
	}
	return true
}

func tail(t []string, from int) string { return strings.Join(t[from:], ".") }

// mayConsume knows what the holder of a consumer may send: pull, look and
// acknowledge, and of the consumer's name no part may be a wildcard.
func (g *grammar) mayConsume(t []string) bool {
	stars := func(t []string) bool {
		for _, s := range t {
			if s != "*" {
				return false
			}
		}
		return true
	}
	switch {
	case len(t) == 7 && t[1] == "API" && t[2] == "CONSUMER" && t[3] == "MSG" && t[4] == "NEXT":
		return t[5] == "MESH_EVENTS" && g.durables[t[6]]
	case len(t) == 6 && t[1] == "API" && t[2] == "CONSUMER" && t[3] == "INFO":
		return t[4] == "MESH_EVENTS" && g.durables[t[5]]
	case len(t) == 9 && t[1] == "ACK":
		return t[2] == "MESH_EVENTS" && g.durables[t[3]] && stars(t[4:])
	case len(t) == 11 && t[1] == "ACK":
		return stars(t[2:4]) && t[4] == "MESH_EVENTS" && g.durables[t[5]] && stars(t[6:])
	}
	return false
}
