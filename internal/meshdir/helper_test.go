package meshdir_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// freeAddr is a loopback address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// newMesh makes a mesh in a new directory.
func newMesh(t *testing.T, edits ...func(*meshdir.InitOptions)) *meshdir.Mesh {
	t.Helper()
	o := meshdir.InitOptions{TrustDomain: "test.example"}
	for _, edit := range edits {
		edit(&o)
	}
	m, err := meshdir.Init(filepath.Join(t.TempDir(), "mesh"), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// tree maps every path under dir, relative, to its mode.
func tree(t *testing.T, dir string) map[string]os.FileMode {
	t.Helper()
	out := map[string]os.FileMode{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		out[rel] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// edit replaces a file's text and keeps its mode.
func edit(t *testing.T, path string, change func(string) string) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := change(string(old))
	if text == string(old) {
		t.Fatalf("the edit of %s changes nothing", path)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
