package main

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/test/vectors/files"
)

// What is committed is what the generator writes.
func TestCommittedVectorsAreGenerated(t *testing.T) { files.Check(t, "..", made) }

// The wrapping that is done here by hand is the one of RFC 9180: its authors'
// test vector of this suite (mode 0, kem 0x0020, kdf 0x0001, aead 0x0002), its
// first message but for the associated data, which is empty here.
func TestKeyScheduleOfTheRFC(t *testing.T) {
	unhex := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// The key encapsulation is the same in all suites of this KEM: RFC 9180,
	// appendix A.1.1.
	ephemeral := unhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
	public := unhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
	enc := publicOf(ephemeral)
	if want := "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"; hex.EncodeToString(enc) != want {
		t.Errorf("enc: got %x, want %s", enc, want)
	}
	kem := []byte("KEM\x00\x20")
	shared := labeledExpand(kem, labeledExtract(kem, nil, "eae_prk", x25519(ephemeral, public)), "shared_secret", concat(enc, public), 32)
	if want := "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"; hex.EncodeToString(shared) != want {
		t.Errorf("shared secret: got %x, want %s", shared, want)
	}
}

// One ciphertext that the bare AES-GCM opens under two keys, to two things:
// without the commitment, the vector would be opened.
func TestTwoKeysOpenOneCiphertext(t *testing.T) {
	one, two := fixed("one"), fixed("two")
	c := collide(one, two)
	a, err := gcm(one).Open(nil, make([]byte, 12), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := gcm(two).Open(nil, make([]byte, 12), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, b) || len(a) != 16 {
		t.Errorf("got %x and %x, want two things", a, b)
	}
	if _, err := gcm(fixed("three")).Open(nil, make([]byte, 12), c, nil); err == nil {
		t.Error("a third key opens it as well")
	}
}

// The points of small order are that: X25519 gives nought for them, and nothing
// but a look at the result, which crypto/ecdh takes, tells.
func TestSmallOrderVectorsShareNothing(t *testing.T) {
	b := new(book)
	b.wrapping()
	n := 0
	for _, v := range b.vectors {
		if v.Rule != "W2" || strings.Contains(v.Name, "enc-high-bit") || strings.Contains(v.Name, "above") {
			continue
		}
		n++
		raw, err := base64.StdEncoding.DecodeString(v.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		point, err := ecdh.X25519().NewPublicKey(raw[3+32 : 3+64])
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdh.X25519().NewPrivateKey(curve{"reader"}.private())
		if err != nil {
			t.Fatal(err)
		}
		if shared, err := key.ECDH(point); err == nil {
			t.Errorf("%s: the shared point is %x, want none", v.Name, shared)
		}
	}
	if n != 9 {
		t.Errorf("found %d encodings of small order, want 9", n)
	}
}
