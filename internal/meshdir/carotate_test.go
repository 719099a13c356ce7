package meshdir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

func caMesh(t *testing.T) *meshdir.Mesh {
	t.Helper()
	m, err := meshdir.Init(filepath.Join(t.TempDir(), "mesh"), meshdir.InitOptions{TrustDomain: "test.example"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRotateCA(t *testing.T) {
	t.Parallel()
	for _, role := range []pki.Role{pki.Agent, pki.Infra} {
		m := caMesh(t)
		r, err := m.RotateCA(role, false, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if r.Overlap != 2 || r.After != 3 || r.Old == r.New {
			t.Errorf("got %+v", r)
		}
		if m, err = meshdir.Load(m.Dir); err != nil {
			t.Fatal(err)
		}
		_, doc, err := m.Trust()
		if err != nil || doc.Version != 2 {
			t.Fatalf("got %v, %v", doc, err)
		}
		var again *meshdir.Error
		if _, err := m.RotateCA(role, false, time.Now()); !errors.As(err, &again) || !strings.Contains(again.Hint(), "ca show") {
			t.Errorf("a second run: got %v", err)
		}
		for range 2 { // and once more for nothing
			if err := m.DropOldCA(); err != nil {
				t.Fatal(err)
			}
		}
		if _, doc, err = m.Trust(); err != nil || doc.Version != 3 {
			t.Fatalf("got %v, %v", doc, err)
		}
		if len(doc.Infra) != 1 || len(doc.Agent) != 1 {
			t.Errorf("got %d and %d roots, want one each", len(doc.Infra), len(doc.Agent))
		}
		if r, err := m.Rotation(); r != nil || err != nil {
			t.Errorf("got %v, %v", r, err)
		}
		// The next one begins with what this one left.
		if _, err := m.RotateCA(role, true, time.Now()); err != nil {
			t.Error(err)
		}
	}
}

// Without the keys of root/ nothing is changed, and the error says which are missing.
func TestRotateCAOffline(t *testing.T) {
	t.Parallel()
	m := caMesh(t)
	if err := os.RemoveAll(filepath.Join(m.Dir, "root")); err != nil {
		t.Fatal(err)
	}
	_, err := m.RotateCA(pki.Infra, false, time.Now())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "root/infra-ca.key") {
		t.Errorf("got %v", err)
	}
	if _, err := m.RenewCA(pki.Agent, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, doc, err := m.Trust(); err != nil || doc.Version != 1 {
		t.Errorf("got %v, %v", doc, err)
	}
}

// A run that ends anywhere is finished by the next one, with the same root, and the
// directory can be loaded in between.
func TestRotateCAInterrupted(t *testing.T) {
	t.Parallel()
	for steps := range 18 {
		m := caMesh(t)
		want, err := m.RotateCAUpTo(pki.Infra, steps, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		half, err := meshdir.Load(m.Dir)
		if err != nil {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		if _, err := half.InfraCA(); err != nil {
			t.Errorf("after %d steps: %v", steps, err)
		}
		got, err := half.RotateCA(pki.Infra, false, time.Now())
		if err != nil || got != want {
			t.Errorf("after %d steps: got %+v, %v, want %+v", steps, got, err, want)
		}
		ca, err := half.InfraCA()
		if err != nil || ca.RootHash() != want.New {
			t.Errorf("after %d steps: %v", steps, err)
		}
	}
}

func TestRenewCA(t *testing.T) {
	t.Parallel()
	m := caMesh(t)
	before, err := m.AgentCA()
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(300 * 24 * time.Hour)
	end, err := m.RenewCA(pki.Agent, later)
	if err != nil {
		t.Fatal(err)
	}
	after, err := m.AgentCA()
	if err != nil || after.RootHash() != before.RootHash() || !after.NotAfter().Equal(end) || !end.After(before.NotAfter()) {
		t.Errorf("got an end of %s after %s, %v", end, before.NotAfter(), err)
	}
}
