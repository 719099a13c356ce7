package attack_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// live is a real mesh.
type live struct {
	t    *testing.T
	dev  *devmesh.Mesh
	ctrl *nats.Conn // as the control plane, in its account
}

func start(t *testing.T) *live {
	t.Helper()
	return startWith(t, nil)
}

// startWith is start of a mesh that differs from the usual one.
func startWith(t *testing.T, configure func(*meshdir.InitOptions)) *live {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	dev, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop(), Configure: configure})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("closing the mesh: %v", err)
		}
	})
	l := &live{t: t, dev: dev}
	if l.ctrl, err = devmesh.AsService(dev.Dir, dev.Server.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.ctrl.Close)
	return l
}

// rights sorts scopes into what an operator gives.
func rights(t *testing.T, scopes []string) registry.Rights {
	t.Helper()
	var r registry.Rights
	for _, s := range scopes {
		verb, rest, _ := strings.Cut(s, ":")
		switch verb {
		case "handle":
			r.Handle = append(r.Handle, capability.RequireScope(rest))
		case "publish":
			r.Publish = append(r.Publish, rest)
		case "subscribe":
			r.Subscribe = append(r.Subscribe, rest)
		default:
			r.Call = append(r.Call, capability.RequireScope(s))
		}
	}
	return r
}

func (l *live) operate(req wire.AdminRequest, out any) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	if err := l.dev.Operate(ctx, req, out); err != nil {
		l.t.Fatalf("%s %s: %v", req.Op, req.Target, err)
	}
}

// add registers and enrols an agent.
func (l *live) add(id string, r registry.Rights) person {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	dir, err := l.dev.Add(ctx, registry.NewAgent{Agent: agentid.Require(id), Rights: r, Heartbeat: registry.HeartbeatNone})
	if err != nil {
		l.t.Fatal(err)
	}
	return person{agentid.Require(id), l.open(dir).Info.Instance}
}

func (l *live) open(dir string) *agentdir.Dir {
	l.t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	return d
}

// dial connects with an agent's own key and certificate and nothing of ours.
func (l *live) dial(t *testing.T, id string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := l.tryDial(t, id, opts...)
	if err != nil {
		t.Fatalf("connecting as %s: %v", id, err)
	}
	return nc
}

func (l *live) tryDial(t *testing.T, id string, opts ...nats.Option) (*nats.Conn, error) {
	t.Helper()
	d := l.open(l.dev.AgentDir(id))
	key, err := nats.NkeyOptionFromSeed(d.File(agentdir.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	opts = append([]nats.Option{
		key, nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)),
		nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)), nats.Timeout(wait),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)
	nc, err := nats.Connect(l.dev.Server.URL(), opts...)
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func (l *live) agent(id string) *meshclient.Mesh {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	m, err := l.dev.Connect(ctx, l.dev.AgentDir(id))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			l.t.Errorf("closing %s: %v", id, err)
		}
	})
	return m
}

// inMesh makes the arena in which every attempt must fail.
func inMesh(t *testing.T) *arena {
	t.Helper()
	l := start(t)
	a := &arena{t: t, mesh: true, who: map[string]person{}, ctrl: l.ctrl, accepted: &atomic.Int64{}}
	for _, topic := range []string{"news", "weather"} {
		l.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: topic, MaxAge: 3600}}, nil)
	}
	for id, scopes := range may {
		a.who[id] = l.add(id, rights(t, scopes))
	}
	ctrl, err := jetstream.New(l.ctrl)
	if err != nil {
		t.Fatal(err)
	}
	store, err := jetstream.NewWithAPIPrefix(l.ctrl, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	a.streams = map[string]jetstream.JetStream{natsconf.Control: ctrl, natsconf.Storage: store}

	people := map[string]*meshclient.Mesh{}
	for _, id := range []string{alice, bob} {
		people[id] = l.agent(id)
	}
	h := newHonest(a, people[alice], people[bob])
	a.round = h.round
	for id, topic := range durable {
		l.subscribeDurably(store, a.person(id), topic)
	}
	a.connect = func(t *testing.T, _ grant, opts ...nats.Option) *nats.Conn { return l.dial(t, mallory, opts...) }
	a.as = func(t *testing.T, id string) *nats.Conn { return l.dial(t, id) }
	c := a.person(carol)
	space := subject.Default()
	a.carol = listen(t, l.dial(t, carol), space.ReplyFilter(c.id, c.inst), space.NoteFilter(c.id), space.FeedFilter(),
		subject.InboxPrefix(c.id, c.inst)+".>", space.CallFilter("read.mail")+" read.mail", space.AskFilter(c.id, "read.mail")+" read.mail",
		space.EventFilter("news"))
	a.tap = listen(t, l.ctrl, ">")
	a.raw = func(t *testing.T) *talk { return l.raw(t, mallory) }
	a.identify = func(t *testing.T, info serverInfo, as string) map[string]any { return l.identity(t, mallory, as, info) }
	return a
}

// raw opens a TCP connection with an agent's certificate.
func (l *live) raw(t *testing.T, id string) *talk {
	t.Helper()
	nc, err := net.Dial("tcp", strings.TrimPrefix(l.dev.Server.URL(), "tls://"))
	if err != nil {
		t.Fatal(err)
	}
	w := newTalk(t, nc)
	info := w.info()
	source, err := l.open(l.dev.AgentDir(id)).Source()
	if err != nil {
		t.Fatal(err)
	}
	secure := tls.Client(nc, source.ClientTLS("127.0.0.1"))
	if err := secure.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = newTalk(t, secure)
	w.server = info
	return w
}

// identity is the CONNECT of an agent that claims to be another, or itself: it
// names that one's key and signs with its own.
func (l *live) identity(t *testing.T, id, as string, info serverInfo) map[string]any {
	t.Helper()
	key, err := l.open(l.dev.AgentDir(id)).Key()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := key.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := l.open(l.dev.AgentDir(as)).Key()
	if err != nil {
		t.Fatal(err)
	}
	public, err := claimed.PublicKey() // which anybody may know
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{
		"nkey": public, "sig": base64.RawURLEncoding.EncodeToString(sig), "name": as,
		"verbose": false, "pedantic": false, "headers": true, "protocol": 1, "lang": "go", "version": "1",
	}
}

// subscribeDurably asks the control plane for a durable subscription, as an
// agent's client does, and waits until its consumer is there.
func (l *live) subscribeDurably(store jetstream.JetStream, p person, topic string) {
	l.t.Helper()
	var view wire.AgentView
	l.operate(wire.AdminRequest{Op: wire.OpShow, Target: p.id.String()}, &view)
	seed, err := l.open(l.dev.AgentDir(p.id.String())).Seed()
	if err != nil {
		l.t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		l.t.Fatal(err)
	}
	body, err := json.Marshal(wire.DurableRequest{Name: "inbox", Topics: []string{topic}})
	if err != nil {
		l.t.Fatal(err)
	}
	space := subject.Default()
	speaker := gate.Speaker{
		Self: p.id, Key: key, TrustDomain: l.dev.Dir.Config.TrustDomain, Space: space, Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: view.Epoch, Instance: view.Instances[0].Epoch} },
	}
	nc := l.dial(l.t, p.id.String())
	msg, _, _, err := speaker.Message(space.Ask(p.id, agentid.Control, "self.durable"), envelope.Fields{Deadline: wait}, nil, body, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := nc.PublishMsg(msg); err != nil {
		l.t.Fatal(err)
	}
	if !within(wait, func() bool {
		_, err := store.Consumer(l.t.Context(), subject.EventsStream, p.consumer())
		return err == nil
	}) {
		l.t.Fatalf("%s has no consumer", p.id)
	}
}

// honest are the agents that go on with their work meanwhile.
type honest struct {
	a          *arena
	alice, bob *meshclient.Mesh

	mu     sync.Mutex
	marks  map[string]bool // said in a round
	called chan string
	events chan string
	stored chan string
}

func newHonest(a *arena, alice, bob *meshclient.Mesh) *honest {
	a.t.Helper()
	h := &honest{a: a, alice: alice, bob: bob, marks: map[string]bool{}, called: make(chan string, 64), events: make(chan string, 64), stored: make(chan string, 64)}
	if err := bob.Handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		h.took(string(req.Data), h.called)
		return req.Data, nil
	}); err != nil {
		a.t.Fatal(err)
	}
	if err := bob.Subscribe("news", func(_ context.Context, e *meshclient.Event) { h.took(string(e.Data), h.events) }); err != nil {
		a.t.Fatal(err)
	}
	if err := alice.Subscribe("weather", func(_ context.Context, e *meshclient.Event) { h.took(string(e.Data), h.stored) }, meshclient.Durable("work")); err != nil {
		a.t.Fatal(err)
	}
	return h
}

// took is told of everything that was accepted.
func (h *honest) took(data string, out chan string) {
	h.mu.Lock()
	said := h.marks[data]
	h.mu.Unlock()
	if !said {
		h.a.accepted.Add(1)
		return
	}
	out <- data
}

var errNotHeard = errors.New("what was said was not heard")

func (h *honest) round(mark string) error {
	h.mu.Lock()
	h.marks[mark] = true
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(h.a.t.Context(), wait)
	defer cancel()
	reply, err := h.alice.Call(ctx, "read:logs", []byte(mark))
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	if string(reply.Data) != mark {
		return fmt.Errorf("call: got %q, want %q", reply.Data, mark)
	}
	if err := h.alice.Publish(ctx, "news", []byte(mark)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := h.bob.Publish(ctx, "weather", []byte(mark)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for what, c := range map[string]chan string{"call": h.called, "event": h.events, "stored event": h.stored} {
		select {
		case got := <-c:
			if got != mark {
				return fmt.Errorf("%s: got %q, want %q", what, got, mark)
			}
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errNotHeard)
		}
	}
	h.a.rounds.Add(1)
	return nil
}
