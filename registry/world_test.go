package registry_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// start lies far from the wall clock, so that nothing passes by accident.
var start = time.Unix(1795408791, 0).UTC()

var (
	bob   = agentid.Require("bob")
	carol = agentid.Require("carol")
	dave  = agentid.Require("dave")
)

// clock stands until it is told to move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is one nats-server with JetStream on disk and the mesh's signing keys.
type world struct {
	testing.TB
	dir                   string
	srv                   *natsserver.Server
	clock                 *clock
	root, records, tokens nkeys.KeyPair
	ring                  *capability.Keyring
	tokenTTL              time.Duration
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		TB: t, dir: t.TempDir(), clock: &clock{now: start},
		root: key(t, nkeys.PrefixByteAccount, "root"), records: key(t, nkeys.PrefixByteAccount, "records"), tokens: key(t, nkeys.PrefixByteAccount, "tokens"),
	}
	w.ring = newRing(t, w.root, w.certify(w.records, capability.ForRecords), w.certify(w.tokens, capability.ForTokens))
	w.run()
	t.Cleanup(w.stop)
	return w
}

// certify has the root certify a key for 90 days from the start.
func (w *world) certify(kp nkeys.KeyPair, p capability.Purpose) string {
	w.Helper()
	return certify(w.TB, w.root, kp, p)
}

func certify(t testing.TB, root, kp nkeys.KeyPair, p capability.Purpose) string {
	t.Helper()
	c, err := capability.CertifyKey(root, public(t, kp), p, start.Add(-time.Hour), start.Add(90*24*time.Hour), start)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newRing(t testing.TB, root nkeys.KeyPair, certificates ...string) *capability.Keyring {
	t.Helper()
	r, err := capability.NewKeyring([]string{public(t, root)}, certificates)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *world) run() {
	w.Helper()
	srv, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "n1", DontListen: true, JetStream: true, StoreDir: w.dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		w.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		w.Fatal("the server does not come up")
	}
	w.srv = srv
}

func (w *world) stop() {
	w.srv.Shutdown()
	w.srv.WaitForShutdown()
}

func (w *world) restart() {
	w.Helper()
	w.stop()
	w.run()
}

func (w *world) conn() *nats.Conn {
	w.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(w.srv), nats.NoReconnect())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(nc.Close)
	return nc
}

func (w *world) config() registry.Config {
	w.Helper()
	return registry.Config{
		Conn: w.conn(), Space: subject.Default(), Ring: w.ring, Records: w.records, Tokens: w.tokens,
		Clock: w.clock.Now, Log: zerolog.Nop(), TokenTTL: w.tokenTTL,
	}
}

// store opens one more store, as a replica of the control plane or a new start
// of it would.
func (w *world) store() *registry.Store {
	w.Helper()
	s, err := registry.Open(w.ctx(), w.config())
	if err != nil {
		w.Fatalf("opening the registry: %v", err)
	}
	return s
}

func (w *world) ctx() context.Context { return w.Context() }

// rights are those of every agent of these tests, unless they say otherwise.
func rights() registry.Rights {
	return registry.Rights{
		Call: scopes("write:reports"), Handle: scopes("read:logs"), Publish: []string{"news"},
		MayDelegate: scopes("write:reports"),
	}
}

func scopes(texts ...string) (out []capability.Scope) {
	for _, t := range texts {
		out = append(out, capability.RequireScope(t))
	}
	return out
}

func (w *world) add(s *registry.Store, id agentid.ID, edits ...func(*registry.NewAgent)) *registry.Agent {
	w.Helper()
	n := registry.NewAgent{Agent: id, Rights: rights()}
	for _, edit := range edits {
		edit(&n)
	}
	a, err := s.Add(w.ctx(), n, "admin")
	if err != nil {
		w.Fatalf("adding %s: %v", id, err)
	}
	return a
}

// enrol gives the agent an instance whose keys are derived from the label.
func (w *world) enrol(s *registry.Store, id agentid.ID, label string) *registry.Instance {
	w.Helper()
	secret, _, err := s.NewJoin(w.ctx(), id, 0, 1, "admin")
	if err != nil {
		w.Fatalf("join token of %s: %v", id, err)
	}
	_, i, err := s.Enrol(w.ctx(), w.enrolment(secret, id, label))
	if err != nil {
		w.Fatalf("enrolling %s: %v", id, err)
	}
	return i
}

func (w *world) enrolment(secret string, id agentid.ID, label string) registry.Enrolment {
	w.Helper()
	return registry.Enrolment{
		Hash: registry.JoinHash(secret), Agent: id, Host: "10.0.0.1",
		Key: public(w.TB, key(w.TB, nkeys.PrefixByteUser, label)), Curve: public(w.TB, key(w.TB, nkeys.PrefixByteCurve, label)),
		TLS: jws.Digest("TLS key " + label),
	}
}

// active gives an agent one instance that is online.
func (w *world) active(s *registry.Store, id agentid.ID, label string) agentid.Instance {
	w.Helper()
	i := w.enrol(s, id, label)
	if _, _, err := s.Attest(w.ctx(), id, i.Instance, "10.0.0.1"); err != nil {
		w.Fatalf("attesting %s: %v", id, err)
	}
	return i.Instance
}

// reach brings bob to a status. But for pending he has one instance that was
// online, which is returned.
func (w *world) reach(s *registry.Store, status registry.Status) agentid.Instance {
	w.Helper()
	w.add(s, bob)
	if status == registry.Pending {
		return agentid.Instance{}
	}
	inst := w.active(s, bob, "bob 1")
	var err error
	switch status {
	case registry.Active:
	case registry.Suspended:
		_, err = s.Suspend(w.ctx(), bob, "admin", "odd")
	case registry.Expired:
		err = s.ExpireInstance(w.ctx(), bob, inst, w.instance(s, bob, inst).Epoch, "heartbeat-timeout")
	case registry.Revoked:
		_, err = s.Revoke(w.ctx(), bob, "admin", "stolen")
	}
	if err != nil {
		w.Fatalf("reaching %s: %v", status, err)
	}
	if got := w.agent(s, bob).Status; got != status {
		w.Fatalf("status: got %s, want %s", got, status)
	}
	return inst
}

func (w *world) agent(s *registry.Store, id agentid.ID) *registry.Agent {
	w.Helper()
	a, err := s.Agent(w.ctx(), id)
	if err != nil {
		w.Fatalf("reading %s: %v", id, err)
	}
	return a
}

func (w *world) instance(s *registry.Store, id agentid.ID, inst agentid.Instance) *registry.Instance {
	w.Helper()
	i, err := s.Instance(w.ctx(), id, inst)
	if err != nil {
		w.Fatalf("reading %s/%s: %v", id, inst, err)
	}
	return i
}

// chain reads the agent's live root token that holds the scope.
func (w *world) chain(s *registry.Store, id agentid.ID, scope string) *capability.Chain {
	w.Helper()
	for _, digest := range w.agent(s, id).Tokens {
		c, err := s.Chain(w.ctx(), digest)
		if err != nil {
			w.Fatalf("token of %s: %v", id, err)
		}
		if c.Has(capability.RequireScope(scope)) {
			return c
		}
	}
	w.Fatalf("no live token of %s holds %s", id, scope)
	return nil
}

// delegate signs a delegation of write:reports by the instance of the label.
func (w *world) delegate(s *registry.Store, from agentid.ID, label string, to agentid.ID, d time.Duration) string {
	w.Helper()
	kp := key(w.TB, nkeys.PrefixByteUser, label)
	i := w.instance(s, from, agentid.InstanceOf(public(w.TB, kp)))
	text, err := capability.Delegate(w.chain(s, from, "write:reports"), kp, i.Passport, capability.Delegation{
		To: to, Scopes: scopes("write:reports"), Expires: w.clock.Now().Add(d),
	}, w.clock.Now())
	if err != nil {
		w.Fatalf("delegating: %v", err)
	}
	return text
}

// raw is what an intruder with the control plane's connection sees and does.
type raw struct {
	*world
	nc *nats.Conn
	js jetstream.JetStream
}

func (w *world) raw() raw {
	w.Helper()
	nc := w.conn()
	js, err := jetstream.New(nc)
	if err != nil {
		w.Fatal(err)
	}
	return raw{w, nc, js}
}

func (r raw) get(bucket, key string) *jetstream.RawStreamMsg {
	r.Helper()
	st, err := r.js.Stream(r.ctx(), subject.KVStream(bucket))
	if err != nil {
		r.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(r.ctx(), subject.KV(bucket, key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return &jetstream.RawStreamMsg{}
	}
	if err != nil {
		r.Fatal(err)
	}
	return m
}

func (r raw) put(bucket, key, text string) {
	r.Helper()
	if _, err := r.js.Publish(r.ctx(), subject.KV(bucket, key), []byte(text)); err != nil {
		r.Fatal(err)
	}
}

func (r raw) delete(bucket, key string) {
	r.Helper()
	kv, err := r.js.KeyValue(r.ctx(), bucket)
	if err == nil {
		err = kv.Delete(r.ctx(), key)
	}
	if err != nil {
		r.Fatal(err)
	}
}

// writes is how many messages a bucket has ever taken.
func (r raw) writes(bucket string) uint64 {
	r.Helper()
	st, err := r.js.Stream(r.ctx(), subject.KVStream(bucket))
	if err != nil {
		r.Fatal(err)
	}
	info, err := st.Info(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	return info.State.LastSeq
}

// key derives a key pair from a label, so that every run signs alike.
func key(t testing.TB, prefix nkeys.PrefixByte, label string) nkeys.KeyPair {
	t.Helper()
	seed := sha256.Sum256([]byte("registry test " + label))
	var kp nkeys.KeyPair
	var err error
	if prefix == nkeys.PrefixByteCurve {
		// FromRawSeed makes signing keys only.
		text, e := nkeys.EncodeSeed(prefix, seed[:])
		if e != nil {
			t.Fatal(e)
		}
		kp, err = nkeys.FromCurveSeed(text)
	} else {
		kp, err = nkeys.FromRawSeed(prefix, seed[:])
	}
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func public(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	p, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wantReason checks a refusal; the empty reason wants success.
func wantReason(t testing.TB, what string, err error, want denial.Reason) {
	t.Helper()
	if got := denial.Of(err); got != want || (err == nil) != (want == "") {
		t.Errorf("%s: got %v, want %q", what, err, want)
	}
}

func wantScopes(t testing.TB, what string, got []capability.Scope, want ...string) {
	t.Helper()
	texts := make([]string, len(got))
	for i, s := range got {
		texts[i] = s.String()
	}
	slices.Sort(texts)
	slices.Sort(want)
	if !slices.Equal(texts, want) {
		t.Errorf("%s: got %v, want %v", what, texts, want)
	}
}

// scopesOf are the rights of a record as scopes.
func scopesOf(t testing.TB, a *registry.Agent) []capability.Scope {
	t.Helper()
	s, _, err := a.Rights.Scopes()
	if err != nil {
		t.Fatalf("rights of %s: %v", a.Agent, err)
	}
	return s
}

func payload(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sign signs any claims as one with that key could.
func sign(t testing.TB, c interface{ setKind(string, time.Time) }, kind string, kp nkeys.KeyPair) string {
	t.Helper()
	c.setKind(kind, start)
	var text string
	var err error
	switch c := c.(type) {
	case *agentDoc:
		text, err = jws.Sign(&c.Agent, kp)
	case *instanceDoc:
		text, err = jws.Sign(&c.Instance, kp)
	case *tickDoc:
		text, err = jws.Sign(&c.Tick, kp)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type (
	agentDoc    struct{ registry.Agent }
	instanceDoc struct{ registry.Instance }
	tickDoc     struct{ registry.Tick }
)

func (d *agentDoc) setKind(kind string, at time.Time) {
	d.Head = jws.Head{Kind: kind, IssuedAt: at.Unix()}
}

func (d *instanceDoc) setKind(kind string, at time.Time) {
	d.Head = jws.Head{Kind: kind, IssuedAt: at.Unix()}
}

func (d *tickDoc) setKind(kind string, at time.Time) {
	d.Head = jws.Head{Kind: kind, IssuedAt: at.Unix()}
}
