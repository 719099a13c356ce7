package capability_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// BenchmarkVerify: a chain of three tokens, cold, beside the five signatures in
// it alone. The first should take no more than 1.15 times the second and 60 µs.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	text := w.three().Text()
	type signature struct {
		key         ed25519.PublicKey
		signed, sig []byte
	}
	var bare []signature
	for doc := range strings.SplitSeq(text, "~") {
		cut := strings.LastIndexByte(doc, '.')
		sig, err := base64.RawURLEncoding.DecodeString(doc[cut+1:])
		if err != nil {
			b.Fatal(err)
		}
		key, err := jws.PublicKey(open[jws.Head](b, doc).Issuer)
		if err != nil {
			b.Fatal(err)
		}
		bare = append(bare, signature{key, []byte(doc[:cut]), sig})
	}
	b.Run("chain=3", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := capability.Verify(text, w.ring, now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("chain=3/bare-ed25519", func(b *testing.B) {
		for b.Loop() {
			for _, s := range bare {
				if !ed25519.Verify(s.key, s.signed, s.sig) {
					b.Fatal("bad signature")
				}
			}
		}
	})
}

func BenchmarkParseScope(b *testing.B) {
	for b.Loop() {
		if _, err := capability.ParseScope("handle:read:logs.app"); err != nil {
			b.Fatal(err)
		}
	}
}
