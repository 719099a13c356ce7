//go:build unix

package stock_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// grant is what an agent may do, written down by hand from the architecture and
// not by the code that compiles it.
type grant struct {
	publish   []string
	subscribe []string // with a queue: "subject queue"
}

// everyAgent is what an agent may do that holds no scope.
func everyAgent(id, instance string) grant {
	return grant{
		publish: []string{
			"mesh.beat." + id + "." + instance,
			"mesh.audit." + id + "." + instance,
			"mesh.note." + id + ".*.delegation",
			"mesh.note." + id + ".*.cancel",
			"mesh.note." + id + ".*.received",
			"mesh.ask." + id + ".control.self.*",
			"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*",
			"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.*",
			"$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.*",
			"mesh.leader.MESH_AGENTS",
			"mesh.leader.MESH_CHAINS",
		},
		subscribe: []string{
			"mesh.reply.*." + id + "." + instance + ".>",
			"mesh.note.*." + id + ".*",
			"mesh.feed.>",
			"_INBOX_" + id + "_" + instance + ".>",
		},
	}
}

func (g grant) with(publish, subscribe []string) grant {
	return grant{slices.Concat(g.publish, publish), slices.Concat(g.subscribe, subscribe)}
}

// allows is the oracle: whether the grant covers a probe.
func (g grant) allows(p probe) bool {
	if !p.subscribe {
		return slices.ContainsFunc(g.publish, func(l string) bool { return covers(l, p.subject) })
	}
	return slices.ContainsFunc(g.subscribe, func(l string) bool {
		subject, queue, _ := strings.Cut(l, " ")
		return (queue == "" || queue == p.queue) && (covers(subject, p.subject) || deeper(subject, p.subject))
	})
}

// deeper is what nats-server makes of a permission that ends in "*": it takes
// the ">" of a subscription for one more token that "*" covers. So a filter at
// the end of which a grant has "*" must be one below which nobody may publish.
func deeper(pattern, subject string) bool {
	short, ok := strings.CutSuffix(pattern, ".*")
	tail, ends := strings.CutSuffix(subject, ".>")
	return ok && ends && covers(short, tail)
}

// covers reports whether a pattern matches all that a subject matches.
func covers(pattern, subject string) bool {
	want, got := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, w := range want {
		switch {
		case w == ">":
			return i < len(got)
		case i >= len(got) || got[i] == ">" || w != "*" && w != got[i]:
			return false
		}
	}
	return len(want) == len(got)
}

// probes are everything near the grant: each line as it is, and with each token
// replaced, left out or widened. What of that is allowed the oracle says.
func (g grant) probes() []probe {
	var out []probe
	for _, l := range g.publish {
		literal := strings.Split(strings.ReplaceAll(l, "*", "bob"), ".")
		for _, t := range near(literal, "bob", "other", "control", "admin") {
			out = append(out, probe{subject: t})
		}
	}
	for _, l := range g.subscribe {
		subject, queue, _ := strings.Cut(l, " ")
		for _, t := range near(strings.Split(subject, "."), "bob", "other", "control", "*") {
			out = append(out, probe{t, queue, true}, probe{t, "", true}, probe{t, "others", true})
		}
		tokens := strings.Split(subject, ".")
		for i := range tokens {
			out = append(out, probe{strings.Join(append(slices.Clone(tokens[:i]), ">"), "."), queue, true})
		}
	}
	return out
}

// near returns the subject of tokens and those next to it. One that ends in ">"
// is tried with a token in its place.
func near(tokens []string, others ...string) []string {
	var out []string
	add := func(t []string) {
		for i, tok := range t {
			if tok == ">" && i != len(t)-1 {
				t = slices.Clone(t)
				t[i] = "tail"
			}
		}
		if len(t) > 0 {
			out = append(out, strings.Join(t, "."))
		}
	}
	add(tokens)
	add(append(slices.Clone(tokens), "extra"))
	for i := range tokens {
		for _, o := range others {
			t := slices.Clone(tokens)
			t[i] = o
			add(t)
		}
		add(slices.Delete(slices.Clone(tokens), i, i+1))
		add(slices.Insert(slices.Clone(tokens), i, "extra"))
	}
	return out
}

// forbidden is what nobody may do who is no operator, whatever the scopes of
// this test. SELF and INST stand for the agent that tries.
var forbidden = struct{ publish, subscribe []string }{
	publish: []string{
		// in the name of others
		"mesh.call.bob.read.logs", "mesh.call.control.read.logs", "mesh.call.admin.admin.registry",
		"mesh.ask.bob.SELF.read.logs", "mesh.ask.control.bob.read.logs", "mesh.ask.bob.control.self.session",
		"mesh.event.bob.news.sport", "mesh.note.bob.SELF.delegation", "mesh.note.control.bob.rotate", "mesh.note.control.SELF.rotate",
		"mesh.beat.bob.INST", "mesh.beat.bob.abcdefgh", "mesh.audit.bob.INST", "mesh.audit.control.abcdefgh",
		"mesh.reply.bob.SELF.INST.AAAAAAAAAAAAAAAAAAAAAA", "mesh.reply.control.SELF.INST.AAAAAAAAAAAAAAAAAAAAAA",
		"mesh.reply.control.bob.abcdefgh.AAAAAAAAAAAAAAAAAAAAAA",
		"mesh.body.bob.SELF.INST.AAAAAAAAAAAAAAAAAAAAAA", "mesh.body.control.SELF.INST.AAAAAAAAAAAAAAAAAAAAAA",
		// as another instance
		"mesh.beat.SELF.abcdefgh", "mesh.audit.SELF.abcdefgh",
		// what it does not hold
		"mesh.call.SELF.delete.logs", "mesh.call.SELF.read.logs.app", "mesh.call.SELF.read", "mesh.call.SELF.admin.registry",
		"mesh.ask.SELF.control.admin.registry", "mesh.ask.SELF.bob.self.session", "mesh.ask.SELF.control.self.session.more",
		"mesh.event.SELF.news.weather", "mesh.event.SELF.news", "mesh.event.SELF.news.sport.local",
		"mesh.note.SELF.bob.rotate", "mesh.note.SELF.bob.revoke", "mesh.note.SELF.control.rotate", "mesh.note.SELF.bob.cancel.more",
		// the feed
		"mesh.feed.agents.bob", "mesh.feed.agents.SELF", "mesh.feed.agents.sealmesh.tick", "mesh.feed.tick", "mesh.feed",
		// inboxes
		"_INBOX.abc", "_INBOX_bob_abcdefgh.xyz", "_INBOX_SELF_INST.xyz", "_INBOX_SELF_abcdefgh.xyz", "_INBOX_system.abc", "_INBOX.x.1",
		// reads that are too wide, and other buckets
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS", "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.a.b.c",
		"$JS.API.DIRECT.GET.KV_MESH_CHAINS", "$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.a.b",
		"$JS.API.DIRECT.GET.KV_MESH_SESSIONS", "$JS.API.DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.bob",
		"$JS.API.DIRECT.GET.KV_MESH_JOINS.$KV.MESH_JOINS.abc", "$JS.API.DIRECT.GET.KV_MESH_REPLAY.$KV.MESH_REPLAY.read.logs.bob.n",
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_CHAINS.a",
		"mesh.leader.MESH_SESSIONS", "mesh.leader.MESH_JOINS", "mesh.leader.MESH_AGENTS.bob", "mesh.leader",
		// writes into buckets
		"$KV.MESH_AGENTS.bob", "$KV.MESH_AGENTS.SELF", "$KV.MESH_AGENTS.SELF.INST", "$KV.MESH_AGENTS.sealmesh.tick",
		"$KV.MESH_CHAINS.abc", "$KV.MESH_SESSIONS.bob", "$KV.MESH_JOINS.abc", "$KV.MESH_REPLAY.read.logs.bob.n",
		"$KV.MESH_REPLAY.write.reports.bob", "$KV.MESH_REPLAY.write.reports.bob.n.more", "$KV.MESH_REPLAY", "$KV.OTHER.x",
		// JetStream's management
		"$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.EVIL", "$JS.API.STREAM.UPDATE.KV_MESH_REPLAY",
		"$JS.API.STREAM.DELETE.KV_MESH_REPLAY", "$JS.API.STREAM.PURGE.KV_MESH_REPLAY", "$JS.API.STREAM.INFO.KV_MESH_REPLAY",
		"$JS.API.STREAM.DELETE.KV_MESH_AGENTS", "$JS.API.STREAM.PURGE.KV_MESH_AGENTS", "$JS.API.STREAM.INFO.KV_MESH_AGENTS",
		"$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", "$JS.API.STREAM.MSG.GET.KV_MESH_REPLAY", "$JS.API.STREAM.MSG.DELETE.KV_MESH_REPLAY",
		"$JS.API.STREAM.SNAPSHOT.KV_MESH_REPLAY", "$JS.API.STREAM.RESTORE.EVIL", "$JS.API.STREAM.TEMPLATE.CREATE.EVIL",
		"$JS.API.CONSUMER.CREATE.KV_MESH_REPLAY", "$JS.API.CONSUMER.CREATE.KV_MESH_AGENTS.evil", "$JS.API.CONSUMER.DURABLE.CREATE.KV_MESH_REPLAY.evil",
		"$JS.API.CONSUMER.LIST.KV_MESH_REPLAY", "$JS.API.CONSUMER.NAMES.KV_MESH_REPLAY", "$JS.API.CONSUMER.MSG.NEXT.KV_MESH_REPLAY.evil",
		"$JS.API.CONSUMER.DELETE.KV_MESH_REPLAY.evil", "$JS.API.ACCOUNT.PURGE.MESH", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE",
		"$JS.ACK.KV_MESH_REPLAY.evil.1.1.1.1.0", "$JS.FC.KV_MESH_REPLAY.evil.x", "$JS.EVENT.ADVISORY.API",
		"STORE.JS.API.INFO", "STORE.JS.API.STREAM.DELETE.KV_MESH_REPLAY",
		"$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.SELF_inbox", "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.bob_inbox", "$JS.API.CONSUMER.INFO.MESH_EVENTS.bob_inbox",
		"$JS.ACK.MESH_EVENTS.bob_inbox.1.1.1.1.0", "$JS.ACK._.abcdefgh.MESH_EVENTS.bob_inbox.1.1.1.1.0", "$JS.API.STREAM.DELETE.MESH_EVENTS", "$O.store.C.x",
		// the server's own
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.PING.IDZ", "$SYS.REQ.ACCOUNT.PING.CONNZ",
		"$SYS.REQ.USER.INFO", "$SYS.REQ.USER.AUTH", "$SYS.REQ.ACCOUNT.MESH.CONNZ", "$SYS.REQ.CLAIMS.UPDATE",
		"$SYS.ACCOUNT.MESH.CONNECT", "$SYS.ACCOUNT.MESH.DISCONNECT", "$SYS._INBOX.abc", "$SYS.DEBUG.SUBSCRIBERS",
		"_R_.abc", "_GR_.abc", "$GR.abc", "$GNR.abc", "$NRG.V.x", "$LDS.x", "$MQTT.msgs.x", "$G.x",
		// services of the micro protocol
		"$SRV.PING", "$SRV.INFO", "$SRV.STATS.any", "$SRV.PING.any.id",
		// anything else, and wildcards
		"x", "foo.bar", "SELF", "mesh", "mesh.x", "mesh.call", "mesh.call.SELF", "Mesh.call.SELF.read.logs", "mesh2.call.SELF.read.logs",
		">", "*", "mesh.>", "mesh.*", "mesh.call.>", "mesh.call.*.read.logs", "mesh.call.SELF.>", "mesh.call.SELF.read.*", "mesh.event.SELF.>",
		"mesh.reply.>", "$JS.>", "$JS.API.>", "$KV.>", "$KV.MESH_AGENTS.>", "$SYS.>",
	},
	subscribe: []string{
		// everything
		">", "*", "*.>", "*.*", "mesh.>", "mesh.*", "mesh.*.>", "*.call.>", "*.*.*.*.*", "mesh.*.*.*.*", "mesh.*.*.*.*.*", "mesh.*.*.SELF.>",
		// calls, as a bystander, and of what it does not handle
		"mesh.call.>", "mesh.call.*.>", "mesh.call.*.write.reports", "mesh.call.*.write.reports others", "mesh.call.*.write.reports *",
		"mesh.call.*.write.reports >", "mesh.call.*.write.* write.reports", "mesh.call.*.*.reports write.reports", "mesh.call.*.> write.reports",
		"mesh.call.*.read.logs", "mesh.call.*.read.logs read.logs", "mesh.call.*.read.logs write.reports", "mesh.call.*.admin.registry", "mesh.call.*.admin.* admin",
		"mesh.call.bob.write.reports", "mesh.call.SELF.>", "mesh.call.SELF.read.logs",
		"mesh.ask.>", "mesh.ask.*.SELF.>", "mesh.ask.*.SELF.write.reports", "mesh.ask.*.SELF.write.reports others", "mesh.ask.*.*.write.reports write.reports",
		"mesh.ask.*.bob.write.reports write.reports", "mesh.ask.*.SELF.read.logs read.logs", "mesh.ask.*.control.>", "mesh.ask.*.control.self.*",
		// replies of others, and of other instances
		"mesh.reply.>", "mesh.reply.*.>", "mesh.reply.*.bob.>", "mesh.reply.*.SELF.>", "mesh.reply.*.SELF.*.>", "mesh.reply.*.*.INST.>", "mesh.reply.*.SELF.abcdefgh.>",
		"mesh.reply.*.bob.abcdefgh.>", "mesh.reply.control.bob.>", "mesh.reply.control.*.*.*",
		"mesh.body.>", "mesh.body.*.>", "mesh.body.*.bob.>", "mesh.body.*.SELF.>", "mesh.body.*.*.INST.>", "mesh.body.*.SELF.abcdefgh.>", "mesh.body.*.bob.abcdefgh.>",
		// notes, events, beats, verdicts of others
		"mesh.note.>", "mesh.note.*.*.*", "mesh.note.*.bob.*", "mesh.note.*.>", "mesh.note.SELF.>", "mesh.note.*.control.*", "mesh.note.control.>",
		"mesh.event.>", "mesh.event.*.>", "mesh.event.*.news.>", "mesh.event.*.news.*", "mesh.event.*.news.sport", "mesh.event.*.*.weather", "mesh.event.bob.>",
		"mesh.beat.>", "mesh.beat.*.*", "mesh.beat.bob.*", "mesh.beat.SELF.*", "mesh.beat.SELF.INST", "mesh.audit.>", "mesh.audit.*.*", "mesh.audit.SELF.INST",
		"mesh.feed", "mesh.leader.>", "mesh.leader.*", "mesh.leader.MESH_AGENTS", "mesh.leader.MESH_CHAINS",
		// inboxes
		"_INBOX.>", "_INBOX.*", "_INBOX_bob_abcdefgh.>", "_INBOX_SELF_abcdefgh.>", "_INBOX_system.>", "_INBOX_SELF_INST", "*.abc", "_INBOX_SELF.>",
		// JetStream, buckets, the server, services
		"$JS.>", "$JS.API.>", "$JS.API.*", "$JS.API.DIRECT.GET.>", "$JS.API.DIRECT.GET.KV_MESH_AGENTS.>", "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*",
		"$JS.API.STREAM.MSG.GET.*", "$JS.ACK.>", "$JS.EVENT.>", "$JS.EVENT.ADVISORY.>", "$JS.FC.>", "$JS.SNAPSHOT.>", "STORE.JS.API.>",
		"$KV.>", "$KV.MESH_AGENTS.>", "$KV.MESH_CHAINS.>", "$KV.MESH_SESSIONS.>", "$KV.MESH_JOINS.>", "$KV.MESH_REPLAY.>", "$KV.MESH_REPLAY.write.reports.*.*", "$O.>",
		"$SYS.>", "$SYS.ACCOUNT.>", "$SYS.ACCOUNT.MESH.CONNECT", "$SYS.SERVER.>", "$SYS.REQ.>", "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.AUTH auth", "$SYS._INBOX.>",
		"_R_.>", "_GR_.>", "$GR.>", "$NRG.>", "$LDS.>", "$MQTT.>", "$G.>", "$SRV.>", "$SRV.PING", "$SRV.*", "$SRV.INFO.>",
		"x", "foo.>", "mesh2.>", "SELF.>",
	},
}

// all returns every probe once: those near the grant and those that nobody may.
func (g grant) all(t *testing.T, id, instance string) []probe {
	t.Helper()
	names := strings.NewReplacer("SELF", id, "INST", instance)
	seen := map[string]bool{}
	var out []probe
	add := func(p probe) {
		if key := p.String(); !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
	}
	for _, s := range forbidden.publish {
		add(probe{subject: names.Replace(s)})
	}
	for _, s := range forbidden.subscribe {
		subject, queue, _ := strings.Cut(names.Replace(s), " ")
		add(probe{subject, queue, true})
	}
	for _, p := range out {
		if g.allows(p) {
			t.Fatalf("%q is on the list of what nobody may, and the grant allows it", p)
		}
	}
	for _, p := range g.probes() {
		add(p)
	}
	return out
}

// foreign is the mesh of these tests: a stock nats-server that is listened to.
type foreign struct {
	*deployment
	taps map[string]*tap
}

func deployForeign(t *testing.T) *foreign {
	t.Helper()
	f := &foreign{deployment: &deployment{Mesh: process.NewMesh(t, programs), t: t}}
	f.Init()
	conf, taps := tapped(t, f.Conf())
	f.taps = taps
	f.server = f.Server(conf)
	f.startPlane()
	f.plane.Await(process.PlaneUp)
	return f
}

func (f *foreign) context(id string) cliContext {
	f.t.Helper()
	return readContext(f.t, filepath.Join(f.Agent(id), "nats-context.json"))
}

// instance is the name of an agent's only instance.
func (f *foreign) instance(id string) string {
	f.t.Helper()
	var doc struct {
		Instances []struct {
			Instance string `json:"instance"`
		} `json:"instances"`
	}
	f.Document(&doc, "agent", "show", id)
	if len(doc.Instances) != 1 {
		f.t.Fatalf("%s has %d instances, want 1", id, len(doc.Instances))
	}
	return doc.Instances[0].Instance
}

func (f *foreign) add(id string, rights ...string) {
	f.t.Helper()
	f.Must(append([]string{"agent", "add", id, "--enroll", "--stock", "--heartbeat", "none"}, rights...)...)
}

func TestForeignClient(t *testing.T) {
	t.Parallel()
	f := deployForeign(t)
	f.add("dave", "--call", "read:logs", "--handle", "write:reports", "--publish", "news.sport", "--subscribe", "news.weather")
	f.add("nobody")
	f.Must("agent", "add", "--enroll", "asker", "--call", "read:logs")
	f.Must("agent", "add", "--enroll", "reader", "--handle", "read:logs")
	handler := f.Run("handle", "read:logs", "--as", "reader", "--", "cat")
	handler.AwaitLog(`"message":"handling"`)
	if got := f.Must("call", "read:logs", "hello", "--as", "asker"); got != "hello" {
		t.Fatalf("call: got %q, want %q", got, "hello")
	}
	for _, p := range f.taps {
		p.listen(f.context("dave"))
	}

	for _, a := range []struct {
		id                 string
		publish, subscribe []string
	}{
		{id: "dave",
			publish: []string{
				"mesh.call.dave.read.logs", "mesh.ask.dave.*.read.logs",
				"mesh.body.dave.*.*.*", "mesh.reply.dave.*.*.*", "$KV.MESH_REPLAY.write.reports.*.*",
				"mesh.event.dave.news.sport",
			},
			subscribe: []string{
				"mesh.call.*.write.reports write.reports", "mesh.ask.*.dave.write.reports write.reports",
				"mesh.body.*.dave." + f.instance("dave") + ".>",
				"mesh.event.*.news.weather",
			}},
		{id: "nobody"},
	} {
		t.Run(a.id, func(t *testing.T) {
			instance := f.instance(a.id)
			g := everyAgent(a.id, instance).with(a.publish, a.subscribe)
			f.explained(t, a.id, g)
			f.probe(t, a.id, g, g.all(t, a.id, instance))
			f.aim(t, a.id)
			f.read(t, a.id)
		})
	}

	if got := f.Must("call", "read:logs", "hello", "--as", "asker"); got != "hello" {
		t.Errorf("call after all that: got %q, want %q", got, "hello")
	}
	t.Run("revoked", f.revoked)
	t.Run("half an identity", f.halves)
}

// explained checks that what Sealmesh says of a grant is the grant.
func (f *foreign) explained(t *testing.T, id string, g grant) {
	t.Helper()
	var doc struct {
		Lines []struct{ Action, Subject, Queue string }
	}
	f.Document(&doc, "explain", id)
	var got, want []string
	for _, l := range doc.Lines {
		got = append(got, probe{l.Subject, l.Queue, l.Action == "sub"}.String())
	}
	for _, s := range g.publish {
		want = append(want, "publish "+s)
	}
	for _, s := range g.subscribe {
		want = append(want, "subscribe "+s)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("explain %s: got\n%s\nwant\n%s", id, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// probe tries everything. What the grant covers arrives, what it does not is
// refused with an error that names it, and nobody hears of it.
func (f *foreign) probe(t *testing.T, id string, g grant, probes []probe) {
	t.Helper()
	c := dial(t, f.context(id))
	for _, p := range f.taps {
		p.heard()
	}
	marks := map[string]probe{}
	for i, p := range probes {
		mark := fmt.Sprintf("probe %s %d of %d", id, i, len(probes))
		marks[mark] = p
		c.try(p, mark)
	}
	refused := c.settle()
	allowed := 0
	for _, p := range probes {
		n := refused[p.String()]
		delete(refused, p.String())
		switch ok := g.allows(p); {
		case ok && n != 0:
			t.Errorf("%s may %s: the server refused it", id, p)
		case !ok && n != 1:
			t.Errorf("%s must not %s: the server refused it %d times, want 1", id, p, n)
		case ok:
			allowed++
		}
	}
	for p := range refused {
		t.Errorf("the server refused %q, which nobody tried", p)
	}
	if allowed < len(g.publish)+len(g.subscribe) || allowed == len(probes) {
		t.Errorf("%d of %d probes were allowed", allowed, len(probes))
	}

	through := map[string]bool{}
	for account, p := range f.taps {
		for _, m := range p.heard() {
			for mark, p := range marks {
				// The server reports what it was asked in events of its own.
				if !strings.Contains(string(m.Data), mark) || strings.HasPrefix(m.Subject, "$JS.EVENT.") || strings.HasPrefix(m.Subject, "$SYS.ACCOUNT.") {
					continue
				}
				switch {
				case !g.allows(p):
					t.Errorf("%s: refused, and heard in %s on %s", p, account, m.Subject)
				case account == "SYS" && !reads(p, m.Subject):
					t.Errorf("%s: heard in %s on %s", p, account, m.Subject)
				case (account == "MESH" || account == "STORE") && m.Subject != p.subject:
					t.Errorf("%s: heard on %s", p, m.Subject)
				}
				if account == "MESH" {
					through[mark] = true
				}
			}
		}
	}
	for mark, p := range marks {
		if !p.subscribe && g.allows(p) && !through[mark] {
			t.Errorf("%s: allowed, and nobody heard it", p)
		}
	}
	t.Logf("%d probes, %d of them allowed", len(probes), allowed)
}

// reads reports whether p is a leader's read on its way: JetStream's API, which
// answers it, lives in the server's own account.
func reads(p probe, heard string) bool {
	bucket, ok := strings.CutPrefix(p.subject, "mesh.leader.")
	return ok && heard == "$JS.API.STREAM.MSG.GET.KV_"+bucket
}

// aim lets the server answer to subjects where the agent may not publish. That
// is how NATS works; nothing that decides may be changed by it.
func (f *foreign) aim(t *testing.T, id string) {
	t.Helper()
	before, burnt := f.records(), f.burnt(t)
	c := dial(t, f.context(id))
	for _, p := range f.taps {
		p.heard()
	}
	const (
		record = "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.asker"
		// Its answer has no body, as the requests that delete and purge.
		nothing = "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.missing"
	)
	targets := []string{
		"$KV.MESH_AGENTS.asker", "$KV.MESH_AGENTS.missing", "$KV.MESH_CHAINS.missing", "$KV.MESH_REPLAY.read.logs.asker.nonce",
		"$JS.API.STREAM.DELETE.KV_MESH_REPLAY", "$JS.API.STREAM.PURGE.KV_MESH_REPLAY",
		"$JS.API.STREAM.DELETE.KV_MESH_AGENTS", "$JS.API.STREAM.PURGE.KV_MESH_AGENTS", "$JS.API.STREAM.CREATE.EVIL",
		"$SYS.REQ.USER.AUTH", "$SYS.ACCOUNT.MESH.DISCONNECT", "mesh.call.admin.admin.registry",
	}
	for _, target := range targets {
		for _, ask := range []string{record, nothing, "mesh.leader.MESH_AGENTS"} {
			if err := c.PublishRequest(ask, target, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	// These the server keeps for itself.
	if err := c.PublishRequest(record, "_R_.abc", nil); err != nil {
		t.Fatal(err)
	}
	if refused := c.settle(); refused["reply _R_.abc"] != 1 || len(refused) != 1 {
		t.Errorf("got refusals %v, want one of the reply subject _R_.abc", refused)
	}
	// The server answers reads in goroutines of its own: wait until it has.
	answered := map[string]int{}
	for end := time.Now().Add(ending); len(answered) < len(targets) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, m := range f.taps["MESH"].heard() {
			if slices.Contains(targets, m.Subject) {
				answered[m.Subject]++
			}
		}
	}
	if len(answered) < len(targets) {
		t.Errorf("got answers %v, want some at each of %v", answered, targets)
	}
	for _, m := range f.taps["CTRL"].heard() {
		if strings.HasPrefix(m.Subject, "$KV.") && slices.Contains(targets, m.Subject) {
			t.Errorf("an answer of the server was written to %s", m.Subject)
		}
	}
	if after := f.records(); after != before {
		t.Errorf("the registry changed:\n%s", difference(before, after))
	}
	if now := f.burnt(t); now < burnt {
		t.Errorf("the replay store fell from %d to %d nonces", burnt, now)
	}
}

// burnt is how many nonces the replay store holds.
func (f *foreign) burnt(t *testing.T) uint64 {
	t.Helper()
	m, err := f.taps["STORE"].conn.Request("$JS.API.STREAM.INFO.KV_MESH_REPLAY", nil, ending)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		State struct {
			Messages uint64 `json:"messages"`
		} `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil {
		t.Fatal(err)
	}
	if info.State.Messages == 0 {
		t.Fatalf("the replay store is empty or gone: %s", m.Data)
	}
	return info.State.Messages
}

// read does what a foreign client may do of use: read the registry, by both
// ways, and hear the feed.
func (f *foreign) read(t *testing.T, id string) {
	t.Helper()
	c := dial(t, f.context(id))
	m, err := c.Request("$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.asker", nil, ending)
	if err != nil || len(m.Data) == 0 {
		t.Fatalf("direct read: got %v, %v", m, err)
	}
	l, err := c.Request("mesh.leader.MESH_AGENTS", []byte(`{"last_by_subj":"$KV.MESH_AGENTS.asker"}`), ending)
	if err != nil {
		t.Fatalf("leader's read: %v", err)
	}
	var answer struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(l.Data, &answer); err != nil {
		t.Fatal(err)
	}
	if string(answer.Message.Data) != string(m.Data) {
		t.Errorf("the leader has another record of asker than the direct read:\n%s\n%s", answer.Message.Data, m.Data)
	}
	feed, err := c.SubscribeSync("mesh.feed.>")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := feed.NextMsg(ending); err != nil { // a tick comes every five seconds
		t.Errorf("feed: %v", err)
	}
	if refused := c.settle(); len(refused) != 0 {
		t.Errorf("the server refused %v", refused)
	}
}

// revoked cuts a foreign client as it cuts any other.
func (f *foreign) revoked(t *testing.T) {
	closed := make(chan error, 1)
	c := dial(t, f.context("dave"), nats.NoReconnect(), nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.LastError() }))
	if !c.IsConnected() {
		t.Fatal("not connected")
	}
	f.Must("agent", "revoke", "dave")
	select {
	case <-closed:
	case <-time.After(ending):
		t.Error("the connection of a revoked agent is still open")
	}
	f.refused(t, f.context("dave"))
}

// halves tries to connect with a part of an identity, or with parts of two.
func (f *foreign) halves(t *testing.T) {
	nobody, asker := f.context("nobody"), f.context("asker")
	for name, change := range map[string]func(c *cliContext){
		"no key":                func(c *cliContext) { c.NKey = "" },
		"no certificate":        func(c *cliContext) { c.Cert, c.Key = "", "" },
		"another's key":         func(c *cliContext) { c.NKey = asker.NKey },
		"another's certificate": func(c *cliContext) { c.Cert, c.Key = asker.Cert, asker.Key },
		"the control plane's certificate": func(c *cliContext) {
			c.Cert, c.Key = filepath.Join(f.Dir(), "server", "control.crt"), filepath.Join(f.Dir(), "server", "control.key")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := nobody
			change(&c)
			f.refused(t, c)
		})
	}
	for name, opts := range map[string][]nats.Option{
		"a user's name":               {nats.UserInfo("nobody", "")},
		"the control plane's name":    {nats.UserInfo(f.user(t, "service.nk"), "")},
		"a token and no key":          {nats.Token("v1:")},
		"the control plane's account": {nats.UserInfo("CTRL", "CTRL")},
	} {
		t.Run(name, func(t *testing.T) {
			c := nobody
			c.NKey = ""
			f.refused(t, c, opts...)
		})
	}
	t.Run("all of it", func(t *testing.T) { dial(t, nobody) })
}

// user is the public half of one of the control plane's keys.
func (f *foreign) user(t *testing.T, file string) string {
	t.Helper()
	seed, err := os.ReadFile(filepath.Join(f.Dir(), "server", file))
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func (f *foreign) refused(t *testing.T, c cliContext, extra ...nats.Option) {
	t.Helper()
	nc, err := nats.Connect(c.URL, append(c.options(t), extra...)...)
	if err == nil {
		nc.Close()
		t.Error("connected, want a refusal")
		return
	}
	// Anything else would be a test that never got to the door. Without a
	// certificate that is the handshake, and what is read of it differs.
	if c.Cert == "" && !strings.Contains(err.Error(), "tls") || c.Cert != "" && !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("got %v, want a refusal by the server", err)
	}
}

func TestContextOfTheNATSCommand(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Init()
	c := readContext(t, filepath.Join(m.Agent("admin"), "nats-context.json"))
	if want := "tls://" + m.NATS; c.URL != want {
		t.Errorf("url: got %q, want %q", c.URL, want)
	}
	for name, file := range map[string]string{"nkey": c.NKey, "cert": c.Cert, "key": c.Key, "ca": c.CA} {
		info, err := os.Stat(file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !filepath.IsAbs(file) {
			t.Errorf("%s: %q depends on where the command runs", name, file)
		}
		if secret := name == "nkey" || name == "key"; secret && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %s has mode %s", name, file, info.Mode())
		}
	}
	if !strings.HasPrefix(c.InboxPrefix, "_INBOX_admin_") {
		t.Errorf("inbox_prefix: got %q, want that of the instance", c.InboxPrefix)
	}
	if c.Token != "" || c.Password != "" || c.Creds != "" || c.UserJWT != "" {
		t.Error("the context carries a credential beside the key's file")
	}
}
