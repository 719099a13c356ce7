package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is committed is what the generator writes, to the byte, and nothing else
// lies beside it: a vector that was edited by hand says what nobody checked.
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

// Two runs write the same: no clock, no randomness, no order of a map.
func TestGeneratorIsDeterministic(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if err := run(dir); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		one, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		two, err := os.ReadFile(filepath.Join(b, strings.TrimPrefix(path, a)))
		if err == nil && !bytes.Equal(one, two) {
			t.Errorf("%s differs between two runs", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Fatal("nothing was written")
	}
}

// The forger's arithmetic: a point that lies opposite lies opposite to the first,
// and the library takes the one signature of such a key and not the other.
func TestOppositePoints(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		k := user(name)
		once := opposite(k.raw())
		if bytes.Equal(once, k.raw()) || !bytes.Equal(opposite(once), k.raw()) {
			t.Errorf("%x and %x do not lie opposite", k.raw(), once)
		}
		signed := []byte("signed by " + name)
		for _, holds := range []bool{true, false} {
			if got := ed25519.Verify(once, signed, signOppositeKey(k.seed, signed, holds)); got != holds {
				t.Errorf("%s: crypto/ed25519 says %v, want %v", name, got, holds)
			}
		}
	}
}

// Each key of small order comes with a signature that crypto/ed25519 takes, so
// that a receiver that only asks its library fails the vector.
func TestForgedSignaturesVerifyOnTheBareLibrary(t *testing.T) {
	b := new(book)
	b.curve()
	n := 0
	for _, v := range b.vectors {
		if v.Step != "2c" || v.Rule == "S1" && !strings.Contains(v.Name, "order") {
			continue
		}
		n++
		text, sig := v.Message.Headers[0][1], v.Message.Headers[1][1]
		_, rest, _ := strings.Cut(text, ";key=")
		nkey, _, _ := strings.Cut(rest, ";")
		raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(nkey)
		if err != nil {
			t.Fatal(err)
		}
		forged, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(sig, "ed25519:"))
		if err != nil {
			t.Fatal(err)
		}
		if !ed25519.Verify(raw[1:33], signedBytes(domain, v.Message.Subject, text, []byte(payload), nil), forged) {
			t.Errorf("%s: crypto/ed25519 refuses it as well", v.Name)
		}
	}
	if n != 14 {
		t.Errorf("found %d keys of small order, want 14", n)
	}
}
