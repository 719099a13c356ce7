package main

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// reasonsOf reads the reasons out of the source of package denial, by the comment
// of the list in which they stand.
func reasonsOf(t *testing.T, lists ...string) map[denial.Reason]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../denial/reasons.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[denial.Reason]bool{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST || !slices.ContainsFunc(lists, func(l string) bool { return strings.HasPrefix(g.Doc.Text(), l) }) {
			continue
		}
		for _, s := range g.Specs {
			code, err := strconv.Unquote(s.(*ast.ValueSpec).Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			out[denial.Reason(code)] = true
		}
	}
	return out
}

// ofMessages are the lists of reasons that a receiver of messages gives.
var ofMessages = []string{"Refusals of a message", "Refusals of a capability chain"}

// notLive are those of them that no message of an agent brings about on a mesh in
// order, and why.
var notLive = map[denial.Reason]string{
	denial.FeedStale:      "five minutes of silence of the control plane: internal/gate.TestCutOff has a clock for that",
	denial.UnmatchedReply: "a reply that nobody waits for is counted and not judged: Mesh.UnmatchedReplies",
}

// target is somewhere that messages are refused.
type target struct {
	subject string
	scope   capability.Scope // what a sender must hold there
	at      *program
}

// attempt is what mallory sends in her own name, over her own connection, and for
// which it is refused.
type attempt struct {
	reason   denial.Reason
	verified bool
	send     func(at target) []*nats.Msg
}

// spoilt is a good message of which something was changed after it was signed.
func spoilt(msg *nats.Msg, change func(*nats.Msg)) []*nats.Msg {
	change(msg)
	return []*nats.Msg{msg}
}

func header(name, old, replacement string) func(*nats.Msg) {
	return func(m *nats.Msg) { m.Header[name] = []string{strings.Replace(m.Header[name][0], old, replacement, 1)} }
}

// claims is a token as documents have it, for those that no honest program signs.
type claims struct {
	jws.Head
	ID           string   `json:"jti"`
	Agent        string   `json:"agent"`
	Parent       string   `json:"parent,omitempty"`
	Capabilities []string `json:"capabilities"`
	Delegatable  []string `json:"delegatable"`
	Depth        int64    `json:"depth"`
	NotBefore    int64    `json:"nbf"`
	Expires      int64    `json:"exp"`
}

const foreign = "\x1b[2J\x1b]0;owned\x07\u202e\u009b31m"

func attempts(a *arena, mallory *intruder, asker *intruder, cut string) []attempt {
	t := a.t
	good := func(at target) *nats.Msg {
		return mallory.says(mallory.Speaker, at.subject, envelope.Fields{Token: mallory.token}, "hello")
	}
	by := func(s gate.Speaker, f envelope.Fields) func(target) []*nats.Msg {
		return func(at target) []*nats.Msg {
			if f.Token == "" {
				f.Token = mallory.token
			}
			return []*nats.Msg{mallory.says(s, at.subject, f, "hello")}
		}
	}
	// under names a chain whose text is made for the target.
	under := func(text func(at target) string) func(target) []*nats.Msg {
		return func(at target) []*nats.Msg {
			return []*nats.Msg{mallory.says(mallory.Speaker, at.subject, envelope.Fields{Token: a.stored(text(at))}, "hello")}
		}
	}
	self := mallory.Self
	root := func(at target, change func(*capability.Root)) string {
		r := capability.Root{Agent: self, Capabilities: []capability.Scope{at.scope}}
		if change != nil {
			change(&r)
		}
		return a.root(r)
	}
	// lent is a delegation by mallory to somebody, of a root that lets her pass on
	// one scope once and not the target's.
	lent := func(change func(*claims)) func(target) []*nats.Msg {
		return under(func(at target) string {
			onward := capability.RequireScope("read:onward")
			text := root(at, func(r *capability.Root) {
				r.Capabilities = append(r.Capabilities, onward)
				slices.SortFunc(r.Capabilities, func(a, b capability.Scope) int { return strings.Compare(a.String(), b.String()) })
				r.Delegatable, r.Depth = []capability.Scope{onward}, 1
			})
			now := time.Now().Unix()
			c := claims{
				Head: jws.Head{Kind: "token", IssuedAt: now}, ID: envelope.NewNonce(), Agent: "temp", Parent: jws.Digest(text),
				Capabilities: []string{onward.String()}, Delegatable: []string{}, NotBefore: now, Expires: now + 60,
			}
			change(&c)
			if c.Capabilities[0] == "" {
				c.Capabilities[0] = at.scope.String()
			}
			return text + "~" + mallory.dir.Info.Passport + "~" + must(jws.Sign(&c, mallory.key))(t)
		})
	}
	other := must(nkeys.CreateUser())(t)
	unlisted := mallory.Speaker
	unlisted.Key = must(envelope.NewKey(must(other.Seed())(t)))(t)
	pretender := mallory.Speaker
	pretender.Self = asker.Self
	late := mallory.Speaker
	late.Epoch = func() envelope.Epoch { return envelope.Epoch{Agent: 7, Instance: 7} }
	return []attempt{
		{denial.TooLarge, false, func(at target) []*nats.Msg {
			return spoilt(good(at), header(envelope.HeaderEnvelope, "v=1", "v=1"+strings.Repeat("1", 1024)))
		}},
		{denial.BadEnvelope, false, func(at target) []*nats.Msg {
			return spoilt(good(at), header(envelope.HeaderEnvelope, "from=mallory", "from="+foreign))
		}},
		{denial.BadVersion, false, func(at target) []*nats.Msg { return spoilt(good(at), header(envelope.HeaderEnvelope, "v=1", "v=2")) }},
		{denial.Loop, false, func(at target) []*nats.Msg {
			return spoilt(good(at), header(envelope.HeaderEnvelope, ";hop=0", ";hop=17"))
		}},
		{denial.SenderMismatch, false, by(pretender, envelope.Fields{})},
		{denial.Stale, false, by(mallory.earlier(10*time.Minute), envelope.Fields{})},
		{denial.Future, false, by(mallory.earlier(-10*time.Minute), envelope.Fields{})},
		{denial.DeadlinePassed, false, by(mallory.earlier(time.Second), envelope.Fields{Deadline: time.Millisecond})},
		{denial.UnlistedKey, false, by(unlisted, envelope.Fields{})},
		{denial.StaleEpoch, false, by(late, envelope.Fields{})},
		{denial.BadSignature, false, func(at target) []*nats.Msg {
			return spoilt(good(at), func(m *nats.Msg) { m.Data = []byte(foreign) })
		}},
		{denial.BadSignature, false, func(at target) []*nats.Msg { // of the headers
			msg, _, _, err := mallory.Message(at.subject, envelope.Fields{Token: mallory.token}, map[string][]string{"Tenant": {"blue"}}, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			return spoilt(msg, func(m *nats.Msg) { m.Header["Tenant"] = []string{"red"} })
		}},
		{denial.Replayed, false, func(at target) []*nats.Msg {
			msg := good(at)
			mallory.send(msg)
			f, _ := mallory.request(msg, must(mallory.key.PublicKey())(t))
			until(t, "the first of the same messages", func() bool {
				return strings.Contains(at.at.errors.String(), `"verdict":"accepted","correlation":"`+f.Correlation)
			})
			return []*nats.Msg{msg}
		}},
		{denial.NoToken, true, func(at target) []*nats.Msg {
			return []*nats.Msg{mallory.says(mallory.Speaker, at.subject, envelope.Fields{}, "hello")}
		}},
		{denial.UnknownChain, true, by(mallory.Speaker, envelope.Fields{Token: jws.Digest("nothing")})},
		{denial.NotHolder, true, by(mallory.Speaker, envelope.Fields{Token: asker.token})},
		{denial.DelegatorCut, true, by(mallory.Speaker, envelope.Fields{Token: cut})},
		{denial.ScopeNotHeld, true, under(func(at target) string {
			return root(at, func(r *capability.Root) { r.Capabilities = []capability.Scope{capability.RequireScope("read:more")} })
		})},
		{denial.TokenTakenBack, true, under(func(at target) string { return root(at, nil) })},
		{denial.TokenExpired, true, under(func(at target) string {
			return root(at, func(r *capability.Root) {
				r.NotBefore, r.Expires = time.Now().Add(-2*time.Minute), time.Now().Add(-time.Minute)
			})
		})},
		{denial.TokenNotYet, true, under(func(at target) string {
			return root(at, func(r *capability.Root) {
				r.NotBefore, r.Expires = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
			})
		})},
		{denial.UnknownSigner, true, under(func(at target) string {
			r := capability.Root{Agent: self, Capabilities: []capability.Scope{at.scope}, NotBefore: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour)}
			return must(capability.IssueRoot(must(nkeys.CreateAccount())(t), r, time.Now()))(t)
		})},
		{denial.BadToken, true, under(func(target) string { return foreign })},
		{denial.WrongKind, true, under(func(target) string { return mallory.dir.Info.Passport })},
		{denial.BrokenChain, true, under(func(at target) string { return root(at, nil) + "~" + mallory.dir.Info.Passport })},
		{denial.BeyondOwn, true, lent(func(c *claims) { c.Capabilities = []string{"write:all-of-it"} })},
		{denial.NotDelegatable, true, lent(func(c *claims) { c.Capabilities = []string{""} })},
		{denial.DepthExceeded, true, lent(func(c *claims) { c.Depth, c.Delegatable = 1, []string{"read:onward"} })},
		{denial.DelegationCycle, true, lent(func(c *claims) { c.Agent = "mallory" })},
		{denial.BeyondWindow, true, lent(func(c *claims) { c.Expires += 10000 })},
		{denial.BadScope, true, lent(func(c *claims) { c.Capabilities = []string{"nonsense"} })},
		{denial.WildcardScope, true, lent(func(c *claims) { c.Capabilities = []string{"read:*"} })},
	}
}

// count is how many messages of a sender were said to be refused for a reason.
func (p *program) count(sender string, reason denial.Reason, verified bool) (n uint64) {
	for _, d := range p.errors.refused(p.t) {
		if d.Sender.String() == sender && d.Reason == reason && d.Verified == verified {
			n += d.Count
		}
	}
	return n
}

// Every reason for which a receiver refuses messages is shown, with its code, by
// whoever refuses: real programs, and hostile agents with good keys of their own.
func TestRefusalsAreShown(t *testing.T) {
	t.Parallel()
	a := newArena(t, 2*time.Second)
	ctx := t.Context()
	logs := []capability.Scope{capability.RequireScope("read:logs")}
	news := capability.RequireScope("publish:news")
	a.add("reader", registry.Rights{Handle: logs})
	for _, id := range []string{"fan", "reading-fan"} {
		a.add(id, registry.Rights{Subscribe: []string{"news"}})
	}
	a.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: "news", MaxAge: 3600}})
	speaks := registry.Rights{Call: logs, Publish: []string{"news"}, Subscribe: []string{"news"}}

	// What those published who were cut since, and is read only then.
	wait := a.start("subscribe", "news", "--as", "fan", "--durable", "inbox", "--json")
	until(t, "the durable subscription", func() bool { return strings.Contains(wait.errors.String(), "subscribed") })
	wait.end()
	cut := map[string]denial.Reason{"late": denial.Expired, "odd": denial.Suspended, "gone": denial.Revoked, "renamed": denial.Pending}
	for id := range cut {
		n := registry.NewAgent{Agent: agentid.Require(id), Rights: speaks, Heartbeat: registry.HeartbeatNone}
		if id == "late" {
			n.Heartbeat = registry.HeartbeatSession
		}
		i := a.intruder(must(a.Add(ctx, n))(t))
		msg := i.says(i.Speaker, i.Space.Event(i.Self, "news"), envelope.Fields{Token: i.token, Nonce: envelope.NewNonce()}, id)
		f, _ := i.request(msg, must(i.key.PublicKey())(t))
		msg.Header[envelope.HeaderMsgID] = []string{f.Nonce}
		must(i.nc.RequestMsg(msg, soon))(t)
		i.nc.Close() // else it comes back when it is cut
	}
	for id, op := range map[string]wire.Op{"odd": wire.OpSuspend, "gone": wire.OpRevoke, "renamed": wire.OpRevoke} {
		a.operate(wire.AdminRequest{Op: op, Target: id})
	}
	a.operate(wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("renamed"), Rights: speaks, Replace: true}})

	asker := a.intruder(a.add("asker", speaks))
	boss := must(a.Connect(ctx, a.add("boss", registry.Rights{Call: logs, Publish: []string{"news"}, MayDelegate: append(logs[:1:1], news)})))(t)
	dir := a.add("mallory", speaks)
	honest := must(a.Connect(ctx, dir))(t)
	if err := honest.Subscribe("news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("loot")); err != nil {
		t.Fatal(err)
	}
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	mallory := a.intruder(dir)
	lent := must(boss.Delegate(ctx, "mallory", meshclient.Grant{Scopes: []string{"read:logs", "publish:news"}, For: time.Hour}))(t)
	boss.Close() //nolint:errcheck // it is cut
	a.operate(wire.AdminRequest{Op: wire.OpSuspend, Target: "boss"})

	handle := a.start("handle", "read:logs", "--as", "reader", "--json", "--", "cat")
	subscribe := a.start("subscribe", "news", "--as", "fan", "--json")
	plain := a.start("subscribe", "news", "--as", "reading-fan")
	for _, p := range []*program{handle, subscribe, plain} {
		until(t, "the start", func() bool {
			return strings.Contains(p.errors.String(), `"message":"handling"`) || strings.Contains(p.errors.String(), `"message":"subscribed"`)
		})
	}
	shown := map[denial.Reason]bool{}
	expect := func(p *program, sender string, reason denial.Reason, verified bool, send func()) {
		t.Helper()
		before := p.count(sender, reason, verified)
		send()
		until(t, fmt.Sprintf("%s of %s (verified: %v)", reason, sender, verified), func() bool { return p.count(sender, reason, verified) > before })
		shown[reason] = true
	}
	for _, at := range []target{
		{mallory.Space.Call(mallory.Self, "read.logs"), logs[0], handle},
		{mallory.Space.Event(mallory.Self, "news"), news, subscribe},
	} {
		for _, try := range attempts(a, mallory, asker, lent.Chains()[0]) {
			expect(at.at, "mallory", try.reason, try.verified, func() { mallory.send(try.send(at)...) })
		}
	}
	// What she may pull is stored, and can be delivered to others as if it were live.
	expect(subscribe, "mallory", denial.ForeignDelivery, false, func() {
		pull := subject.Pull(subject.Consumer(mallory.Self, "loot"))
		if err := mallory.nc.PublishRequest(pull, mallory.Space.Event(mallory.Self, "news"), []byte(`{"batch":100,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
	})
	expect(handle, "mallory", denial.BadInput, true, func() {
		mallory.send(mallory.says(mallory.Speaker, mallory.Space.Note(mallory.Self, agentid.Require("reader"), wire.NoteCancel), envelope.Fields{}, foreign))
	})
	expect(handle, "mallory", denial.CannotOpen, true, func() {
		f := envelope.Fields{Token: mallory.token, Enc: envelope.X1}
		mallory.send(mallory.says(mallory.Speaker, mallory.Space.Ask(mallory.Self, agentid.Require("reader"), "read.logs"), f, foreign))
	})
	noisy := a.intruder(a.add("noisy", speaks))
	expect(handle, "noisy", denial.RateLimited, true, func() {
		for i := range 400 {
			f := envelope.Fields{Token: jws.Digest(strconv.Itoa(i))}
			noisy.send(noisy.says(noisy.Speaker, noisy.Space.Call(noisy.Self, "read.logs"), f, ""))
		}
	})
	// A flood is counted and not printed.
	const many = 3000
	start := time.Now()
	old := noisy.earlier(time.Hour)
	for range many {
		if err := noisy.nc.PublishMsg(noisy.says(old, noisy.Space.Call(noisy.Self, "read.logs"), envelope.Fields{Token: noisy.token}, "")); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the flood", func() bool {
		n := handle.count("noisy", denial.Stale, false)
		for _, d := range handle.errors.refused(t) {
			if d.Others {
				n += d.Count
			}
		}
		return n >= many
	})
	lines := strings.Count(handle.errors.String(), `"sender":"noisy","reason":"stale"`)
	if most := 3 + int(time.Since(start)/time.Second); lines > most {
		t.Errorf("got %d lines for a flood, want at most %d", lines, most)
	}
	until(t, "the end of who fell silent", func() bool {
		var v wire.AgentView
		err := a.Operate(ctx, wire.AdminRequest{Op: wire.OpShow, Target: "late"}, &v)
		return err == nil && v.Status == registry.Expired
	})
	stored := a.start("subscribe", "news", "--as", "fan", "--durable", "inbox", "--json")
	for id, reason := range cut {
		until(t, fmt.Sprintf("%s of %s", reason, id), func() bool { return stored.count(id, reason, false) > 0 })
		shown[reason] = true
	}
	t.Run("answers", func(t *testing.T) {
		for reason := range answers(t, a) {
			shown[reason] = true
		}
	})

	// The registry in the hands of an attacker, and then gone.
	ghosts := map[denial.Reason]*intruder{}
	for id, reason := range map[string]denial.Reason{"ghost": denial.BadRecord, "shade": denial.UnlistedAgent, "wraith": denial.RegistryUnavailable} {
		ghosts[reason] = a.intruder(a.add(id, speaks))
	}
	haunt := func(reason denial.Reason) {
		g := ghosts[reason]
		expect(handle, g.Self.String(), reason, false, func() {
			g.send(g.says(g.Speaker, g.Space.Call(g.Self, "read.logs"), envelope.Fields{Token: g.token}, ""))
		})
	}
	records := must(a.streams().Stream(ctx, subject.KVStream(registry.AgentsBucket)))(t)
	another := must(records.GetLastMsgForSubject(ctx, subject.KV(registry.AgentsBucket, "asker")))(t)
	a.write(registry.AgentsBucket, "ghost", string(another.Data))
	haunt(denial.BadRecord)
	if err := records.Purge(ctx, jetstream.WithPurgeSubject(subject.KV(registry.AgentsBucket, "shade"))); err != nil {
		t.Fatal(err)
	}
	haunt(denial.UnlistedAgent)
	if err := a.storage().DeleteStream(ctx, subject.KVStream(gate.ReplayBucket)); err != nil {
		t.Fatal(err)
	}
	expect(handle, "mallory", denial.ReplayUnavailable, true, func() {
		mallory.send(mallory.says(mallory.Speaker, mallory.Space.Call(mallory.Self, "read.logs"), envelope.Fields{Token: mallory.token}, ""))
	})
	if err := a.streams().DeleteStream(ctx, subject.KVStream(registry.AgentsBucket)); err != nil {
		t.Fatal(err)
	}
	haunt(denial.RegistryUnavailable)

	reasons := reasonsOf(t, ofMessages...)
	if len(reasons) < 40 {
		t.Fatalf("got %d reasons, which cannot be all", len(reasons))
	}
	for reason := range reasons {
		if _, excused := notLive[reason]; shown[reason] == excused {
			t.Errorf("%s: shown %v, and listed as not to be brought about: %v", reason, shown[reason], excused)
		}
	}
	for reason := range notLive {
		if !reasons[reason] {
			t.Errorf("%s is listed and no receiver gives it", reason)
		}
	}
	for what, p := range map[string]*program{"handle": handle, "subscribe": subscribe, "subscribe --durable": stored, "subscribe without --json": plain} {
		p.end()
		if text := p.errors.String(); strings.ContainsFunc(text, actedUpon) {
			t.Errorf("%s printed what a terminal acts upon", what)
		}
	}
	text := plain.errors.String()
	for _, try := range attempts(a, mallory, asker, "") {
		signature := map[bool]string{false: "not verified", true: "signature good"}[try.verified]
		if line := fmt.Sprintf("\nrefused: event news of mallory: %s (%s)", try.reason, signature); !strings.Contains(text, line) {
			t.Errorf("for people there is no line %q", line[1:])
		}
	}
	if strings.Contains(text, `"verdict":"refused"`) {
		t.Error("refusals are in the log as well, one by one")
	}
	for _, line := range strings.Split(subscribe.out.String(), "\n") {
		if strings.Contains(line, "refused") || strings.Contains(line, "owned") {
			t.Errorf("standard output has %q", line)
		}
	}
}

// replies are what a hostile handler answers beside the true answer, and for what
// its caller refuses that.
var replies = []struct {
	reason denial.Reason
	change func(*envelope.Fields)
	spoil  func(*nats.Msg)
}{
	{denial.WrongSubject, func(f *envelope.Fields) { f.Parent = envelope.NewNonce() }, nil},
	{denial.BadSignature, nil, func(m *nats.Msg) { m.Data = []byte(foreign) }},
	{denial.UnknownChain, func(f *envelope.Fields) { f.Token = jws.Digest("nothing") }, nil},
	{denial.BadEnvelope, nil, header(envelope.HeaderEnvelope, "from=liar", "from="+foreign)},
}

// answers has liar answer what oracle is asked, and the other way round.
func answers(t *testing.T, a *arena) map[denial.Reason]bool {
	shown := map[denial.Reason]bool{}
	oracle := capability.RequireScope("read:oracle")
	a.add("seeker", registry.Rights{Call: []capability.Scope{oracle}})
	liar := a.intruder(a.add("liar", registry.Rights{Handle: []capability.Scope{oracle}}))
	honest := a.intruder(a.add("oracle", registry.Rights{Handle: []capability.Scope{oracle}}))
	for what, reply := range map[string]func(req *nats.Msg){
		"true": func(req *nats.Msg) {
			for _, r := range replies {
				msg := liar.answer(req, r.change, "a lie")
				if r.spoil != nil {
					r.spoil(msg)
				}
				liar.send(msg)
			}
			honest.send(honest.answer(req, nil, "the truth"))
		},
		"asked": func(req *nats.Msg) {
			liar.send(liar.answer(req, nil, "a lie"))
			honest.send(honest.answer(req, nil, "the truth"))
		},
		"broken": func(req *nats.Msg) {
			honest.send(honest.answer(req, func(f *envelope.Fields) { f.Part.Number = 1 }, "half"), honest.answer(req, nil, "a whole"))
		},
	} {
		requests := make(chan *nats.Msg, 1)
		subs := []*nats.Subscription{
			must(honest.nc.ChanQueueSubscribe(honest.Space.AskFilter(honest.Self, oracle.Dotted()), subject.Queue(oracle.Dotted()), requests))(t),
			must(honest.nc.ChanQueueSubscribe(honest.Space.CallFilter(oracle.Dotted()), subject.Queue(oracle.Dotted()), requests))(t),
		}
		honest.send()
		go func() { reply(<-requests) }()
		args := []string{"call", "read:oracle", "what", "--as", "seeker", "--json"}
		if what == "asked" {
			args = append(args, "--to", "oracle")
		}
		exit, stdout, stderr := a.sealmesh(t.Context(), args...)
		for _, s := range subs {
			s.Unsubscribe() //nolint:errcheck // nothing more is asked
		}
		if what == "broken" {
			var doc struct{ Error failure }
			if err := json.Unmarshal([]byte(stdout), &doc); err != nil || exit != exitUnavailable || doc.Error.Code != "broken-stream" || doc.Error.From != honest.Self {
				t.Errorf("broken: got %d and %s, %v", exit, stdout, err)
			}
			shown[denial.BrokenStream] = true
			continue
		}
		if exit != exitOK || !strings.Contains(stdout, `"data": "the truth"`) {
			t.Errorf("%s: got %d and %s%s", what, exit, stdout, stderr)
		}
		errs := &output{}
		errs.Write([]byte(stderr)) //nolint:errcheck // it takes everything
		p := &program{t: t, errors: errs}
		want := []denial.Reason{denial.WrongResponder}
		if what == "true" {
			want = nil
			for _, r := range replies {
				want = append(want, r.reason)
			}
		}
		for _, reason := range want {
			if p.count("liar", reason, reason == denial.UnknownChain) != 1 {
				t.Errorf("%s: the caller does not say %s of liar; it says %s", what, reason, stderr)
			}
			shown[reason] = true
		}
	}
	return shown
}
