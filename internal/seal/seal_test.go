package seal_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/seal"
)

func TestRoundTrip(t *testing.T) {
	all := make([]*seal.Key, limits.Instances)
	for i := range all {
		all[i] = keyOf(t, fmt.Sprint("instance ", i))
	}
	stranger := keyOf(t, "stranger")
	for _, n := range []int{1, 2, 3, 8, 255, 256} {
		for _, size := range []int{0, 1, 15, 16, 17, 4096} {
			if n > 8 && size != 17 {
				continue
			}
			t.Run(fmt.Sprintf("%d instances, %d bytes", n, size), func(t *testing.T) {
				plain := strings.Repeat("x", size)
				list := to(all[:n]...)
				before := fmt.Sprint(list)
				payload := sealed(t, list, asked(t), plain)
				if fmt.Sprint(list) != before {
					t.Error("the caller's list was changed")
				}
				if len(payload) != size+seal.Overhead(n) {
					t.Errorf("got %d bytes, want %d and an overhead of %d", len(payload), size, seal.Overhead(n))
				}
				for i, k := range all {
					got, err := k.Open(asked(t), payload)
					if i >= n {
						refused(t, fmt.Sprint("instance ", i), got, err)
					} else if err != nil || string(got) != plain {
						t.Errorf("instance %d: got %q and %v", i, got, err)
					}
				}
				got, err := stranger.Open(asked(t), payload)
				refused(t, "a stranger", got, err)
			})
		}
	}
	t.Run("answer", func(t *testing.T) {
		payload := sealed(t, to(stranger), answered(t, 7), "line 20")
		if got, err := stranger.Open(answered(t, 7), payload); err != nil || string(got) != "line 20" {
			t.Errorf("got %q and %v", got, err)
		}
	})
}

// Whoever is named twice is one recipient, and the order of the list says nothing.
func TestRecipientsAreASet(t *testing.T) {
	a, b := keyOf(t, "a"), keyOf(t, "b")
	for _, list := range [][]*seal.Key{{a, b}, {b, a}, {a, b, a, b, b}} {
		payload := sealed(t, to(list...), asked(t), "tail 20")
		if len(payload) != len("tail 20")+seal.Overhead(2) {
			t.Errorf("got %d bytes, want those of two recipients", len(payload))
		}
		for _, k := range list {
			if _, err := k.Open(asked(t), payload); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestSealRefuses(t *testing.T) {
	k := keyOf(t, "reader")
	many := make([]seal.Recipient, limits.Instances+1)
	for i := range many {
		many[i] = seal.Raw([32]byte{9, byte(i), byte(i >> 8)})
	}
	for what, list := range map[string][]seal.Recipient{
		"nobody": nil, "257": many, "the zero recipient": {{}}, "the zero recipient among others": {k.Recipient(), {}},
		"a point of small order": {k.Recipient(), seal.Raw([32]byte{1})}, "a second encoding": {seal.Raw([32]byte{9, 31: 0x80})},
	} {
		if got, err := seal.Seal(list, asked(t), []byte("tail 20")); err == nil || got != nil {
			t.Errorf("%s: got %d bytes and %v, want an error", what, len(got), err)
		}
	}
	for what, b := range bindings(t) {
		if got, err := seal.Seal(to(k), b, []byte("tail 20")); err == nil || got != nil {
			t.Errorf("%s: got %d bytes and %v, want an error", what, len(got), err)
		}
		got, err := k.Open(b, sealed(t, to(k), asked(t), "tail 20"))
		refused(t, what, got, err)
	}
	room := limits.Body - seal.Overhead(1)
	largest, err := seal.Seal(to(k), asked(t), make([]byte, room))
	if err != nil || len(largest) != limits.Body {
		t.Fatalf("got %d bytes and %v, want %d", len(largest), err, limits.Body)
	}
	if got, err := k.Open(asked(t), largest); err != nil || len(got) != room {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, room)
	}
	if _, err := seal.Seal(to(k), asked(t), make([]byte, room+1)); denial.Of(err) != denial.TooLarge {
		t.Errorf("got %v past the limit, want %q", err, denial.TooLarge)
	}
	got, err := k.Open(asked(t), append(largest, 0))
	refused(t, "past the limit", got, err)
	if !strings.Contains(denial.Detail(err), "longer than") {
		t.Errorf("got %v past the limit, want that it is too long", err)
	}
}

// bindings are not complete, each for one cause.
func bindings(t *testing.T) map[string]seal.Binding {
	out := map[string]seal.Binding{"the zero binding": {}}
	for what, change := range map[string]func(*seal.Binding){
		"no trust domain":        func(b *seal.Binding) { b.TrustDomain = "" },
		"a long trust domain":    func(b *seal.Binding) { b.TrustDomain = strings.Repeat("m", 254) },
		"no signer":              func(b *seal.Binding) { b.Signer = "" },
		"an account for signer":  func(b *seal.Binding) { b.Signer = "A" + b.Signer[1:] },
		"a long signer":          func(b *seal.Binding) { b.Signer += "A" },
		"no recipient":           func(b *seal.Binding) { b.Recipient = agentid.ID{} },
		"no nonce":               func(b *seal.Binding) { b.Nonce = "" },
		"a long nonce":           func(b *seal.Binding) { b.Nonce += "A" },
		"a piece of a request":   func(b *seal.Binding) { b.Piece = 1 },
		"no piece of an answer":  func(b *seal.Binding) { b.Reply = true },
		"a negative piece":       func(b *seal.Binding) { b.Reply, b.Piece = true, -1 },
		"a piece past the limit": func(b *seal.Binding) { b.Reply, b.Piece = true, limits.Parts+1 },
	} {
		b := asked(t)
		change(&b)
		out[what] = b
	}
	return out
}

// Each part of the binding counts by itself.
func TestBinding(t *testing.T) {
	reader, writer := keyOf(t, "reader"), keyOf(t, "writer")
	request, answer := sealed(t, to(reader), asked(t), "tail 20"), sealed(t, to(writer), answered(t, 1), "line 20")
	if _, err := reader.Open(asked(t), request); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Open(answered(t, 1), answer); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*seal.Binding){
		"trust domain": func(b *seal.Binding) { b.TrustDomain = "mesh-2.example" },
		"signer":       func(b *seal.Binding) { b.Signer = signerOf(t, "mallory").PublicKey() },
		"recipient":    func(b *seal.Binding) { b.Recipient = agentid.Require("auditor") },
		"nonce":        func(b *seal.Binding) { b.Nonce = "ICEiIyQlJicoKSorLC0uLw" },
		"direction": func(b *seal.Binding) {
			if b.Reply = !b.Reply; b.Reply {
				b.Piece = 1
			} else {
				b.Piece = 0
			}
		},
	} {
		b := asked(t)
		change(&b)
		got, err := reader.Open(b, request)
		refused(t, what+" of a request", got, err)
		b = answered(t, 1)
		change(&b)
		got, err = writer.Open(b, answer)
		refused(t, what+" of an answer", got, err)
	}
	for _, piece := range []int{2, 256, 1 << 20} {
		got, err := writer.Open(answered(t, piece), answer)
		refused(t, fmt.Sprint("piece ", piece), got, err)
	}
}

// No byte moves from one item of a binding to the next.
func TestBindingsDoNotRunTogether(t *testing.T) {
	seen := map[string]string{}
	note := func(what string, b seal.Binding) {
		text := string(seal.BindingBytes(b))
		if other, twice := seen[text]; twice {
			t.Errorf("%s is bound as %s is", what, other)
		}
		seen[text] = what
	}
	for _, tail := range []string{"", "r", "re", "request", "reply", "\x00\x00\x00\x07request"} {
		b := asked(t)
		b.TrustDomain += tail
		note("trust domain with "+tail, b)
		b = answered(t, 1)
		b.TrustDomain += tail
		note("trust domain of an answer with "+tail, b)
	}
	for piece := 2; piece < 300; piece++ {
		note(fmt.Sprint("piece ", piece), answered(t, piece))
	}
}

// Every bit counts, for every recipient, also those that stand for another one.
func TestEveryByteCounts(t *testing.T) {
	keys := []*seal.Key{keyOf(t, "a"), keyOf(t, "b"), keyOf(t, "c")}
	payload := sealed(t, to(keys...), asked(t), "tail 20")
	for i := range payload {
		changed := bytes.Clone(payload)
		changed[i] ^= 1 << (i % 8)
		for n, k := range keys {
			if got, err := k.Open(asked(t), changed); denial.Of(err) != denial.CannotOpen || got != nil {
				t.Fatalf("byte %d changed: instance %d got %q and %v", i, n, got, err)
			}
		}
	}
	for n := range payload {
		if got, err := keys[0].Open(asked(t), payload[:n]); denial.Of(err) != denial.CannotOpen || got != nil {
			t.Fatalf("the first %d bytes: got %q and %v", n, got, err)
		}
	}
	for _, more := range [][]byte{{0}, {1}, make([]byte, 16), make([]byte, 112), payload} {
		got, err := keys[0].Open(asked(t), append(bytes.Clone(payload), more...))
		refused(t, fmt.Sprintf("%d bytes more", len(more)), got, err)
	}
}

// A number that its sender made up allocates nothing.
func TestClaimsSizeNothing(t *testing.T) {
	k := keyOf(t, "reader")
	payload := sealed(t, to(k), asked(t), strings.Repeat("x", 200))
	for _, n := range []uint16{0, 2, 256, 257, 65535} {
		claimed := bytes.Clone(payload)
		binary.BigEndian.PutUint16(claimed[1:], n)
		b := asked(t)
		if allocated := testing.AllocsPerRun(10, func() {
			if _, err := seal.Again(claimed); n != 2 && err == nil {
				t.Errorf("%d recipients were found in %d bytes", n, len(claimed))
			}
		}); n != 2 && allocated > 0 {
			t.Errorf("%d recipients: %v allocations", n, allocated)
		}
		got, err := k.Open(b, claimed)
		refused(t, fmt.Sprintf("%d recipients", n), got, err)
	}
}

// An instance with a new curve key does not open what was sealed to the old one.
func TestKeyChange(t *testing.T) {
	before, after := keyOf(t, "before"), keyOf(t, "after")
	old, fresh := sealed(t, to(before), asked(t), "old"), sealed(t, to(after), asked(t), "new")
	got, err := after.Open(asked(t), old)
	refused(t, "the old payload under the new key", got, err)
	if got, err := after.Open(asked(t), fresh); err != nil || string(got) != "new" {
		t.Errorf("got %q and %v", got, err)
	}
	got, err = before.Open(asked(t), fresh)
	refused(t, "the new payload under the old key", got, err)
}

// Nothing repeats: neither secret nor ephemeral key, so that nothing tells two
// equal payloads from two others.
func TestSealIsFresh(t *testing.T) {
	k := keyOf(t, "reader")
	pieces := map[string]bool{string(make([]byte, 16)): true, string(make([]byte, 32)): true}
	for range 20 {
		p := sealed(t, to(k), asked(t), "tail 20")
		secret, err := seal.Secret(k, asked(t), p)
		if err != nil {
			t.Fatal(err)
		}
		if pieces[string(secret)] {
			t.Fatalf("the secret %x was there before", secret)
		}
		pieces[string(secret)] = true
		for at := 35; at+16 <= len(p); at += 16 {
			if pieces[string(p[at:at+16])] {
				t.Fatalf("16 bytes at %d were there before", at)
			}
			pieces[string(p[at:at+16])] = true
		}
	}
}

// What a receiver is told does not say which step failed; that it is no recipient
// stands in the payload for everybody.
func TestRefusalsSayNoMore(t *testing.T) {
	k, other := keyOf(t, "reader"), keyOf(t, "other")
	payload := sealed(t, to(k), asked(t), "tail 20")
	texts := map[string]bool{}
	note := func(err error) {
		if err == nil {
			t.Fatal("it opens")
		}
		texts[err.Error()] = true
	}
	for _, at := range []int{3 + 64, 3 + 111, 3 + 112, len(payload) - 1, len(payload) - 20} {
		changed := bytes.Clone(payload)
		changed[at] ^= 1
		_, err := k.Open(asked(t), changed)
		note(err)
	}
	b := asked(t)
	b.Signer = signerOf(t, "mallory").PublicKey()
	_, err := k.Open(b, payload)
	note(err)
	if len(texts) != 1 {
		t.Errorf("got %d texts, want one: %v", len(texts), texts)
	}
	if _, err := other.Open(asked(t), payload); err == nil || texts[err.Error()] {
		t.Errorf("got %v, want that it is sealed to others", err)
	}
	if denial.Hint(denial.CannotOpen) == "" {
		t.Error("nothing says what helps")
	}
}
