package pki_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/pki"
)

const domain = "mesh.example"

// epoch is the only time that tests know, far from the wall clock, so that a
// forgotten clock shows.
var epoch = time.Date(2041, 3, 5, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return epoch }

// must turns a pair into its value; the error would be a bug of the test itself.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newCA(t testing.TB, role pki.Role) *pki.CA {
	t.Helper()
	root, err := pki.NewCA(role, domain, epoch)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Intermediate(epoch)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t testing.TB) *pki.Key {
	t.Helper()
	k, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pool(t testing.TB, text []byte) *x509.CertPool {
	t.Helper()
	p, err := pki.ParsePool(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func certs(t testing.TB, text []byte) []*x509.Certificate {
	t.Helper()
	c, err := pki.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func request(t testing.TB, key *pki.Key, agent string) *x509.CertificateRequest {
	t.Helper()
	text, err := pki.CSR(key, agentid.Require(agent), domain)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func signAgent(t testing.TB, ca *pki.CA, key *pki.Key, agent string) []byte {
	t.Helper()
	chain, err := ca.SignAgent(context.Background(), request(t, key, agent), agentid.Require(agent), 0, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func signServer(t testing.TB, ca *pki.CA, key *pki.Key, hosts ...string) []byte {
	t.Helper()
	chain, err := ca.SignServer(key.Public(), hosts, "nats", 0, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func uri(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// goodLeaf is the template of a certificate of agent reader with no flaw.
func goodLeaf(t testing.TB) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(77),
		NotBefore:             epoch.Add(-time.Minute),
		NotAfter:              epoch.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri(t, "spiffe://"+domain+"/agent/reader")},
	}
}

// forge signs any template with a CA's key, as somebody could who stole it or
// as an issuer set up wrongly would.
func forge(t testing.TB, template, parent *x509.Certificate, pub any, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// files writes a key, a chain and a CA bundle as a source reads them.
type files struct{ key, cert, ca string }

func writeFiles(t testing.TB, key *pki.Key, chain, ca []byte) files {
	t.Helper()
	dir := t.TempDir()
	f := files{filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.crt"), filepath.Join(dir, "ca.crt")}
	f.write(t, key, chain, ca)
	return f
}

func (f files) write(t testing.TB, key *pki.Key, chain, ca []byte) {
	t.Helper()
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.ReplaceSecret(f.key, text); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(f.cert, chain); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(f.ca, ca); err != nil {
		t.Fatal(err)
	}
}

func (f files) source(t testing.TB) *pki.Source {
	t.Helper()
	s, err := pki.NewSource(f.cert, f.key, f.ca, clock)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
