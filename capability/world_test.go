package capability_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// now lies far from the wall clock, so that nothing passes by accident.
var now = time.Unix(1795408791, 0).UTC()

// tokenClaims, passportClaims and certClaims are the documents as a forger with
// a key writes them: any value in any place.
type tokenClaims struct {
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

type passportClaims struct {
	jws.Head
	Agent string `json:"agent"`
	Key   string `json:"nkey"`
	Curve string `json:"curve"`
}

type certClaims struct {
	jws.Head
	Key       string `json:"nkey"`
	Purpose   string `json:"purpose"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
}

// keyOf derives a key pair from a label, so that every run signs alike.
func keyOf(t testing.TB, prefix nkeys.PrefixByte, label string) nkeys.KeyPair {
	t.Helper()
	seed := sha256.Sum256([]byte("sealmesh example key: " + label))
	kp, err := nkeys.FromRawSeed(prefix, seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func publicOf(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// curveOf derives a public curve key from a label; nobody needs the secret here.
func curveOf(t testing.TB, label string) string {
	t.Helper()
	raw := sha256.Sum256([]byte("sealmesh example curve key: " + label))
	public, err := nkeys.Encode(nkeys.PrefixByteCurve, raw[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(public)
}

// world is an authority: a root, a tokens key and a records key.
type world struct {
	t                     testing.TB
	root, tokens, records nkeys.KeyPair
	certificates          []string
	ring                  *capability.Keyring
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		t:       t,
		root:    keyOf(t, nkeys.PrefixByteAccount, "authority root"),
		tokens:  keyOf(t, nkeys.PrefixByteAccount, "tokens"),
		records: keyOf(t, nkeys.PrefixByteAccount, "records"),
	}
	for _, k := range []struct {
		key nkeys.KeyPair
		p   capability.Purpose
	}{{w.tokens, capability.ForTokens}, {w.records, capability.ForRecords}} {
		c, err := capability.CertifyKey(w.root, publicOf(t, k.key), k.p, now.Add(-time.Hour), now.Add(90*24*time.Hour), now)
		if err != nil {
			t.Fatal(err)
		}
		w.certificates = append(w.certificates, c)
	}
	ring, err := capability.NewKeyring([]string{publicOf(t, w.root)}, w.certificates)
	if err != nil {
		t.Fatal(err)
	}
	w.ring = ring
	return w
}

func (w *world) agent(id string) nkeys.KeyPair { return keyOf(w.t, nkeys.PrefixByteUser, "agent "+id) }

func (w *world) passport(id string) string {
	w.t.Helper()
	text, err := capability.IssuePassport(w.records, agentid.Require(id), publicOf(w.t, w.agent(id)), curveOf(w.t, id), now)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// rootOf issues a root token to the agent for a day.
func (w *world) rootOf(id string, depth int, caps, delegatable []string) *capability.Chain {
	w.t.Helper()
	text, err := capability.IssueRoot(w.tokens, capability.Root{
		Agent:        agentid.Require(id),
		Capabilities: scopes(caps...),
		Delegatable:  scopes(delegatable...),
		Depth:        depth,
		Expires:      now.Add(24 * time.Hour),
	}, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.verify(text)
}

func (w *world) delegate(parent *capability.Chain, d capability.Delegation) (string, error) {
	holder := parent.Holder().String()
	return capability.Delegate(parent, w.agent(holder), w.passport(holder), d, now)
}

func (w *world) verify(text string) *capability.Chain {
	w.t.Helper()
	c, err := capability.Verify(text, w.ring, now)
	if err != nil {
		w.t.Fatalf("verify: %v", err)
	}
	return c
}

// three is the chain that most tests break: orchestrator, reader, helper.
func (w *world) three() *capability.Chain {
	w.t.Helper()
	c := w.rootOf("orchestrator", 3, []string{"read:logs", "read:metrics", "write:reports"}, []string{"read:logs", "read:metrics"})
	for _, d := range []capability.Delegation{
		{To: agentid.Require("reader"), Scopes: scopes("read:logs", "read:metrics"), Delegatable: scopes("read:logs"), Depth: 2, Expires: now.Add(2 * time.Hour)},
		{To: agentid.Require("helper"), Scopes: scopes("read:logs"), Depth: 0, Expires: now.Add(time.Hour)},
	} {
		text, err := w.delegate(c, d)
		if err != nil {
			w.t.Fatal(err)
		}
		c = w.verify(text)
	}
	return c
}

func scopes(list ...string) []capability.Scope {
	out := make([]capability.Scope, len(list))
	for i, s := range list {
		out[i] = capability.RequireScope(s)
	}
	return out
}

func texts(list []capability.Scope) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.String()
	}
	return out
}

// open returns the claims of a document without checking anything.
func open[T any](t testing.TB, text string) *T {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no document", text)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	c := new(T)
	if err := json.Unmarshal(raw, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func signToken(t testing.TB, key jws.Signer, c *tokenClaims) string {
	t.Helper()
	text, err := jws.Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rawDocument signs any payload, also one that no struct gives.
func rawDocument(t testing.TB, key nkeys.KeyPair, payload string) string {
	t.Helper()
	signed := "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	sig, err := key.Sign([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func payloadOf(t testing.TB, text string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func wantReason(t *testing.T, err error, want denial.Reason) {
	t.Helper()
	if got := denial.Of(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}
