package authcallout_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

var (
	reader   = agentid.Require("reader")
	writer   = agentid.Require("writer")
	instance = agentid.InstanceOf("UREADER")
)

func scopes(list ...string) []capability.Scope {
	out := make([]capability.Scope, len(list))
	for i, s := range list {
		out[i] = capability.RequireScope(s)
	}
	return out
}

func compile(t testing.TB, list ...string) authcallout.Grant {
	t.Helper()
	g, err := authcallout.Compile(subject.Default(), authcallout.Subject{Agent: reader, Instance: instance, Scopes: scopes(list...)})
	if err != nil {
		t.Fatalf("Compile(%q): %v", list, err)
	}
	return g
}

func text(lines []authcallout.Line) []string {
	var out []string
	for _, l := range lines {
		s := l.Subject
		if l.Queue != "" {
			s += " " + l.Queue
		}
		out = append(out, s+" | "+l.From)
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// The whole grant, literally: a line more or less is a decision, not a detail.
func TestCompileGolden(t *testing.T) {
	i := instance.String()
	everyPub := []string{
		"mesh.beat.reader." + i + " | every agent",
		"mesh.audit.reader." + i + " | every agent",
		"mesh.note.reader.*.delegation | every agent",
		"mesh.note.reader.*.cancel | every agent",
		"mesh.note.reader.*.received | every agent",
		"mesh.ask.reader.control.self.* | every agent",
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.* | every agent",
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.* | every agent",
		"$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.* | every agent",
		"mesh.leader.MESH_AGENTS | every agent",
		"mesh.leader.MESH_CHAINS | every agent",
	}
	everySub := []string{
		"mesh.reply.*.reader." + i + ".> | every agent",
		"mesh.note.*.reader.* | every agent",
		"mesh.feed.> | every agent",
		"_INBOX_reader_" + i + ".> | every agent",
	}
	for _, c := range []struct {
		scope    string
		pub, sub []string
	}{
		{scope: "read:logs.app",
			pub: []string{"mesh.call.reader.read.logs.app | read:logs.app", "mesh.ask.reader.*.read.logs.app | read:logs.app", "mesh.body.reader.*.*.* | every caller"}},
		{scope: "admin:registry",
			pub: []string{"mesh.call.reader.admin.registry | admin:registry", "mesh.ask.reader.*.admin.registry | admin:registry", "mesh.body.reader.*.*.* | every caller"}},
		{scope: "handle:read:logs.app",
			pub: []string{"mesh.reply.reader.*.*.* | every handler", "$KV.MESH_REPLAY.read.logs.app.*.* | handle:read:logs.app"},
			sub: []string{"mesh.call.*.read.logs.app read.logs.app | handle:read:logs.app", "mesh.ask.*.reader.read.logs.app read.logs.app | handle:read:logs.app", "mesh.body.*.reader." + i + ".> | every handler"}},
		{scope: "publish:orders.new", pub: []string{"mesh.event.reader.orders.new | publish:orders.new"}},
		{scope: "subscribe:orders.new", sub: []string{"mesh.event.*.orders.new | subscribe:orders.new"}},
	} {
		g := compile(t, c.scope)
		same(t, c.scope+" publish", text(g.Publish), slices.Concat(everyPub, c.pub))
		same(t, c.scope+" subscribe", text(g.Subscribe), slices.Concat(everySub, c.sub))
	}
}

func TestCompileIgnoresOrderAndRepetition(t *testing.T) {
	a := compile(t, "handle:read:logs", "handle:write:logs", "read:logs", "publish:a", "subscribe:a")
	b := compile(t, "subscribe:a", "read:logs", "publish:a", "handle:write:logs", "read:logs", "handle:read:logs", "subscribe:a")
	if got, want := fmt.Sprint(b), fmt.Sprint(a); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, lines := range [][]authcallout.Line{a.Publish, a.Subscribe} {
		if !slices.IsSortedFunc(lines, func(x, y authcallout.Line) int { return strings.Compare(x.Subject, y.Subject) }) {
			t.Errorf("lines are not sorted: %v", lines)
		}
	}
}

func TestCompileUsesThePrefix(t *testing.T) {
	space, err := subject.New("acme")
	if err != nil {
		t.Fatal(err)
	}
	g, err := authcallout.Compile(space, authcallout.Subject{Agent: reader, Instance: instance, Scopes: scopes("read:logs")})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := g.Allows("acme.call.reader.read.logs", true); !ok {
		t.Error("got no right under the space's own prefix, want one")
	}
	for _, l := range slices.Concat(g.Publish, g.Subscribe) {
		if strings.HasPrefix(l.Subject, "mesh.") {
			t.Errorf("got %q, want nothing under the default prefix", l.Subject)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	plain := func(s string) authcallout.Subject {
		return authcallout.Subject{Agent: reader, Instance: instance, Plain: authcallout.Plain{Publish: []string{s}}}
	}
	var many []capability.Scope
	for i := range 4000 {
		many = append(many, capability.RequireScope(fmt.Sprintf("handle:read:%s.n%d", strings.Repeat("a", 60), i)))
	}
	for name, c := range map[string]struct {
		in   authcallout.Subject
		want denial.Reason
	}{
		"nobody":             {authcallout.Subject{Instance: instance}, denial.Internal},
		"no instance":        {authcallout.Subject{Agent: reader}, denial.Internal},
		"reserved agent":     {authcallout.Subject{Agent: agentid.Control, Instance: instance}, denial.ReservedName},
		"self scope":         {authcallout.Subject{Agent: reader, Instance: instance, Scopes: scopes("self:session")}, denial.BadScope},
		"zero scope":         {authcallout.Subject{Agent: reader, Instance: instance, Scopes: make([]capability.Scope, 1)}, denial.BadScope},
		"too large":          {authcallout.Subject{Agent: reader, Instance: instance, Scopes: many}, denial.TooLarge},
		"plain everything":   {plain(">"), denial.BadPlain},
		"plain star":         {plain("orders.*"), denial.BadPlain},
		"plain tail":         {plain("orders.>"), denial.BadPlain},
		"plain system":       {plain("$SYS.REQ.USER.AUTH"), denial.BadPlain},
		"plain jetstream":    {plain("$JS.API.STREAM.DELETE.KV_MESH_REPLAY"), denial.BadPlain},
		"plain bucket":       {plain("$KV.MESH_AGENTS.reader"), denial.BadPlain},
		"plain inbox":        {plain("_INBOX_writer_00000000.x"), denial.BadPlain},
		"plain gateway":      {plain("_GR_.x"), denial.BadPlain},
		"plain mesh":         {plain("mesh.call.writer.read.logs"), denial.BadPlain},
		"plain prefix":       {plain("mesh"), denial.BadPlain},
		"plain queue":        {plain("orders q"), denial.BadPlain},
		"plain tab":          {plain("orders\tq"), denial.BadPlain},
		"plain empty":        {plain(""), denial.BadPlain},
		"plain empty token":  {plain("a..b"), denial.BadPlain},
		"plain leading dot":  {plain(".a"), denial.BadPlain},
		"plain trailing dot": {plain("a."), denial.BadPlain},
		"plain too long":     {plain(strings.Repeat("a", limits.Subject+1)), denial.BadPlain},
		"plain non-ascii":    {plain("bücher"), denial.BadPlain},
	} {
		g, err := authcallout.Compile(subject.Default(), c.in)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if len(g.Publish)+len(g.Subscribe) != 0 {
			t.Errorf("%s: got a grant with the refusal", name)
		}
		// The same right on the other side is refused for the same reason.
		in := c.in
		in.Plain = authcallout.Plain{Subscribe: c.in.Plain.Publish}
		if _, err := authcallout.Compile(subject.Default(), in); !errors.Is(err, c.want) {
			t.Errorf("%s, to subscribe: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := authcallout.Compile(subject.Space{}, authcallout.Subject{Agent: reader, Instance: instance}); !errors.Is(err, denial.Internal) {
		t.Errorf("zero space: got %v, want %s", err, denial.Internal)
	}
}

func TestPlainRights(t *testing.T) {
	g, err := authcallout.Compile(subject.Default(), authcallout.Subject{Agent: reader, Instance: instance,
		Plain: authcallout.Plain{Publish: []string{"orders.new", strings.Repeat("a", limits.Subject)}, Subscribe: []string{"meshed.x"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		subj    string
		publish bool
		want    bool
	}{
		{"orders.new", true, true}, {"orders.new", false, false}, {"orders", true, false}, {"orders.new.x", true, false},
		{"meshed.x", false, true}, {"meshed.x", true, false},
	} {
		if l, got := g.Allows(c.subj, c.publish); got != c.want || got && l.From != authcallout.FromPlain {
			t.Errorf("Allows(%q, %v): got %v from %q, want %v", c.subj, c.publish, got, l.From, c.want)
		}
	}
}

// Both sides must be lists that deny by default: absent ones mean everything.
func TestPermissionsAreExplicit(t *testing.T) {
	for name, g := range map[string]authcallout.Grant{
		"zero":    {},
		"no pub":  {Subscribe: []authcallout.Line{{Subject: "a"}}},
		"no sub":  {Publish: []authcallout.Line{{Subject: "a"}}},
		"compile": compile(t, "handle:read:logs"),
	} {
		p := g.Permissions()
		if p.Resp != nil {
			t.Errorf("%s: got a response permission", name)
		}
		for side, x := range map[string]struct{ allow, deny []string }{
			"publish": {p.Pub.Allow, p.Pub.Deny}, "subscribe": {p.Sub.Allow, p.Sub.Deny},
		} {
			if len(x.allow) == 0 && !slices.Equal(x.deny, []string{">"}) {
				t.Errorf("%s, %s: got allow %q deny %q, want something explicit", name, side, x.allow, x.deny)
			}
			if slices.Contains(x.allow, ">") || slices.Contains(x.allow, "*") {
				t.Errorf("%s, %s: got %q", name, side, x.allow)
			}
		}
	}
	p := compile(t, "handle:read:logs").Permissions()
	if !slices.Contains(p.Sub.Allow, "mesh.call.*.read.logs read.logs") {
		t.Errorf("got %q, want the call filter in queue form", p.Sub.Allow)
	}
}

func TestAllows(t *testing.T) {
	g := compile(t, "read:logs", "handle:read:logs", "subscribe:orders")
	i := instance.String()
	for _, c := range []struct {
		subj    string
		publish bool
		want    bool
	}{
		{"mesh.call.reader.read.logs", true, true},
		{"mesh.call.writer.read.logs", true, false},
		{"mesh.call.*.read.logs", true, false},
		{"mesh.call.reader.read.logs.app", true, false},
		{"mesh.call.reader.read", true, false},
		{"mesh.ask.reader.writer.read.logs", true, true},
		{"mesh.reply.reader.writer.00000000.nonce", true, true},
		{"mesh.reply.reader.writer.00000000.nonce.more", true, false},
		{"mesh.reply.writer.writer.00000000.nonce", true, false},
		{"mesh.body.reader.writer.00000000.nonce", true, true},
		{"mesh.body.reader.writer.00000000.nonce.more", true, false},
		{"mesh.body.writer.reader.00000000.nonce", true, false},
		{"$KV.MESH_REPLAY.read.logs.writer.nonce", true, true},
		{"$KV.MESH_REPLAY.read.logs.writer", true, false},
		{"$KV.MESH_REPLAY.write.logs.writer.nonce", true, false},
		{"$KV.MESH_AGENTS.reader", true, false},
		{"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.writer", true, true},
		{"$JS.API.DIRECT.GET.KV_MESH_AGENTS", true, false},
		{"$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", true, false},
		{"$JS.API.CONSUMER.CREATE.KV_MESH_REPLAY", true, false},
		{"$JS.API.STREAM.PURGE.KV_MESH_REPLAY", true, false},
		{"$SYS.REQ.USER.INFO", true, false},
		{"mesh.feed.agents.reader", true, false},
		{"_INBOX_reader_" + i + ".x", true, false},
		{"mesh.leader.MESH_AGENTS", true, true},
		{"mesh.leader.MESH_SESSIONS", true, false},
		{"mesh.call.*.read.logs read.logs", true, false},

		{"mesh.call.*.read.logs read.logs", false, true},
		{"mesh.call.writer.read.logs read.logs", false, true},
		{"mesh.call.*.read.logs", false, false},
		{"mesh.call.*.read.logs other", false, false},
		{"mesh.call.*.read.logs ", false, false},
		{"mesh.call.*.read.* read.logs", false, false},
		{"mesh.call.> read.logs", false, false},
		{"mesh.ask.*.reader.read.logs read.logs", false, true},
		{"mesh.ask.*.writer.read.logs read.logs", false, false},
		{"mesh.event.*.orders", false, true},
		{"mesh.event.writer.orders", false, true},
		{"mesh.event.*.orders anygroup", false, true},
		{"mesh.event.*.*", false, false},
		{"mesh.event.>", false, false},
		{"mesh.feed.>", false, true},
		{"mesh.feed", false, false},
		{"mesh.feed.agents.*", false, true},
		{"mesh.>", false, false},
		{">", false, false},
		{"*", false, false},
		{"", false, false},
		{"mesh..x", false, false},
		{"mesh.>.x", false, false},
		{"mesh.reply.*.reader." + i + ".>", false, true},
		{"mesh.reply.*.reader.*.>", false, false},
		{"mesh.body.*.reader." + i + ".>", false, true},
		{"mesh.body.*.reader.*.>", false, false},
		{"mesh.body.>", false, false},
		{"mesh.reply.>", false, false},
		{"mesh.note.*.reader.*", false, true},
		// Not what it looks like: the server takes ">" for one more token of "*".
		{"mesh.note.*.reader.>", false, true},
		{"mesh.note.*.reader.>.x", false, false},
		{"mesh.feed.> anygroup", false, true},
		{"mesh.feed.> _sys_", false, false},
		{"mesh.note.reader.*.cancel", true, true},
		{"mesh.note.reader.>.cancel", true, true},
		{"mesh.note.*.writer.cancel", true, false},
		{"mesh.note.*.*.*", false, false},
		{"_INBOX.>", false, false},
		{"_INBOX_reader_" + i + ".>", false, true},
		{"$KV.>", false, false},
		{"$JS.ACK.>", false, false},
		{"$SYS.REQ.USER.AUTH", false, false},
		{"$SYS.REQ.USER.AUTH sealmesh-callout", false, false},
	} {
		if _, got := g.Allows(c.subj, c.publish); got != c.want {
			t.Errorf("Allows(%q, publish %v): got %v, want %v", c.subj, c.publish, got, c.want)
		}
		if _, got := (authcallout.Grant{}).Allows(c.subj, c.publish); got {
			t.Errorf("the zero grant allows %q", c.subj)
		}
	}
}

// The second opinion must refuse on its own whatever a broken compiler could
// produce, since no input makes the real one produce it.
func TestGrammarRefusesForeignLines(t *testing.T) {
	in := authcallout.Subject{Agent: reader, Instance: instance,
		Scopes: scopes("read:logs", "handle:write:logs", "publish:orders", "subscribe:orders"),
		Plain:  authcallout.Plain{Publish: []string{"legacy.x", "$SYS.x", "mesh.x", "a.*"}}}
	i := instance.String()
	ok := func(g authcallout.Grant) bool {
		out, err := authcallout.Finish(subject.Default(), in, g)
		return err == nil && len(out.Publish)+len(out.Subscribe) == 1
	}
	pub := func(s, q string) authcallout.Grant {
		return authcallout.Grant{Publish: []authcallout.Line{{Subject: s, Queue: q}}}
	}
	sub := func(s, q string) authcallout.Grant {
		return authcallout.Grant{Subscribe: []authcallout.Line{{Subject: s, Queue: q}}}
	}
	if !ok(pub("mesh.call.reader.read.logs", "")) || !ok(sub("mesh.call.*.write.logs", "write.logs")) || !ok(pub("legacy.x", "")) {
		t.Fatal("the grammar refuses a good line")
	}
	for _, s := range []string{
		"", ">", "*", "*.>", "*.call.reader.read.logs", "mesh", "mesh.>", "mesh.*.reader.read.logs", "mesh.call.*.read.logs", "mesh.call.writer.read.logs",
		"mesh.call.reader.>", "mesh.call.reader.*.logs", "mesh.call.reader.write.logs", "mesh.call.reader.read.logs.*", "mesh.call.reader.read.logs read.logs",
		"mesh.ask.reader.*.>", "mesh.ask.reader.writer.read.logs", "mesh.ask.reader.control.admin.registry", "mesh.ask.*.*.read.logs",
		"mesh.reply.*.*.*.*", "mesh.reply.reader.>", "mesh.reply.reader.*.*.*.*", "mesh.event.writer.orders", "mesh.event.reader.*",
		"mesh.note.reader.*.*", "mesh.note.reader.*.rotate", "mesh.note.*.*.cancel", "mesh.beat.reader.*", "mesh.beat.writer." + i, "mesh.audit.*." + i,
		"mesh.feed.>", "mesh.feed.agents.reader", "mesh.leader.*", "mesh.leader.MESH_SESSIONS", "mesh.other.reader.x",
		"$SYS.>", "$SYS.REQ.USER.INFO", "$SYS.x", "$JS.>", "$JS.API.>", "$JS.API.DIRECT.GET.KV_MESH_AGENTS.>", "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.>",
		"$JS.API.DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.*", "$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", "$JS.API.CONSUMER.CREATE.KV_MESH_REPLAY", "$JS.ACK.>",
		"$KV.>", "$KV.MESH_REPLAY.>", "$KV.MESH_REPLAY.*.*", "$KV.MESH_REPLAY.write.logs.>", "$KV.MESH_REPLAY.write.logs.*", "$KV.MESH_REPLAY.read.logs.*.*",
		"$KV.MESH_AGENTS.reader", "$KV.MESH_AGENTS.*.*.*", "_INBOX.>", "_INBOX_reader_" + i + ".>", "legacy.>", "legacy.y", "mesh.x", "a.*", "legacy..x", "legacy.x q",
	} {
		if ok(pub(s, "")) {
			t.Errorf("the grammar lets %q be published", s)
		}
	}
	if ok(pub("mesh.call.reader.read.logs", "q")) {
		t.Error("the grammar lets a publish line have a queue")
	}
	for _, c := range [][2]string{
		{">", ""}, {"*.feed.>", ""}, {"mesh.>", ""}, {"mesh.*.>", ""}, {"mesh.feed.*.>", ""}, {"mesh.feed.>", "q"},
		{"mesh.call.*.write.logs", ""}, {"mesh.call.*.write.logs", "other"}, {"mesh.call.*.write.logs", "*"}, {"mesh.call.*.read.logs", "read.logs"},
		{"mesh.call.*.>", "write.logs"}, {"mesh.call.>", ">"}, {"mesh.ask.*.*.write.logs", "write.logs"}, {"mesh.ask.*.writer.write.logs", "write.logs"},
		{"mesh.ask.*.reader.write.logs", ""}, {"mesh.reply.*.*." + i + ".>", ""}, {"mesh.reply.*.reader.*.>", ""}, {"mesh.reply.*.writer." + i + ".>", ""},
		{"mesh.reply.>", ""}, {"mesh.note.*.*.*", ""}, {"mesh.note.*.writer.*", ""}, {"mesh.event.*.*", ""}, {"mesh.event.>", ""}, {"mesh.event.*.other", ""},
		{"mesh.event.*.orders", "q"}, {"mesh.beat.*.*", ""}, {"mesh.audit.*.*", ""}, {"_INBOX.>", ""}, {"_INBOX_writer_" + i + ".>", ""}, {"_INBOX_reader_" + i + ".*.>", ""},
		{"$SYS.>", ""}, {"$JS.>", ""}, {"$KV.>", ""}, {"$KV.MESH_AGENTS.>", ""}, {"legacy.x", ""}, {"mesh.feed.> q", ""},
	} {
		if ok(sub(c[0], c[1])) {
			t.Errorf("the grammar lets %q be subscribed in queue %q", c[0], c[1])
		}
	}
}

// No single line may reach what belongs to another agent or to the server,
// whatever the scopes are called: every line is tried against probes.
func TestCompileReachesNothingForeign(t *testing.T) {
	g := compile(t, "read:logs", "handle:read:logs", "handle:write:a.b.c.d.e.f.g.h", "publish:agents", "subscribe:agents", "admin:registry", "read:mesh-agents", "control:x")
	for _, s := range []string{
		"mesh.call.writer.read.logs", "mesh.ask.writer.reader.read.logs", "mesh.reply.writer.reader.00000000.n", "mesh.event.writer.agents",
		"mesh.beat.writer.00000000", "mesh.beat.reader.00000000", "mesh.audit.writer.00000000", "mesh.note.control.writer.rotate", "mesh.note.reader.writer.rotate",
		"mesh.feed.agents.reader", "mesh.feed.tick", "_INBOX.x", "$SYS.REQ.USER.AUTH", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.ACCOUNT.MESH.CONNECT",
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", "$JS.API.DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.x",
		"$JS.API.CONSUMER.CREATE.KV_MESH_REPLAY.c", "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.writer_x", "$JS.ACK.MESH_EVENTS.writer_x.1.1.1.1.0", "$JS.FC.x",
		"$KV.MESH_AGENTS.writer", "$KV.MESH_CHAINS.x", "$KV.MESH_SESSIONS.x", "$KV.MESH_REPLAY.read.other.writer.n", "$SRV.PING", "$MQTT.x", "_GR_.x", "_R_.x",
	} {
		if l, ok := g.Allows(s, true); ok {
			t.Errorf("may publish %q by %q", s, l.Subject)
		}
	}
	for _, s := range []string{
		"mesh.reply.control.writer.00000000.>", "mesh.note.control.writer.rotate", "mesh.ask.control.writer.read.logs read.logs", "mesh.beat.>", "mesh.audit.>",
		"mesh.call.>", "mesh.event.>", "_INBOX.>", "_INBOX_writer_00000000.>", "_INBOX_reader_00000000.>", "$SYS.>", "$SYS.REQ.USER.AUTH sealmesh-callout",
		"$JS.API.>", "$JS.ACK.>", "$KV.MESH_AGENTS.>", "$KV.MESH_REPLAY.>", "$SRV.>", "$MQTT.>", ">", "*.>", "*.*.*.*.*",
	} {
		if l, ok := g.Allows(s, false); ok {
			t.Errorf("may subscribe %q by %q", s, l.Subject)
		}
	}
}
