package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/test/vectors/files"
)

// What is committed is what the generator writes.
func TestCommittedVectorsAreGenerated(t *testing.T) { files.Check(t, "..", made) }

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
