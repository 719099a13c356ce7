package pki_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

func TestAgentCertificate(t *testing.T) {
	ca, key := newCA(t, pki.Agent), newKey(t)
	chain := certs(t, signAgent(t, ca, key, "reader"))
	if len(chain) != 2 {
		t.Fatalf("got %d certificates, want leaf and intermediate", len(chain))
	}
	leaf := chain[0]
	if !key.Public().(*ecdsa.PublicKey).Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if got := leaf.Subject.String(); got != "" {
		t.Errorf("got subject %q, want none", got)
	}
	if got, want := leaf.NotBefore, epoch.Add(-time.Minute); !got.Equal(want) {
		t.Errorf("got not before %s, want %s", got, want)
	}
	if got, want := leaf.NotAfter, epoch.Add(24*time.Hour); !got.Equal(want) {
		t.Errorf("got not after %s, want %s", got, want)
	}
	if got, want := leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}; !slices.Equal(got, want) {
		t.Errorf("got usages %v, want %v", got, want)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("got CA %v, key usage %b", leaf.IsCA, leaf.KeyUsage)
	}
	for _, e := range leaf.Extensions {
		if e.Id.String() == "2.5.29.17" && !e.Critical {
			t.Error("the SAN of a certificate without a subject must be critical")
		}
	}
}

func TestSerials(t *testing.T) {
	ca, key := newCA(t, pki.Agent), newKey(t)
	seen, longest := map[string]bool{}, 0
	for range 32 {
		n := certs(t, signAgent(t, ca, key, "reader"))[0].SerialNumber
		if n.Sign() <= 0 || seen[n.String()] {
			t.Fatalf("serial %s is repeated or not positive", n)
		}
		seen[n.String()] = true
		longest = max(longest, n.BitLen())
	}
	if longest < 120 || longest > 128 {
		t.Errorf("got serials of up to %d bits, want 128", longest)
	}
}

func TestAgentLifetime(t *testing.T) {
	ca := newCA(t, pki.Agent)
	reader, csr := agentid.Require("reader"), request(t, newKey(t), "reader")
	last := ca.NotAfter()
	for name, tt := range map[string]struct {
		ttl  time.Duration
		now  time.Time
		want time.Time // zero: refused
	}{
		"default":             {0, epoch, epoch.Add(24 * time.Hour)},
		"short":               {time.Minute, epoch, epoch.Add(time.Minute)},
		"longest":             {pki.MaxAgentTTL, epoch, epoch.Add(pki.MaxAgentTTL)},
		"too long":            {pki.MaxAgentTTL + 1, epoch, time.Time{}},
		"negative":            {-time.Hour, epoch, time.Time{}},
		"near the CA's end":   {0, last.Add(-time.Hour), last},
		"a second before end": {0, last.Add(-time.Second), last},
		"at the CA's end":     {0, last, time.Time{}},
		"before the CA":       {0, epoch.Add(-time.Hour), time.Time{}},
		"no time":             {0, time.Time{}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			chain, err := ca.SignAgent(t.Context(), csr, reader, tt.ttl, tt.now)
			if tt.want.IsZero() {
				if err == nil {
					t.Fatal("signed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			c := certs(t, chain)
			if got := c[0].NotAfter; !got.Equal(tt.want) {
				t.Errorf("got end %s, want %s", got, tt.want)
			}
			if c[0].NotAfter.After(c[1].NotAfter) || c[0].NotBefore.Before(c[1].NotBefore) {
				t.Error("the window is not inside the intermediate's")
			}
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ca.SignAgent(cancelled, csr, reader, 0, epoch); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestAuthorities(t *testing.T) {
	for _, role := range []pki.Role{pki.Agent, pki.Infra} {
		root := must(pki.NewCA(role, domain, epoch))
		if got, want := root.Certificate().NotAfter, epoch.Add(pki.RootTTL); !got.Equal(want) {
			t.Errorf("got root end %s, want %s", got, want)
		}
		// An intermediate made late in the root's life ends with it.
		late := epoch.Add(pki.RootTTL - time.Hour)
		ca := must(root.Intermediate(late))
		if got, want := ca.NotAfter(), root.Certificate().NotAfter; !got.Equal(want) {
			t.Errorf("got intermediate end %s, want %s", got, want)
		}
		if _, err := root.Intermediate(epoch.Add(pki.RootTTL)); err == nil {
			t.Error("an expired root signed")
		}
		if !bytes.Equal(ca.Roots(), pki.EncodeCertificates(root.Certificate())) {
			t.Error("Roots is not the root")
		}
		if got, want := ca.RootHash(), pki.RootHash(root.Certificate()); got != want || len(got) != 43 {
			t.Errorf("got hash %q, want %q", got, want)
		}
	}
	for _, td := range []string{"", "Mesh.example", "10.0.0.1", "a..b", "a_b"} {
		for _, role := range []pki.Role{pki.Agent, pki.Infra} {
			if _, err := pki.NewCA(role, td, epoch); err == nil {
				t.Errorf("made an %s CA for trust domain %q", role, td)
			}
		}
	}
	if _, err := pki.NewCA("", domain, epoch); err == nil {
		t.Error("made a CA of no role")
	}
	if _, err := pki.NewCA(pki.Agent, domain, time.Time{}); err == nil {
		t.Error("made a CA at no time")
	}
	// The longest trust domain and a single label work as constraints.
	label := string(bytes.Repeat([]byte("a"), 62))
	for _, td := range []string{"local", label + "." + label + "." + label + "." + label + "a"} {
		root := must(pki.NewCA(pki.Agent, td, epoch))
		ca := must(root.Intermediate(epoch))
		id := agentid.Require("reader")
		csr := must(pki.ParseCSR(must(pki.CSR(newKey(t), id, td))))
		chain := must(ca.SignAgent(t.Context(), csr, id, 0, epoch))
		if _, err := pki.VerifyAgent(certs(t, chain), pool(t, ca.Roots()), td, epoch); err != nil {
			t.Errorf("trust domain of %d bytes: %v", len(td), err)
		}
	}
}

// TestRolesApart: neither CA does the other's work.
func TestRolesApart(t *testing.T) {
	agents, infra := newCA(t, pki.Agent), newCA(t, pki.Infra)
	if _, err := infra.SignAgent(t.Context(), request(t, newKey(t), "reader"), agentid.Require("reader"), 0, epoch); err == nil {
		t.Error("the infra CA signed an agent")
	}
	if _, err := agents.SignServer(newKey(t).Public(), []string{"localhost"}, "nats", 0, epoch); err == nil {
		t.Error("the agent CA signed a server")
	}
}

func TestServerCertificate(t *testing.T) {
	ca, key := newCA(t, pki.Infra), newKey(t)
	chain := certs(t, signServer(t, ca, key, "nats.example.com", "localhost", "127.0.0.1", "::1"))
	if len(chain) != 3 || !bytes.Equal(pki.EncodeCertificates(chain[2]), ca.Roots()) {
		t.Fatalf("got %d certificates, want leaf, intermediate and root", len(chain))
	}
	leaf := chain[0]
	if got, want := leaf.DNSNames, []string{"nats.example.com", "localhost"}; !slices.Equal(got, want) {
		t.Errorf("got DNS names %q, want %q", got, want)
	}
	if got, want := fmt.Sprint(leaf.IPAddresses), "[127.0.0.1 ::1]"; got != want {
		t.Errorf("got addresses %s, want %s", got, want)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://mesh.example/sealmesh/nats" {
		t.Errorf("got URIs %v", leaf.URIs)
	}
	if got, want := leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}; !slices.Equal(got, want) {
		t.Errorf("got usages %v, want %v", got, want)
	}
	if got, want := leaf.NotAfter, epoch.Add(pki.DefaultServerTTL); !got.Equal(want) {
		t.Errorf("got end %s, want %s", got, want)
	}
	longest := must(ca.SignServer(key.Public(), nil, "nats", 100*365*24*time.Hour, epoch))
	if got, want := certs(t, longest)[0].NotAfter, ca.NotAfter(); !got.Equal(want) {
		t.Errorf("got end %s, want the intermediate's %s", got, want)
	}

	for name, tt := range map[string]struct {
		hosts   []string
		service string
	}{
		"wildcard":       {[]string{"*.example.com"}, "nats"},
		"upper case":     {[]string{"Nats.example.com"}, "nats"},
		"empty host":     {[]string{""}, "nats"},
		"trailing dot":   {[]string{"nats.example.com."}, "nats"},
		"port":           {[]string{"localhost:4222"}, "nats"},
		"url":            {[]string{"nats://localhost"}, "nats"},
		"zone":           {[]string{"fe80::1%eth0"}, "nats"},
		"too many hosts": {slices.Repeat([]string{"localhost"}, limits.Hosts+1), "nats"},
		"no service":     {nil, ""},
		"service path":   {nil, "nats/../../agent/admin"},
		"service upper":  {nil, "NATS"},
	} {
		if _, err := ca.SignServer(key.Public(), tt.hosts, tt.service, 0, epoch); denial.Of(err) != denial.BadInput {
			t.Errorf("%s: got %v, want %v", name, err, denial.BadInput)
		}
	}
	if _, err := ca.SignServer(key.Public(), slices.Repeat([]string{"localhost"}, limits.Hosts), "nats", 0, epoch); err != nil {
		t.Errorf("%d hosts: %v", limits.Hosts, err)
	}
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	if _, err := ca.SignServer(p384.Public(), nil, "nats", 0, epoch); denial.Of(err) != denial.BadInput {
		t.Errorf("P-384: got %v, want %v", err, denial.BadInput)
	}
	if _, err := ca.SignServer(nil, nil, "nats", 0, epoch); denial.Of(err) != denial.BadInput {
		t.Errorf("no key: got %v, want %v", err, denial.BadInput)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, key *pki.Key, text []byte) (string, string) {
		certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
		if err := pki.WriteSecret(keyFile, must(key.PEM())); err != nil {
			t.Fatal(err)
		}
		if err := pki.WriteFile(certFile, text); err != nil {
			t.Fatal(err)
		}
		return certFile, keyFile
	}
	root := must(pki.NewCA(pki.Agent, domain, epoch))
	ca := must(root.Intermediate(epoch))
	infra, other := newCA(t, pki.Infra), newCA(t, pki.Agent)
	certFile, keyFile := put("agent-ca", ca.Key(), ca.Bundle())
	infraCert, infraKey := put("infra-ca", infra.Key(), infra.Bundle())
	_, rootKey := put("root", root.Key(), ca.Bundle())
	mid := pki.EncodeCertificates(certs(t, ca.Bundle())[0])

	loaded, err := pki.Load(pki.Agent, domain, certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.VerifyAgent(certs(t, signAgent(t, loaded, newKey(t), "reader")), pool(t, ca.Roots()), domain, epoch); err != nil {
		t.Errorf("signed by the loaded CA: %v", err)
	}
	// The yearly renewal: the offline key, the bundle that is there.
	again, err := pki.LoadRoot(pki.Agent, domain, certFile, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	next := must(again.Intermediate(epoch.Add(300 * 24 * time.Hour)))
	if next.RootHash() != ca.RootHash() {
		t.Error("the new intermediate has another root")
	}

	foreign, _ := put("foreign-root", ca.Key(), append(bytes.Clone(mid), other.Roots()...))
	alone, _ := put("without-root", ca.Key(), mid)
	swapped, _ := put("swapped", ca.Key(), append(ca.Roots(), mid...))
	three, _ := put("three", ca.Key(), append(ca.Bundle(), ca.Roots()...))
	leafCert, leafKey := put("leaf", newKey(t), signAgent(t, ca, newKey(t), "reader"))
	// An intermediate that could make CAs of its own, one that is not a CA, and
	// one of a trust domain that its constraints also admit.
	special := func(name string, spoil func(*x509.Certificate)) (string, string) {
		template, key := *certs(t, ca.Bundle())[0], newKey(t)
		template.ExtraExtensions = nil
		spoil(&template)
		return put(name, key, append(pki.EncodeCertificates(forge(t, &template, root.Certificate(), key.Public(), root.Key())), ca.Roots()...))
	}
	plainCert, plainKey := special("plain", func(*x509.Certificate) {})
	if _, err := pki.Load(pki.Agent, domain, plainCert, plainKey); err != nil {
		t.Fatalf("control: %v", err)
	}
	pathCert, pathKey := special("path", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false })
	noCACert, noCAKey := special("no-ca", func(c *x509.Certificate) { c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, 0, false })
	subCert, subKey := special("sub", func(c *x509.Certificate) { c.URIs = []*url.URL{uri(t, "spiffe://sub."+domain)} })
	bareCert, bareKey := special("bare", func(c *x509.Certificate) { c.URIs = nil })
	ekuCert, ekuKey := special("eku", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) })

	for name, tt := range map[string]struct {
		role          pki.Role
		domain        string
		certs, secret string
	}{
		"infra for agent":    {pki.Agent, domain, infraCert, infraKey},
		"agent for infra":    {pki.Infra, domain, certFile, keyFile},
		"no role":            {"", domain, certFile, keyFile},
		"other trust domain": {pki.Agent, "other.example", certFile, keyFile},
		"no trust domain":    {pki.Agent, "", certFile, keyFile},
		"other key":          {pki.Agent, domain, certFile, infraKey},
		"root key online":    {pki.Agent, domain, certFile, rootKey},
		"foreign root":       {pki.Agent, domain, foreign, keyFile},
		"without root":       {pki.Agent, domain, alone, keyFile},
		"swapped":            {pki.Agent, domain, swapped, keyFile},
		"three":              {pki.Agent, domain, three, keyFile},
		"leaf":               {pki.Agent, domain, leafCert, leafKey},
		"key as certificate": {pki.Agent, domain, keyFile, keyFile},
		"no path limit":      {pki.Agent, domain, pathCert, pathKey},
		"not a CA":           {pki.Agent, domain, noCACert, noCAKey},
		"subdomain":          {pki.Agent, domain, subCert, subKey},
		"no domain in it":    {pki.Agent, domain, bareCert, bareKey},
		"wider usage":        {pki.Agent, domain, ekuCert, ekuKey},
		"missing":            {pki.Agent, domain, certFile, keyFile + "x"},
	} {
		if _, err := pki.Load(tt.role, tt.domain, tt.certs, tt.secret); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	for name, tt := range map[string]struct{ certs, secret string }{
		"intermediate's key": {certFile, keyFile},
		"infra":              {infraCert, rootKey},
		"without root":       {alone, keyFile},
	} {
		if _, err := pki.LoadRoot(pki.Agent, domain, tt.certs, tt.secret); err == nil {
			t.Errorf("%s: loaded as a root", name)
		}
	}
}
