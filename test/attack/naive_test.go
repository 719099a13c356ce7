package attack_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// password is everybody's, as in many a first deployment.
const password = "mesh"

// naiveConf is the server of the control run: one account for agents, streams
// and whoever keeps the registry.
var naiveConf = template.Must(template.New("").Funcs(template.FuncMap{"q": func(s string) string { return fmt.Sprintf("%q", s) }}).Parse(`
server_name: naive
listen: "127.0.0.1:-1"
jetstream { store_dir: {{q .Store}} }
accounts {
  ALL {
    jetstream: enabled
    users: [
      { user: operator, password: {{q .Password}} }
      { user: alice, password: {{q .Password}} }
      { user: bob, password: {{q .Password}}, permissions { publish: ">", subscribe: ">", allow_responses: true } }
      { user: carol, password: {{q .Password}} }
      # It answers who asks it, and says nothing else.
      { user: answering, password: {{q .Password}}, permissions { publish: { deny: ">" }, subscribe: "mesh.>", allow_responses: { max: -1 } } }
      { user: mallory, password: {{q .Password}}, permissions { publish: [{{range .Publish}}{{q .}}, {{end}}], subscribe: [{{range .Subscribe}}{{q .}}, {{end}}] } }
      { user: everything, password: {{q .Password}}, permissions { publish: ">", subscribe: ">", allow_responses: true } }
      { user: narrow, password: {{q .Password}}, permissions { publish: [{{range .Publish}}{{q .}}, {{end}}], subscribe: [{{range .Subscribe}}{{q .}}, {{end}}] } }
      { user: responder, password: {{q .Password}}, permissions { publish: [{{range .Publish}}{{q .}}, {{end}}], subscribe: [{{range .Subscribe}}{{q .}}, {{end}}], allow_responses: { max: 100 } } }
    ]
  }
  SYS { users: [ { user: system, password: {{q .Password}} } ] }
}
system_account: SYS
`))

// naive makes the arena of the control run, in which every attempt must win.
func naive(t *testing.T) *control {
	t.Helper()
	a := &arena{t: t, who: map[string]person{}, accepted: &atomic.Int64{}}
	for id := range may {
		a.who[id] = person{agentid.Require(id), agentid.InstanceOf("U" + id)}
	}
	m := a.person(mallory)
	var scopes []capability.Scope
	for _, s := range may[mallory] {
		scopes = append(scopes, capability.RequireScope(s))
	}
	g, err := authcallout.Compile(subject.Default(), authcallout.Subject{Agent: m.id, Instance: m.inst, Scopes: scopes, Durables: []string{"inbox"}})
	if err != nil {
		t.Fatal(err)
	}
	p := g.Permissions()
	dir := t.TempDir()
	file := filepath.Join(dir, "nats-server.conf")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := naiveConf.Execute(out, map[string]any{
		"Store": dir, "Password": password, "Subscribe": []string(p.Sub.Allow),
		// Without an account of its own a leader is asked by its own name.
		"Publish": append(slices.Clone([]string(p.Pub.Allow)), subject.LeaderGet(subject.AgentsBucket), subject.LeaderGet(subject.ChainsBucket)),
	}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	srv, err := natsserver.Start(t.Context(), natsserver.Config{File: file, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	c := &control{arena: a, url: strings.Replace(srv.URL(), "tls://", "nats://", 1)}
	a.connect = func(t *testing.T, g grant, opts ...nats.Option) *nats.Conn {
		return c.dial(t, string(g), append([]nats.Option{nats.CustomInboxPrefix(subject.InboxPrefix(m.id, m.inst))}, opts...)...)
	}
	a.as = func(t *testing.T, id string) *nats.Conn { return c.dial(t, id) }
	a.ctrl = c.dial(t, "operator")
	js, err := jetstream.New(a.ctrl)
	if err != nil {
		t.Fatal(err)
	}
	c.js = js
	a.streams = map[string]jetstream.JetStream{"ALL": js}
	v := a.person(carol)
	space := subject.Default()
	a.carol = listen(t, c.dial(t, carol), space.ReplyFilter(v.id, v.inst), space.NoteFilter(v.id), space.FeedFilter(),
		subject.InboxPrefix(v.id, v.inst)+".>", space.CallFilter("read.mail")+" read.mail", space.AskFilter(v.id, "read.mail")+" read.mail",
		space.EventFilter("news"))
	a.tap = listen(t, a.ctrl, ">")
	c.work(t)
	a.round = c.round
	a.raw = func(t *testing.T) *talk {
		nc, err := net.Dial("tcp", strings.TrimPrefix(c.url, "nats://"))
		if err != nil {
			t.Fatal(err)
		}
		w := newTalk(t, nc)
		w.info()
		return w
	}
	a.identify = func(_ *testing.T, _ serverInfo, as string) map[string]any {
		return map[string]any{"user": as, "pass": password, "verbose": false, "pedantic": false, "headers": true, "protocol": 1, "lang": "go", "version": "1"}
	}
	return c
}

// control is the control run's arena with what it takes to set it up again.
type control struct {
	*arena
	url        string
	js         jetstream.JetStream
	alice, bob *nats.Conn
}

func (c *control) dial(t *testing.T, user string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(c.url, append([]nats.Option{
		nats.UserInfo(user, password), nats.Timeout(wait), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)...)
	if err != nil {
		t.Fatalf("connecting as %s: %v", user, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// reset makes the streams anew, as a careful operator of plain NATS would.
func (c *control) reset(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	names := c.js.StreamNames(ctx)
	var old []string
	for n := range names.Name() {
		old = append(old, n)
	}
	for _, n := range old {
		if err := c.js.DeleteStream(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []string{subject.AgentsBucket, subject.ChainsBucket, subject.SessionsBucket, subject.ReplayBucket} {
		var err error
		if !within(wait, func() bool {
			_, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: b})
			return err == nil
		}) {
			t.Fatal(err)
		}
	}
	for _, s := range []jetstream.StreamConfig{
		{Name: subject.EventsStream, Subjects: []string{"mesh.event.>"}, AllowDirect: true, MaxMsgs: 50},
		{Name: "MESH_BEATS", Subjects: []string{"mesh.beat.*.*"}, MaxMsgsPerSubject: 1},
		{Name: "MESH_AUDIT", Subjects: []string{"mesh.audit.*.*"}},
	} {
		// Files of the one before may still be on their way out.
		var err error
		if !within(wait, func() bool { _, err = c.js.CreateStream(ctx, s); return err == nil }) {
			t.Fatal(err)
		}
	}
	for id, topic := range durable {
		if _, err := c.js.CreateConsumer(ctx, subject.EventsStream, jetstream.ConsumerConfig{
			Durable: c.person(id).consumer(), AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "mesh.event.*." + topic,
		}); err != nil {
			t.Fatal(err)
		}
	}
	kv, err := c.js.KeyValue(ctx, subject.AgentsBucket)
	if err != nil {
		t.Fatal(err)
	}
	for id := range may {
		if _, err := kv.PutString(ctx, id, "record of "+id); err != nil {
			t.Fatal(err)
		}
	}
	if kv, err = c.js.KeyValue(ctx, subject.SessionsBucket); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(ctx, bob, "session of bob"); err != nil {
		t.Fatal(err)
	}
	beat := subject.Default().Beat(c.person(bob).id, c.person(bob).inst)
	if _, err := c.js.Publish(ctx, beat, []byte("beat of bob")); err != nil {
		t.Fatal(err)
	}
	verdict := subject.Default().Audit(c.person(bob).id, c.person(bob).inst)
	if _, err := c.js.Publish(ctx, verdict, []byte("verdict of bob")); err != nil {
		t.Fatal(err)
	}
}

// work starts the agents of the control run: bob answers calls, hears news, and
// is a service of the micro protocol. They believe what they get.
func (c *control) work(t *testing.T) {
	t.Helper()
	c.alice, c.bob = c.dial(t, alice), c.dial(t, bob)
	space := subject.Default()
	handle := func(nc *nats.Conn, subj, queue string) {
		t.Helper()
		if _, err := nc.QueueSubscribe(subj, queue, func(m *nats.Msg) {
			if m.Reply != "" {
				_ = m.Respond(m.Data) // an attack may have led it nowhere
			}
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
	}
	handle(c.bob, space.CallFilter("read.logs"), "read.logs")
	// One that answers whoever asks, by allow_responses alone.
	handle(c.dial(t, "answering"), space.CallFilter("write.reports"), "write.reports")
	if _, err := micro.AddService(c.bob, micro.Config{Name: "bob", Version: "1.0.0"}); err != nil {
		t.Fatal(err)
	}
}

// round is one of everything that honest agents do, as plain NATS does it.
func (c *control) round(mark string) error {
	space, b := subject.Default(), c.person(bob)
	al := c.person(alice)
	short := time.Second
	if _, err := c.alice.Request(space.Call(al.id, "read.logs"), []byte(mark), short); err != nil {
		return err
	}
	if err := c.alice.PublishRequest(space.Ask(al.id, b.id, "read.logs"), space.Reply(b.id, al.id, al.inst, mark), []byte(mark)); err != nil {
		return err
	}
	for _, say := range []struct {
		nc   *nats.Conn
		subj string
	}{
		{c.bob, space.Reply(b.id, al.id, al.inst, mark)}, {c.bob, space.Note(b.id, al.id, "cancel")},
		{c.bob, space.Beat(b.id, b.inst)}, {c.bob, space.Audit(b.id, b.inst)}, {c.bob, "$SYS.REQ.USER.INFO"}, {c.alice, "$SRV.PING"},
		{c.alice, "_INBOX_bob_" + b.inst.String() + ".x"}, {c.alice, "_INBOX.abc"}, {c.alice, "legacy." + mark},
		{c.ctrl, "$KV.MESH_AGENTS.bob"}, {c.ctrl, "$KV.MESH_SESSIONS.bob"}, {c.ctrl, space.FeedAgent(bob)},
		{c.bob, "$KV.MESH_REPLAY.read.logs.alice." + mark},
	} {
		if err := say.nc.Publish(say.subj, []byte(mark)); err != nil {
			return err
		}
	}
	if _, err := c.alice.Request(space.Event(al.id, "news"), []byte(mark), short); err != nil {
		return err
	}
	if _, err := c.bob.Request(space.Event(b.id, "weather"), []byte(mark), short); err != nil {
		return err
	}
	m, err := c.bob.Request(subject.Pull(c.person(carol).consumer()), []byte(`{"batch":1,"expires":900000000}`), short)
	if err != nil {
		return err
	}
	if m.Reply == "" {
		return errNotHeard
	}
	if _, err := c.bob.Request(m.Reply, []byte("+ACK"), short); err != nil {
		return err
	}
	// Somebody looks through what is stored.
	_, err = c.js.CreateConsumer(c.t.Context(), subject.EventsStream, jetstream.ConsumerConfig{InactiveThreshold: short})
	return err
}
