package files_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealmesh/sealmesh/test/vectors/files"
)

// Writing replaces what lay there: a vector that is no longer made is gone.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for _, made := range []map[string][]byte{
		{"a/one.json": []byte("1"), "a/two.json": []byte("2")},
		{"a/two.json": []byte("two"), "b/three.json": []byte("3")},
	} {
		if err := files.Write(dir, made); err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil || len(left) != len(made) {
			t.Errorf("got %v, %v, want %d files", left, err, len(made))
		}
		for path, want := range made {
			if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
			}
		}
	}
}
