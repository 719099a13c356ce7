package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

func TestVerifyAgent(t *testing.T) {
	ca := newCA(t, pki.Agent)
	chain := certs(t, signAgent(t, ca, newKey(t), "reader"))
	got, err := pki.VerifyAgent(chain, pool(t, ca.Roots()), domain, epoch)
	if err != nil {
		t.Fatal(err)
	}
	want := pki.AgentCertificate{
		ID: agentid.Require("reader"), Serial: chain[0].SerialNumber.Text(16), NotAfter: epoch.Add(pki.DefaultAgentTTL),
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// nats-server hands over the verified chain with the root at its end.
	if _, err := pki.VerifyAgent(append(chain, certs(t, ca.Roots())...), pool(t, ca.Roots()), domain, epoch); err != nil {
		t.Errorf("with the root in the chain: %v", err)
	}
}

func rawSAN(t *testing.T, critical bool, names ...asn1.RawValue) []pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: critical, Value: der}}
}

func generalName(tag int, compound bool, content string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: compound, Bytes: []byte(content)}
}

// TestVerifyAgentFlaws covers attacks 3 and 4. Every fixture is the good
// template with one flaw, signed by the true agent CA unless the flaw is the
// signer.
func TestVerifyAgentFlaws(t *testing.T) {
	ca, infra, other := newCA(t, pki.Agent), newCA(t, pki.Infra), newCA(t, pki.Agent)
	roots := pool(t, ca.Roots())
	good := "spiffe://" + domain + "/agent/reader"
	// An otherName: crypto/x509 skips it without a word.
	otherName := generalName(0, true, "\x06\x03\x2a\x03\x04\xa0\x07\x0c\x05admin")

	type fixture struct {
		template *x509.Certificate
		signer   *pki.CA
	}
	flaws := map[string]func(f *fixture){
		"cn-only": func(f *fixture) { f.template.URIs = nil; f.template.Subject.CommonName = "reader" },
		"cn-is-spiffe-id": func(f *fixture) {
			f.template.URIs = nil
			f.template.Subject.CommonName = good
		},
		"organization-only": func(f *fixture) {
			f.template.URIs = nil
			f.template.Subject = pkix.Name{Organization: []string{good}, OrganizationalUnit: []string{"reader"}}
		},
		"cn-and-dns": func(f *fixture) {
			f.template.URIs = nil
			f.template.Subject.CommonName = "reader"
			f.template.DNSNames = []string{"reader"}
		},
		"two-uris": func(f *fixture) {
			f.template.URIs = append(f.template.URIs, uri(t, "spiffe://"+domain+"/agent/admin"))
		},
		"same-uri-twice":     func(f *fixture) { f.template.URIs = append(f.template.URIs, f.template.URIs[0]) },
		"uri-and-dns":        func(f *fixture) { f.template.DNSNames = []string{"nats.example.com"} },
		"uri-and-ip":         func(f *fixture) { f.template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		"uri-and-email":      func(f *fixture) { f.template.EmailAddresses = []string{"reader@example.com"} },
		"uri-and-other-name": func(f *fixture) { f.template.ExtraExtensions = rawSAN(t, true, generalName(6, false, good), otherName) },
		"other-name-and-uri": func(f *fixture) { f.template.ExtraExtensions = rawSAN(t, true, otherName, generalName(6, false, good)) },
		"uri-and-directory-name": func(f *fixture) {
			f.template.ExtraExtensions = rawSAN(t, true, generalName(6, false, good), generalName(4, true, "\x30\x00"))
		},
		"scheme-upper-case": func(f *fixture) {
			f.template.ExtraExtensions = rawSAN(t, true, generalName(6, false, "SPIFFE://"+domain+"/agent/reader"))
		},
		"san-empty":           func(f *fixture) { f.template.ExtraExtensions = rawSAN(t, true) },
		"agent-upper-case":    func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/Reader") },
		"domain-upper-case":   func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://MESH.example/agent/reader") },
		"escaped":             func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/%72eader") },
		"escaped-slash":       func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent%2Freader") },
		"trailing-slash":      func(f *fixture) { f.template.URIs[0] = uri(t, good+"/") },
		"longer-path":         func(f *fixture) { f.template.URIs[0] = uri(t, good+"/x") },
		"dot-segments":        func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/../agent/reader") },
		"no-agent":            func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/") },
		"domain-only":         func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain) },
		"query":               func(f *fixture) { f.template.URIs[0] = uri(t, good+"?x=1") },
		"empty-query":         func(f *fixture) { f.template.URIs[0] = uri(t, good+"?") },
		"fragment":            func(f *fixture) { f.template.URIs[0] = uri(t, good+"#x") },
		"port":                func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+":1/agent/reader") },
		"user":                func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://admin@"+domain+"/agent/reader") },
		"https":               func(f *fixture) { f.template.URIs[0] = uri(t, "https://"+domain+"/agent/reader") },
		"other-domain":        func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://other.example/agent/reader") },
		"subdomain":           func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://a."+domain+"/agent/reader") },
		"service":             func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/sealmesh/nats") },
		"reserved-agent":      func(f *fixture) { f.template.URIs[0] = uri(t, "spiffe://"+domain+"/agent/control") },
		"eku-server":          func(f *fixture) { f.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"eku-client-server":   func(f *fixture) { f.template.ExtKeyUsage = append(f.template.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"eku-any":             func(f *fixture) { f.template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"eku-none":            func(f *fixture) { f.template.ExtKeyUsage = nil },
		"eku-unknown-besides": func(f *fixture) { f.template.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 9, 9}} },
		"is-ca":               func(f *fixture) { f.template.IsCA = true },
		"may-sign":            func(f *fixture) { f.template.KeyUsage |= x509.KeyUsageCertSign },
		"expired":             func(f *fixture) { f.template.NotAfter = epoch.Add(-time.Second) },
		"not-yet-valid":       func(f *fixture) { f.template.NotBefore = epoch.Add(time.Second) },
		"unknown-critical-extension": func(f *fixture) {
			f.template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 9, 9}, Critical: true, Value: []byte{5, 0}}}
		},
		"other-ca": func(f *fixture) { f.signer = other },
		"infra-ca": func(f *fixture) { f.signer = infra },
	}
	build := func(f fixture) []*x509.Certificate {
		parent := certs(t, f.signer.Bundle())[0]
		return []*x509.Certificate{forge(t, f.template, parent, newKey(t).Public(), f.signer.Key()), parent}
	}
	// The control: with no flaw the same path accepts, also at the very end of
	// the window.
	control := fixture{goodLeaf(t), ca}
	if _, err := pki.VerifyAgent(build(control), roots, domain, epoch); err != nil {
		t.Fatalf("the good certificate is refused: %v", err)
	}
	if _, err := pki.VerifyAgent(build(control), roots, domain, control.template.NotAfter); err != nil {
		t.Fatalf("at its last second: %v", err)
	}
	for name, spoil := range flaws {
		t.Run(name, func(t *testing.T) {
			f := fixture{goodLeaf(t), ca}
			spoil(&f)
			got, err := pki.VerifyAgent(build(f), roots, domain, epoch)
			if !errors.Is(err, denial.BadCertificate) {
				t.Errorf("got %v, want %v", err, denial.BadCertificate)
			}
			if got != (pki.AgentCertificate{}) {
				t.Errorf("refused, and yet returned %+v", got)
			}
		})
	}
}

func TestVerifyAgentChainFlaws(t *testing.T) {
	ca, infra := newCA(t, pki.Agent), newCA(t, pki.Infra)
	roots := pool(t, ca.Roots())
	chain := certs(t, signAgent(t, ca, newKey(t), "reader"))
	server := certs(t, signServer(t, infra, newKey(t), "nats.example.com"))
	self := newKey(t)
	selfSigned := forge(t, goodLeaf(t), goodLeaf(t), self.Public(), self)

	// An agent signs for another with its own certificate as if it were a CA.
	agentKey := newKey(t)
	agentLeaf := certs(t, signAgent(t, ca, agentKey, "writer"))
	byAgent := forge(t, goodLeaf(t), agentLeaf[0], newKey(t).Public(), agentKey)

	// A CA below the intermediate, which may have none.
	subKey := newKey(t)
	sub := goodLeaf(t)
	sub.IsCA, sub.KeyUsage, sub.URIs, sub.Subject.CommonName = true, x509.KeyUsageCertSign, nil, "sub"
	subCA := forge(t, sub, chain[1], subKey.Public(), ca.Key())
	bySub := forge(t, goodLeaf(t), subCA, newKey(t).Public(), subKey)

	tests := map[string]struct {
		chain []*x509.Certificate
		roots *x509.CertPool
		want  denial.Reason
	}{
		"empty":                    {nil, roots, denial.NoCertificate},
		"nil-leaf":                 {[]*x509.Certificate{nil}, roots, denial.BadCertificate},
		"never-parsed":             {[]*x509.Certificate{goodLeaf(t)}, roots, denial.BadCertificate},
		"nil-intermediate":         {[]*x509.Certificate{chain[0], nil}, roots, denial.BadCertificate},
		"intermediate-missing":     {chain[:1], roots, denial.BadCertificate},
		"intermediate-as-leaf":     {chain[1:], roots, denial.BadCertificate},
		"root-as-leaf":             {certs(t, ca.Roots()), roots, denial.BadCertificate},
		"self-signed":              {[]*x509.Certificate{selfSigned}, roots, denial.BadCertificate},
		"signed-by-agent":          {append([]*x509.Certificate{byAgent}, agentLeaf...), roots, denial.BadCertificate},
		"signed-by-sub-ca":         {[]*x509.Certificate{bySub, subCA, chain[1]}, roots, denial.BadCertificate},
		"server":                   {server, roots, denial.BadCertificate},
		"server-with-infra-roots":  {server, pool(t, infra.Roots()), denial.BadCertificate},
		"infra-roots-only":         {chain, pool(t, infra.Roots()), denial.BadCertificate},
		"no-pool":                  {chain, nil, denial.Internal},
		"empty-pool":               {chain, x509.NewCertPool(), denial.Internal},
		"empty-pool-without-chain": {nil, x509.NewCertPool(), denial.Internal},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := pki.VerifyAgent(tt.chain, tt.roots, domain, epoch)
			if got := denial.Of(err); got != tt.want {
				t.Errorf("got %q (%v), want %q", got, err, tt.want)
			}
		})
	}

	if _, err := pki.VerifyAgent(chain, roots, domain, time.Time{}); denial.Of(err) != denial.Internal {
		t.Errorf("zero time: got %v, want %v", err, denial.Internal)
	}
	for _, td := range []string{"", "other/x", "MESH.example"} {
		if _, err := pki.VerifyAgent(chain, roots, td, epoch); denial.Of(err) != denial.Internal {
			t.Errorf("trust domain %q: got %v, want %v", td, err, denial.Internal)
		}
	}
	if _, err := pki.VerifyAgent(chain, roots, "other.example", epoch); denial.Of(err) != denial.BadCertificate {
		t.Errorf("another trust domain: got %v, want %v", err, denial.BadCertificate)
	}
	// The whole chain has to be valid, not the leaf alone.
	if _, err := pki.VerifyAgent(chain, roots, domain, ca.NotAfter().Add(time.Second)); denial.Of(err) != denial.BadCertificate {
		t.Errorf("after the intermediate: got %v, want %v", err, denial.BadCertificate)
	}

	full := append(slices.Clone(chain), slices.Repeat(chain[1:], limits.Certificates-len(chain))...)
	if _, err := pki.VerifyAgent(full, roots, domain, epoch); err != nil {
		t.Errorf("%d certificates: %v", len(full), err)
	}
	if _, err := pki.VerifyAgent(append(full, chain[1]), roots, domain, epoch); denial.Of(err) != denial.BadCertificate {
		t.Errorf("one certificate too many: got %v, want %v", err, denial.BadCertificate)
	}
}

// TestAuthorityLimits shows that the limits in the CA certificates bind Go's own
// verifier, which nats-server uses, without any help of VerifyAgent.
func TestAuthorityLimits(t *testing.T) {
	ca, infra := newCA(t, pki.Agent), newCA(t, pki.Infra)
	both := pool(t, append(ca.Roots(), infra.Roots()...))
	verify := func(signer *pki.CA, spoil func(*x509.Certificate), usage x509.ExtKeyUsage) error {
		template := goodLeaf(t)
		spoil(template)
		parent := certs(t, signer.Bundle())[0]
		leaf := forge(t, template, parent, newKey(t).Public(), signer.Key())
		mid := x509.NewCertPool()
		mid.AddCert(parent)
		_, err := leaf.Verify(x509.VerifyOptions{Roots: both, Intermediates: mid, CurrentTime: epoch, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	serve := func(c *x509.Certificate) {
		c.URIs, c.DNSNames, c.ExtKeyUsage = nil, []string{"nats.example.com"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if err := verify(ca, func(*x509.Certificate) {}, x509.ExtKeyUsageClientAuth); err != nil {
		t.Fatalf("control: %v", err)
	}
	if err := verify(infra, serve, x509.ExtKeyUsageServerAuth); err != nil {
		t.Fatalf("control: %v", err)
	}
	for name, tt := range map[string]struct {
		spoil func(*x509.Certificate)
		usage x509.ExtKeyUsage
		want  x509.InvalidReason
	}{
		"server":       {func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }, x509.ExtKeyUsageServerAuth, x509.IncompatibleUsage},
		"other-domain": {func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://other.example/agent/reader")} }, x509.ExtKeyUsageClientAuth, x509.CANotAuthorizedForThisName},
		"dns":          {func(c *x509.Certificate) { c.DNSNames = []string{"nats.example.com"} }, x509.ExtKeyUsageClientAuth, x509.CANotAuthorizedForThisName},
		"ipv4":         {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1).To4()} }, x509.ExtKeyUsageClientAuth, x509.CANotAuthorizedForThisName},
		"ipv6":         {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} }, x509.ExtKeyUsageClientAuth, x509.CANotAuthorizedForThisName},
		"email":        {func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, x509.ExtKeyUsageClientAuth, x509.CANotAuthorizedForThisName},
	} {
		t.Run(name, func(t *testing.T) {
			err := verify(ca, tt.spoil, tt.usage)
			var invalid x509.CertificateInvalidError
			if !errors.As(err, &invalid) || invalid.Reason != tt.want {
				t.Errorf("got %v, want reason %d", err, tt.want)
			}
		})
	}
}

// FuzzVerifyAgentURI states that a certificate is accepted for an agent exactly
// if its one URI is that agent's SPIFFE ID, byte for byte.
func FuzzVerifyAgentURI(f *testing.F) {
	ca := newCA(f, pki.Agent)
	key, roots, parent := newKey(f), pool(f, ca.Roots()), certs(f, ca.Bundle())[0]
	for _, s := range []string{
		"spiffe://mesh.example/agent/reader", "spiffe://mesh.example/agent/Reader", "SPIFFE://mesh.example/agent/reader",
		"spiffe://mesh.example/agent/%72eader", "spiffe://mesh.example/sealmesh/nats", "spiffe://mesh.example:80/agent/a", "x", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		der, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}})
		if err != nil {
			t.Skip()
		}
		template := goodLeaf(t)
		template.SerialNumber = big.NewInt(1)
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
		raw, err := x509.CreateCertificate(zeroes{}, template, parent, key.Public(), ca.Key())
		if err != nil {
			t.Skip() // crypto/x509 does not even make such a certificate
		}
		leaf, err := x509.ParseCertificate(raw)
		if err != nil {
			return
		}
		got, err := pki.VerifyAgent([]*x509.Certificate{leaf, parent}, roots, domain, epoch)
		want, parseErr := agentid.FromSPIFFE(domain, s)
		valid := parseErr == nil && !want.Reserved()
		if (err == nil) != valid {
			t.Fatalf("URI %q: got %v, want accepted %v", s, err, valid)
		}
		if err == nil && (got.ID != want || got.ID.SPIFFE(domain) != s) {
			t.Fatalf("URI %q: got agent %q", s, got.ID)
		}
		if err != nil && denial.Of(err) != denial.BadCertificate {
			t.Fatalf("URI %q: got %v, want %v", s, err, denial.BadCertificate)
		}
	})
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
