package lint

import (
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
)

// held is what an agent's scopes mean, spelled as subjects spell it.
type held struct{ calls, handles, publishes, subscribes []string }

func hold(scopes []capability.Scope) held {
	var h held
	for _, s := range scopes {
		verb, thing, _ := strings.Cut(s.String(), ":")
		switch verb {
		case "publish":
			h.publishes = append(h.publishes, thing)
		case "subscribe":
			h.subscribes = append(h.subscribes, thing)
		case "handle":
			h.handles = append(h.handles, strings.ReplaceAll(thing, ":", "."))
		case "self", "": // of nobody's token
		default:
			h.calls = append(h.calls, verb+"."+thing)
		}
	}
	return h
}

// pass is what may reach into a private region all the same: a pattern, and for
// a subscription the one queue group that it must be in.
type pass struct{ pattern, queue string }

func passes(patterns ...string) []pass {
	out := make([]pass, len(patterns))
	for i, p := range patterns {
		out[i].pattern = p
	}
	return out
}

// private is what a grant must not reach.
type private struct {
	code    Code
	regions []region
	but     []pass
	why     string
}

// The classes of the mesh's subjects whose third token is the sender.
var sent = []string{"call", "ask", "reply", "body", "event", "note", "beat", "audit"}

// known are all classes: what else is under the prefix is nobody's.
var known = append([]string{"feed", "leader"}, sent...)

// notPublished is everything that an instance must not publish to. Together with
// what is let through it is every subject there is.
func notPublished(prefix string, a Agent, i Instance) []private {
	id, inst, h := a.ID.String(), i.ID.String(), hold(a.Scopes)
	var out []private
	add := func(code Code, why string, r region, but ...pass) {
		out = append(out, private{code, at(r), but, why})
	}
	class := func(c string, more ...token) region { return append(of(prefix, lit(c)), more...) }
	own := func(c string) string { return prefix + "." + c + "." + id }

	for _, c := range sent {
		add(LineForeign, "the third token of such a subject is its sender, and it is another", class(c, anyBut(id)))
	}
	for _, c := range []string{"beat", "audit"} {
		add(LineForeign, "it speaks for another instance", class(c, lit(id), anyBut(inst)))
		add(LineBeyond, "it speaks for itself and nothing below", class(c, lit(id)), pass{pattern: own(c) + "." + inst})
	}
	add(LineControl, "only the control plane feeds clients", class("feed"))
	add(LineControl, "only the leaders of the agents' and the chains' buckets are asked", class("leader"),
		passes(prefix+".leader.MESH_AGENTS", prefix+".leader.MESH_CHAINS")...)
	out = append(out, private{LineControl, nowhere(prefix), nil, "no such subject is an agent's"})

	var calls, asks, events, replies, bodies []pass
	for _, d := range h.calls {
		calls = append(calls, pass{pattern: own("call") + "." + d})
		asks = append(asks, pass{pattern: own("ask") + ".*." + d})
	}
	asks = append(asks, pass{pattern: own("ask") + ".control.self.*"})
	for _, t := range h.publishes {
		events = append(events, pass{pattern: own("event") + "." + t})
	}
	if len(h.handles) > 0 {
		replies = passes(own("reply") + ".*.*.*")
	}
	if len(h.calls) > 0 {
		bodies = passes(own("body") + ".*.*.*")
	}
	add(LineBeyond, "it calls nothing whose payload it could send", class("body", lit(id)), bodies...)
	add(LineBeyond, "it holds no scope to call that", class("call", lit(id)), calls...)
	add(LineBeyond, "it holds no scope to ask that", class("ask", lit(id)), asks...)
	add(LineBeyond, "it handles nothing that it could reply to", class("reply", lit(id)), replies...)
	add(LineBeyond, "it may not publish that topic", class("event", lit(id)), events...)
	add(LineBeyond, "an agent sends three kinds of note: delegation, cancel and received", class("note", lit(id)),
		passes(own("note")+".*.delegation", own("note")+".*.cancel", own("note")+".*.received")...)

	add(LineControl, "it is the server's, JetStream's or a bucket's", region{begin("$")}, serverPasses(a, h)...)
	add(LineControl, "it is an inbox, or where servers answer each other", region{begin("_")})
	add(LineOutside, "no plain right names it", region{{open: true, not: "$_", but: []string{prefix}}}, passes(a.Plain.Publish...)...)
	return out
}

// nowhere is what lies under the prefix and in no class.
func nowhere(prefix string) []region {
	out := append(at(of(prefix, anyBut(known...))), of(prefix))
	for _, c := range known {
		out = append(out, of(prefix, lit(c)))
	}
	return out
}

// serverPasses is all of NATS' own that an agent may send something to.
func serverPasses(a Agent, h held) []pass {
	out := passes(
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*",
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.*",
		"$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.*",
	)
	for _, d := range h.handles {
		out = append(out, pass{pattern: "$KV.MESH_REPLAY." + d + ".*.*"})
	}
	for _, d := range a.Durables {
		c := a.ID.String() + "_" + d.Name
		out = append(out, passes(
			"$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS."+c,
			"$JS.API.CONSUMER.INFO.MESH_EVENTS."+c,
			"$JS.ACK.MESH_EVENTS."+c+".*.*.*.*.*",
			"$JS.ACK.*.*.MESH_EVENTS."+c+".*.*.*.*.*",
		)...)
	}
	return out
}

// notSubscribed is everything that an instance must not receive.
func notSubscribed(prefix string, a Agent, i Instance) []private {
	id, inst, h := a.ID.String(), i.ID.String(), hold(a.Scopes)
	var out []private
	add := func(why string, r region, but ...pass) {
		out = append(out, private{LineListens, at(r), but, why})
	}
	class := func(c string) region { return of(prefix, lit(c)) }

	var calls, asks, events []pass
	for _, d := range h.handles {
		calls = append(calls, pass{prefix + ".call.*." + d, d})
		asks = append(asks, pass{prefix + ".ask.*." + id + "." + d, d})
	}
	for _, t := range h.subscribes {
		events = append(events, pass{pattern: prefix + ".event.*." + t})
	}
	add("calls are for those who handle their scope, each for one of them", class("call"), calls...)
	add("it is asked of another agent, or what this one does not handle, or each of several would get it", class("ask"), asks...)
	add("replies are for the instance that called", class("reply"), passes(prefix+".reply.*."+id+"."+inst+".>")...)
	var bodies []pass
	if len(h.handles) > 0 {
		bodies = passes(prefix + ".body.*." + id + "." + inst + ".>")
	}
	add("payloads are for the instance that took the call", class("body"), bodies...)
	add("notes are for the agent that they name", class("note"), passes(prefix+".note.*."+id+".>")...)
	add("it may not receive that topic", class("event"), events...)
	add("heartbeats are for the control plane", class("beat"))
	add("verdicts are for the control plane", class("audit"))
	add("it is how others ask the registry", class("leader"))
	out = append(out, private{LineListens, nowhere(prefix), nil, "no such subject is an agent's"})
	add("it is the server's, JetStream's or a bucket's", region{begin("$")})
	add("it is another's inbox, or where servers answer each other", region{begin("_")}, passes("_INBOX_"+id+"_"+inst+".>")...)
	add("no plain right names it", region{{open: true, not: "$_", but: []string{prefix}}}, passes(a.Plain.Subscribe...)...)
	return out
}

const remedyLine = "this is a defect of the program that compiled the grant: suspend the agent and report it"

// checkGrant proves each line of one instance's grant against everything that it
// must not reach, and the grant as the server gets it against its lines.
func checkGrant(r *Report, prefix string, a Agent, i Instance) {
	who := a.ID.String() + "/" + i.ID.String()
	found := func(code Code, l authcallout.Line, what, why string) {
		line := l.Subject
		if l.Queue != "" {
			line += " " + l.Queue
		}
		r.add(Finding{code, Error, who, what, line + " (" + l.From + ")", why, remedyLine})
	}
	judge := func(lines []authcallout.Line, walls []private, publish bool) {
		for _, l := range lines {
			if !wellFormed(l.Subject) || l.Subject[0] == '*' || l.Subject[0] == '>' || publish && l.Queue != "" || strings.ContainsAny(l.Queue, " \t*>") {
				found(LineMalformed, l, l.Subject, "the server would not take it for what it looks like")
			}
			reach := split(l.Subject)
			if !publish {
				reach = heard(reach)
			}
			said := map[Code]bool{}
			for _, w := range walls {
				if what, ok := w.breach(reach, l.Queue); ok && !said[w.code] {
					said[w.code] = true
					found(w.code, l, what, w.why)
				}
			}
		}
	}
	judge(i.Grant.Publish, notPublished(prefix, a, i), true)
	judge(i.Grant.Subscribe, notSubscribed(prefix, a, i), false)
	for _, why := range openings(i.Grant) {
		r.add(Finding{GrantOpen, Error, who, ">", "grant", why, remedyLine})
	}
}

// breach returns the part of what is private that a pattern reaches.
func (p private) breach(reach []string, queue string) (string, bool) {
	for _, w := range p.regions {
		if !w.meets(reach) {
			continue
		}
		if !slices.ContainsFunc(p.but, func(b pass) bool {
			return (b.queue == "" || b.queue == queue) && covers(split(b.pattern), reach)
		}) {
			return w.String(), true
		}
	}
	return "", false
}

// openings compares what the server is sent with the lines that explain it.
func openings(g authcallout.Grant) []string {
	p := g.Permissions()
	var out []string
	if p.Resp != nil {
		out = append(out, "it may answer anywhere (allow_responses), which is a right to publish to any subject")
	}
	side := func(name string, got jwt.Permission, lines []authcallout.Line) {
		want := make([]string, 0, len(lines))
		for _, l := range lines {
			if l.Queue != "" {
				want = append(want, l.Subject+" "+l.Queue)
			} else {
				want = append(want, l.Subject)
			}
		}
		allow := slices.Clone([]string(got.Allow))
		slices.Sort(allow)
		slices.Sort(want)
		switch {
		case len(allow) == 0 && !slices.Contains(got.Deny, tail):
			out = append(out, "it lists nothing to "+name+", which the server takes for everything")
		case !slices.Equal(allow, want):
			out = append(out, "the server is told other subjects to "+name+" than its lines say")
		}
	}
	side("publish", p.Pub, g.Publish)
	side("subscribe", p.Sub, g.Subscribe)
	return out
}
