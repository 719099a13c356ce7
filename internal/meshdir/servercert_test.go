package meshdir_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// halfDone leaves a server's files as a crash does between the certificate and its key.
func halfDone(t *testing.T, m *meshdir.Mesh, s meshdir.ServerFiles) {
	t.Helper()
	ca, err := m.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := m.Sign(ca, s, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Key+".next", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteFile(s.Cert, chain); err != nil {
		t.Fatal(err)
	}
}

// A control plane starts beside one that renews, and after one that died while it did.
func TestControlSourceDuringARenewal(t *testing.T) {
	m := newMesh(t)
	halfDone(t, m, m.ControlFiles())
	if _, err := m.ControlSource(); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	ca, err := m.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for range 50 {
			if _, err := m.Renew(ca, m.ControlFiles(), true, time.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		if _, err := m.ControlSource(); err != nil {
			t.Fatalf("beside a renewal: %v", err)
		}
	}
}

// So does a nats-server, whose next renewal may be far.
func TestMend(t *testing.T) {
	m := newMesh(t)
	s := m.NATSServers()[0]
	halfDone(t, m, s)
	if err := s.Mend(); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.NewSource(s.Cert, s.Key, filepath.Join(filepath.Dir(s.Cert), "ca.crt"), time.Now); err != nil {
		t.Error(err)
	}
	if err := s.Mend(); err != nil {
		t.Error(err)
	}
}

// A certificate is replaced from half of its life on, and not before.
func TestDueAtHalfOfItsLife(t *testing.T) {
	m := newMesh(t)
	ca, err := m.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	s := m.ControlFiles()
	chain, err := s.Chain()
	if err != nil {
		t.Fatal(err)
	}
	signed := chain[0].NotBefore.Add(pki.Backdate)
	half := signed.Add(chain[0].NotAfter.Sub(signed) / 2)
	if meshdir.Due(ca, chain, half.Add(-time.Second)) || !meshdir.Due(ca, chain, half) {
		t.Errorf("it is due another time than %s", half)
	}
	before := chain[0]
	for _, now := range []time.Time{half.Add(-time.Second), half} {
		renewed, err := m.Renew(ca, s, false, now)
		if err != nil || renewed != now.Equal(half) {
			t.Errorf("at %s: got %v, %v", now, renewed, err)
		}
	}
	if chain, err = s.Chain(); err != nil || chain[0].Equal(before) {
		t.Errorf("the file has the old certificate: %v", err)
	}
}
