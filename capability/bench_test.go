package capability_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// signature is one check of the library, prepared.
type signature struct {
	key         ed25519.PublicKey
	signed, sig []byte
}

func signaturesOf(b *testing.B, chain string) []signature {
	b.Helper()
	var out []signature
	for doc := range strings.SplitSeq(chain, "~") {
		cut := strings.LastIndexByte(doc, '.')
		sig, err := base64.RawURLEncoding.DecodeString(doc[cut+1:])
		if err != nil {
			b.Fatal(err)
		}
		key, err := jws.PublicKey(open[jws.Head](b, doc).Issuer)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, signature{key, []byte(doc[:cut]), sig})
	}
	return out
}

func checkAll(b *testing.B, list []signature) {
	for _, s := range list {
		if !ed25519.Verify(s.key, s.signed, s.sig) {
			b.Fatal("bad signature")
		}
	}
}

// BenchmarkVerify: chains cold, beside the signatures in them alone. A chain of
// three should take no more than 1.15 times its five signatures and 60 µs; µs-left
// is what it stays below that.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	three := w.three()
	for _, bb := range []struct {
		tokens int
		text   string
	}{{1, w.rootOf("reader", 0, []string{"read:logs"}, nil).Text()}, {3, three.Text()}} {
		bare := signaturesOf(b, bb.text)
		b.Run(fmt.Sprintf("chain=%d", bb.tokens), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := capability.Verify(bb.text, w.ring, now); err != nil {
					b.Fatal(err)
				}
			}
		})
		// By turns, so that a machine with other work slows both sides: the medians
		// are compared.
		b.Run(fmt.Sprintf("chain=%d/ratio", bb.tokens), func(b *testing.B) {
			var whole, alone []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := capability.Verify(bb.text, w.ring, now); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				checkAll(b, bare)
				whole, alone = append(whole, middle.Sub(start)), append(alone, time.Since(middle))
			}
			slices.Sort(whole)
			slices.Sort(alone)
			v, s := float64(whole[len(whole)/2]), float64(alone[len(alone)/2])
			b.ReportMetric(v, "ns-verify")
			b.ReportMetric(s, "ns-bare")
			b.ReportMetric(v/s, "ratio")
			b.ReportMetric((1.15*s+60e3-v)/1e3, "µs-left")
		})
	}
}

// BenchmarkCheck is the part of a known chain that is asked at each use, without
// what a directory costs.
func BenchmarkCheck(b *testing.B) {
	c := newWorld(b).three()
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Check(now, nobodyAsks{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseScope(b *testing.B) {
	for b.Loop() {
		if _, err := capability.ParseScope("handle:read:logs.app"); err != nil {
			b.Fatal(err)
		}
	}
}
