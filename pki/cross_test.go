package pki_test

import (
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// What a CA signs while it replaces another is taken by whoever knows one of the two
// roots, whichever; without the second certificate the old root vouches for nothing.
func TestCross(t *testing.T) {
	t.Parallel()
	now := time.Now()
	make := func() (*pki.Root, *pki.CA) {
		root, err := pki.NewCA(pki.Infra, "test.example", now)
		if err != nil {
			t.Fatal(err)
		}
		ca, err := root.Intermediate(now)
		if err != nil {
			t.Fatal(err)
		}
		return root, ca
	}
	old, _ := make()
	fresh, ca := make()
	both, err := old.Cross(ca, now)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	text, err := both.Key().PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteSecret(key, text); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(crt, both.Bundle()); err != nil {
		t.Fatal(err)
	}
	if both, err = pki.Load(pki.Infra, "test.example", crt, key); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		ca   *pki.CA
		root *pki.Root
		want bool
	}{
		{"both, by the new root", both, fresh, true}, {"both, by the old root", both, old, true},
		{"plain, by the new root", both.Plain(), fresh, true}, {"plain, by the old root", both.Plain(), old, false},
	} {
		server, err := pki.NewTLSKey()
		if err != nil {
			t.Fatal(err)
		}
		text, err := tt.ca.SignServer(server.Public(), []string{"host"}, "nats", 0, now)
		if err != nil {
			t.Fatal(err)
		}
		chain, err := pki.ParseCertificates(text)
		if err != nil {
			t.Fatal(err)
		}
		roots, middle := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(tt.root.Certificate())
		for _, c := range chain[1:] {
			middle.AddCert(c)
		}
		_, err = chain[0].Verify(x509.VerifyOptions{DNSName: "host", Roots: roots, Intermediates: middle, CurrentTime: now})
		if (err == nil) != tt.want {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
	// Another CA's root cannot be passed off as the one before.
	_, other := make()
	if err := pki.WriteFile(crt, append(both.Plain().Bundle(), other.Bundle()...)); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(pki.Infra, "test.example", crt, key); err == nil {
		t.Error("loaded with another intermediate in place of the second certificate")
	}
}
