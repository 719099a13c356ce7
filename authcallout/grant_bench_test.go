package authcallout_test

import (
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// BenchmarkCompileRatio compiles a grant of 50 scopes by turns with one bare
// signature check, so that a machine with other work slows both: the medians.
func BenchmarkCompileRatio(b *testing.B) {
	in := authcallout.Subject{Agent: reader, Instance: instance, Scopes: scopes(fifty()...)}
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public, signed := private.Public().(ed25519.PublicKey), make([]byte, 480)
	sig := ed25519.Sign(private, signed)
	var compile, bare []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := authcallout.Compile(subject.Default(), in); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if !ed25519.Verify(public, signed, sig) {
			b.Fatal("does not verify")
		}
		compile, bare = append(compile, middle.Sub(start)), append(bare, time.Since(middle))
	}
	slices.Sort(compile)
	slices.Sort(bare)
	n := len(compile) / 2
	b.ReportMetric(float64(compile[n]), "ns-compile")
	b.ReportMetric(float64(bare[n]), "ns-bare")
	b.ReportMetric(float64(compile[n])/float64(bare[n]), "ratio")
}
