package subject_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/subject"
)

var (
	alice = agentid.Require("alice")
	bob   = agentid.Require("bob")
	inst  = agentid.InstanceOf("UALICE")
)

const nonce = "K7cAAAAAAAAAAAAAAAAAAA"

func ExampleSpace() {
	s := subject.Default()
	a, i := agentid.Require("alice"), agentid.InstanceOf("UALICE")
	fmt.Println(s.Call(a, "read.logs"), s.CallFilter("read.logs"), subject.Queue("read.logs"))
	fmt.Println(s.Ask(a, agentid.Require("bob"), "read.logs"), s.AskFilter(agentid.Require("bob"), "read.logs"), s.AskAny(a, "read.logs"))
	fmt.Println(s.Reply(agentid.Require("bob"), a, i, "N"), s.ReplyFilter(a, i), s.ReplyGrant(agentid.Require("bob")))
	fmt.Println(s.Body(a, agentid.Require("bob"), i, "N"), s.BodyFilter(agentid.Require("bob"), i), s.BodyGrant(a))
	fmt.Println(s.Event(a, "builds.done"), s.EventFilter("builds.done"))
	fmt.Println(s.Note(a, agentid.Require("bob"), "cancel"), s.NoteFilter(agentid.Require("bob")), s.NoteGrant(a, "cancel"))
	fmt.Println(s.Beat(a, i), s.BeatFilter(), s.Audit(a, i), s.AuditFilter())
	fmt.Println(s.FeedAgent("alice"), s.FeedFilter(), s.LeaderRead("MESH_AGENTS"))
	fmt.Println(subject.InboxPrefix(a, i), subject.DirectGet("MESH_AGENTS", "*"))
	fmt.Println(subject.KV("MESH_REPLAY", subject.ReplayKey("read.logs", a, "N")), subject.ReplayGrant("MESH_REPLAY", "read.logs"))
	// Output:
	// mesh.call.alice.read.logs mesh.call.*.read.logs read.logs
	// mesh.ask.alice.bob.read.logs mesh.ask.*.bob.read.logs mesh.ask.alice.*.read.logs
	// mesh.reply.bob.alice.hngq1a96.N mesh.reply.*.alice.hngq1a96.> mesh.reply.bob.*.*.*
	// mesh.body.alice.bob.hngq1a96.N mesh.body.*.bob.hngq1a96.> mesh.body.alice.*.*.*
	// mesh.event.alice.builds.done mesh.event.*.builds.done
	// mesh.note.alice.bob.cancel mesh.note.*.bob.* mesh.note.alice.*.cancel
	// mesh.beat.alice.hngq1a96 mesh.beat.*.* mesh.audit.alice.hngq1a96 mesh.audit.*.*
	// mesh.feed.agents.alice mesh.feed.> mesh.leader.MESH_AGENTS
	// _INBOX_alice_hngq1a96 $JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*
	// $KV.MESH_REPLAY.read.logs.alice.N $KV.MESH_REPLAY.read.logs.*.*
}

// build is the inverse of Parse.
func build(s subject.Space, p subject.Parsed) string {
	switch p.Class {
	case subject.Call:
		return s.Call(p.Sender, p.Dotted)
	case subject.Ask:
		return s.Ask(p.Sender, p.Recipient, p.Dotted)
	case subject.Reply:
		return s.Reply(p.Sender, p.Recipient, p.Instance, p.Nonce)
	case subject.Body:
		return s.Body(p.Sender, p.Recipient, p.Instance, p.Nonce)
	case subject.Event:
		return s.Event(p.Sender, p.Dotted)
	case subject.Note:
		return s.Note(p.Sender, p.Recipient, p.Dotted)
	case subject.Beat:
		return s.Beat(p.Sender, p.Instance)
	case subject.Audit:
		return s.Audit(p.Sender, p.Instance)
	}
	return ""
}

// messages are subjects of every class that carries messages.
var messages = []subject.Parsed{
	{Class: subject.Call, Sender: alice, Dotted: "read.logs"},
	{Class: subject.Call, Sender: alice, Dotted: "read.a.b.c.d.e.f.g.h"},
	{Class: subject.Ask, Sender: alice, Recipient: bob, Dotted: "read.logs"},
	{Class: subject.Ask, Sender: alice, Recipient: agentid.Control, Dotted: "self.session"},
	{Class: subject.Reply, Sender: bob, Recipient: alice, Instance: inst, Nonce: nonce},
	{Class: subject.Body, Sender: alice, Recipient: bob, Instance: inst, Nonce: nonce},
	{Class: subject.Event, Sender: alice, Dotted: "builds"},
	{Class: subject.Event, Sender: alice, Dotted: "builds.done"},
	{Class: subject.Note, Sender: alice, Recipient: bob, Dotted: "cancel"},
	{Class: subject.Beat, Sender: alice, Instance: inst},
	{Class: subject.Audit, Sender: alice, Instance: inst},
}

func TestParseGivesBackWhatWasBuilt(t *testing.T) {
	other, err := subject.New("prod-mesh")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []subject.Space{subject.Default(), other} {
		for _, want := range messages {
			text := build(s, want)
			if got, err := s.Parse(text); err != nil || got != want {
				t.Errorf("Parse(%s) = %+v, %v, want %+v", text, got, err, want)
			}
		}
	}
	// One mesh does not read another's subjects.
	if got, err := other.Parse(build(subject.Default(), messages[0])); err == nil {
		t.Errorf("a subject of another mesh parses: %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	i := inst.String()
	for _, s := range []string{
		"", ".", "mesh", "mesh.", "mesh.call", "mesh.call.", "mesh.call.alice", "mesh.call.alice.",
		"mesh..alice.read.logs", ".mesh.call.alice.read.logs", "meshes.call.alice.read.logs",
		"MESH.call.alice.read.logs", "mesh.CALL.alice.read.logs", "mesh.Call.alice.read.logs",
		"mesh.call.Alice.read.logs", "mesh.call.*.read.logs", "mesh.call..read.logs", "mesh.call.>",
		"mesh.call.alice.read.*", "mesh.call.alice.read.>", "mesh.call.alice.read..logs", "mesh.call.alice.read.logs.",
		"mesh.call.alice..read", "mesh.call.alice.read logs", "mesh.call.alice.read\tlogs", "mesh.call.alice.read.logs\r\n",
		"mesh.call.alice.read\x00", "mesh.call.alice.read\x7f", "mesh.call.alice.réad", "mesh.call.alice.read*",
		"mesh.ask.alice.bob", "mesh.ask.alice.bob.", "mesh.ask.alice.*.read.logs", "mesh.ask.alice", "mesh.ask.alice..read.logs",
		"mesh.note.alice.bob", "mesh.note.alice.bob.cancel.now", "mesh.note.alice.*.cancel", "mesh.note.alice",
		"mesh.event.alice", "mesh.event.alice.*",
		"mesh.beat.alice", "mesh.beat.alice." + i + ".x", "mesh.beat.alice.*", "mesh.beat.*." + i, "mesh.beat.alice." + i + ".",
		"mesh.audit.alice", "mesh.audit.alice.", "mesh.audit.alice." + strings.ToUpper(i),
		"mesh.reply.bob.alice." + i, "mesh.reply.bob.alice." + i + ".", "mesh.reply.bob.alice." + i + ".a.b",
		"mesh.reply.bob.alice." + i + ".*", "mesh.reply.bob.alice." + i + ".>", "mesh.reply.bob.alice." + i + ".a b",
		"mesh.reply.bob.alice.x.n", "mesh.reply.bob", "mesh.reply.bob.alice", "mesh.reply.bob.*." + i + ".n",
		"mesh.body.alice", "mesh.body.alice.bob", "mesh.body.alice.bob." + i, "mesh.body.alice.bob." + i + ".", "mesh.body.alice.bob." + i + ".a.b",
		"mesh.body.alice.bob." + i + ".*", "mesh.body.alice.bob." + i + ".>", "mesh.body.alice.bob." + i + ".a b", "mesh.body.alice.bob.*.n",
		"mesh.body.alice.bob.x.n", "mesh.body.alice.*." + i + ".n", "mesh.body.*.bob." + i + ".n", "mesh.Body.alice.bob." + i + ".n",
		// Only the control plane speaks there, and not in messages.
		"mesh.feed.agents.alice", "mesh.feed.tick", "mesh.leader.MESH_AGENTS", "mesh.other.alice.x",
		"$KV.MESH_AGENTS.alice", "_INBOX_alice_" + i + ".x",
	} {
		if got, err := subject.Default().Parse(s); err == nil || got != (subject.Parsed{}) {
			t.Errorf("Parse(%q) = %+v, want a refusal", s, got)
		}
	}
}

// The zero Space has no prefix, so nothing may parse under it.
func TestZeroSpaceReadsNothing(t *testing.T) {
	for _, p := range messages {
		for _, text := range []string{build(subject.Default(), p), build(subject.Space{}, p)} {
			if got, err := (subject.Space{}).Parse(text); err == nil {
				t.Errorf("Parse(%q) = %+v, want a refusal", text, got)
			}
		}
	}
}

func TestNew(t *testing.T) {
	for s, want := range map[string]bool{"mesh": true, "prod-mesh": true, "": false, "a.b": false, "*": false, ">": false, "$SYS": false, "_INBOX": false, "Mesh": false} {
		got, err := subject.New(s)
		if (err == nil) != want || (want && got.Prefix() != s) {
			t.Errorf("New(%q) = %q, %v, want accepted: %v", s, got.Prefix(), err, want)
		}
	}
}

// matches is NATS' matching of a literal subject, written plainly.
func matches(filter, literal string) bool {
	f, l := strings.Split(filter, "."), strings.Split(literal, ".")
	for i, t := range f {
		if t == ">" {
			return len(l) > i
		}
		if i >= len(l) || (t != "*" && t != l[i]) {
			return false
		}
	}
	return len(f) == len(l)
}

// What an agent is granted covers what it builds, and nothing that is built in
// another agent's name.
func TestFiltersCoverWhatIsBuilt(t *testing.T) {
	s := subject.Default()
	for _, tt := range []struct{ filter, literal string }{
		{s.CallFilter("read.logs"), s.Call(alice, "read.logs")},
		{s.AskFilter(bob, "read.logs"), s.Ask(alice, bob, "read.logs")},
		{s.AskAny(alice, "read.logs"), s.Ask(alice, bob, "read.logs")},
		{s.ReplyFilter(alice, inst), s.Reply(bob, alice, inst, nonce)},
		{s.ReplyGrant(bob), s.Reply(bob, alice, inst, nonce)},
		{s.BodyFilter(bob, inst), s.Body(alice, bob, inst, nonce)},
		{s.BodyGrant(alice), s.Body(alice, bob, inst, nonce)},
		{s.EventFilter("builds.done"), s.Event(alice, "builds.done")},
		{s.NoteFilter(bob), s.Note(alice, bob, "cancel")},
		{s.NoteGrant(alice, "cancel"), s.Note(alice, bob, "cancel")},
		{s.BeatFilter(), s.Beat(alice, inst)},
		{s.AuditFilter(), s.Audit(alice, inst)},
		{s.FeedFilter(), s.FeedAgent("alice")},
		{subject.ReplayGrant("MESH_REPLAY", "read.logs"), subject.KV("MESH_REPLAY", subject.ReplayKey("read.logs", alice, nonce))},
	} {
		if !matches(tt.filter, tt.literal) {
			t.Errorf("%s does not match %s", tt.filter, tt.literal)
		}
	}
	for _, grant := range []string{s.AskAny(alice, "read.logs"), s.ReplyGrant(alice), s.BodyGrant(alice), s.BodyFilter(alice, inst), s.NoteGrant(alice, "cancel")} {
		for _, literal := range []string{s.Ask(bob, alice, "read.logs"), s.Reply(bob, alice, inst, nonce), s.Body(bob, agentid.Control, inst, nonce), s.Note(bob, alice, "cancel"), s.Ask(alice, bob, "read.logs.app"), s.Note(alice, bob, "rotate")} {
			if matches(grant, literal) {
				t.Errorf("%s matches %s", grant, literal)
			}
		}
	}
}

// What parses is what building it again gives, byte for byte, so a subject has
// one reading.
func FuzzParse(f *testing.F) {
	for _, p := range messages {
		f.Add(build(subject.Default(), p))
	}
	f.Add("mesh.call.alice.read..logs")
	f.Add("mesh.feed.tick")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := subject.Default().Parse(s)
		if err != nil {
			return
		}
		if again := build(subject.Default(), p); again != s {
			t.Fatalf("Parse(%q) = %+v, which builds %q", s, p, again)
		}
		if strings.ContainsAny(s, "*> \t\r\n\x00") || strings.Contains(s, "..") {
			t.Fatalf("Parse(%q) took what is not a literal subject", s)
		}
		if p.Sender.IsZero() {
			t.Fatalf("Parse(%q) gives no sender", s)
		}
	})
}

// Whatever agents and scopes are built from, the subject parses to the same.
func FuzzBuild(f *testing.F) {
	f.Add("alice", "bob", "UALICE", "read.logs", uint8(0))
	f.Add("a", "control", "U", "self.session", uint8(1))
	f.Fuzz(func(t *testing.T, a, b, key, dotted string, class uint8) {
		sender, errA := agentid.Parse(a)
		recipient, errB := agentid.Parse(b)
		if errA != nil || errB != nil || key == "" {
			return
		}
		want := messages[int(class)%len(messages)]
		want.Sender = sender
		if !want.Recipient.IsZero() {
			want.Recipient = recipient
		}
		if !want.Instance.IsZero() {
			want.Instance = agentid.InstanceOf(key)
		}
		if want.Dotted != "" {
			want.Dotted = dotted
		}
		text := build(subject.Default(), want)
		got, err := subject.Default().Parse(text)
		if err == nil && got != want {
			t.Fatalf("Parse(%q) = %+v, want %+v or a refusal", text, got, want)
		}
	})
}
