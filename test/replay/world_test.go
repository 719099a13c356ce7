package replay_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// wait is how long something may take that must come.
const wait = 60 * time.Second

// shared is the mesh of all tests that harm nothing but what is their own.
var shared struct {
	once sync.Once
	runs atomic.Int64
	dir  string
	dev  *devmesh.Mesh
	err  error
}

func TestMain(m *testing.M) {
	// These tests wait for servers, clients and ticks most of their time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if shared.dev != nil {
		if err := shared.dev.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	return ctx
}

// world is a mesh in which writer calls what reader handles.
type world struct {
	dev            *devmesh.Mesh
	name           string // of what is the test's own: the agents are writer-NAME and reader-NAME
	writer, reader string // directories of instances
	token          string // chain by which writer calls
}

// enrol makes writer and reader, by names and a scope of their own.
func enrol(t testing.TB, dev *devmesh.Mesh, name string) (w *world, scope capability.Scope) {
	t.Helper()
	scope = capability.RequireScope("read:" + name)
	w = &world{dev: dev, name: name}
	w.writer = add(t, dev, "writer-"+name, registry.Rights{Call: []capability.Scope{scope}})
	w.reader = add(t, dev, "reader-"+name, registry.Rights{Handle: []capability.Scope{scope}})
	w.token = chain(t, dev, w.writer)
	return w, scope
}

func add(t testing.TB, dev *devmesh.Mesh, id string, r registry.Rights) (dir string) {
	t.Helper()
	dir, err := dev.Add(within(t), registry.NewAgent{Agent: agentid.Require(id), Rights: r})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// chain is the one that an agent was given, as its client knows it.
func chain(t testing.TB, dev *devmesh.Mesh, dir string) string {
	t.Helper()
	c, err := dev.Connect(within(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Chains(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return all[0].Digest()
}

// inShared enrols agents of a test in the shared mesh.
func inShared(t *testing.T, name string) (*world, capability.Scope) {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "sealmesh-replay-"); shared.err == nil {
			shared.dev, shared.err = devmesh.Start(within(t), shared.dir+"/mesh", quiet())
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	// A test may run more than once.
	return enrol(t, shared.dev, fmt.Sprintf("%s-%d", name, shared.runs.Add(1)))
}

func quiet() devmesh.Options {
	return devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop()}
}

// line is a connection with an agent's key and certificate, and nothing of the
// mesh's client between its holder and the server.
type line struct {
	*gate.Speaker
	*nats.Conn
	info agentdir.Info
}

func dial(t testing.TB, dir string, opts ...nats.Option) *line {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	source, err := d.Source()
	if err != nil {
		t.Fatal(err)
	}
	opts = append([]nats.Option{
		nats.Nkey(pub, kp.Sign), nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)),
		nats.Secure(source.ClientTLS("")), nats.Timeout(12 * time.Second), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(50 * time.Millisecond), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, opts...)
	// The client library gives up where the callout takes longer than two seconds,
	// as it may on a busy machine.
	var nc *nats.Conn
	eventually(t, "connecting "+d.Info.Agent.String(), func() bool {
		nc, err = nats.Connect(d.Info.NATS[0], opts...)
		return err == nil
	})
	t.Cleanup(nc.Close)
	seed, err := d.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	space, err := subject.New(d.Info.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	return &line{info: d.Info, Conn: nc, Speaker: &gate.Speaker{
		Self: d.Info.Agent, Key: key, TrustDomain: d.Info.TrustDomain, Space: space, Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
	}}
}

// sign makes a call. Whoever has it can send it as often as it likes.
func (w *line) sign(t testing.TB, scope capability.Scope, token string) *nats.Msg {
	t.Helper()
	m, _, _, err := w.Message(w.Space.Call(w.Self, scope.Dotted()), envelope.Fields{Token: token}, nil, []byte("once"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func nonce(t testing.TB, m *nats.Msg) string {
	t.Helper()
	u, err := envelope.Parse(envelope.Message{Subject: m.Subject, Header: m.Header, Data: m.Data})
	if err != nil {
		t.Fatal(err)
	}
	return u.UnsafeFields().Nonce
}

// copyOf is one more of the same message.
func copyOf(m *nats.Msg) *nats.Msg {
	return &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
}

func (w *line) send(t testing.TB, m *nats.Msg) {
	t.Helper()
	if err := w.PublishMsg(copyOf(m)); err != nil {
		t.Fatal(err)
	}
	if err := w.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
}

// receiver is a process that handles a scope: a gate of its own behind a
// connection of its own. Its clock is the test's.
type receiver struct {
	*line
	scope    capability.Scope
	gate     *gate.Gate
	sub      *nats.Subscription
	ran      atomic.Int64
	verdicts chan denial.Reason
}

// setup says how a receiver differs.
type setup struct {
	ahead time.Duration // of its clock
	clock func() time.Time
	conn  func(*line) func() *nats.Conn // what it burns over
	burns int                           // BurnsPerSender
	opts  []nats.Option
}

func receive(t testing.TB, dir string, scope capability.Scope, s setup) *receiver {
	t.Helper()
	var peers atomic.Pointer[gate.Peers]
	gap := func(*nats.Conn) {
		if p := peers.Load(); p != nil {
			p.Gap()
		}
	}
	opts := append([]nats.Option{nats.DisconnectErrHandler(func(nc *nats.Conn, _ error) { gap(nc) }), nats.ReconnectHandler(gap)}, s.opts...)
	r := &receiver{line: dial(t, dir, opts...), scope: scope, verdicts: make(chan denial.Reason, 4096)}
	clock := s.clock
	if clock == nil {
		clock = func() time.Time { return time.Now().Add(s.ahead) }
	}
	conn := func() *nats.Conn { return r.Conn }
	ring, err := capability.NewKeyring(r.info.Roots, r.info.SigningKeys)
	if err != nil {
		t.Fatal(err)
	}
	reader := &gate.NATSReader{Conn: conn, Leader: gate.AgentLeader(r.Space)}
	p, err := gate.NewPeers(gate.PeersConfig{Roots: r.info.Roots, Ring: ring, Reader: reader, Clock: clock, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	peers.Store(p)
	prefix := r.Space.FeedAgents() + "."
	if _, err := r.Subscribe(r.Space.FeedFilter(), func(m *nats.Msg) {
		p.Observe(strings.TrimPrefix(m.Subject, prefix), string(m.Data))
	}); err != nil {
		t.Fatal(err)
	}
	if err := r.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(within(t)); err != nil {
		t.Fatal(err)
	}
	seen, err := envelope.NewMemory(envelope.MemoryConfig{Window: envelope.DefaultWindow(), Since: clock().Add(-limits.RestartSlack)})
	if err != nil {
		t.Fatal(err)
	}
	burnOver := conn
	if s.conn != nil {
		burnOver = s.conn(r.line)
	}
	if r.gate, err = gate.New(gate.Config{
		Self: r.info.Agent, TrustDomain: r.info.TrustDomain, Space: r.Space, Peers: p, Reader: reader, Clock: clock,
		Burner: &gate.NATSBurner{Conn: burnOver, Since: p.ReplaySince}, Seen: seen, Window: envelope.DefaultWindow(), BurnsPerSender: s.burns,
	}); err != nil {
		t.Fatal(err)
	}
	r.listen(t)
	return r
}

// listen takes calls from the queue group of the scope.
func (r *receiver) listen(t testing.TB) {
	t.Helper()
	var err error
	dotted := r.scope.Dotted()
	if r.sub, err = r.QueueSubscribe(r.Space.CallFilter(dotted), subject.Queue(dotted), func(m *nats.Msg) { go r.judge(m) }); err != nil {
		t.Fatal(err)
	}
	if err := r.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
}

func (r *receiver) judge(m *nats.Msg) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	_, err := r.gate.Admit(ctx, envelope.Message{Subject: m.Subject, Header: m.Header, Data: m.Data, Reply: m.Reply},
		gate.Want{Class: subject.Call, Dotted: r.scope.Dotted(), Scope: r.scope})
	if err == nil {
		r.ran.Add(1)
	}
	r.verdicts <- denial.Of(err)
}

// leave makes room in the queue group; what comes goes to others.
func (r *receiver) leave(t testing.TB) {
	t.Helper()
	if err := r.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if err := r.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
}

// expect waits for verdicts, in any order.
func (r *receiver) expect(t testing.TB, what string, want ...denial.Reason) {
	t.Helper()
	got := map[denial.Reason]int{}
	late := time.NewTimer(wait)
	defer late.Stop()
	for range want {
		select {
		case v := <-r.verdicts:
			got[v]++
		case <-late.C:
			t.Fatalf("%s: no verdict on a message", what)
		}
	}
	expected := map[denial.Reason]int{}
	for _, w := range want {
		expected[w]++
	}
	if fmt.Sprint(got) != fmt.Sprint(expected) {
		t.Errorf("%s: got verdicts %v, want %v", what, got, expected)
	}
}

// accepted is the verdict on what is let in.
const accepted denial.Reason = ""

// ran checks how often a handler ran, in all processes together.
func ran(t testing.TB, want int64, all ...*receiver) {
	t.Helper()
	var n int64
	for _, r := range all {
		n += r.ran.Load()
	}
	if n != want {
		t.Errorf("the handler ran %d times, want %d", n, want)
	}
}

// eventually waits for what must come.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not after %s", what, wait)
		}
	}
}

// connected is an agent with the mesh's own client.
func connected(t testing.TB, dev *devmesh.Mesh, dir string, opts ...meshclient.Option) *meshclient.Mesh {
	t.Helper()
	c, err := dev.Connect(within(t), dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("closing %s: %v", c.ID(), err)
		}
	})
	return c
}

func publishing(topics ...string) registry.Rights {
	return registry.Rights{Publish: topics, Subscribe: topics}
}

func durable(t testing.TB, dev *devmesh.Mesh, topic string) {
	t.Helper()
	req := wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: topic, MaxAge: 3600}}
	if err := dev.Operate(within(t), req, nil); err != nil {
		t.Fatal(err)
	}
}
