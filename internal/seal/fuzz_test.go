package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/seal"
)

// genuine is a payload that was made for one binding.
type genuine struct {
	key     string
	binding seal.Binding
	sealed  []byte
	plain   []byte
}

// committed are the vectors that are accepted: payloads that are the same in every
// process that fuzzes. Those that are refused are left out: changed back, they
// would open, and nobody could tell that from a forgery.
func committed(f testing.TB) (out []genuine) {
	f.Helper()
	err := filepath.WalkDir(filepath.FromSlash("../../test/vectors/sealed"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v struct {
			Key     string
			Binding struct {
				TrustDomain string `json:"trust_domain"`
				Direction   string
				Signer      string
				Recipient   agentid.ID
				Nonce       string
				Piece       int
			}
			Sealed string
			Accept *struct{ Plain string }
		}
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		if v.Accept == nil {
			return nil
		}
		b := v.Binding
		g := genuine{key: v.Key, binding: seal.Binding{
			TrustDomain: b.TrustDomain, Reply: b.Direction == "reply", Signer: b.Signer, Recipient: b.Recipient, Nonce: b.Nonce, Piece: b.Piece,
		}}
		if g.sealed, err = base64.StdEncoding.DecodeString(v.Sealed); err != nil {
			return err
		}
		g.plain, err = base64.StdEncoding.DecodeString(v.Accept.Plain)
		out = append(out, g)
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	if len(out) < 13 {
		f.Fatalf("found %d vectors", len(out))
	}
	return out
}

// FuzzOpen: nothing makes it panic; what parses is in its one encoding; and what
// opens is, to the byte, a payload that was made for this binding.
func FuzzOpen(f *testing.F) {
	all := committed(f)
	keys := map[string]*seal.Key{}
	for _, g := range all {
		k, err := seal.NewKey([]byte(g.key))
		if err != nil {
			f.Fatal(err)
		}
		keys[g.key] = k
		b := g.binding
		f.Add(b.TrustDomain, b.Reply, b.Signer, b.Recipient.String(), b.Nonce, b.Piece, g.sealed)
		f.Add(b.TrustDomain, !b.Reply, b.Signer, b.Recipient.String(), b.Nonce, 1-min(b.Piece, 1), g.sealed)
		f.Add(b.TrustDomain, b.Reply, b.Signer, b.Recipient.String(), b.Nonce, b.Piece, g.sealed[:len(g.sealed)-1])
		f.Add(b.TrustDomain, b.Reply, b.Signer, b.Recipient.String(), b.Nonce, b.Piece, append(bytes.Clone(g.sealed), 0))
	}
	f.Fuzz(func(t *testing.T, domain string, reply bool, signer, recipient, nonce string, piece int, payload []byte) {
		b := seal.Binding{TrustDomain: domain, Reply: reply, Signer: signer, Nonce: nonce, Piece: piece}
		b.Recipient, _ = agentid.Parse(recipient)
		if again, err := seal.Again(payload); err == nil && !bytes.Equal(again, payload) {
			t.Errorf("%x parses, and its pieces are %.600x", payload, again)
		} else if err != nil && denial.Of(err) != denial.CannotOpen {
			t.Errorf("got %v, want %q", err, denial.CannotOpen)
		}
		for _, k := range keys {
			plain, err := k.Open(b, payload)
			if err != nil {
				if denial.Of(err) != denial.CannotOpen || plain != nil {
					t.Errorf("got %q and %v, want %q", plain, err, denial.CannotOpen)
				}
				continue
			}
			made := false
			for _, g := range all {
				made = made || g.binding == b && bytes.Equal(g.sealed, payload) && bytes.Equal(g.plain, plain)
			}
			if !made {
				t.Errorf("nobody made this, and it opens: %+v %.600x", b, payload)
			}
		}
	})
}

// FuzzSeal: what is sealed opens for every recipient, for this binding and no
// other, and is as long as was said.
func FuzzSeal(f *testing.F) {
	f.Add("mesh.example", false, "reader", "AAECAwQFBgcICQoLDA0ODw", 0, uint8(1), []byte("tail 20"))
	f.Add("m", true, "r", "ICEiIyQlJicoKSorLC0uLw", 1<<20, uint8(3), []byte{})
	keys := []*seal.Key{keyOf(f, "a"), keyOf(f, "b"), keyOf(f, "c"), keyOf(f, "d")}
	signer := signerOf(f, "writer").PublicKey()
	f.Fuzz(func(t *testing.T, domain string, reply bool, recipient, nonce string, piece int, n uint8, plain []byte) {
		b := seal.Binding{TrustDomain: domain, Reply: reply, Signer: signer, Nonce: nonce, Piece: piece}
		b.Recipient, _ = agentid.Parse(recipient)
		count := int(n) % (len(keys) + 1)
		payload, err := seal.Seal(to(keys[:count]...), b, plain)
		if err != nil {
			return
		}
		if len(payload) != len(plain)+seal.Overhead(count) || len(payload) > limits.Body {
			t.Errorf("got %d bytes of %d for %d", len(payload), len(plain), count)
		}
		for i, k := range keys {
			got, err := k.Open(b, payload)
			if i < count && (err != nil || !bytes.Equal(got, plain)) || i >= count && denial.Of(err) != denial.CannotOpen {
				t.Errorf("instance %d of %d: got %q and %v", i, count, got, err)
			}
			other := b
			other.TrustDomain += "x"
			if got, err := k.Open(other, payload); err == nil {
				t.Errorf("opens for another mesh: %q", got)
			}
		}
	})
}
