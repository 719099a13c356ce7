package interop_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/seal"
)

// nodeSealed runs the other implementation of sealed payloads.
func nodeSealed(t *testing.T, stdin string, args ...string) [][]byte {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("needs Node.js 18 or newer in the path: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{filepath.Join("node", "sealed.mjs")}, args...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node %v: %v\n%s", args, err, stderr.String())
	}
	return bytes.Split(bytes.TrimSpace(out), []byte("\n"))
}

// TestSealedVectors: the other implementation opens what is to be opened and
// refuses what is to be refused.
func TestSealedVectors(t *testing.T) {
	folder := filepath.Join("..", "vectors", "sealed")
	want := expected(t, folder, "sealmesh.sealed-vector/v1")
	if len(want) < 90 {
		t.Fatalf("found %d vectors, where there were 90 and more", len(want))
	}
	for _, line := range nodeSealed(t, "", "open", folder) {
		var got verdict
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		w, ok := want[got.Name]
		delete(want, got.Name)
		if !ok || got.Refuse != w.Refuse || !same(t, got.Accept, w.Accept) {
			t.Errorf("%s: got %q (%s) %s, want %q %s", got.Name, got.Refuse, got.Detail, got.Accept, w.Refuse, w.Accept)
		}
	}
	for name := range want {
		t.Errorf("%s: no verdict", name)
	}
}

// TestSealedThere: what the other implementation seals is opened here by each
// recipient, and by nobody else.
func TestSealedThere(t *testing.T) {
	keys := make([]*seal.Key, 4)
	for i := range keys {
		raw := sha256.Sum256([]byte(fmt.Sprint("sealmesh interop curve ", i)))
		text, err := nkeys.EncodeSeed(nkeys.PrefixByteCurve, raw[:])
		if err != nil {
			t.Fatal(err)
		}
		if keys[i], err = seal.NewKey(text); err != nil {
			t.Fatal(err)
		}
	}
	raw := sha256.Sum256([]byte("sealmesh interop writer"))
	signer, err := nkeys.Encode(nkeys.PrefixByteUser, ed25519.NewKeyFromSeed(raw[:]).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	type binding struct {
		TrustDomain string `json:"trust_domain"`
		Direction   string `json:"direction"`
		Signer      string `json:"signer"`
		Recipient   string `json:"recipient"`
		Nonce       string `json:"nonce"`
		Piece       int    `json:"piece"`
	}
	type ask struct {
		Name    string   `json:"name"`
		To      []string `json:"to"`
		Binding binding  `json:"binding"`
		Plain   []byte   `json:"plain"`
	}
	var asks []ask
	var stdin strings.Builder
	for n := 1; n < len(keys); n++ {
		for _, b := range []binding{
			{domain, "request", string(signer), "reader", "AAECAwQFBgcICQoLDA0ODw", 0},
			{"mesh-2.example", "reply", string(signer), "r", "ICEiIyQlJicoKSorLC0uLw", 7 * n},
		} {
			a := ask{Name: fmt.Sprintf("%s to %d", b.Direction, n), Binding: b, Plain: bytes.Repeat([]byte("line 20\n"), 1000*(n-1))}
			for _, k := range keys[:n] {
				a.To = append(a.To, k.Recipient().String())
			}
			line, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			stdin.Write(append(line, '\n'))
			asks = append(asks, a)
		}
	}
	lines := nodeSealed(t, stdin.String(), "seal")
	if len(lines) != len(asks) {
		t.Fatalf("got %d payloads, want %d", len(lines), len(asks))
	}
	for i, a := range asks {
		t.Run(a.Name, func(t *testing.T) {
			var got struct {
				Name   string
				Sealed []byte
			}
			if err := json.Unmarshal(lines[i], &got); err != nil || got.Name != a.Name {
				t.Fatalf("got %s, %v", lines[i], err)
			}
			b := seal.Binding{
				TrustDomain: a.Binding.TrustDomain, Reply: a.Binding.Direction == "reply", Signer: a.Binding.Signer,
				Recipient: agentid.Require(a.Binding.Recipient), Nonce: a.Binding.Nonce, Piece: a.Binding.Piece,
			}
			for n, k := range keys {
				plain, err := k.Open(b, got.Sealed)
				if n < len(a.To) && (err != nil || !bytes.Equal(plain, a.Plain)) || n >= len(a.To) && err == nil {
					t.Errorf("instance %d of %d: got %d bytes and %v, want %d", n, len(a.To), len(plain), err, len(a.Plain))
				}
			}
		})
	}
}
