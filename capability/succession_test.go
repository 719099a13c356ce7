package capability_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// Whoever pins a root goes on to the one that it names, and to no other.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	one, two, three := w.root, keyOf(t, nkeys.PrefixByteAccount, "two"), keyOf(t, nkeys.PrefixByteAccount, "three")
	thief := keyOf(t, nkeys.PrefixByteAccount, "thief")
	word := func(old, next nkeys.KeyPair) string {
		text, err := capability.SignSuccessor(old, publicOf(t, next), now)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	cert := func(root nkeys.KeyPair) string {
		return w.certify(root, w.tokens, capability.ForTokens, now.Add(-time.Hour), now.Add(time.Hour))
	}
	all := []string{cert(two), cert(three), cert(one), word(two, three), word(one, two)}
	for _, c := range []struct {
		name   string
		pinned nkeys.KeyPair
		list   []string
		root   nkeys.KeyPair
		keys   int
	}{
		{"nothing was replaced", one, []string{cert(one)}, one, 1},
		{"one after another", one, all, three, 1},
		{"half of the way behind", two, all, three, 1},
		{"all of it", three, all, three, 1},
		{"a word of somebody else", one, []string{cert(one), cert(thief), word(thief, thief2(t))}, one, 1},
		{"a root that has no word", one, []string{cert(two)}, one, 0},
		{"two that name each other", one, []string{cert(one), cert(two), word(one, two), word(two, one)}, one, 1},
	} {
		ring, err := capability.Follow([]string{publicOf(t, c.pinned)}, c.list)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if want := []string{publicOf(t, c.root)}; !slices.Equal(ring.Roots(), want) || len(ring.Certificates()) != c.keys {
			t.Errorf("%s: got roots %v with %d certificates, want %v with %d", c.name, ring.Roots(), len(ring.Certificates()), want, c.keys)
		}
	}
	// Signed by hand in the name of the pinned root.
	forged := word(one, thief)
	forged = forged[:len(forged)-4] + "AAAA"
	_, err := capability.Follow([]string{publicOf(t, one)}, []string{cert(one), forged})
	wantReason(t, err, denial.BadSignature)
	_, err = capability.Follow([]string{publicOf(t, one)}, []string{cert(one), "junk"})
	wantReason(t, err, denial.BadToken)
	_, err = capability.SignSuccessor(one, publicOf(t, one), now)
	wantReason(t, err, denial.BadToken)
}

func thief2(t *testing.T) nkeys.KeyPair { return keyOf(t, nkeys.PrefixByteAccount, "thief two") }

// The order of two lists is that of their newest certificates.
func TestKeyringOlder(t *testing.T) {
	w := newWorld(t)
	root := []string{publicOf(t, w.root)}
	at := func(key nkeys.KeyPair, p capability.Purpose, issued time.Time) string {
		text, err := capability.CertifyKey(w.root, publicOf(t, key), p, now.Add(-time.Hour), now.Add(time.Hour), issued)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	old, fresh := at(w.tokens, capability.ForTokens, now), at(w.records, capability.ForRecords, now.Add(time.Second))
	first, both, last := w.keyring(root, old), w.keyring(root, old, fresh), w.keyring(root, fresh)
	for name, c := range map[string]struct {
		a, b *capability.Keyring
		want bool
	}{
		"itself":                 {both, both, false},
		"one was added":          {first, both, true},
		"the other way round":    {both, first, false},
		"one was taken away":     {both, last, true},
		"it does not come back":  {last, both, false},
		"nothing after anything": {nil, first, true},
	} {
		if got := c.a.Older(c.b); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if got := both.Until(publicOf(t, w.tokens), capability.ForRecords, now); !got.IsZero() {
		t.Errorf("another purpose: got %s, want none", got)
	}
	if got := both.Until(publicOf(t, w.tokens), capability.ForTokens, now); !got.Equal(now.Add(time.Hour).Truncate(time.Second)) {
		t.Errorf("until: got %s, want an hour from now", got)
	}
}
