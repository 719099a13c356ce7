// Package files writes what the generators of test vectors make, and checks that it
// is what is committed.
package files

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Main is the main function of a generator: it replaces the vectors below
// test/vectors/name, or below the directory that -to names.
func Main(name string, generate func() map[string][]byte) {
	to := flag.String("to", filepath.Join("test", "vectors", name), "directory to write to")
	flag.Parse()
	if err := Write(*to, generate()); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// Write replaces all vectors below dir, by the paths of files: one that is no longer
// made is gone.
func Write(dir string, files map[string][]byte) error {
	old, err := filepath.Glob(filepath.Join(dir, "*", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for path, text := range files {
		path = filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Check fails the test unless what is committed in dir is what the generator makes,
// to the byte, with nothing else beside it (a vector that was edited by hand says what
// nobody checked), and unless it makes the same twice: no clock, no randomness, no
// order of a map.
func Check(t *testing.T, dir string, generate func() map[string][]byte) {
	t.Helper()
	files := generate()
	if len(files) == 0 {
		t.Fatal("the generator writes nothing")
	}
	if !maps.EqualFunc(files, generate(), bytes.Equal) {
		t.Error("two runs make different files")
	}
	own := []string{"README.md", "doc.go"}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch {
		case d.IsDir() && rel == "generate":
			return fs.SkipDir
		case d.IsDir() || slices.Contains(own, rel) || strings.HasSuffix(rel, "_test.go") && !strings.Contains(rel, "/"):
			return nil
		}
		want, ok := files[rel]
		if !ok {
			t.Errorf("%s is not one of the vectors", rel)
			return nil
		}
		delete(files, rel)
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range files {
		t.Errorf("%s is missing", path)
	}
}
