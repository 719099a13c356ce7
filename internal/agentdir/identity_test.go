package agentdir_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/pki"
)

var alice = agentid.Require("alice")

// authority signs agents' certificates.
func authority(t testing.TB) *pki.CA {
	t.Helper()
	root, err := pki.NewCA(pki.Agent, "mesh.local", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Intermediate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certified is a new key and its certificate chain.
func certified(t testing.TB, ca *pki.CA, ttl time.Duration) (*pki.Key, []byte) {
	t.Helper()
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.CSR(key, alice, "mesh.local")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignAgent(context.Background(), csr, alice, ttl, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return key, chain
}

// enrolled is a directory that an agent can live from.
func enrolled(t testing.TB, ca *pki.CA) string {
	t.Helper()
	path := t.TempDir()
	keys, err := agentdir.NewKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := keys.Key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	root, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := root.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := agentdir.Write(path, agentdir.Info{
		Agent: alice, Instance: agentid.InstanceOf(pub), TrustDomain: "mesh.local", Prefix: "mesh",
		NATS: []string{"tls://127.0.0.1:4222"}, Roots: []string{rootKey},
	}); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(filepath.Join(path, agentdir.CAFile), ca.Roots()); err != nil {
		t.Fatal(err)
	}
	key, chain := certified(t, ca, time.Hour)
	if err := agentdir.WriteIdentity(path, key, chain); err != nil {
		t.Fatal(err)
	}
	return path
}

func leafOf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// usable opens a directory as a client does, and says which certificate it has.
func usable(t testing.TB, path string) *x509.Certificate {
	t.Helper()
	d, err := agentdir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	source, err := d.Source()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(path, agentdir.NextKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that is not in use was left: %v", err)
	}
	return source.Leaf()
}

// Wherever a renewal ends, the directory has a certificate with its key: the old one
// until the new one was written, and then the new one.
func TestInterruptedRenewal(t *testing.T) {
	ca := authority(t)
	for step, renewed := range map[string]bool{agentdir.NextKeyFile: false, agentdir.TLSCertFile: true, agentdir.TLSKeyFile: true} {
		t.Run(step, func(t *testing.T) {
			path := enrolled(t, ca)
			before := usable(t, path)
			key, chain := certified(t, ca, 2*time.Hour)
			crash := errors.New("power cut")
			undo := agentdir.StopAfter(step, crash)
			err := agentdir.WriteIdentity(path, key, chain)
			undo()
			if !errors.Is(err, crash) {
				t.Fatalf("got %v, want the crash", err)
			}
			want := before
			if renewed {
				want = leafOf(t, chain)
			}
			for range 2 { // what was mended stays so
				if got := usable(t, path); !got.Equal(want) {
					t.Fatalf("got serial %x, want %x", got.SerialNumber, want.SerialNumber)
				}
			}
			// And it can be renewed again.
			key, chain = certified(t, ca, 3*time.Hour)
			if err := agentdir.WriteIdentity(path, key, chain); err != nil {
				t.Fatal(err)
			}
			if got := usable(t, path); !got.Equal(leafOf(t, chain)) {
				t.Error("the next renewal did not take")
			}
		})
	}
}

// A program that runs goes on with what it had until both files are there.
func TestHalfDoneRenewalIsNotUsed(t *testing.T) {
	ca := authority(t)
	path := enrolled(t, ca)
	d, err := agentdir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	source, err := d.Source()
	if err != nil {
		t.Fatal(err)
	}
	before := source.Leaf()
	key, chain := certified(t, ca, 2*time.Hour)
	undo := agentdir.StopAfter(agentdir.TLSCertFile, errors.New("power cut"))
	err = agentdir.WriteIdentity(path, key, chain)
	undo()
	if err == nil {
		t.Fatal("it was not interrupted")
	}
	if got := source.Leaf(); !got.Equal(before) {
		t.Error("a certificate without its key is in use")
	}
	if got := usable(t, path); !got.Equal(leafOf(t, chain)) {
		t.Error("another program did not mend it")
	}
	if got := source.Leaf(); !got.Equal(leafOf(t, chain)) {
		t.Error("what was mended is not in use")
	}
}

// What does not belong together replaces nothing.
func TestWriteIdentityRefusesAnotherKey(t *testing.T) {
	ca := authority(t)
	path := enrolled(t, ca)
	before := usable(t, path)
	_, chain := certified(t, ca, time.Hour)
	key, _ := certified(t, ca, time.Hour)
	if err := agentdir.WriteIdentity(path, key, chain); err == nil || !strings.Contains(err.Error(), "belong together") {
		t.Fatalf("got %v", err)
	}
	if got := usable(t, path); !got.Equal(before) {
		t.Error("it replaced what was there")
	}
}

// Nobody writes, and nobody mends, while another process does: it would take the
// new key away under it.
func TestRenewalWaitsForAnother(t *testing.T) {
	ca := authority(t)
	path := enrolled(t, ca)
	key, chain := certified(t, ca, time.Hour)
	undo := agentdir.StopAfter(agentdir.NextKeyFile, errors.New("power cut"))
	err := agentdir.WriteIdentity(path, key, chain)
	undo()
	if err == nil {
		t.Fatal("it was not interrupted")
	}
	release, err := agentdir.HoldIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agentdir.Open(path); err != nil {
		t.Errorf("opening: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(path, agentdir.NextKeyFile)); err != nil {
		t.Errorf("the key of a renewal under way is gone: %v", err)
	}
	if err := agentdir.WriteIdentity(path, key, chain); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v, want a refusal to write beside another process", err)
	}
	release()
	if err := agentdir.WriteIdentity(path, key, chain); err != nil {
		t.Fatal(err)
	}
	if got := usable(t, path); !got.Equal(leafOf(t, chain)) {
		t.Error("the renewal did not take")
	}
}

// renewers is the environment variable by which this program, run again, renews a
// directory.
const renewersEnv = "SEALMESH_TEST_RENEW"

func TestMain(m *testing.M) {
	if path := os.Getenv(renewersEnv); path != "" {
		os.Exit(renewForOthers(path))
	}
	os.Exit(m.Run())
}

// renewForOthers renews a directory with an authority of its own, which nobody asks.
func renewForOthers(path string) int {
	var t fatal
	ca := authority(&t)
	for range 30 {
		key, chain := certified(&t, ca, time.Hour)
		if err := agentdir.WriteIdentity(path, key, chain); err != nil {
			os.Stderr.WriteString(err.Error() + "\n") //nolint:errcheck // it fails all the same
			return 1
		}
	}
	return 0
}

type fatal struct{ testing.TB }

func (*fatal) Helper()           {}
func (*fatal) Fatal(args ...any) { panic(args) }

// Processes that share a directory do not destroy it, however they renew it.
func TestRenewalsOfManyProcesses(t *testing.T) {
	ca := authority(t)
	path := enrolled(t, ca)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			c := exec.Command(self, "-test.run=^$")
			c.Env = append(os.Environ(), renewersEnv+"="+path)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for open := true; open; {
		select {
		case <-done:
			open = false
		default:
			d, err := agentdir.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Source(); err != nil {
				t.Fatalf("in between: %v", err)
			}
		}
	}
	usable(t, path)
}

func TestLife(t *testing.T) {
	ca := authority(t)
	for _, life := range []time.Duration{10 * time.Second, time.Minute, 24 * time.Hour} {
		_, chain := certified(t, ca, life)
		leaf := leafOf(t, chain)
		issued, renew, spread := agentdir.Life(leaf)
		if got := leaf.NotAfter.Sub(issued); got < life-2*time.Second || got > life+2*time.Second {
			t.Errorf("life of %s: got %s", life, got)
		}
		if got := leaf.NotAfter.Sub(renew); got < life/2-2*time.Second || got > life/2+2*time.Second {
			t.Errorf("life of %s: renewed %s before its end", life, got)
		}
		if spread > life/10+time.Second || spread <= 0 {
			t.Errorf("life of %s: spread over %s", life, spread)
		}
	}
	// Of another authority, that backdates by less.
	leaf := &x509.Certificate{NotBefore: now, NotAfter: now.Add(20 * time.Second)}
	if issued, renew, _ := agentdir.Life(leaf); !issued.Equal(now) || !renew.Equal(now.Add(10*time.Second)) {
		t.Errorf("got %s and %s", issued, renew)
	}
}
