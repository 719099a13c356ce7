package pki_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/pki"
)

// pair signs a certificate of a server for a new key.
func pair(t *testing.T, ca *pki.CA) (*pki.Key, []byte) {
	t.Helper()
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignServer(key.Public(), []string{"localhost"}, "nats", time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return key, chain
}

func infra(t *testing.T) *pki.CA {
	t.Helper()
	root, err := pki.NewCA(pki.Infra, "test.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Intermediate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// Wherever replacing a pair is interrupted, mending it leaves a certificate and a key
// that belong together, and nothing else.
func TestReplacePairIsMended(t *testing.T) {
	ca := infra(t)
	oldKey, oldChain := pair(t, ca)
	newKey, newChain := pair(t, ca)
	newText, err := newKey.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		crash  func(cert, key string) error
		mended bool
		want   []byte
	}{
		"not begun":        {func(string, string) error { return nil }, false, oldChain},
		"key alone":        {func(_, key string) error { return pki.WriteSecret(key+".next", newText) }, true, oldChain},
		"a key of nothing": {func(_, key string) error { return pki.WriteSecret(key+".next", []byte("half a k")) }, true, oldChain},
		"certificate too": {func(cert, key string) error {
			return errors.Join(pki.WriteSecret(key+".next", newText), pki.WriteFile(cert, newChain))
		}, true, newChain},
		"done": {func(cert, key string) error { return pki.ReplacePair(cert, key, newKey, newChain) }, false, newChain},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
			if err := pki.ReplacePair(cert, key, oldKey, oldChain); err != nil {
				t.Fatal(err)
			}
			if err := c.crash(cert, key); err != nil {
				t.Fatal(err)
			}
			if mended, err := pki.MendPair(cert, key); err != nil || mended != c.mended {
				t.Errorf("got %v, %v, want %v", mended, err, c.mended)
			}
			if _, err := pki.NewSource(cert, key, "", time.Now); err != nil {
				t.Errorf("the files do not belong together: %v", err)
			}
			if got, err := os.ReadFile(cert); err != nil || string(got) != string(c.want) {
				t.Errorf("got another certificate than expected: %v", err)
			}
			if _, err := os.Stat(key + ".next"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the new key is left beside: %v", err)
			}
		})
	}
	if err := pki.ReplacePair(filepath.Join(t.TempDir(), "c"), filepath.Join(t.TempDir(), "k"), oldKey, newChain); err == nil {
		t.Error("a certificate of another key was written")
	}
}

func TestSignedNow(t *testing.T) {
	ca, other := infra(t), infra(t)
	_, text := pair(t, ca)
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	if !ca.SignedNow(chain) || other.SignedNow(chain) || ca.SignedNow(chain[:1]) || ca.SignedNow(nil) {
		t.Errorf("got %v, %v, %v, %v, want the first alone", ca.SignedNow(chain), other.SignedNow(chain), ca.SignedNow(chain[:1]), ca.SignedNow(nil))
	}
}

// A server's request names nothing, so that nobody who signs could take a name from it.
func TestServerCSR(t *testing.T) {
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.ServerCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.CheckServerCSR(csr); err != nil {
		t.Errorf("got %v, want it taken", err)
	}
	if err := pki.CheckCSR(csr, agentid.Require("reader"), "test.example"); denial.Of(err) != denial.BadInput {
		t.Errorf("as an agent's: got %v, want %s", err, denial.BadInput)
	}
	if text, err = pki.CSR(key, agentid.Require("reader"), "test.example"); err != nil {
		t.Fatal(err)
	}
	if csr, err = pki.ParseCSR(text); err != nil {
		t.Fatal(err)
	}
	if err := pki.CheckServerCSR(csr); denial.Of(err) != denial.BadInput {
		t.Errorf("an agent's: got %v, want %s", err, denial.BadInput)
	}
	if err := pki.CheckServerCSR(nil); denial.Of(err) != denial.BadInput {
		t.Errorf("none: got %v, want %s", err, denial.BadInput)
	}
}
