package envelope_test

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

// The fourteen encodings of points of small order that decoders are known to
// take: eight canonical ones, six that are not.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}

const basePoint = "5866666666666666666666666666666666666666666666666666666666666666"

// order is L, the order of the base point.
var order, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func littleEndian(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return b
}

func fromLittleEndian(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func signature(sig []byte) string { return "ed25519:" + base64.RawURLEncoding.EncodeToString(sig) }

// Attack 19: under a key of small order, R = B and S = 1 is a signature of every
// message, or of one in eight, that nobody holds a private key for. The bare
// library takes it.
func TestKeysOfSmallOrderAreRefused(t *testing.T) {
	a := agent(t, "writer")
	forged := append(unhex(t, basePoint), littleEndian(big.NewInt(1))...)
	for _, encoding := range smallOrder {
		key := unhex(t, encoding)
		text, err := nkeys.Encode(nkeys.PrefixByteUser, key)
		if err != nil {
			t.Fatal(err)
		}
		bareAccepts := false
		for range 400 {
			m := a.message(t, t0)
			m = with(m, envelope.HeaderEnvelope, strings.Replace(m.Header[envelope.HeaderEnvelope][0], a.key.PublicKey(), string(text), 1))
			m = with(m, envelope.HeaderSignature, signature(forged))
			signed := envelope.SignedBytes(domain, m.Subject, m.Header[envelope.HeaderEnvelope][0], m.Data, nil)
			if !ed25519.Verify(key, signed, forged) {
				continue
			}
			bareAccepts = true
			_, err := envelope.Parse(m)
			wantReason(t, err, denial.BadEnvelope)
			break
		}
		if !bareAccepts {
			t.Errorf("%s: the attack does not work on the bare library either", encoding)
		}
	}
}

func TestKeysThatAreNotCanonicalAreRefused(t *testing.T) {
	a := agent(t, "writer")
	// Every y from p to 2²⁵⁵−1, with both signs; the largest canonical one is in
	// the list above.
	for low := 0xed; low <= 0xff; low++ {
		for _, high := range []byte{0x7f, 0xff} {
			key := slices.Repeat([]byte{0xff}, 32)
			key[0], key[31] = byte(low), high
			text, err := nkeys.Encode(nkeys.PrefixByteUser, key)
			if err != nil {
				t.Fatal(err)
			}
			m := a.message(t, t0)
			_, err = envelope.Parse(with(m, envelope.HeaderEnvelope, strings.Replace(m.Header[envelope.HeaderEnvelope][0], a.key.PublicKey(), string(text), 1)))
			wantReason(t, err, denial.BadEnvelope)
		}
	}
}

// The second half of a signature has twins S+L, S+2L … that lenient libraries
// take; crypto/ed25519 does not, and neither may a change of library.
func TestSignatureHasNoTwin(t *testing.T) {
	a := agent(t, "writer")
	m := a.message(t, t0)
	a.mustVerify(t, m, nil)
	sig, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(m.Header[envelope.HeaderSignature][0], "ed25519:"))
	if err != nil {
		t.Fatal(err)
	}
	signed := envelope.SignedBytes(domain, m.Subject, m.Header[envelope.HeaderEnvelope][0], m.Data, nil)
	s := fromLittleEndian(sig[32:])
	for n := int64(1); n <= 15; n++ {
		twin := new(big.Int).Add(s, new(big.Int).Mul(big.NewInt(n), order))
		if twin.BitLen() > 256 {
			break
		}
		bad := append(slices.Clone(sig[:32]), littleEndian(twin)...)
		if ed25519.Verify(a.public, signed, bad) {
			t.Errorf("crypto/ed25519 takes S+%dL now", n)
		}
		_, err := envelope.Parse(with(m, envelope.HeaderSignature, signature(bad)))
		wantReason(t, err, denial.BadSignature)
	}
	largest := append(slices.Clone(sig[:32]), littleEndian(new(big.Int).Sub(order, big.NewInt(1)))...)
	_, err = a.verify(with(m, envelope.HeaderSignature, signature(largest)), nil)
	wantReason(t, err, denial.BadSignature) // canonical, and not a signature of this
}

// Whoever holds a key can make a signature with R of small order. The library
// takes the canonical one and refuses its other encodings, other libraries do
// not agree, and here none passes, so that all readers agree.
func TestSignaturesWithRofSmallOrderAreRefused(t *testing.T) {
	a := agent(t, "writer")
	m := a.message(t, t0)
	signed := envelope.SignedBytes(domain, m.Subject, m.Header[envelope.HeaderEnvelope][0], m.Data, nil)
	for i, encoding := range []string{smallOrder[0], smallOrder[8], smallOrder[10], smallOrder[11]} { // all spell the neutral point
		r := unhex(t, encoding)
		sig := append(r, littleEndian(scalar(t, "writer", r, a.public, signed))...)
		if got, want := ed25519.Verify(a.public, signed, sig), i == 0; got != want {
			t.Errorf("%s: crypto/ed25519 says %v, want %v", encoding, got, want)
		}
		_, err := a.verify(with(m, envelope.HeaderSignature, signature(sig)), nil)
		wantReason(t, err, denial.BadSignature)
	}
}

// scalar returns S for the random scalar zero: SHA-512(R, A, M) times the
// private scalar.
func scalar(t testing.TB, name string, r, public, message []byte) *big.Int {
	t.Helper()
	h := sha512.Sum512(seedOf(name))
	private := h[:32]
	private[0] &= 248
	private[31] = private[31]&127 | 64
	k := sha512.Sum512(slices.Concat(r, public, message))
	s := new(big.Int).Mul(fromLittleEndian(k[:]), fromLittleEndian(private))
	return s.Mod(s, order)
}

// The published cases in which implementations differ: what the library says of
// each, so that a change of it does not go unseen, and what is left of them here.
func TestSpeccheck(t *testing.T) {
	text, err := os.ReadFile("../test/vectors/ed25519/speccheck.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name, Why, Key, Message, Signature string
			Bare, Accept                       bool
		}
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != 12 {
		t.Fatalf("got %d cases, %v", len(file.Cases), err)
	}
	for _, c := range file.Cases {
		key, message, sig := unhex(t, c.Key), unhex(t, c.Message), unhex(t, c.Signature)
		bare := ed25519.Verify(key, message, sig)
		if bare != c.Bare {
			t.Errorf("%s (%s): crypto/ed25519 says %v, want %v", c.Name, c.Why, bare, c.Bare)
		}
		if got := bare && envelope.StrictKey(key) && envelope.Formed(sig); got != c.Accept {
			t.Errorf("%s (%s): got %v, want %v", c.Name, c.Why, got, c.Accept)
		}
	}
}
