package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is committed is what the generator writes, to the byte, and nothing else
// lies beside it: a vector that was edited by hand says what nobody checked. A
// clock or a random number in the generator would show here as well.
func TestCommittedVectorsAreGenerated(t *testing.T) {
	files := all().files()
	if len(files) == 0 {
		t.Fatal("the generator writes nothing")
	}
	const dir = ".."
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

// Writing replaces what lay there: a vector that is no longer made is gone.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for _, files := range []map[string][]byte{
		{"a/one.json": []byte("1"), "a/two.json": []byte("2")},
		{"a/two.json": []byte("two"), "b/three.json": []byte("3")},
	} {
		if err := write(dir, files); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil || len(left) != len(files) {
			t.Errorf("got %v, %v, want %d files", left, err, len(files))
		}
		for path, want := range files {
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
			}
		}
	}
}

// What the generator writes in its own way is what the format's other users
// read: its nkeys and its honest chains are checked by the vectors' test, its
// dishonest arithmetic here.
func TestTwistedIsAnInvolution(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		point := user(name).raw()
		once := twisted(point)
		if bytes.Equal(once, point) || !bytes.Equal(twisted(once), point) {
			t.Errorf("%x and %x do not lie opposite", point, once)
		}
	}
}
