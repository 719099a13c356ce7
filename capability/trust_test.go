package capability_test

import (
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/pki"
)

// trustClaims is the document as a forger writes it.
type trustClaims struct {
	jws.Head
	TrustDomain string   `json:"trust_domain"`
	Version     uint64   `json:"version"`
	Infra       []string `json:"infra"`
	Agent       []string `json:"agent,omitempty"`
}

const trustOf = "test.example"

func rootCert(t testing.TB, role pki.Role) *x509.Certificate {
	t.Helper()
	r, err := pki.NewCA(role, trustOf, now)
	if err != nil {
		t.Fatal(err)
	}
	return r.Certificate()
}

func b64der(c *x509.Certificate) string { return base64.RawURLEncoding.EncodeToString(c.Raw) }

func TestTrust(t *testing.T) {
	w := newWorld(t)
	infra, agent := rootCert(t, pki.Infra), rootCert(t, pki.Agent)
	text, err := capability.SignTrust(w.root, trustOf, 7, []*x509.Certificate{infra}, []*x509.Certificate{agent}, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := []string{publicOf(t, w.root)}
	doc, err := capability.VerifyTrust(text, roots, trustOf)
	if err != nil {
		t.Fatal(err)
	}
	got, err := doc.InfraRoots()
	if err != nil || len(got) != 1 || !got[0].Equal(infra) || doc.Version != 7 {
		t.Errorf("got %v, %v, version %d", got, err, doc.Version)
	}
	if got, err = doc.AgentRoots(); err != nil || len(got) != 1 || !got[0].Equal(agent) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []struct {
		name    string
		version uint64
		infra   []*x509.Certificate
		domain  string
	}{{"no version", 0, []*x509.Certificate{infra}, trustOf}, {"no root", 1, nil, trustOf}, {"no domain", 1, []*x509.Certificate{infra}, ""}, {"a root twice", 1, []*x509.Certificate{infra, infra}, trustOf}} {
		if _, err := capability.SignTrust(w.root, bad.domain, bad.version, bad.infra, nil, now); denial.Of(err) != denial.BadToken {
			t.Errorf("%s: got %v, want %s", bad.name, err, denial.BadToken)
		}
	}
}

// Whoever is not the authority, and whatever is not a trust document of this mesh in
// its one form, says nothing about whom to trust.
func TestTrustRefused(t *testing.T) {
	w := newWorld(t)
	infra, leaf := rootCert(t, pki.Infra), leafCert(t)
	roots := []string{publicOf(t, w.root)}
	good := func() trustClaims {
		return trustClaims{Head: jws.Head{Kind: "trust", IssuedAt: now.Unix()}, TrustDomain: trustOf, Version: 2, Infra: []string{b64der(infra)}}
	}
	for _, tt := range []struct {
		name string
		key  nkeys.KeyPair
		edit func(*trustClaims)
		want denial.Reason
	}{
		{"valid", w.root, func(*trustClaims) {}, ""},
		{"signed by the records key", w.records, func(*trustClaims) {}, denial.UnknownSigner},
		{"signed by the tokens key", w.tokens, func(*trustClaims) {}, denial.UnknownSigner},
		{"signed by another mesh's root", keyOf(t, nkeys.PrefixByteAccount, "another root"), func(*trustClaims) {}, denial.UnknownSigner},
		{"of another kind", w.root, func(c *trustClaims) { c.Kind = "signing-key" }, denial.WrongKind},
		{"of another trust domain", w.root, func(c *trustClaims) { c.TrustDomain = "other.example" }, denial.BadToken},
		{"of no trust domain", w.root, func(c *trustClaims) { c.TrustDomain = "" }, denial.BadToken},
		{"version zero", w.root, func(c *trustClaims) { c.Version = 0 }, denial.BadToken},
		{"no root for servers", w.root, func(c *trustClaims) { c.Infra = []string{} }, denial.BadToken},
		{"null", w.root, func(c *trustClaims) { c.Infra = nil }, denial.BadToken},
		{"a certificate that is no CA's", w.root, func(c *trustClaims) { c.Infra = []string{b64der(leaf)} }, denial.BadToken},
		{"no certificate", w.root, func(c *trustClaims) { c.Infra = []string{"AAAA"} }, denial.BadToken},
		{"padding", w.root, func(c *trustClaims) { c.Infra = []string{c.Infra[0] + "="} }, denial.BadToken},
		{"a line break", w.root, func(c *trustClaims) { c.Infra = []string{c.Infra[0][:8] + "\n" + c.Infra[0][8:]} }, denial.BadToken},
		{"a root twice", w.root, func(c *trustClaims) { c.Infra = append(c.Infra, c.Infra[0]) }, denial.BadToken},
		{"a bad root of agents", w.root, func(c *trustClaims) { c.Agent = []string{"x"} }, denial.BadToken},
		{"more roots than are read", w.root, func(c *trustClaims) {
			for range 9 {
				c.Agent = append(c.Agent, b64der(infra))
			}
		}, denial.BadToken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good()
			tt.edit(&c)
			text, err := jws.Sign(&c, tt.key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := capability.VerifyTrust(text, roots, trustOf); denial.Of(err) != tt.want {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	c := good()
	text, err := jws.Sign(&c, w.root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := capability.VerifyTrust(text[:len(text)-4]+"AAAA", roots, trustOf); denial.Of(err) == "" {
		t.Errorf("got %v for another signature", err)
	}
	if _, err := capability.VerifyTrust(text, nil, trustOf); denial.Of(err) != denial.UnknownSigner {
		t.Errorf("got %v where nobody is pinned", err)
	}
	if _, err := capability.VerifyTrust(text+strings.Repeat("A", 1<<20), roots, trustOf); denial.Of(err) != denial.TooLarge {
		t.Errorf("got %v for one that is too long", err)
	}
}

func leafCert(t testing.TB) *x509.Certificate {
	t.Helper()
	r, err := pki.NewCA(pki.Infra, trustOf, now)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := r.Intermediate(now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.SignServer(key.Public(), []string{"host"}, "nats", time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return chain[0]
}

// Whatever a stranger sends, a document that is taken is in its one form and names
// at least one root for servers.
func FuzzTrust(f *testing.F) {
	w := newWorld(f)
	infra := rootCert(f, pki.Infra)
	roots := []string{publicOf(f, w.root)}
	text, err := capability.SignTrust(w.root, trustOf, 1, []*x509.Certificate{infra}, []*x509.Certificate{infra}, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := capability.VerifyTrust(text, roots, trustOf)
		if err != nil {
			if denial.Of(err) == "" {
				t.Errorf("refused without a reason: %v", err)
			}
			return
		}
		if got, err := doc.InfraRoots(); err != nil || len(got) == 0 || doc.Version == 0 {
			t.Errorf("took %v, %v, version %d", got, err, doc.Version)
		}
	})
}
