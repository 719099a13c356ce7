package pki_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

// TestCheckCSRFlaws covers attack 52: a request that names another identity or
// asks for more than its name.
func TestCheckCSRFlaws(t *testing.T) {
	reader := agentid.Require("reader")
	ext := func(der []byte, id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: id, Value: der}}
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type flawed struct {
		template x509.CertificateRequest
		key      crypto.Signer
	}
	flaws := map[string]func(*flawed){
		"other-agent":  func(f *flawed) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/admin") },
		"other-domain": func(f *flawed) { f.template.URIs[0] = uri(t, "spiffe://other.example/agent/reader") },
		"service":      func(f *flawed) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/sealmesh/reader") },
		"two-uris":     func(f *flawed) { f.template.URIs = append(f.template.URIs, f.template.URIs[0]) },
		"no-uri":       func(f *flawed) { f.template.URIs = nil },
		"cn":           func(f *flawed) { f.template.Subject.CommonName = "reader" },
		"cn-only":      func(f *flawed) { f.template.URIs = nil; f.template.Subject.CommonName = "reader" },
		"organization": func(f *flawed) { f.template.Subject.Organization = []string{"system:masters"} },
		"dns":          func(f *flawed) { f.template.DNSNames = []string{"nats.example.com"} },
		"ip":           func(f *flawed) { f.template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		"email":        func(f *flawed) { f.template.EmailAddresses = []string{"a@example.com"} },
		"other-name": func(f *flawed) {
			f.template.ExtraExtensions = rawSAN(t, false, generalName(6, false, "spiffe://"+domain+"/agent/reader"), generalName(0, true, "\x06\x03\x2a\x03\x04\xa0\x07\x0c\x05admin"))
		},
		"server-eku": func(f *flawed) {
			f.template.ExtraExtensions = ext([]byte("\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"), 2, 5, 29, 37)
		},
		"client-eku": func(f *flawed) {
			f.template.ExtraExtensions = ext([]byte("\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"), 2, 5, 29, 37)
		},
		"ca":            func(f *flawed) { f.template.ExtraExtensions = ext([]byte("\x30\x03\x01\x01\xff"), 2, 5, 29, 19) },
		"key-usage":     func(f *flawed) { f.template.ExtraExtensions = ext([]byte("\x03\x02\x02\x04"), 2, 5, 29, 15) },
		"unknown":       func(f *flawed) { f.template.ExtraExtensions = ext([]byte("\x05\x00"), 1, 3, 9, 9) },
		"p384-key":      func(f *flawed) { f.key = p384 },
		"ed25519-key":   func(f *flawed) { f.key = ed },
		"reserved-name": func(f *flawed) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/control") },
	}
	build := func(f flawed) *x509.CertificateRequest {
		der, err := x509.CreateCertificateRequest(rand.Reader, &f.template, f.key)
		if err != nil {
			t.Fatal(err)
		}
		return must(x509.ParseCertificateRequest(der))
	}
	good := func() flawed {
		return flawed{x509.CertificateRequest{URIs: []*url.URL{uri(t, "spiffe://"+domain+"/agent/reader")}}, newKey(t)}
	}
	if err := pki.CheckCSR(build(good()), reader, domain); err != nil {
		t.Fatalf("the good request is refused: %v", err)
	}
	ca := newCA(t, pki.Agent)
	for name, spoil := range flaws {
		t.Run(name, func(t *testing.T) {
			f := good()
			spoil(&f)
			csr := build(f)
			if err := pki.CheckCSR(csr, reader, domain); denial.Of(err) != denial.BadInput {
				t.Errorf("got %v, want %v", err, denial.BadInput)
			}
			if chain, err := ca.SignAgent(t.Context(), csr, reader, 0, epoch); err == nil || chain != nil {
				t.Error("the CA signed it")
			}
		})
	}
	if err := pki.CheckCSR(nil, reader, domain); denial.Of(err) != denial.BadInput {
		t.Errorf("nil: got %v, want %v", err, denial.BadInput)
	}
	if err := pki.CheckCSR(build(good()), agentid.ID{}, domain); denial.Of(err) != denial.BadInput {
		t.Errorf("zero agent: got %v, want %v", err, denial.BadInput)
	}
	if err := pki.CheckCSR(build(good()), agentid.Control, domain); denial.Of(err) != denial.ReservedName {
		t.Errorf("reserved agent: got %v, want %v", err, denial.ReservedName)
	}
	if err := pki.CheckCSR(build(good()), reader, "other.example"); denial.Of(err) != denial.BadInput {
		t.Errorf("other trust domain: got %v, want %v", err, denial.BadInput)
	}
	if _, err := ca.SignAgent(t.Context(), request(t, ca.Key(), "reader"), reader, 0, epoch); denial.Of(err) != denial.BadInput {
		t.Errorf("the CA's own key: got %v, want %v", err, denial.BadInput)
	}
}

// TestCheckCSRSignature: a request for somebody else's public key, to which the
// sender has no private key.
func TestCheckCSRSignature(t *testing.T) {
	csr := request(t, newKey(t), "reader")
	raw := bytes.Clone(csr.Raw)
	other := request(t, newKey(t), "reader")
	i := bytes.Index(raw, csr.RawSubjectPublicKeyInfo)
	if i < 0 || len(csr.RawSubjectPublicKeyInfo) != len(other.RawSubjectPublicKeyInfo) {
		t.Fatal("no public key in the request")
	}
	copy(raw[i:], other.RawSubjectPublicKeyInfo)
	swapped, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.CheckCSR(swapped, agentid.Require("reader"), domain); denial.Of(err) != denial.BadInput {
		t.Errorf("got %v, want %v", err, denial.BadInput)
	}
}

func TestParseCSRForm(t *testing.T) {
	good := must(pki.CSR(newKey(t), agentid.Require("reader"), domain))
	block, _ := pem.Decode(good)
	retyped := func(kind string, headers map[string]string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: der})
	}
	pad := func(n int) []byte { return append(slices.Clone(good), bytes.Repeat([]byte("\n"), n-len(good))...) }
	for name, tt := range map[string]struct {
		text []byte
		ok   bool
	}{
		"good":           {good, true},
		"at the limit":   {pad(limits.CSR), true},
		"over the limit": {pad(limits.CSR + 1), false},
		"empty":          {nil, false},
		"text before":    {append([]byte("x\n"), good...), false},
		"text after":     {append(slices.Clone(good), 'x'), false},
		"twice":          {append(slices.Clone(good), good...), false},
		"old type":       {retyped("NEW CERTIFICATE REQUEST", nil, block.Bytes), false},
		"a certificate":  {retyped("CERTIFICATE", nil, block.Bytes), false},
		"headers":        {retyped("CERTIFICATE REQUEST", map[string]string{"A": "b"}, block.Bytes), false},
		"trailing bytes": {retyped("CERTIFICATE REQUEST", nil, append(slices.Clone(block.Bytes), 0)), false},
		"cut":            {retyped("CERTIFICATE REQUEST", nil, block.Bytes[:40]), false},
		"damaged first":  {append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!\n"), good...), false},
		"damaged block":  {append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!\n-----END CERTIFICATE REQUEST-----\n"), good...), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pki.ParseCSR(tt.text)
			if (err == nil) != tt.ok {
				t.Fatalf("got %v, want accepted %v", err, tt.ok)
			}
			if err != nil && denial.Of(err) != denial.BadInput {
				t.Errorf("got %v, want %v", err, denial.BadInput)
			}
		})
	}
	if _, err := pki.CSR(newKey(t), agentid.ID{}, domain); err == nil {
		t.Error("made a request for nobody")
	}
	if _, err := pki.CSR(newKey(t), agentid.Require("reader"), strings.ToUpper(domain)); err == nil {
		t.Error("made a request in a malformed trust domain")
	}
}

// FuzzCSR states that whatever request passes the check, the certificate for it
// names that agent and nobody else.
func FuzzCSR(f *testing.F) {
	ca := newCA(f, pki.Agent)
	roots, reader := pool(f, ca.Roots()), agentid.Require("reader")
	key := newKey(f)
	good := request(f, key, "reader").Raw
	f.Add(good)
	f.Add(request(f, key, "admin").Raw)
	for _, template := range []x509.CertificateRequest{
		{Subject: pkix.Name{CommonName: "reader"}},
		{DNSNames: []string{"a.example"}, URIs: []*url.URL{uri(f, "spiffe://"+domain+"/agent/reader")}},
		{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte("\x30\x03\x01\x01\xff")}}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := pki.ParseCSR(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		if err != nil {
			if denial.Of(err) != denial.BadInput {
				t.Fatalf("got %v, want %v", err, denial.BadInput)
			}
			return
		}
		chain, err := ca.SignAgent(t.Context(), csr, reader, 0, epoch)
		if err != nil {
			if denial.Of(err) != denial.BadInput {
				t.Fatalf("got %v, want %v", err, denial.BadInput)
			}
			return
		}
		got, err := pki.VerifyAgent(certs(t, chain), roots, domain, epoch)
		if err != nil || got.ID != reader {
			t.Fatalf("signed a certificate for %q: %v", got.ID, err)
		}
	})
}
