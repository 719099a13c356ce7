package envelope_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
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

// world is the receiver of one vector: a gate over a registry that says what the
// vector's directory says, signed by an authority of this test's own.
type world struct {
	t      *testing.T
	v      *vector
	clock  *clock
	space  subject.Space
	window envelope.Window
	ring   *capability.Keyring
	gate   *gate.Gate
	keys   map[string]ed25519.PublicKey
	stream *envelope.Stream
	stored *gate.Stored

	records map[string]string
	chains  map[string]string
	burnt   map[string]bool
}

type clock struct{ now time.Time }

func (c *clock) set(ms int64) { c.now = time.UnixMilli(ms).UTC() }

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func keyOf(t testing.TB, prefix nkeys.PrefixByte, label string) nkeys.KeyPair {
	t.Helper()
	raw := sha256.Sum256([]byte("sealmesh vector runner " + label))
	return must[nkeys.KeyPair](t)(nkeys.FromRawSeed(prefix, raw[:]))
}

func newWorld(t *testing.T, v *vector, shared *authority) *world {
	t.Helper()
	w := &world{
		t: t, v: v, clock: new(clock), space: must[subject.Space](t)(subject.New(v.Receiver.Prefix)),
		window:  must[envelope.Window](t)(envelope.NewWindow(time.Duration(v.Receiver.Past)*time.Millisecond, time.Duration(v.Receiver.Ahead)*time.Millisecond)),
		keys:    map[string]ed25519.PublicKey{},
		records: map[string]string{}, chains: map[string]string{}, burnt: map[string]bool{},
	}
	w.clock.set(v.Receiver.Now)
	for _, text := range shared.Chains {
		w.chains[jws.Digest(text)] = text
	}
	for _, b := range v.Receiver.Burnt {
		w.burnt[subject.ReplayKey(b.Tail, agentid.Require(b.Agent), b.Nonce)] = true
	}
	w.register(shared)
	if len(v.Before) > 0 {
		w.clock.set(v.Before[0].Now)
	}
	w.start(shared)
	return w
}

// register writes the records of the vector's directory.
func (w *world) register(shared *authority) {
	w.t.Helper()
	t := w.t
	root, records := keyOf(t, nkeys.PrefixByteAccount, "root"), keyOf(t, nkeys.PrefixByteAccount, "records")
	public := func(k nkeys.KeyPair) string { return must[string](t)(k.PublicKey()) }
	at := w.clock.now
	certificates := append(slices.Clone(shared.Certificates), must[string](t)(capability.CertifyKey(
		root, public(records), capability.ForRecords, at.Add(-1000*time.Hour), at.Add(1000*time.Hour), at)))
	w.ring = must[*capability.Keyring](t)(capability.NewKeyring(append(slices.Clone(shared.Roots), public(root)), certificates))
	w.records[registry.RingKey] = registry.JoinRing(certificates)

	for _, a := range w.v.Directory.Agents {
		r := &registry.Agent{
			Agent: agentid.Require(a.Agent), Status: a.Status, Epoch: a.Epoch, Since: a.Since, Revision: 1, Tokens: a.Live,
			AgentKind: registry.Service, Heartbeat: registry.HeartbeatSession, Readmit: registry.ReadmitAttestation,
		}
		r.Head = jws.Head{Kind: "agent", IssuedAt: at.Unix()}
		w.records[a.Agent] = must[string](t)(jws.Sign(r, records))
	}
	curve := must[[]byte](t)(nkeys.Encode(nkeys.PrefixByteCurve, make([]byte, 32)))
	for _, i := range w.v.Directory.Instances {
		id := agentid.Require(i.Agent)
		r := &registry.Instance{
			Agent: id, Instance: agentid.InstanceOf(i.NKey), State: i.State, Epoch: i.Epoch, Since: i.Since, Revision: 1,
			Passport: must[string](t)(capability.IssuePassport(records, id, i.NKey, string(curve), at)),
		}
		r.Head = jws.Head{Kind: "instance", IssuedAt: at.Unix()}
		w.records[registry.InstanceKey(id, r.Instance)] = must[string](t)(jws.Sign(r, records))
		w.keys[i.NKey] = must[[]byte](t)(nkeys.Decode(nkeys.PrefixByteUser, []byte(i.NKey)))
	}
	tick := &registry.Tick{Revision: 1, Incarnation: 1, Time: at.UnixMilli(), ReplaySince: w.v.Receiver.ReplaySince}
	tick.Head = jws.Head{Kind: "tick", IssuedAt: at.Unix()}
	w.records[registry.TickKey] = must[string](t)(jws.Sign(tick, records))
}

func (w *world) start(shared *authority) {
	w.t.Helper()
	t, r := w.t, w.v.Receiver
	root := must[string](t)(keyOf(t, nkeys.PrefixByteAccount, "root").PublicKey())
	now := func() time.Time { return w.clock.now }
	peers := must[*gate.Peers](t)(gate.NewPeers(gate.PeersConfig{
		Roots: append(slices.Clone(shared.Roots), root), Ring: w.ring, Reader: w, Clock: now, Log: zerolog.Nop(),
	}))
	if err := peers.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := must[*envelope.Memory](t)(envelope.NewMemory(envelope.MemoryConfig{
		Window: w.window, Since: time.UnixMilli(r.Started).Add(-limits.RestartSlack), Nonces: r.Nonces, PerSender: r.PerSender,
	}))
	w.gate = must[*gate.Gate](t)(gate.New(gate.Config{
		Self: agentid.Require(r.Agent), TrustDomain: w.v.TrustDomain, Space: w.space, Peers: peers, Reader: w, Burner: w,
		Seen: seen, Window: w.window, Clock: now,
	}))
	switch s := w.v.Subscription; {
	case s.Class == subject.Body:
		w.stream = envelope.BodyStream(envelope.Fields{Key: s.Key, Body: promise(t, s.Body)})
	case s.Stream:
		w.stream = new(envelope.Stream)
	case s.Stored != nil:
		w.stored = &gate.Stored{
			Consumer: s.Stored.Consumer, MaxAge: time.Duration(s.Stored.MaxAge) * time.Millisecond,
			Seen: must[*envelope.StoredMemory](t)(envelope.NewStoredMemory(envelope.StoredMemoryConfig{Window: w.window})),
		}
	}
}

// promise reads what a request says of its body.
func promise(t testing.TB, s string) envelope.Body {
	t.Helper()
	if s == "" {
		return envelope.Body{}
	}
	size, digest, _ := strings.Cut(s, ".")
	return envelope.Body{Size: must[int](t)(strconv.Atoi(size)), Digest: digest}
}

// Record, Chain and Burn are the stores that the gate asks.
func (w *world) Record(_ context.Context, key string) (string, error) {
	for _, name := range w.v.Directory.Unreadable {
		if key == name || strings.HasPrefix(key, name+".") || strings.HasPrefix(key, name+"/") {
			return "", denial.New(denial.RegistryUnavailable, "the vector says so")
		}
	}
	if text, ok := w.records[key]; ok {
		return text, nil
	}
	return "", denial.NotFound
}

func (w *world) Chain(_ context.Context, digest string) (string, error) {
	if text, ok := w.chains[digest]; ok {
		return text, nil
	}
	return "", denial.NotFound
}

func (w *world) Burn(_ context.Context, dotted string, sender agentid.ID, nonce string) error {
	if w.v.Receiver.SharedDown {
		return denial.New(denial.ReplayUnavailable, "the vector says so")
	}
	key := subject.ReplayKey(dotted, sender, nonce)
	if w.burnt[key] {
		return denial.New(denial.Replayed, "the vector says so")
	}
	w.burnt[key] = true
	return nil
}

// judge lets the receiver accept what came before, and judges the message.
func (w *world) judge(replyField string) (*envelope.Verified, error) {
	w.t.Helper()
	s := w.v.Subscription
	want := gate.Want{Class: s.Class, Dotted: s.Tail, Request: s.request(w.t), Stream: w.stream, Stored: w.stored}
	if s.From != "" {
		want.From = agentid.Require(s.From)
	}
	if s.Scope != "" {
		want.Scope = capability.RequireScope(s.Scope)
	}
	for i, e := range w.v.Before {
		w.clock.set(e.Now)
		v, err := w.gate.Admit(w.t.Context(), e.Message.received(), want)
		if err == nil && w.stored != nil {
			ack := must[subject.Ack](w.t)(subject.ParseAck(e.Message.Reply))
			err = w.stored.Seen.Use(v, ack.Sequence, ack.Time)
		}
		if err != nil {
			w.t.Fatalf("message %d of those before: %v", i, err)
		}
	}
	w.clock.set(w.v.Receiver.Now)
	m := w.v.Message.received()
	m.Reply = replyField
	return w.gate.Admit(w.t.Context(), m, want)
}

func (w *world) keyOf(nkey string) ed25519.PublicKey { return w.keys[nkey] }

// answer returns the subject on which the receiver answers.
func (w *world) answer(v *envelope.Verified) (string, error) {
	raw := sha256.Sum256([]byte("sealmesh vector runner receiver"))
	key := must[*envelope.Key](w.t)(envelope.NewKey(must[[]byte](w.t)(nkeys.EncodeSeed(nkeys.PrefixByteUser, raw[:]))))
	speaker := gate.Speaker{
		Self: agentid.Require(w.v.Receiver.Agent), Key: key, TrustDomain: w.v.TrustDomain, Space: w.space,
		Epoch: func() envelope.Epoch { return envelope.Epoch{} }, Clock: func() time.Time { return w.clock.now },
	}
	m, _, err := speaker.Reply(v, gate.Answer{})
	if err != nil {
		return "", err
	}
	return m.Subject, nil
}

// equal compares what was verified with what the vector says.
func (w *world) equal(v *envelope.Verified) {
	w.t.Helper()
	want := w.v.Accept
	got := accepted{
		From: v.From().String(), Instance: v.Instance().String(), Fields: map[string]string{}, Headers: [][2]string{},
		Signed: want.Signed, Digest: v.Digest().String(),
	}
	f := v.Fields()
	header := w.v.Message.received().Header[envelope.HeaderEnvelope][0]
	for p := range strings.SplitSeq(header, ";") {
		name, value, _ := strings.Cut(p, "=")
		got.Fields[name] = value
	}
	for name, value := range map[string]string{
		"from": f.From.String(), "key": f.Key, "nonce": f.Nonce, "corr": f.Correlation, "parent": f.Parent, "ep": f.Epoch.String(),
		"tok": f.Token, "ob": f.OnBehalf, "ct": f.ContentType, "enc": f.Enc.String(), "err": f.Err, "hd": f.HeaderDigest,
	} {
		if want.Fields[name] != value {
			w.t.Errorf("%s: %s is %q, want %q", w.v.Name, name, value, want.Fields[name])
		}
	}
	if text := want.Fields["body"]; promise(w.t, text) != f.Body || text != "" && text != f.Body.String() {
		w.t.Errorf("%s: body is %v, want %q", w.v.Name, f.Body, text)
	}
	if text := want.Fields["part"]; f.Part.IsZero() != (text == "") || text != "" && text != f.Part.String() {
		w.t.Errorf("%s: part is %v, want %q", w.v.Name, f.Part, text)
	}
	if w.stored != nil {
		ack := must[subject.Ack](w.t)(subject.ParseAck(w.v.Message.Reply))
		got.Stored = &place{ack.Sequence, strconv.FormatInt(ack.Time.UnixNano(), 10), ack.Delivered > 1}
	}
	var names []string
	for name := range v.Header() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range v.Header()[name] {
			got.Headers = append(got.Headers, [2]string{name, value})
		}
	}
	if left, ok := v.Remaining(w.clock.now); ok && w.stored == nil {
		ms := left.Milliseconds()
		got.Remaining = &ms
	}
	sum := sha256.Sum256(want.Signed)
	if envelope.Digest(sum) != v.Digest() {
		w.t.Errorf("%s: the signed bytes of the vector have another digest", w.v.Name)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		w.t.Errorf("%s:\ngot  %s\nwant %s", w.v.Name, a, b)
	}
	if string(v.Data()) != string(w.v.Message.received().Data) || v.Subject() != w.v.Message.Subject {
		w.t.Errorf("%s: payload or subject is another", w.v.Name)
	}
}
