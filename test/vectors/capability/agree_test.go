package capability_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// TestSecondVerifier: what the specification says, read once more, gives what
// the vectors expect. A vector that only the one implementation passes would
// describe that implementation.
func TestSecondVerifier(t *testing.T) {
	for _, v := range load(t) {
		t.Run(v.Name, func(t *testing.T) {
			r, reason := secondReader(v.keys)
			var got verdict
			if reason == "" {
				got = verify(v.Chain, r.ring, v.Now)
				reason = got.reason
			}
			if reason == "" && v.Presenter != "" && v.Presenter != got.Holder {
				reason = "not-holder" // T12
			}
			if reason == "" && v.Directory != nil {
				at := v.Now
				if v.Directory.At != 0 {
					at = v.Directory.At
				}
				reason = got.stands(v.Directory, at)
			}
			if reason != v.Refuse {
				t.Fatalf("got %q, want %q", reason, v.Refuse)
			}
			if v.Accept != nil {
				equal(t, got.accepted, *v.Accept)
			}
		})
	}
}

// sameForm are the reasons of which a verifier may give any where one document is
// malformed in several ways (rule V0).
var sameForm = []denial.Reason{"bad-token", "wrong-kind", "bad-scope", "wildcard-scope"}

func agree(a, b denial.Reason) bool {
	return a == b || slices.Contains(sameForm, a) && slices.Contains(sameForm, b)
}

// standard are the roots and certificates of most vectors.
func standard(f *testing.F, all []*vector) *vector {
	for _, v := range all {
		if v.Name == "valid/two-hops" {
			return v
		}
	}
	f.Fatal("there is no vector valid/two-hops")
	return nil
}

// FuzzVerify: both verifiers say the same of every text at every time, with the
// same reason, and what is accepted is one of the chains that were signed here.
func FuzzVerify(f *testing.F) {
	all := load(f)
	base := standard(f, all)
	ring, err := capability.NewKeyring(base.Roots, base.Certificates)
	if err != nil {
		f.Fatal(err)
	}
	second, reason := buildKeyring(base.Roots, base.Certificates)
	if reason != "" {
		f.Fatal(reason)
	}
	signed := map[string]bool{}
	for _, v := range all {
		if v.Accept != nil || slices.Contains([]denial.Reason{"token-expired", "token-not-yet-valid", "not-holder", "delegator-cut", "token-taken-back", "registry-unavailable", "unknown-signer", "bad-input"}, v.Refuse) {
			for n, i := 0, 0; i <= len(v.Chain); i++ { // and what it was made from
				if i == len(v.Chain) || v.Chain[i] == '~' {
					if n++; n%2 == 1 {
						signed[v.Chain[:i]] = true
					}
				}
			}
		}
		if len(v.Chain) < 8192 {
			f.Add(v.Chain, v.Now)
		}
	}
	f.Fuzz(func(t *testing.T, chain string, now int64) {
		want := verify(chain, second, now)
		c, err := capability.Verify(chain, ring, time.Unix(now, 0))
		if !agree(denial.Of(err), want.reason) || err != nil && denial.Of(err) == "" {
			t.Fatalf("got %v, want %q", err, want.reason)
		}
		if err != nil {
			return
		}
		if !signed[chain] {
			t.Fatalf("a chain that nobody signed verifies: %q", chain)
		}
		if c.Holder().String() != want.Holder || c.Expires().Unix() != want.Expires || !slices.Equal(texts(c.Scopes()), want.Scopes) || c.Digest() != want.Digest {
			t.Fatalf("got %s with %v until %s, want %+v", c.Holder(), c.Scopes(), c.Expires(), want.accepted)
		}
	})
}

// keyOf is a key of the vectors, which anybody can make.
func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("sealmesh vector key: " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// FuzzSignedPayload: the signature is right, whatever was signed. So the JSON and
// the rules alone decide, and both verifiers decide alike.
func FuzzSignedPayload(f *testing.F) {
	all := load(f)
	base := standard(f, all)
	ring, err := capability.NewKeyring(base.Roots, base.Certificates)
	if err != nil {
		f.Fatal(err)
	}
	second, reason := buildKeyring(base.Roots, base.Certificates)
	if reason != "" {
		f.Fatal(reason)
	}
	docs := strings.Split(base.Chain, "~")
	keys := map[byte]ed25519.PrivateKey{0: keyOf("tokens"), 3: keyOf("records"), 4: keyOf("agent reader")}
	for _, v := range all {
		if len(v.Chain) > 8192 {
			continue
		}
		parts := strings.Split(v.Chain, "~")
		for _, place := range []byte{0, 3, 4} {
			if int(place) >= len(parts) || place == 0 && len(parts) > 1 || strings.Count(parts[place], ".") != 2 {
				continue
			}
			if payload, err := base64.RawURLEncoding.DecodeString(strings.Split(parts[place], ".")[1]); err == nil {
				f.Add(place, payload)
			}
		}
	}
	f.Fuzz(func(t *testing.T, place byte, payload []byte) {
		key, ok := keys[place]
		if !ok {
			return
		}
		signed := strings.Split(docs[0], ".")[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
		doc := signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(signed)))
		chain := doc
		if place > 0 {
			with := slices.Clone(docs)
			with[place] = doc
			chain = strings.Join(with, "~")
		}
		want := verify(chain, second, base.Now)
		c, err := capability.Verify(chain, ring, time.Unix(base.Now, 0))
		if !agree(denial.Of(err), want.reason) {
			t.Fatalf("got %v, want %q", err, want.reason)
		}
		if err == nil && (!slices.Equal(texts(c.Scopes()), want.Scopes) || !slices.Equal(texts(c.Delegatable()), want.Delegatable) || c.Depth() != want.Depth || c.NotBefore().Unix() != want.NotBefore) {
			t.Fatalf("got %v, want %v", c.Scopes(), want.Scopes)
		}
	})
}
