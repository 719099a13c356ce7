package authcallout_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// oracle answers the same question as the compiled grant, slowly and from the
// rules alone: it takes the subject apart and asks what each class needs. Scopes
// are texts here, and nothing is compiled.
type oracle struct {
	agent, instance string
	scopes          []string
}

func (o oracle) has(scope string) bool { return slices.Contains(o.scopes, scope) }

// scopeOf turns "read.logs.app" into "read:logs.app".
func scopeOf(tokens []string) string { return tokens[0] + ":" + strings.Join(tokens[1:], ".") }

func (o oracle) handles(tokens []string) bool {
	return len(tokens) > 1 && o.has("handle:"+scopeOf(tokens))
}

func (o oracle) handler() bool {
	return slices.ContainsFunc(o.scopes, func(s string) bool { return strings.HasPrefix(s, "handle:") })
}

func (o oracle) caller() bool {
	return slices.ContainsFunc(o.scopes, func(s string) bool {
		verb, _, _ := strings.Cut(s, ":")
		return verb != "handle" && verb != "publish" && verb != "subscribe"
	})
}

func (o oracle) publish(subj string) bool {
	t := strings.Split(subj, ".")
	if slices.Contains(t, "") || slices.Contains(t, "*") || slices.Contains(t, ">") {
		return false
	}
	n := len(t)
	calls := func(tokens []string) bool {
		return len(tokens) > 1 && !slices.Contains([]string{"handle", "publish", "subscribe"}, tokens[0]) && o.has(scopeOf(tokens))
	}
	switch {
	case n < 3:
		return false
	case t[0] == "mesh" && t[1] == "leader":
		return n == 3 && (t[2] == "MESH_AGENTS" || t[2] == "MESH_CHAINS")
	case t[0] == "mesh" && t[2] != o.agent:
		return false
	case t[0] == "mesh":
		rest := t[3:]
		switch t[1] {
		case "call":
			return calls(rest)
		case "ask":
			if n == 6 && t[3] == "control" && t[4] == "self" {
				return true
			}
			return n > 4 && calls(t[4:])
		case "reply":
			return len(rest) == 3 && o.handler()
		case "body":
			return len(rest) == 3 && o.caller()
		case "event":
			return len(rest) > 0 && o.has("publish:"+strings.Join(rest, "."))
		case "note":
			return len(rest) == 2 && (rest[1] == "delegation" || rest[1] == "cancel" || rest[1] == "received")
		case "beat", "audit":
			return len(rest) == 1 && rest[0] == o.instance
		}
		return false
	case t[0] == "$KV":
		return n > 4 && t[1] == "MESH_REPLAY" && o.handles(t[2:n-2])
	case t[0] == "$JS":
		head, key, ok := strings.Cut(subj, ".$KV.")
		switch {
		case !ok:
			return false
		case head == "$JS.API.DIRECT.GET.KV_MESH_AGENTS":
			k := strings.Split(key, ".")
			return k[0] == "MESH_AGENTS" && (len(k) == 2 || len(k) == 3)
		case head == "$JS.API.DIRECT.GET.KV_MESH_CHAINS":
			k := strings.Split(key, ".")
			return k[0] == "MESH_CHAINS" && len(k) == 2
		}
	}
	return false
}

// subscribe answers for subscriptions to one literal subject.
func (o oracle) subscribe(subj, queue string) bool {
	t := strings.Split(subj, ".")
	if slices.Contains(t, "") || slices.Contains(t, "*") || slices.Contains(t, ">") {
		return false
	}
	n := len(t)
	switch {
	case n > 1 && t[0] == "_INBOX_"+o.agent+"_"+o.instance:
		return true
	case n < 3 || t[0] != "mesh":
		return false
	}
	switch t[1] {
	case "feed":
		return true
	case "reply":
		return n > 5 && t[3] == o.agent && t[4] == o.instance
	case "body":
		return n > 5 && t[3] == o.agent && t[4] == o.instance && o.handler()
	case "note":
		return n == 5 && t[3] == o.agent
	case "call":
		return n > 4 && o.handles(t[3:]) && queue == strings.Join(t[3:], ".")
	case "ask":
		return n > 5 && t[3] == o.agent && o.handles(t[4:]) && queue == strings.Join(t[4:], ".")
	case "event":
		return n > 3 && o.has("subscribe:"+strings.Join(t[3:], "."))
	}
	return false
}

var (
	words   = []string{"read", "logs", "app", "write", "admin", "registry", "self", "control", "handle", "publish", "subscribe", "agents", "a", "x-1"}
	classes = []string{"call", "ask", "reply", "event", "note", "beat", "audit", "feed", "leader", "other"}
)

// draw makes a random set of scopes from few words, so that sets and subjects
// meet often.
func draw(r *rand.Rand) []string {
	var out []string
	for range r.IntN(8) {
		var s string
		for s == "" {
			resource := words[r.IntN(len(words))]
			for range r.IntN(3) {
				resource += "." + words[r.IntN(len(words))]
			}
			s = words[r.IntN(len(words))] + ":" + resource
			if r.IntN(3) == 0 {
				s = "handle:" + s
			}
			sc, err := capability.ParseScope(s)
			if err != nil || sc.Grantable() != nil {
				s = ""
			}
		}
		out = append(out, s)
	}
	return out
}

// aim makes a subject that is likely to be near the border of what o permits.
func aim(r *rand.Rand, o oracle) (subj, queue string) {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	agent := func() string { return pick(o.agent, o.agent, "writer", "control", "*") }
	inst := func() string { return pick(o.instance, o.instance, "00000000", "*") }
	dotted := pick(words...) + "." + pick(words...)
	if len(o.scopes) > 0 && r.IntN(4) > 0 {
		s := pick(o.scopes...)
		s = strings.TrimPrefix(s, "handle:")
		s = strings.TrimPrefix(strings.TrimPrefix(s, "publish:"), "subscribe:")
		dotted = strings.Replace(s, ":", ".", 1)
	}
	queue = pick("", dotted, dotted, "q")
	switch r.IntN(12) {
	case 0:
		subj = "mesh.call." + agent() + "." + dotted
	case 1:
		subj = "mesh.ask." + agent() + "." + agent() + "." + dotted
	case 2:
		subj = "mesh.reply." + agent() + "." + agent() + "." + inst() + ".nonce"
	case 3:
		subj = "mesh.event." + agent() + "." + dotted
	case 4:
		subj = "mesh.note." + agent() + "." + agent() + "." + pick("delegation", "cancel", "received", "rotate")
	case 5:
		subj = "mesh." + pick("beat", "audit") + "." + agent() + "." + inst()
	case 6:
		subj = "mesh." + pick("feed.agents.", "leader.") + pick("MESH_AGENTS", "MESH_CHAINS", "MESH_SESSIONS", "a.b")
	case 7:
		subj = "$KV." + pick("MESH_REPLAY.", "MESH_AGENTS.", "") + dotted + "." + agent() + ".nonce"
	case 8:
		b := pick("MESH_AGENTS", "MESH_CHAINS", "MESH_SESSIONS")
		subj = "$JS.API." + pick("DIRECT.GET", "STREAM.MSG.GET") + ".KV_" + b + ".$KV." + pick(b, "MESH_AGENTS") + "." + pick("a", "a.b", "a.b.c")
	case 9:
		subj = pick("_INBOX_"+o.agent+"_"+o.instance, "_INBOX", "_INBOX_writer_"+o.instance) + "." + pick("a", "a.b")
	case 10:
		subj = "mesh.ask." + agent() + ".control.self." + pick("session", "chain-put", "a.b")
	default:
		subj = pick("mesh", "$JS", "$SYS", "legacy", "*", ">")
		for range r.IntN(6) {
			subj += "." + pick(append(append([]string{o.agent, o.instance, "*", ">", ""}, words...), classes...)...)
		}
	}
	// And a little damage.
	switch r.IntN(8) {
	case 0:
		subj += "." + pick(words...)
	case 1:
		subj, _, _ = strings.Cut(subj, "."+pick(words...))
	}
	return subj, queue
}

// FuzzCompileAgainstOracle: the compiled grant allows a subject exactly if the
// rules, evaluated slowly, do.
func FuzzCompileAgainstOracle(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed, "mesh.call.reader.read.logs", "")
	}
	f.Add(uint64(7), "$KV.MESH_REPLAY.read.logs.a.b", "")
	f.Add(uint64(9), "mesh.call.writer.read.logs", "read.logs")
	f.Fuzz(func(t *testing.T, seed uint64, subj, queue string) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := oracle{agent: reader.String(), instance: instance.String(), scopes: draw(r)}
		in := authcallout.Subject{Agent: reader, Instance: instance}
		for _, s := range o.scopes {
			in.Scopes = append(in.Scopes, capability.RequireScope(s))
		}
		g, err := authcallout.Compile(subject.Default(), in)
		if err != nil {
			t.Fatalf("Compile(%q): %v", o.scopes, err)
		}
		compare := func(subj, queue string) (allowed bool) {
			if strings.ContainsAny(subj+queue, " *>") {
				return false // patterns: TestAllows, and a live server in test/attack
			}
			_, got := g.Allows(subj, true)
			if want := o.publish(subj); got != want {
				t.Fatalf("publish %q with %q: got %v, want %v", subj, o.scopes, got, want)
			}
			allowed = got
			ask := subj
			if queue != "" {
				ask += " " + queue
			}
			_, got = g.Allows(ask, false)
			if want := o.subscribe(subj, queue); got != want {
				t.Fatalf("subscribe %q in queue %q with %q: got %v, want %v", subj, queue, o.scopes, got, want)
			}
			return allowed || got
		}
		compare(subj, queue)
		hits := 0
		for range 300 {
			if compare(aim(r, o)) {
				hits++
			}
		}
		// A comparison in which nothing is ever allowed compares nothing.
		if hits < 10 {
			t.Fatalf("only %d of 300 subjects were allowed with %q", hits, o.scopes)
		}
	})
}
