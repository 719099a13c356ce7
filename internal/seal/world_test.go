package seal_test

import (
	"crypto/sha256"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/seal"
)

const domain = "mesh.example"

// keyOf is a curve key by its label.
func keyOf(t testing.TB, label string) *seal.Key {
	t.Helper()
	raw := sha256.Sum256([]byte("seal test curve " + label))
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteCurve, raw[:])
	if err != nil {
		t.Fatal(err)
	}
	k, err := seal.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signerOf is an instance's nkey by its label.
func signerOf(t testing.TB, label string) *envelope.Key {
	t.Helper()
	raw := sha256.Sum256([]byte("seal test user " + label))
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, raw[:])
	if err != nil {
		t.Fatal(err)
	}
	k, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func to(keys ...*seal.Key) []seal.Recipient {
	var out []seal.Recipient
	for _, k := range keys {
		out = append(out, k.Recipient())
	}
	return out
}

func asked(t testing.TB) seal.Binding {
	return seal.Binding{
		TrustDomain: domain, Signer: signerOf(t, "writer").PublicKey(), Recipient: agentid.Require("reader"), Nonce: "AAECAwQFBgcICQoLDA0ODw",
	}
}

func answered(t testing.TB, piece int) seal.Binding {
	b := asked(t)
	b.Reply, b.Signer, b.Recipient, b.Piece = true, signerOf(t, "reader").PublicKey(), agentid.Require("writer"), piece
	return b
}

func sealed(t testing.TB, to []seal.Recipient, b seal.Binding, plain string) []byte {
	t.Helper()
	out, err := seal.Seal(to, b, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func refused(t testing.TB, what string, got []byte, err error) {
	t.Helper()
	if denial.Of(err) != denial.CannotOpen || got != nil {
		t.Errorf("%s: got %q and %v, want %q", what, got, err, denial.CannotOpen)
	}
}

func sha(label string) []byte {
	sum := sha256.Sum256([]byte(label))
	return sum[:]
}
