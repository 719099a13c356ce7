package attack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/lint"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	agents = 12
	probes = 50 // of each agent
)

// member is an agent of the mesh in which everybody is asked.
type member struct {
	person
	grant authcallout.Grant // as sealmesh explain prints it
	lent  []string          // digests of the chains that it was lent
}

// probe is one thing to try.
type probe struct {
	subj    string // "subject queue" for a subscription in a group
	publish bool
}

func (p probe) String() string {
	if p.publish {
		return "publish " + p.subj
	}
	return "subscribe " + p.subj
}

// What sealmesh explain, can and lint say of a grant is what the server does: for
// agents with all kinds of rights, each with subjects of every class that it may
// use, or nearly.
func TestAgreement(t *testing.T) {
	r := rand.New(rand.NewPCG(36, 42))
	l := start(t)
	cli := build(t)
	l.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: "news", MaxAge: 3600}}, nil)
	members := l.populate(t, r)
	for i := range members {
		members[i].grant = explained(t, cli, l.dev.Dir.Dir, members[i].id.String())
	}
	allowed, refused := 0, 0
	for _, m := range members {
		list := near(r, m, members)
		got := l.live(t, m, list)
		for i, p := range list {
			_, says := m.grant.Allows(p.subj, p.publish)
			if says != got[i] {
				t.Errorf("%s, %s: explain says %v, the server %v", m.id, p, says, got[i])
			}
			if says := lint.Permits(m.grant, p.subj, p.publish); says != got[i] {
				t.Errorf("%s, %s: lint says %v, the server %v", m.id, p, says, got[i])
			}
			if !got[i] {
				refused++
				continue
			}
			allowed++
		}
		// The verb itself, which costs a process and a call each time.
		for _, i := range []int{r.IntN(len(list)), r.IntN(len(list))} {
			side := map[bool]string{true: "--pub", false: "--sub"}[list[i].publish]
			if says := cli.yes(t, "explain", m.id.String(), "--mesh", l.dev.Dir.Dir, side, "--subject", list[i].subj); says != got[i] {
				t.Errorf("explain %s %s %q: got %v, the server says %v", m.id, side, list[i].subj, says, got[i])
			}
		}
		l.can(t, cli, r, m)
	}
	if allowed < 150 || refused < 150 {
		t.Errorf("%d attempts were allowed and %d refused: one side is hardly tried", allowed, refused)
	}
	t.Logf("%d agents, %d attempts allowed, %d refused", len(members), allowed, refused)

	var report wire.LintReport
	l.operate(wire.AdminRequest{Op: wire.OpLint}, &report)
	if !report.Clean() {
		t.Errorf("lint: %+v", report.Findings)
	}
	lines := 0
	for _, m := range members {
		lines += len(m.grant.Publish) + len(m.grant.Subscribe)
	}
	// The operator's own are counted too.
	if c := report.Checked; c.Agents != len(members)+1 || c.Lines <= lines {
		t.Errorf("lint checked %+v, want the %d lines of %d agents and those of the operator", c, lines, len(members))
	}
}

// populate makes agents with random rights; some lend to others, some have plain
// rights, some are subscribed durably.
func (l *live) populate(t *testing.T, r *rand.Rand) []member {
	t.Helper()
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	var out []member
	store, err := jetstream.NewWithAPIPrefix(l.ctrl, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	var lender *meshclient.Mesh
	for n := range agents {
		var scopes []string
		for range 1 + r.IntN(5) {
			what := pick("read:logs", "write:reports", "read:logs.app", "ask:mail", "read:control")
			switch r.IntN(4) {
			case 0:
				scopes = append(scopes, what)
			case 1:
				scopes = append(scopes, "handle:"+what)
			case 2:
				scopes = append(scopes, "publish:"+pick("news", "news.sport", "a"))
			default:
				scopes = append(scopes, "subscribe:"+pick("news", "news.sport", "a"))
			}
		}
		if n == 0 {
			scopes = append(scopes, "lend:this", "publish:lent")
		}
		if n%3 == 1 {
			scopes = append(scopes, "subscribe:news")
		}
		slices.Sort(scopes)
		give := rights(t, slices.Compact(scopes))
		if n == 0 {
			give.MayDelegate = []capability.Scope{capability.RequireScope("lend:this"), capability.RequireScope("publish:lent")}
		}
		if n%2 == 1 {
			give.Plain = registry.Plain{Publish: []string{"legacy.out", pick("x", "legacy.a.b")}, Subscribe: []string{"legacy.in"}}
		}
		m := member{person: l.add(fmt.Sprintf("agent-%d", n), give)}
		if n == 0 {
			lender = l.agent(m.id.String())
		}
		if n%4 == 3 {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			_, err := lender.Delegate(ctx, m.id.String(), meshclient.Grant{
				Scopes: []string{"lend:this", "publish:lent"}, For: time.Hour,
			})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			var view wire.AgentView
			l.operate(wire.AdminRequest{Op: wire.OpShow, Target: m.id.String()}, &view)
			for _, d := range view.Delegated {
				m.lent = append(m.lent, d.Chain)
			}
			if len(m.lent) == 0 {
				t.Fatalf("%s was lent nothing", m.id)
			}
		}
		if n%3 == 1 {
			l.subscribeDurably(store, m.person, "news")
		}
		out = append(out, m)
	}
	return out
}

// near makes attempts out of what an agent may, and others may: as it is, and
// changed in a token.
func near(r *rand.Rand, m member, all []member) []probe {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	other := all[r.IntN(len(all))]
	words := []string{
		m.id.String(), m.inst.String(), other.id.String(), other.inst.String(), "control", "admin", "sealmesh", "news", "read", "logs", "self", "x", "*", "*", ">",
		"mesh", "call", "ask", "reply", "body", "event", "note", "beat", "audit", "feed", "leader", "MESH_AGENTS", "MESH_SESSIONS", "KV_MESH_REPLAY", "$KV", "$JS", "$SYS", "$SRV", "_INBOX",
	}
	fixed := []probe{
		{">", false}, {"*", false}, {"mesh.>", false}, {"_INBOX.>", false}, {"$KV.>", false}, {"$JS.ACK.>", false}, {"$SYS.>", false}, {"$SRV.>", false},
		{"$SYS.REQ.USER.INFO", true}, {"$JS.API.INFO", true}, {"$JS.API.STREAM.LIST", true}, {"$KV.MESH_AGENTS." + m.id.String(), true}, {"legacy.out", true}, {"legacy.in", false},
		{"mesh.note.*." + m.id.String() + ".>", false}, {"mesh.note." + m.id.String() + ".*.cancel", true}, {"mesh.note." + m.id.String() + ".*.received", true}, {"mesh.feed.> group", false}, {"mesh.feed.> _sys_", false},
	}
	seen := map[probe]bool{}
	var out []probe
	add := func(p probe) {
		subj, _, _ := strings.Cut(p.subj, " ")
		// What no client library sends is not compared: the server drops the
		// connection over it, or takes the next word for something else.
		for i, tok := range strings.Split(subj, ".") {
			if tok == "" || !p.publish && tok == ">" && i != strings.Count(subj, ".") {
				return
			}
		}
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for range len(fixed) / 2 {
		add(fixed[r.IntN(len(fixed))])
	}
	for len(out) < probes {
		from := m
		if r.IntN(4) == 0 {
			from = other
		}
		publish := r.IntN(2) == 0
		lines := from.grant.Subscribe
		if publish {
			lines = from.grant.Publish
		}
		l := lines[r.IntN(len(lines))]
		tokens := strings.Split(l.Subject, ".")
		for i, tok := range tokens {
			if tok == "*" && (publish && r.IntN(8) > 0 || r.IntN(3) == 0) {
				tokens[i] = pick("x", other.id.String(), m.id.String(), m.inst.String())
			}
			if tok == ">" && r.IntN(2) == 0 {
				tokens = append(tokens[:i:i], "x", "y")[:i+1+r.IntN(2)]
			}
		}
		if i := r.IntN(len(tokens)); r.IntN(5) < 2 {
			switch r.IntN(5) {
			case 0:
				tokens = slices.Delete(tokens, i, i+1)
			case 1:
				tokens = slices.Insert(tokens, i, pick(words...))
			case 2:
				tokens = append(tokens, pick(words...))
			default:
				tokens[i] = pick(words...)
			}
		}
		p := probe{strings.Join(tokens, "."), publish}
		if !publish {
			if q := pick(l.Queue, l.Queue, l.Queue, "", "others", "*", ">"); q != "" {
				p.subj += " " + q
			}
		}
		add(p)
	}
	return out
}

// live tries everything on a connection of the agent's own, and returns what the
// server let it do.
func (l *live) live(t *testing.T, m member, list []probe) []bool {
	t.Helper()
	w := l.raw(t, m.id.String())
	who := l.identity(t, m.id.String(), m.id.String(), w.server)
	if len(m.lent) > 0 {
		who["auth_token"] = "v1:" + strings.Join(m.lent, ",")
	}
	w.connect(who)
	if lines, alive := w.settle(); !alive || len(lines) > 0 {
		t.Fatalf("%s cannot connect: %q", m.id, lines)
	}
	for i, p := range list {
		if p.publish {
			w.send("PUB %s 0\r\n\r\nPING", p.subj)
		} else {
			w.send("SUB %s %d\r\nUNSUB %d\r\nPING", p.subj, i+1, i+1)
		}
	}
	out := make([]bool, len(list))
	for i, p := range list {
		lines, alive := w.until()
		if !alive {
			t.Fatalf("%s, %s: the server hung up: %q", m.id, p, lines)
		}
		out[i] = true
		for _, s := range lines {
			switch {
			case strings.HasPrefix(s, "-ERR 'Permissions Violation for "):
				out[i] = false
			case strings.HasPrefix(s, "-ERR"):
				t.Errorf("%s, %s: %s", m.id, p, s)
			}
		}
	}
	return out
}

// explained is an agent's grant as the program prints it.
func explained(t *testing.T, cli program, mesh, id string) authcallout.Grant {
	t.Helper()
	out, code := cli.run(t, "explain", id, "--mesh", mesh, "--json")
	if code != 0 {
		t.Fatalf("explain %s: exit code %d: %s", id, code, out)
	}
	var doc struct {
		Lines []struct{ Action, Subject, Queue, From string }
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	var g authcallout.Grant
	for _, l := range doc.Lines {
		line := authcallout.Line{Subject: l.Subject, Queue: l.Queue, From: l.From}
		if l.Action == "pub" {
			g.Publish = append(g.Publish, line)
		} else {
			g.Subscribe = append(g.Subscribe, line)
		}
	}
	if len(g.Publish) < 10 || len(g.Subscribe) < 4 {
		t.Fatalf("explain %s: got %s", id, out)
	}
	return g
}

// can asks the verb about one right and the server about what it means.
func (l *live) can(t *testing.T, cli program, r *rand.Rand, m member) {
	t.Helper()
	id := m.id.String()
	q := []struct {
		action, what string
		probe        probe
	}{
		{"call", "read:logs", probe{"mesh.call." + id + ".read.logs", true}},
		{"call", "lend:this", probe{"mesh.call." + id + ".lend.this", true}},
		{"handle", "write:reports", probe{"mesh.call.*.write.reports write.reports", false}},
		{"publish", "news", probe{"mesh.event." + id + ".news", true}},
		{"publish", "lent", probe{"mesh.event." + id + ".lent", true}},
		{"subscribe", "news.sport", probe{"mesh.event.*.news.sport", false}},
	}[r.IntN(6)]
	got := l.live(t, m, []probe{q.probe})[0]
	if says := cli.yes(t, "can", id, q.action, q.what, "--mesh", l.dev.Dir.Dir); says != got {
		t.Errorf("can %s %s %s: got %v, the server says %v", id, q.action, q.what, says, got)
	}
}

// program is sealmesh itself.
type program struct{ path string }

func build(t *testing.T) program {
	t.Helper()
	p := program{filepath.Join(t.TempDir(), "sealmesh")}
	cmd := exec.Command("go", "build", "-o", p.path, "github.com/sealmesh/sealmesh/cmd/sealmesh")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return p
}

func (p program) run(t *testing.T, args ...string) (stdout []byte, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait)
	defer cancel()
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || complaint.Len() > 0 {
		t.Fatalf("sealmesh %q: %v\n%s", args, err, complaint.String())
	}
	return out.Bytes(), cmd.ProcessState.ExitCode()
}

// yes runs a verb that answers by its exit code.
func (p program) yes(t *testing.T, args ...string) bool {
	t.Helper()
	out, code := p.run(t, args...)
	if code > 1 || len(out) == 0 {
		t.Fatalf("sealmesh %q: exit code %d", args, code)
	}
	return code == 0
}
