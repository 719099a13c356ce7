package lint_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/internal/lint"
	"github.com/sealmesh/sealmesh/registry"
)

func TestNothingIsWrong(t *testing.T) {
	r := lint.Check(*world(t))
	for _, f := range r.Findings {
		t.Errorf("got %+v", f)
	}
	if c := r.Checked; c.Agents != 4 || c.Instances != 4 || c.Lines < 60 || c.Imports < 20 || c.Streams != 8 || c.Consumers != 2 {
		t.Errorf("checked %+v, which is not everything", c)
	}
	if !r.Clean() {
		t.Error("a report without findings is not clean")
	}
}

// readerInst is the instance of the reader in world.
var readerInst = agentid.InstanceOf("Ureader").String()

// A line that reaches what it must not is found, in whatever form it comes.
func TestLines(t *testing.T) {
	for _, c := range []struct {
		publish bool
		line    string // with SELF and INST for the reader
		want    lint.Code
	}{
		// In the name of others, by name and by wildcard.
		{true, "mesh.call.writer.write.reports", lint.LineForeign},
		{true, "mesh.call.*.write.reports", lint.LineForeign},
		{true, "mesh.call.>", lint.LineForeign},
		{true, "mesh.ask.writer.SELF.read.logs", lint.LineForeign},
		{true, "mesh.reply.writer.SELF.INST.x", lint.LineForeign},
		{true, "mesh.reply.control.*.*.*", lint.LineForeign},
		{true, "mesh.body.writer.SELF.INST.x", lint.LineForeign},
		{true, "mesh.event.writer.news", lint.LineForeign},
		{true, "mesh.event.sealmesh.none", lint.LineForeign},
		{true, "mesh.note.control.*.rotate", lint.LineForeign},
		{true, "mesh.beat.writer.INST", lint.LineForeign},
		{true, "mesh.beat.SELF.abcdefgh", lint.LineForeign},
		{true, "mesh.beat.SELF.*", lint.LineForeign},
		{true, "mesh.audit.*.*", lint.LineForeign},
		{true, "mesh.*.SELF.x", lint.LineBeyond},
		{true, "mesh.beat", lint.LineControl},
		{true, "mesh.beat.SELF", lint.LineBeyond},
		{true, "mesh.call.SELF", lint.LineBeyond},
		{true, "mesh.*.*.*", lint.LineForeign},
		{true, ">", lint.LineForeign},
		// In its own name, past its rights.
		{true, "mesh.call.SELF.read.logs", lint.LineBeyond},
		{true, "mesh.call.SELF.write.*", lint.LineBeyond},
		{true, "mesh.call.SELF.write.reports.more", lint.LineBeyond},
		{true, "mesh.ask.SELF.control.admin.registry", lint.LineBeyond},
		{true, "mesh.ask.SELF.*.self.*", lint.LineBeyond},
		{true, "mesh.event.SELF.news", lint.LineBeyond},
		{true, "mesh.reply.SELF.*.*.>", lint.LineBeyond},
		{true, "mesh.body.SELF.*.*.>", lint.LineBeyond},
		{true, "mesh.note.SELF.*.*", lint.LineBeyond},
		{true, "mesh.note.SELF.*.rotate", lint.LineBeyond},
		{true, "mesh.beat.SELF.INST.more", lint.LineBeyond},
		// What is the control plane's, JetStream's, the server's.
		{true, "mesh.feed.agents.writer", lint.LineControl},
		{true, "mesh.feed.>", lint.LineControl},
		{true, "mesh.leader.MESH_SESSIONS", lint.LineControl},
		{true, "mesh.leader.*", lint.LineControl},
		{true, "mesh.other.SELF", lint.LineControl},
		{true, "mesh", lint.LineControl},
		{true, "$JS.API.STREAM.DELETE.KV_MESH_REPLAY", lint.LineControl},
		{true, "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.>", lint.LineControl},
		{true, "$JS.API.DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.*", lint.LineControl},
		{true, "$JS.API.CONSUMER.CREATE.MESH_EVENTS.reader_inbox", lint.LineControl},
		{true, "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.*", lint.LineControl},
		{true, "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.reader_other", lint.LineControl},
		{true, "$JS.API.CONSUMER.INFO.MESH_EVENTS.writer_inbox", lint.LineControl},
		{true, "$JS.ACK.MESH_EVENTS.*.*.*.*.*.*", lint.LineControl},
		{true, "$JS.ACK.MESH_EVENTS.reader_inbox.>", lint.LineControl},
		{true, "$JS.ACK.*.*.*.reader_inbox.*.*.*.*.*", lint.LineControl},
		{true, "$KV.MESH_AGENTS.reader", lint.LineControl},
		{true, "$KV.MESH_REPLAY.>", lint.LineControl},
		{true, "$KV.MESH_REPLAY.read.*.*.*", lint.LineControl},
		{true, "$KV.MESH_REPLAY.write.reports.*.*", lint.LineControl},
		{true, "$SYS.REQ.USER.INFO", lint.LineControl},
		{true, "$SRV.PING", lint.LineControl},
		{true, "$MQTT.msgs.x", lint.LineControl},
		{true, "_INBOX_writer_abcdefgh.x", lint.LineControl},
		{true, "_INBOX_SELF_INST.x", lint.LineControl},
		{true, "_R_.x", lint.LineControl},
		{true, "_GR_.x", lint.LineControl},
		{true, "*", lint.LineControl},
		// Outside.
		{true, "legacy.in", lint.LineOutside},
		{true, "legacy.*", lint.LineOutside},
		{true, "STORE.JS.API.STREAM.LIST", lint.LineOutside},
		{true, "Mesh.call.SELF.write.reports", lint.LineOutside},
		// Malformed.
		{true, "mesh..x", lint.LineMalformed},
		{true, "mesh.>.x", lint.LineMalformed},
		{true, "mesh.call.SELF.write.reports q", lint.LineMalformed},

		{false, "mesh.call.*.read.logs", lint.LineListens},
		{false, "mesh.call.*.read.logs other", lint.LineListens},
		{false, "mesh.call.*.write.reports write.reports", lint.LineListens},
		{false, "mesh.call.*.read.* read.logs", lint.LineListens},
		{false, "mesh.call.> read.logs", lint.LineListens},
		{false, "mesh.ask.*.writer.read.logs read.logs", lint.LineListens},
		{false, "mesh.ask.*.SELF.read.logs", lint.LineListens},
		{false, "mesh.ask.*.SELF.>", lint.LineListens},
		{false, "mesh.ask.*.control.>", lint.LineListens},
		{false, "mesh.reply.*.SELF.>", lint.LineListens},
		{false, "mesh.reply.*.SELF.*.x", lint.LineListens},
		{false, "mesh.reply.*.*.INST.>", lint.LineListens},
		{false, "mesh.reply.>", lint.LineListens},
		{false, "mesh.body.*.SELF.>", lint.LineListens},
		{false, "mesh.body.*.*.INST.>", lint.LineListens},
		{false, "mesh.body.*.writer.INST.>", lint.LineListens},
		{false, "mesh.note.*.*.*", lint.LineListens},
		{false, "mesh.note.*.writer.*", lint.LineListens},
		{false, "mesh.event.>", lint.LineListens},
		{false, "mesh.event.*.*", lint.LineListens},
		{false, "mesh.event.*.news.more", lint.LineListens},
		{false, "mesh.event.*.other", lint.LineListens},
		{false, "mesh.feed", lint.LineListens},
		{false, "mesh.beat.>", lint.LineListens},
		{false, "mesh.audit.SELF.INST", lint.LineListens},
		{false, "mesh.leader.MESH_AGENTS", lint.LineListens},
		{false, "mesh.>", lint.LineListens},
		{false, "mesh.*.*", lint.LineListens}, // the server permits mesh.*.> under it
		{false, ">", lint.LineListens},
		{false, "_INBOX.>", lint.LineListens},
		{false, "_INBOX_SELF_abcdefgh.>", lint.LineListens},
		{false, "_INBOX_writer_abcdefgh.>", lint.LineListens},
		{false, "_R_.>", lint.LineListens},
		{false, "$KV.>", lint.LineListens},
		{false, "$JS.ACK.>", lint.LineListens},
		{false, "$SYS.>", lint.LineListens},
		{false, "$SRV.>", lint.LineListens},
		{false, "legacy.out", lint.LineListens},
		{false, "legacy.>", lint.LineListens},
		{false, "mesh.feed.> a b", lint.LineMalformed},
	} {
		t.Run(fmt.Sprintf("%v %s", c.publish, c.line), func(t *testing.T) {
			s := world(t)
			text := strings.NewReplacer("SELF", "reader", "INST", readerInst).Replace(c.line)
			subj, queue, _ := strings.Cut(text, " ")
			l := authcallout.Line{Subject: subj, Queue: queue, From: "a mistake"}
			g := &s.Agents[0].Instances[0].Grant
			if c.publish {
				g.Publish = append(slices.Clone(g.Publish), l)
			} else {
				g.Subscribe = append(slices.Clone(g.Subscribe), l)
			}
			r := lint.Check(*s)
			if r.Clean() {
				t.Fatal("nothing was found")
			}
			var got []lint.Code
			for _, f := range r.Findings {
				got = append(got, f.Code)
				if f.Severity != lint.Error || f.Agent != "reader/"+readerInst || !strings.HasPrefix(f.Line, subj) || f.Why == "" || f.Remedy == "" || f.Subject == "" {
					t.Errorf("got %+v", f)
				}
			}
			if !slices.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// The grant of one agent is not what another may have: nothing of it passes but
// what every agent may do.
func TestGrantOfAnother(t *testing.T) {
	s := world(t)
	s.Agents[3].Instances[0].Grant = s.Agents[0].Instances[0].Grant
	r := lint.Check(*s)
	found := map[string]bool{}
	for _, f := range r.Findings {
		line, _, _ := strings.Cut(f.Line, " ")
		found[line] = true
	}
	g := s.Agents[0].Instances[0].Grant
	for _, l := range slices.Concat(g.Publish, g.Subscribe) {
		shared := strings.HasPrefix(l.Subject, "$JS.API.DIRECT.GET.") || strings.HasPrefix(l.Subject, "mesh.leader.") || l.Subject == "mesh.feed.>"
		if found[l.Subject] == shared {
			t.Errorf("%s: found %v, want %v", l.Subject, found[l.Subject], !shared)
		}
	}
}

// Whatever rights an agent has, what the compiler makes of them is clean; with
// any one scope less to rest on, it is not.
func TestCompiledGrantsAreClean(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range 300 {
		var list []string
		for range 1 + r.IntN(12) {
			thing := pick("logs", "reports", "a", "logs.app", "a.b.c", "registry", "control", "self")
			switch r.IntN(4) {
			case 0:
				list = append(list, pick("read", "write", "ask", "call")+":"+thing)
			case 1:
				list = append(list, "handle:"+pick("read", "write", "note")+":"+thing)
			case 2:
				list = append(list, "publish:"+thing)
			default:
				list = append(list, "subscribe:"+thing)
			}
		}
		slices.Sort(list)
		list = slices.Compact(list)
		var durables []registry.Durable
		for _, n := range []string{"a", "inbox"}[:r.IntN(3)] {
			durables = append(durables, registry.Durable{Name: n})
		}
		var plain authcallout.Plain
		if r.IntN(2) == 0 {
			plain = authcallout.Plain{Publish: []string{"x", "legacy.a"}, Subscribe: []string{"legacy.b"}}
		}
		s := world(t)
		a := agent(t, pick("a", "mesh", "reader-2", "none"), durables, plain, list...)
		s.Agents = []lint.Agent{a}
		s.Consumers = nil
		if got := brief(lint.Check(*s)); len(got) > 0 {
			t.Fatalf("%q: got %q", list, got)
		}
		drop := r.IntN(len(list))
		s.Agents[0].Scopes = slices.Delete(slices.Clone(a.Scopes), drop, drop+1)
		if got := brief(lint.Check(*s)); len(got) == 0 {
			t.Fatalf("%q without %s: nothing was found", list, list[drop])
		}
	}
}

// Everything around the grants: one thing is changed in a world in which nothing
// is wrong, and exactly that is found.
func TestWorld(t *testing.T) {
	type snapshot = lint.Snapshot
	for name, c := range map[string]struct {
		change func(t *testing.T, s *snapshot)
		want   []string
	}{
		"unread": {func(_ *testing.T, s *snapshot) {
			s.Unread = append(s.Unread, lint.Unread{Agent: agentid.Require("idle"), What: "grant", Why: "no"})
		}, []string{"unreadable error idle"}},
		"no layout": {func(_ *testing.T, s *snapshot) { s.Accounts = nil }, []string{"unreadable error", "unreadable error", "unreadable error"}},

		"JetStream for agents": {func(t *testing.T, s *snapshot) { account(t, s, lint.Mesh).JetStream = true }, []string{"border-jetstream error"}},
		"import of the API": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Mesh)
			a.Imports = append(a.Imports, lint.Import{From: lint.Store, Subject: "$JS.API.CONSUMER.CREATE.MESH_EVENTS.>", Service: true})
		}, []string{"border-open error"}},
		"import of deeper reads": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Mesh)
			a.Imports = append(a.Imports, lint.Import{From: lint.Control, Subject: "$JS.API.DIRECT.GET.KV_MESH_AGENTS.>", Service: true})
		}, []string{"border-open error"}},
		"import of sessions": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Mesh)
			a.Imports = append(a.Imports, lint.Import{From: lint.Control, Subject: "$JS.API.STREAM.MSG.GET.KV_MESH_SESSIONS", To: "mesh.leader.MESH_SESSIONS", Service: true})
		}, []string{"border-open error"}},
		"another alias": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Mesh)
			a.Imports = append(a.Imports, lint.Import{From: lint.Control, Subject: "$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", To: "mesh.event.x.y", Service: true})
		}, []string{"border-open error"}},
		"records stream in": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Control)
			a.Imports = append(a.Imports, lint.Import{From: lint.Mesh, Subject: "$KV.MESH_CHAINS.>"})
		}, []string{"border-open error", "stream-acknowledges error", "stream-forgets error", "stream-reached error"}},
		"export to all": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Control)
			a.Exports = append(a.Exports, lint.Export{Subject: "mesh.feed.>"})
		}, []string{"border-public error"}},

		"acknowledged beats": {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_BEATS").NoAck = false }, []string{"stream-acknowledges error"}},
		"beats roll up":      {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_BEATS").AllowRollup = true }, []string{"stream-forgets error"}},
		"acknowledged audit": {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_AUDIT").NoAck = false }, []string{"stream-acknowledges error"}},
		"audit to purge":     {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_AUDIT").DenyPurge = false }, []string{"stream-forgets error"}},
		"beats repeated": {func(t *testing.T, s *snapshot) {
			stream(t, s, "MESH_BEATS").RePublish = &jetstream.RePublish{Source: ">", Destination: "mesh.feed.beats.>"}
		}, []string{"stream-speaks error"}},
		"beats store calls": {func(t *testing.T, s *snapshot) {
			c := stream(t, s, "MESH_BEATS")
			c.Subjects = append(c.Subjects, "mesh.call.*.admin.*")
		}, []string{"stream-subjects error"}},
		"no sessions": {func(_ *testing.T, s *snapshot) { s.Streams = slices.Delete(s.Streams, 2, 3) }, []string{"stream-missing error"}},
		"stream of somebody": {func(_ *testing.T, s *snapshot) {
			s.Streams = append(s.Streams, lint.Stream{Account: lint.Control, Config: jetstream.StreamConfig{Name: "X", Subjects: []string{"x"}}})
		}, []string{"stream-unknown warning"}},
		"stream of agents": {func(_ *testing.T, s *snapshot) {
			s.Streams = append(s.Streams, lint.Stream{Account: lint.Control, Config: jetstream.StreamConfig{Name: "X", Subjects: []string{"mesh.ask.*.control.>"}}})
		}, []string{"stream-acknowledges error", "stream-reached error", "stream-unknown warning"}},
		"stream elsewhere": {func(_ *testing.T, s *snapshot) { s.Streams[1].Account = lint.Store }, []string{"stream-missing error", "stream-unknown warning"}},
		"sourced records": {func(t *testing.T, s *snapshot) {
			stream(t, s, "KV_MESH_AGENTS").Sources = []*jetstream.StreamSource{{Name: "MESH_BEATS"}}
		}, []string{"stream-speaks error"}},
		"copy of records": {func(_ *testing.T, s *snapshot) {
			s.Streams = append(s.Streams, lint.Stream{Account: lint.Control, Config: jetstream.StreamConfig{Name: "X", Mirror: &jetstream.StreamSource{Name: "KV_MESH_AGENTS"}}})
		}, []string{"stream-speaks warning", "stream-unknown warning"}},
		"transformed events": {func(t *testing.T, s *snapshot) {
			stream(t, s, "MESH_EVENTS").SubjectTransform = &jetstream.SubjectTransformConfig{Source: ">", Destination: "mesh.event.writer.news"}
		}, []string{"stream-speaks error"}},
		"repeated events": {func(t *testing.T, s *snapshot) {
			stream(t, s, "MESH_EVENTS").RePublish = &jetstream.RePublish{Source: ">", Destination: "x.>"}
		}, []string{"stream-speaks error"}},
		"events deleted":     {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").DenyDelete = false }, []string{"stream-forgets error"}},
		"events purged":      {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").DenyPurge = false }, []string{"stream-forgets error"}},
		"events pushed out":  {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").Discard = jetstream.DiscardOld }, []string{"stream-forgets error"}},
		"events without end": {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").MaxMsgsPerSubject = -1 }, []string{"stream-forgets error"}},
		"events scheduled":   {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").AllowMsgSchedules = true }, []string{"stream-forgets error"}},
		"events taken":       {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").Retention = jetstream.InterestPolicy }, []string{"stream-forgets error"}},
		"events twice":       {func(t *testing.T, s *snapshot) { stream(t, s, "MESH_EVENTS").Duplicates = time.Minute }, []string{"stream-forgets error"}},
		"events of no topic": {func(_ *testing.T, s *snapshot) { s.Topics = nil }, []string{"stream-subjects warning"}},
		"events are calls": {func(t *testing.T, s *snapshot) {
			c := stream(t, s, "MESH_EVENTS")
			c.Subjects = append(c.Subjects, "mesh.call.>")
		}, []string{"stream-subjects error"}},
		"nonces used twice":    {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").MaxMsgsPerSubject = 2 }, []string{"stream-forgets error"}},
		"nonces with headers":  {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").MaxMsgSize = 100 }, []string{"stream-forgets error"}},
		"nonces forgotten":     {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").MaxAge = time.Minute }, []string{"stream-forgets error"}},
		"nonces in memory":     {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").Storage = jetstream.MemoryStorage }, []string{"stream-forgets error"}},
		"nonces soon full":     {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").MaxBytes = 1000 }, []string{"stream-forgets error"}},
		"nonces unbounded":     {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_REPLAY").MaxMsgs = -1 }, []string{"stream-forgets error"}},
		"records that end":     {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_AGENTS").MaxAge = time.Hour }, []string{"stream-forgets error"}},
		"records pushed out":   {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_AGENTS").MaxMsgs = 1000 }, []string{"stream-forgets error"}},
		"records not repeated": {func(t *testing.T, s *snapshot) { stream(t, s, "KV_MESH_AGENTS").RePublish = nil }, []string{"stream-speaks error"}},

		"push to an agent":   {func(_ *testing.T, s *snapshot) { s.Consumers[0].Config.DeliverSubject = "_INBOX_writer_abcdefgh.x" }, []string{"consumer-push error"}},
		"push into the feed": {func(_ *testing.T, s *snapshot) { s.Consumers[1].Config.DeliverSubject = "mesh.feed.agents.writer" }, []string{"consumer-push error"}},
		"wide filter": {func(_ *testing.T, s *snapshot) {
			s.Consumers[0].Config.FilterSubjects = []string{"mesh.event.*.news", "mesh.event.*.>"}
		}, []string{"consumer-wide error reader"}},
		"no filter": {func(_ *testing.T, s *snapshot) { s.Consumers[0].Config.FilterSubjects = nil }, []string{"consumer-wide error reader"}},
		"one filter": {func(_ *testing.T, s *snapshot) {
			s.Consumers[0].Config.FilterSubjects, s.Consumers[0].Config.FilterSubject = nil, "mesh.event.writer.news"
		}, nil},
		"filter of nothing": {func(_ *testing.T, s *snapshot) {
			s.Consumers[0].Config.FilterSubjects = []string{"mesh.event.sealmesh.none"}
		}, nil},
		"right taken back": {func(t *testing.T, s *snapshot) {
			s.Agents[0] = agent(t, "reader", s.Agents[0].Durables, s.Agents[0].Plain, "handle:read:logs", "write:reports")
		}, []string{"consumer-wide error reader"}},
		"nobody's consumer": {func(_ *testing.T, s *snapshot) { s.Consumers[0].Config.Durable = "gone_inbox" }, []string{"consumer-orphan warning"}},
		"not that durable":  {func(_ *testing.T, s *snapshot) { s.Consumers[0].Config.Durable = "reader_other" }, []string{"consumer-orphan warning"}},
		"unacknowledged":    {func(_ *testing.T, s *snapshot) { s.Consumers[0].Config.AckPolicy = jetstream.AckNonePolicy }, []string{"consumer-ack warning reader"}},
		"consumer of nonces": {func(_ *testing.T, s *snapshot) {
			s.Consumers = append(s.Consumers, lint.Consumer{Account: lint.Store, Stream: "KV_MESH_REPLAY", Config: jetstream.ConsumerConfig{Name: "x"}})
		}, []string{"consumer-orphan warning"}},

		"plain across the border": {func(t *testing.T, s *snapshot) {
			a := account(t, s, lint.Mesh)
			a.Imports = append(a.Imports, lint.Import{From: lint.Control, Subject: "x", To: "legacy.*", Service: true})
		}, []string{"border-open error", "plain-captured error writer"}},
		"plain stored": {func(_ *testing.T, s *snapshot) {
			s.Streams = append(s.Streams, lint.Stream{Account: lint.Mesh, Config: jetstream.StreamConfig{Name: "X", Subjects: []string{"legacy.>"}, NoAck: true}})
		}, []string{"plain-captured error writer", "stream-reached error", "stream-unknown warning"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := world(t)
			c.change(t, s)
			r := lint.Check(*s)
			got := slices.Compact(brief(r))
			if slices.Contains([]string{"no layout"}, name) {
				got = brief(r)
			}
			if !slices.Equal(got, c.want) {
				text, err := json.MarshalIndent(r.Findings, "", " ")
				t.Errorf("got %q, want %q\n%s%v", got, c.want, text, err)
			}
		})
	}
}

func TestInformation(t *testing.T) {
	s := world(t)
	s.Agents = append(s.Agents,
		agent(t, "lonely", nil, authcallout.Plain{Publish: []string{"legacy.in"}}, "read:mail", "handle:read:news"),
		agent(t, "alone", nil, authcallout.Plain{Publish: []string{"own"}, Subscribe: []string{"own"}}))
	r := lint.Check(*s)
	if !r.Clean() {
		t.Errorf("got %q", brief(r))
	}
	var got []string
	for _, f := range r.Findings {
		got = append(got, fmt.Sprintf("%s %s %s", f.Code, f.Agent, f.Subject))
	}
	want := []string{"plain-meets  legacy.in", "uncalled lonely mesh.call.*.read.news", "unhandled lonely mesh.call.*.read.mail"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPermits(t *testing.T) {
	line := func(subj, queue string) authcallout.Line { return authcallout.Line{Subject: subj, Queue: queue} }
	g := authcallout.Grant{
		Publish:   []authcallout.Line{line("a.*", ""), line("b.>", "")},
		Subscribe: []authcallout.Line{line("a.*", ""), line("q.x", "one"), line("both", ""), line("both", "one")},
	}
	for _, c := range []struct {
		publish bool
		subj    string
		want    bool
	}{
		{true, "a.x", true}, {true, "a", false}, {true, "a.x.y", false}, {true, "b", false}, {true, "b.x.y", true}, {true, "c", false},
		{true, "a.*", true}, {true, "a.>", true}, {true, "*.x", false}, {true, "a.", false}, {true, "a x", false}, {true, "", false},
		{false, "a.x", true}, {false, "a.*", true}, {false, "a.>", true}, {false, "a.x.y", false}, {false, ">", false}, {false, "a.x any", true},
		{false, "q.x", false}, {false, "q.x one", true}, {false, "q.x two", false}, {false, "q.x *", false}, {false, "q.x ", false}, {false, "q.x one two", false},
		{false, "both", true}, {false, "both one", true}, {false, "both two", false}, {false, "a.x _sys_", false}, {false, "a.>.b", false},
	} {
		if got := lint.Permits(g, c.subj, c.publish); got != c.want {
			t.Errorf("permits %q, publish %v: got %v, want %v", c.subj, c.publish, got, c.want)
		}
	}
	if lint.Permits(authcallout.Grant{}, "a", true) || lint.Permits(authcallout.Grant{}, "a", false) {
		t.Error("an empty grant permits something")
	}
}

// The walls leave no gap: of literal subjects lint objects to exactly those that
// the compiled grant does not permit. Neither was written with the other in
// sight.
func TestWhatIsNotPrivateIsGranted(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	s := world(t)
	reader := s.Agents[0]
	full := reader.Instances[0].Grant
	words := []string{
		"mesh", "call", "ask", "reply", "event", "note", "beat", "audit", "feed", "leader", "reader", "writer", "control", readerInst, "abcdefgh",
		"read", "logs", "write", "reports", "news", "self", "session", "x", "delegation", "cancel", "rotate", "MESH_AGENTS", "MESH_CHAINS", "MESH_SESSIONS",
		"$JS", "API", "DIRECT", "GET", "KV_MESH_AGENTS", "$KV", "MESH_REPLAY", "_INBOX_reader_" + readerInst, "_INBOX", "legacy", "in", "out",
		"CONSUMER", "MSG", "NEXT", "INFO", "MESH_EVENTS", "reader_inbox", "writer_inbox", "ACK", "1",
	}
	lines := slices.Concat(full.Publish, full.Subscribe)
	tried := map[bool]int{}
	for range 20000 {
		publish := r.IntN(2) == 0
		l := lines[r.IntN(len(lines))]
		tokens := strings.Split(l.Subject, ".")
		for i, tok := range tokens {
			if tok == "*" || tok == ">" {
				tokens[i] = pick("x", "writer", "reader", "1")
			}
		}
		for range r.IntN(3) {
			switch i := r.IntN(len(tokens)); r.IntN(4) {
			case 0:
				tokens = append(tokens, pick(words...))
			case 1:
				tokens = slices.Insert(tokens, i, pick(words...))
			case 2:
				if len(tokens) > 1 {
					tokens = slices.Delete(tokens, i, i+1)
				}
			default:
				tokens[i] = pick(words...)
			}
		}
		subj := strings.Join(tokens, ".")
		if !publish && strings.HasPrefix(subj, "mesh.note.") && len(tokens) > 5 && tokens[3] == "reader" {
			continue // hers, though nobody speaks there
		}
		one := authcallout.Line{Subject: subj, Queue: l.Queue, From: "test"}
		ask := subj
		g := authcallout.Grant{Publish: []authcallout.Line{one}}
		if publish {
			g.Publish[0].Queue = ""
		} else {
			g = authcallout.Grant{Subscribe: []authcallout.Line{one}}
			if l.Queue != "" {
				ask += " " + l.Queue
			}
		}
		s.Agents = []lint.Agent{reader}
		s.Agents[0].Instances = []lint.Instance{{ID: reader.Instances[0].ID, Grant: g}}
		objection := len(brief(lint.Check(*s))) > 0
		if permitted := lint.Permits(full, ask, publish); permitted == objection {
			t.Errorf("%q, publish %v: granted %v, and lint objects %v", ask, publish, permitted, objection)
		} else {
			tried[permitted]++
		}
	}
	if tried[true] < 1000 || tried[false] < 1000 {
		t.Errorf("%d were granted and %d not: one side is hardly tried", tried[true], tried[false])
	}
}
