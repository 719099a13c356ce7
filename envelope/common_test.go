package envelope_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	domain = "mesh.example"
	call   = "mesh.call.writer.read.logs"
	ask    = "mesh.ask.writer.reader.read.logs"
)

// t0 lies far from any wall clock, so that no test leans on one.
var t0 = time.UnixMilli(1795408791123).UTC()

// identity is a deterministic agent: its keys come from its name.
type identity struct {
	id     agentid.ID
	key    *envelope.Key
	public ed25519.PublicKey
}

func seedOf(name string) []byte {
	raw := sha256.Sum256([]byte("sealmesh test agent " + name))
	return raw[:]
}

func agent(t testing.TB, name string) identity {
	t.Helper()
	raw := seedOf(name)
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, raw)
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return identity{agentid.Require(name), key, ed25519.NewKeyFromSeed(raw).Public().(ed25519.PublicKey)}
}

// fields is the least that a message says.
func (a identity) fields() envelope.Fields {
	return envelope.Fields{
		From: a.id, Time: t0, Nonce: "AAECAwQFBgcICQoLDA0ODw", Correlation: "EBESExQVFhcYGRobHB0eHw",
		Epoch: envelope.Epoch{Agent: 3, Instance: 1},
	}
}

func (a identity) sign(t testing.TB, f envelope.Fields, subj string, app map[string][]string, payload string, request *envelope.Digest) (envelope.Message, envelope.Digest) {
	t.Helper()
	header, digest, err := envelope.Sign(domain, a.key, f, subj, app, []byte(payload), request)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	return envelope.Message{Subject: subj, Header: header, Data: []byte(payload)}, digest
}

// message signs a small call at the given time with a fresh nonce.
func (a identity) message(t testing.TB, at time.Time) envelope.Message {
	t.Helper()
	f := a.fields()
	f.Time, f.Nonce = at, envelope.NewNonce()
	m, _ := a.sign(t, f, "mesh.call."+a.id.String()+".read.logs", nil, "tail", nil)
	return m
}

func (a identity) verify(m envelope.Message, request *envelope.Digest) (*envelope.Verified, error) {
	u, err := envelope.Parse(m)
	if err != nil {
		return nil, err
	}
	return u.Verify(domain, a.public, request)
}

func mustParse(t testing.TB, m envelope.Message) *envelope.Unverified {
	t.Helper()
	u, err := envelope.Parse(m)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return u
}

func (a identity) mustVerify(t testing.TB, m envelope.Message, request *envelope.Digest) *envelope.Verified {
	t.Helper()
	v, err := a.verify(m, request)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return v
}

// with returns m with one header replaced; no values remove it.
func with(m envelope.Message, name string, values ...string) envelope.Message {
	m.Header = maps.Clone(m.Header)
	if len(values) == 0 {
		delete(m.Header, name)
	} else {
		m.Header[name] = values
	}
	return m
}

// text returns the value of Mesh-Envelope.
func text(m envelope.Message) string { return m.Header[envelope.HeaderEnvelope][0] }

func wantReason(t testing.TB, err error, want ...denial.Reason) {
	t.Helper()
	if err == nil {
		t.Errorf("got no refusal, want %v", want)
	} else if got := denial.Of(err); !slices.Contains(want, got) {
		t.Errorf("got %q (%v), want %v", got, err, want)
	}
}

// full has every field that a reply can have, so it is a streamed one.
func full(t testing.TB) (a identity, m envelope.Message, request envelope.Digest) {
	t.Helper()
	caller, a := agent(t, "writer"), agent(t, "reader")
	_, request = caller.sign(t, caller.fields(), call, nil, "tail", nil)
	f := a.fields()
	f.Nonce, f.Parent = "ICEiIyQlJicoKSorLC0uLw", caller.fields().Nonce
	f.Hop, f.Deadline = 1, 30*time.Second
	f.Token, f.OnBehalf = envelope.Digest(sha256.Sum256([]byte("tok"))).String(), envelope.Digest(sha256.Sum256([]byte("ob"))).String()
	f.ContentType, f.Enc, f.Err, f.Part = "application/json", envelope.X1, "disk-full", envelope.Part{Number: 7, Last: true}
	app := map[string][]string{"Shard": {"a", "b"}, "Trace-Level": {"3"}}
	m, _ = a.sign(t, f, replyTo(caller, f.Parent), app, `{"lines":7}`, &request)
	return a, m, request
}

// fullAsk has every field that a request can have, so it is an ask whose payload
// comes in parts.
func fullAsk(t testing.TB) (a identity, m envelope.Message) {
	t.Helper()
	a = agent(t, "writer")
	f := a.fields()
	f.Parent, f.Hop, f.Deadline = "ICEiIyQlJicoKSorLC0uLw", 1, 30*time.Second
	f.Token, f.OnBehalf = envelope.Digest(sha256.Sum256([]byte("tok"))).String(), envelope.Digest(sha256.Sum256([]byte("ob"))).String()
	f.ContentType, f.Body, f.Enc = "application/json", envelope.BodyOf([]byte(`{"lines":7}`)), envelope.X1
	m, _ = a.sign(t, f, ask, map[string][]string{"Shard": {"a", "b"}}, "", nil)
	return a, m
}

// bodyTo is the subject of a body that the caller sends to the reader.
func bodyTo(caller, handler identity, invitation string) string {
	return subject.Default().Body(caller.id, handler.id, agentid.InstanceOf(handler.key.PublicKey()), invitation)
}

// replyTo is the reply subject of the reader for a request of the caller.
func replyTo(caller identity, nonce string) string {
	return strings.Join([]string{"mesh.reply.reader", caller.id.String(), agentid.InstanceOf(caller.key.PublicKey()).String(), nonce}, ".")
}

func errorsAs(err error) bool {
	var d *denial.Error
	return errors.As(err, &d)
}
