package seal_test

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/seal"
)

// The public half is the one that nkeys derives, which stands in the passport.
func TestKeyIsTheNkey(t *testing.T) {
	pair, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(seed)
	k, err := seal.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(seed, before) {
		t.Error("the caller's seed was changed")
	}
	r, err := seal.ParseRecipient(public)
	if err != nil || r != k.Recipient() || r.String() != public {
		t.Errorf("got %s and %v, want %s", k.Recipient(), err, public)
	}
}

func TestNewKeyRefuses(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "SX", string(seed), keyOf(t, "reader").Recipient().String(), string(seed) + "A"} {
		k, err := seal.NewKey([]byte(text))
		if err == nil || k != nil {
			t.Fatalf("%d characters: got a key", len(text))
		}
		if len(text) > 2 && strings.Contains(err.Error(), text[2:]) {
			t.Errorf("the error quotes the seed: %v", err)
		}
	}
}

// Zero values open nothing and are sealed nothing to.
func TestZeroKey(t *testing.T) {
	payload := sealed(t, to(keyOf(t, "reader")), asked(t), "tail 20")
	var none *seal.Key
	got, err := none.Open(asked(t), payload)
	refused(t, "no key", got, err)
	got, err = new(seal.Key).Open(asked(t), payload)
	refused(t, "the zero key", got, err)
	if !(seal.Recipient{}).IsZero() || (seal.Recipient{}).String() != "" || keyOf(t, "reader").Recipient().IsZero() {
		t.Error("the zero recipient is not nobody")
	}
}

// However a key is printed, alone or inside of something, its private half does
// not show.
func TestKeyIsNeverPrinted(t *testing.T) {
	raw := sha("seal test curve reader")
	k := keyOf(t, "reader")
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteCurve, raw)
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Key    *seal.Key
		Value  seal.Key
		hidden *seal.Key
		buried seal.Key
	}
	var out strings.Builder
	for _, v := range []any{k, *k, holder{k, *k, k, *k}, &holder{k, *k, k, *k}, []*seal.Key{k}, map[string]seal.Key{"k": *k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%o", "%b", "%c", "%t"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
		log := zerolog.New(&out)
		log.Info().Interface("key", v).Any("again", v).Send()
	}
	if !strings.Contains(out.String(), k.Recipient().String()) {
		t.Error("the public half does not show either")
	}
	decimal := func(sep string) string {
		var parts []string
		for _, b := range raw[8:16] {
			parts = append(parts, fmt.Sprint(b))
		}
		return strings.Join(parts, sep)
	}
	lower := strings.ToLower(out.String())
	for what, secret := range map[string]string{
		"seed": string(seed[10:40]), "hexadecimal": hex.EncodeToString(raw[8:16]), "decimal": decimal(" "), "a list": decimal(","), "a slice": decimal(", "),
		"base64": base64.StdEncoding.EncodeToString(raw[9:24])[:16], "bytes": string(raw[8:16]),
	} {
		if strings.Contains(lower, strings.ToLower(secret)) {
			t.Errorf("the private half shows as %s", what)
		}
	}
}

func TestParseRecipient(t *testing.T) {
	good := keyOf(t, "reader").Recipient().String()
	user := signerOf(t, "reader").PublicKey()
	for _, text := range []string{
		"", "X", good[:55], good + "A", strings.ToLower(good), " " + good, good + "\n", good[:20] + "\r\n" + good[20:], user,
		"U" + good[1:], good[:54] + "AA",
	} {
		if r, err := seal.ParseRecipient(text); err == nil || !r.IsZero() {
			t.Errorf("%q: got %v and %v, want an error", text, r, err)
		}
	}
	if r, err := seal.ParseRecipient(good); err != nil || r.String() != good {
		t.Errorf("got %v and %v", r, err)
	}
}

// The table of small orders is what crypto/ecdh refuses to agree on a key with,
// and of each point one encoding is left.
func TestRecipientsOfSmallOrder(t *testing.T) {
	private, err := ecdh.X25519().NewPrivateKey(sha("any private key"))
	if err != nil {
		t.Fatal(err)
	}
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	encode := func(n *big.Int) (u [32]byte) {
		n.FillBytes(u[:])
		slices.Reverse(u[:])
		return u
	}
	order8, _ := new(big.Int).SetString("325606250916557431795983626356110631294008115727848805560023387167927233504", 10)
	other8, _ := new(big.Int).SetString("39382357235489614581723060781553021112529911719440698176882885853963445705823", 10)
	small := []*big.Int{big.NewInt(0), big.NewInt(1), new(big.Int).Sub(prime, big.NewInt(1)), order8, other8}
	limit := new(big.Int).Lsh(big.NewInt(1), 255)
	n := 0
	for _, s := range small {
		for u := new(big.Int).Set(s); u.Cmp(limit) < 0; u.Add(u, prime) {
			for _, high := range []byte{0, 0x80} {
				raw := encode(u)
				raw[31] |= high
				n++
				point, err := ecdh.X25519().NewPublicKey(raw[:])
				if err != nil {
					t.Fatal(err)
				}
				if _, err := private.ECDH(point); err == nil {
					t.Errorf("%x is not of small order", raw)
				}
				if seal.Strict(raw) {
					t.Errorf("%x, of small order, may be sealed to", raw)
				}
				text, err := nkeys.Encode(nkeys.PrefixByteCurve, raw[:])
				if err != nil {
					t.Fatal(err)
				}
				if r, err := seal.ParseRecipient(string(text)); err == nil {
					t.Errorf("%x is a recipient: %s", raw, r)
				}
			}
		}
	}
	if n != 14 {
		t.Errorf("found %d encodings of small order, want 14", n)
	}
	for i := range int64(19) {
		// The last 19 numbers below 2²⁵⁵ encode 0 to 18 again.
		above := encode(new(big.Int).Add(prime, big.NewInt(i)))
		if seal.Strict(above) {
			t.Errorf("%x is a second encoding of %d", above, i)
		}
	}
	for _, u := range []*big.Int{big.NewInt(2), big.NewInt(9), new(big.Int).Sub(prime, big.NewInt(2))} {
		if raw := encode(u); !seal.Strict(raw) {
			t.Errorf("%x is refused", raw)
		}
	}
}
