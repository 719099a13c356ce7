package envelope_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func digestOf(s string) string { return envelope.Digest(sha256.Sum256([]byte(s))).String() }

// principals are n digests.
func principals(n int) (out []string) {
	for i := range n {
		out = append(out, digestOf(fmt.Sprint(i)))
	}
	return out
}

// full are fields with a key, as they would be signed.
func (i identity) full() envelope.Fields {
	f := i.fields()
	f.Key = i.key.PublicKey()
	return f
}

// Those on whose behalf a message is sent are named in one way only.
func TestBehalfSyntax(t *testing.T) {
	d := principals(limits.Behalf + 1)
	for name, tt := range map[string]struct {
		ob string
		ok bool
	}{
		"one":                {d[0], true},
		"two":                {d[0] + "." + d[1], true},
		"as many as can be":  {strings.Join(d[:limits.Behalf], "."), true},
		"one more":           {strings.Join(d, "."), false},
		"one twice":          {d[0] + "." + d[1] + "." + d[0], false},
		"separator first":    {"." + d[0], false},
		"separator last":     {d[0] + ".", false},
		"separator doubled":  {d[0] + ".." + d[1], false},
		"another separator":  {d[0] + "+" + d[1], false},
		"a short one":        {d[0] + "." + d[1][:42], false},
		"spare bits set":     {d[0] + "." + d[1][:42] + "_", false},
		"nothing but a mark": {".", false},
	} {
		f := agent(t, "writer").full()
		f.OnBehalf = tt.ob
		got, err := envelope.Decode(envelope.Encode(f))
		if ok := err == nil; ok != tt.ok || ok && got.OnBehalf != tt.ob {
			t.Errorf("%s: got %q, %v", name, got.OnBehalf, err)
		}
	}
}

// Whoever passes a request on adds its sender to those on whose behalf it came.
func TestBehalfGrows(t *testing.T) {
	d := principals(limits.Behalf + 2)
	var f envelope.Fields
	if _, err := f.Behalf(); !errors.Is(err, denial.NoToken) {
		t.Errorf("got %v of a request without a chain, want %q", err, denial.NoToken)
	}
	for n := range limits.Behalf {
		f.Token = d[n]
		ob, err := f.Behalf()
		if err != nil || ob != strings.Join(d[:n+1], ".") {
			t.Fatalf("hand %d: got %q, %v", n, ob, err)
		}
		f.OnBehalf = ob
		if again, err := f.Behalf(); err != nil || again != ob {
			t.Errorf("hand %d again: got %q, %v; nobody is named twice", n, again, err)
		}
	}
	if got := slices.Collect(f.Principals()); !slices.Equal(got, d[:limits.Behalf]) {
		t.Errorf("got %q, want %q", got, d[:limits.Behalf])
	}
	f.Token = d[limits.Behalf]
	if _, err := f.Behalf(); !errors.Is(err, denial.Loop) {
		t.Errorf("got %v, want %q", err, denial.Loop)
	}
}

// The longest envelope there can be fits into its limit.
func TestLongestBehalfFits(t *testing.T) {
	f := agent(t, "writer").full()
	f.Token, f.OnBehalf = digestOf("tok"), strings.Join(principals(limits.Behalf), ".")
	f.Parent, f.HeaderDigest, f.ContentType, f.Hop = f.Nonce, digestOf("hd"), strings.Repeat("x", limits.ContentType), limits.Hops
	if n := len(envelope.Encode(f)) + 128; n > limits.Envelope {
		t.Errorf("got %d bytes with room for a long name and high epochs, want at most %d", n, limits.Envelope)
	}
}
