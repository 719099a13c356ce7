package gate_test

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

const domain = "mesh.example"

// t0 lies far from any wall clock, so that no test leans on one.
var t0 = time.UnixMilli(1795408791000).UTC()

// clock is one that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// store is the registry's leader and the replay store, in memory.
type store struct {
	mu      sync.Mutex
	records map[string]string
	chains  map[string]string
	burnt   map[string]bool
	reads   map[string]int // by key or digest
	burns   int
	down    error                                 // what reads fail with
	lost    bool                                  // burns happen and their answers get lost
	during  func(ctx context.Context, key string) // runs after the answer is taken and before it is given
}

func (s *store) read(ctx context.Context, from map[string]string, key string) (string, error) {
	s.mu.Lock()
	s.reads[key]++
	text, ok := from[key]
	during, down := s.during, s.down
	s.mu.Unlock()
	if during != nil {
		during(ctx, key)
	}
	switch {
	case ctx.Err() != nil:
		return "", denial.New(denial.RegistryUnavailable, "reading: %w", ctx.Err())
	case down != nil:
		return "", down
	case !ok:
		return "", denial.NotFound
	}
	return text, nil
}

func (s *store) Record(ctx context.Context, key string) (string, error) {
	return s.read(ctx, s.records, key)
}

func (s *store) Chain(ctx context.Context, digest string) (string, error) {
	return s.read(ctx, s.chains, digest)
}

func (s *store) Burn(_ context.Context, dotted string, sender agentid.ID, nonce string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.burns++
	key := subject.ReplayKey(dotted, sender, nonce)
	if s.burnt[key] {
		return denial.New(denial.Replayed, "nonce was used before")
	}
	s.burnt[key] = true
	if s.lost {
		return denial.New(denial.ReplayUnavailable, "no answer")
	}
	return nil
}

// set changes the store under its lock.
func (s *store) set(f func(*store)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// count returns how often keys were read, all where none is named.
func (s *store) count(keys ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, times := range s.reads {
		if len(keys) == 0 || slices.Contains(keys, key) {
			n += times
		}
	}
	return n
}

// world is an authority, its registry, and one receiver, "reader".
type world struct {
	t                     testing.TB
	clock                 *clock
	store                 *store
	root, tokens, records nkeys.KeyPair
	certificates          []string
	ring                  *capability.Keyring
	tick                  registry.Tick
	changed               []agentid.ID // what OnChange heard
	onChange              func()
	*node
}

// node is one receiving process.
type node struct {
	w     *world
	peers *gate.Peers
	gate  *gate.Gate
	seen  *envelope.Memory
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t: t, clock: &clock{now: t0},
		store: &store{records: map[string]string{}, chains: map[string]string{}, burnt: map[string]bool{}, reads: map[string]int{}},
		root:  keyOf(t, nkeys.PrefixByteAccount, "root"), tokens: keyOf(t, nkeys.PrefixByteAccount, "tokens"),
		records: keyOf(t, nkeys.PrefixByteAccount, "records"),
	}
	w.certificates = []string{w.certify(w.tokens, capability.ForTokens), w.certify(w.records, capability.ForRecords)}
	w.ring = w.keyring(w.certificates...)
	w.store.records[registry.RingKey] = registry.JoinRing(w.certificates)
	w.beat()
	w.node = w.start(0)
	return w
}

func (w *world) certify(key nkeys.KeyPair, p capability.Purpose) string {
	return must[string](w.t)(capability.CertifyKey(w.root, publicOf(w.t, key), p, t0.Add(-time.Hour), t0.Add(90*24*time.Hour), t0))
}

func (w *world) keyring(certificates ...string) *capability.Keyring {
	return must[*capability.Keyring](w.t)(capability.NewKeyring([]string{publicOf(w.t, w.root)}, certificates))
}

// start makes a further receiving process of "reader".
func (w *world) start(grace time.Duration) *node {
	w.t.Helper()
	return w.startWith(func(c *gate.PeersConfig) { c.FeedGrace = grace })
}

func (w *world) startWith(configure func(*gate.PeersConfig)) *node {
	w.t.Helper()
	n := &node{w: w}
	cfg := gate.PeersConfig{
		Roots: []string{publicOf(w.t, w.root)}, Ring: w.ring, Reader: w.store, Clock: w.clock.Now, Log: zerolog.Nop(),
		OnChange: func(id agentid.ID) {
			w.store.set(func(*store) { w.changed = append(w.changed, id) })
			if w.onChange != nil {
				w.onChange()
			}
		},
	}
	configure(&cfg)
	n.peers = must[*gate.Peers](w.t)(gate.NewPeers(cfg))
	if err := n.peers.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	n.seen = must[*envelope.Memory](w.t)(envelope.NewMemory(envelope.MemoryConfig{
		Window: envelope.DefaultWindow(), Since: w.clock.Now().Add(-limits.RestartSlack),
	}))
	n.gate = must[*gate.Gate](w.t)(gate.New(gate.Config{
		Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: n.peers, Reader: w.store,
		Burner: w.store, Seen: n.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
	}))
	w.store.set(func(s *store) { clear(s.reads) })
	return n
}

// beat writes the next tick and returns its text.
func (w *world) beat(changed ...registry.EpochEntry) string {
	w.t.Helper()
	w.tick.Revision++
	w.tick.Incarnation = max(w.tick.Incarnation, 1)
	w.tick.Time, w.tick.Changed = w.clock.Now().UnixMilli(), changed
	text := w.sign("tick", &w.tick.Head, &w.tick)
	w.store.set(func(s *store) { s.records[registry.TickKey] = text })
	return text
}

// tickTo writes a tick and lets the process hear it.
func (w *world) tickTo(n *node, changed ...registry.EpochEntry) {
	n.peers.Observe(registry.TickKey, w.beat(changed...))
}

// pass lets time go by with a tick every five seconds.
func (w *world) pass(d time.Duration) {
	for ; d > 0; d -= gate.TickInterval {
		w.clock.advance(min(d, gate.TickInterval))
		w.tickTo(w.node)
	}
}

// sign signs a document of the registry as the records key.
func (w *world) sign(kind string, h *jws.Head, doc any) string {
	w.t.Helper()
	*h = jws.Head{Kind: kind, IssuedAt: w.clock.Now().Unix()}
	switch d := doc.(type) {
	case *registry.Agent:
		return must[string](w.t)(jws.Sign(d, w.records))
	case *registry.Instance:
		return must[string](w.t)(jws.Sign(d, w.records))
	case *registry.Tick:
		return must[string](w.t)(jws.Sign(d, w.records))
	case *registry.Topics:
		return must[string](w.t)(jws.Sign(d, w.records))
	}
	w.t.Fatalf("no document: %T", doc)
	return ""
}

// actor is one instance of an agent, with its records as the leader has them.
type actor struct {
	w        *world
	id       agentid.ID
	pair     nkeys.KeyPair
	key      *envelope.Key
	agent    registry.Agent
	instance registry.Instance
	chain    string // digest of its root chain
}

// enrol makes an active agent with one instance that is online.
func (w *world) enrol(name string, scopes ...string) *actor {
	w.t.Helper()
	a := &actor{w: w, id: agentid.Require(name), agent: registry.Agent{
		Agent: agentid.Require(name), Status: registry.Active, Epoch: 3, Revision: 10, Since: 1,
		AgentKind: registry.Service, Heartbeat: registry.HeartbeatSession, Readmit: registry.ReadmitAttestation,
	}}
	a.newKey(name)
	a.putAgent()
	if len(scopes) > 0 {
		a.grant(scopes...)
	}
	return a
}

// newKey gives the actor the keys of another instance of its agent.
func (a *actor) newKey(label string) {
	a.w.t.Helper()
	raw := sha256.Sum256([]byte("gate test agent " + label))
	seed := must[[]byte](a.w.t)(nkeys.EncodeSeed(nkeys.PrefixByteUser, raw[:]))
	a.key = must[*envelope.Key](a.w.t)(envelope.NewKey(seed))
	a.pair = must[nkeys.KeyPair](a.w.t)(nkeys.FromSeed(seed))
	curve := sha256.Sum256([]byte("gate test curve " + label))
	x := must[[]byte](a.w.t)(nkeys.Encode(nkeys.PrefixByteCurve, curve[:]))
	passport := must[string](a.w.t)(capability.IssuePassport(a.w.records, a.id, a.key.PublicKey(), string(x), a.w.clock.Now()))
	a.instance = registry.Instance{
		Agent: a.id, Instance: agentid.InstanceOf(a.key.PublicKey()), Passport: passport,
		Epoch: 1, Revision: 1, Since: a.agent.Since, State: registry.Online,
	}
	a.putInstance()
}

func (a *actor) recordKey() string   { return a.id.String() }
func (a *actor) instanceKey() string { return registry.InstanceKey(a.id, a.instance.Instance) }
func (a *actor) epoch() envelope.Epoch {
	return envelope.Epoch{Agent: a.agent.Epoch, Instance: a.instance.Epoch}
}

func (a *actor) putAgent() string {
	text := a.w.sign("agent", &a.agent.Head, &a.agent)
	a.w.store.set(func(s *store) { s.records[a.recordKey()] = text })
	return text
}

func (a *actor) putInstance() string {
	text := a.w.sign("instance", &a.instance.Head, &a.instance)
	a.w.store.set(func(s *store) { s.records[a.instanceKey()] = text })
	return text
}

// change writes a new revision of the agent's record; the feed says nothing yet.
func (a *actor) change(f func(*registry.Agent)) string {
	f(&a.agent)
	a.agent.Revision++
	return a.putAgent()
}

func (a *actor) changeInstance(f func(*registry.Instance)) string {
	f(&a.instance)
	a.instance.Revision++
	return a.putInstance()
}

func suspend(r *registry.Agent) { r.Status = registry.Suspended; r.Epoch++ }
func resume(r *registry.Agent)  { r.Status = registry.Active }

// grant issues a root token over the scopes, all of which may be passed on.
func (a *actor) grant(scopes ...string) *capability.Chain {
	a.w.t.Helper()
	list := scopesOf(scopes...)
	var may []capability.Scope
	for _, s := range list {
		if s.MayDelegate() {
			may = append(may, s)
		}
	}
	depth := 3
	if len(may) == 0 {
		depth = 0
	}
	text := must[string](a.w.t)(capability.IssueRoot(a.w.tokens, capability.Root{
		Agent: a.id, Capabilities: list, Delegatable: may, Depth: depth, Expires: a.w.clock.Now().Add(24 * time.Hour),
	}, a.w.clock.Now()))
	c := a.w.verify(text)
	a.change(func(r *registry.Agent) { r.Tokens = append(r.Tokens, c.Digest()) })
	a.w.putChain(c)
	a.chain = c.Digest()
	return c
}

// delegate lends scopes of the parent to another agent, for an hour.
func (a *actor) delegate(parent *capability.Chain, to *actor, scopes ...string) *capability.Chain {
	a.w.t.Helper()
	text := must[string](a.w.t)(capability.Delegate(parent, a.pair, a.instance.Passport, capability.Delegation{
		To: to.id, Scopes: scopesOf(scopes...), Expires: a.w.clock.Now().Add(time.Hour),
	}, a.w.clock.Now()))
	c := a.w.verify(text)
	a.w.putChain(c)
	return c
}

func (w *world) verify(text string) *capability.Chain {
	w.t.Helper()
	return must[*capability.Chain](w.t)(capability.Verify(text, w.ring, w.clock.Now()))
}

func (w *world) putChain(c *capability.Chain) {
	w.store.set(func(s *store) { s.chains[c.Digest()] = c.Text() })
}

// attempt is one message on its way, to be spoilt.
type attempt struct {
	from    *actor
	fields  envelope.Fields
	subject string
	request *envelope.Digest
	want    gate.Want
	spoil   []func(*envelope.Message)
}

var readLogs = capability.RequireScope("read:logs")

// call is a call of read:logs by the actor as it should be.
func (a *actor) call() *attempt {
	return &attempt{
		from: a, subject: subject.Default().Call(a.id, "read.logs"),
		fields: envelope.Fields{
			From: a.id, Time: a.w.clock.Now(), Nonce: envelope.NewNonce(), Correlation: envelope.NewCorrelation(),
			Epoch: a.epoch(), Token: a.chain, Deadline: 30 * time.Second,
		},
		want: gate.Want{Class: subject.Call, Dotted: "read.logs", Scope: readLogs},
	}
}

// note is a message of the actor that needs no right.
func (a *actor) note() *attempt {
	at := a.call()
	at.subject = subject.Default().Note(a.id, agentid.Require("reader"), "cancel")
	at.fields.Token = ""
	at.want = gate.Want{Class: subject.Note, Dotted: "cancel"}
	return at
}

func (at *attempt) message() envelope.Message {
	at.from.w.t.Helper()
	data := []byte("tail 20")
	header, _, err := envelope.Sign(domain, at.from.key, at.fields, at.subject, nil, data, at.request)
	if err != nil {
		at.from.w.t.Fatalf("Sign: %v", err)
	}
	m := envelope.Message{Subject: at.subject, Header: header, Data: data}
	for _, f := range at.spoil {
		f(&m)
	}
	return m
}

// to has the message judged.
func (at *attempt) to(n *node) error {
	at.from.w.t.Helper()
	_, err := n.gate.Admit(at.from.w.t.Context(), at.message(), at.want)
	return err
}

// with replaces a header of the message.
func with(m *envelope.Message, name string, values ...string) {
	m.Header = maps.Clone(m.Header)
	m.Header[name] = values
}

// forge breaks the signature without breaking its form.
func forge(m *envelope.Message) { m.Data = append(slices.Clone(m.Data), '!') }

func wantReason(t testing.TB, err error, want denial.Reason) {
	t.Helper()
	if got := denial.Of(err); got != want || want == "" && err != nil {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func scopesOf(list ...string) []capability.Scope {
	out := make([]capability.Scope, len(list))
	for i, s := range list {
		out[i] = capability.RequireScope(s)
	}
	return out
}

func keyOf(t testing.TB, prefix nkeys.PrefixByte, label string) nkeys.KeyPair {
	t.Helper()
	raw := sha256.Sum256([]byte("gate test key " + label))
	return must[nkeys.KeyPair](t)(nkeys.FromRawSeed(prefix, raw[:]))
}

func publicOf(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	return must[string](t)(kp.PublicKey())
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
