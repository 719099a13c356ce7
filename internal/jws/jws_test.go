package jws_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const header = `{"typ":"JWT","alg":"ed25519-nkey"}`

type note struct {
	jws.Head
	Name  string   `json:"name"`
	Count int64    `json:"count"`
	List  []string `json:"list"`
	More  string   `json:"more,omitempty"`
}

// key derives a key pair from a label, so that every run signs alike.
func key(t testing.TB, prefix nkeys.PrefixByte, label string) nkeys.KeyPair {
	t.Helper()
	seed := sha256.Sum256([]byte("jws test " + label))
	kp, err := nkeys.FromRawSeed(prefix, seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func sample() *note {
	return &note{Head: jws.Head{Kind: "note", IssuedAt: 1795408791}, Name: "a<b>&\u2028é", Count: -7, List: []string{"x"}}
}

func sign(t testing.TB, c *note) string {
	t.Helper()
	text, err := jws.Sign(c, key(t, nkeys.PrefixByteAccount, "signer"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// signRaw signs any payload under any header, as a forger with a key would.
func signRaw(t testing.TB, head, payload string) string {
	t.Helper()
	b64 := base64.RawURLEncoding
	signed := b64.EncodeToString([]byte(head)) + "." + b64.EncodeToString([]byte(payload))
	sig, err := key(t, nkeys.PrefixByteAccount, "signer").Sign([]byte(signed))
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64.EncodeToString(sig)
}

func payloadOf(t testing.TB, text string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func decode(text string) (*note, error) {
	var n note
	u, err := jws.Decode(text, "note", &n)
	if err != nil {
		return nil, err
	}
	return &n, u.Verify()
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	text := sign(t, want)
	got, err := decode(text)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if got.Name != want.Name || got.Count != want.Count || got.Issuer != want.Issuer {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// The hand-made form is the same bytes: the helpers below forge faithfully.
	if again := signRaw(t, header, payloadOf(t, text)); again != text {
		t.Errorf("got %s, want %s", again, text)
	}
}

// The last character of a 64-byte signature carries four spare bits, so a
// lenient decoder takes fifteen more texts for each document, and the digest
// by which a token is taken back no longer names it.
func TestSpareBitsOfTheSignature(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	text := sign(t, sample())
	last := strings.IndexByte(alphabet, text[len(text)-1])
	others := 0
	for spare := 1; spare < 16; spare++ {
		other := text[:len(text)-1] + string(alphabet[last|spare])
		if _, err := jwt.DecodeGeneric(other); err != nil {
			t.Fatalf("the lenient decoder refuses spelling %d, so this test shows nothing: %v", spare, err)
		}
		others++
		if _, err := decode(other); !errors.Is(err, denial.BadToken) {
			t.Errorf("spelling %d: got %v, want %s", spare, err, denial.BadToken)
		}
	}
	if others != 15 {
		t.Errorf("got %d other spellings, want 15", others)
	}
}

func TestOtherSpellings(t *testing.T) {
	text := sign(t, sample())
	p := payloadOf(t, text)
	replace := func(old, new string) string {
		if !strings.Contains(p, old) {
			t.Fatalf("payload %s has no %s", p, old)
		}
		return strings.Replace(p, old, new, 1)
	}
	cases := []struct {
		name string
		text string
		want denial.Reason
	}{
		{"header order", signRaw(t, `{"alg":"ed25519-nkey","typ":"JWT"}`, p), denial.BadToken},
		{"header space", signRaw(t, `{"typ":"JWT", "alg":"ed25519-nkey"}`, p), denial.BadToken},
		{"header case", signRaw(t, `{"typ":"jwt","alg":"ed25519-nkey"}`, p), denial.BadToken},
		{"header member", signRaw(t, `{"typ":"JWT","alg":"ed25519-nkey","kid":"x"}`, p), denial.BadToken},
		{"older algorithm", signRaw(t, `{"typ":"JWT","alg":"ed25519"}`, p), denial.BadToken},
		{"no algorithm", signRaw(t, `{"typ":"JWT","alg":"none"}`, p), denial.BadToken},
		{"white space", signRaw(t, header, replace(`,"name"`, `, "name"`)), denial.BadToken},
		{"trailing space", signRaw(t, header, p+" "), denial.BadToken},
		{"trailing bytes", signRaw(t, header, p+"{}"), denial.BadToken},
		{"unknown member", signRaw(t, header, replace(`,"name"`, `,"extra":1,"name"`)), denial.BadToken},
		{"doubled member", signRaw(t, header, replace(`,"count":-7`, `,"count":-8,"count":-7`)), denial.BadToken},
		{"doubled kind", signRaw(t, header, replace(`{"kind":"note",`, `{"kind":"note","kind":"note",`)), denial.BadToken},
		{"second kind wins", signRaw(t, header, replace(`{"kind":"note",`, `{"kind":"note","kind":"tick",`)), denial.BadToken},
		{"missing member", signRaw(t, header, replace(`,"count":-7`, ``)), denial.BadToken},
		{"member order", signRaw(t, header, replace(`,"count":-7,"list":["x"]`, `,"list":["x"],"count":-7`)), denial.BadToken},
		{"member case", signRaw(t, header, replace(`"count"`, `"Count"`)), denial.BadToken},
		{"kind not first", signRaw(t, header, replace(`{"kind":"note",`, `{`)[:len(p)-len(`"kind":"note",`)-1]+`,"kind":"note"}`), denial.BadToken},
		{"empty optional member", signRaw(t, header, replace(`["x"]`, `["x"],"more":""`)), denial.BadToken},
		{"null integer", signRaw(t, header, replace(`-7`, `null`)), denial.BadToken},
		{"float", signRaw(t, header, replace(`-7`, `-7.0`)), denial.BadToken},
		{"exponent", signRaw(t, header, replace(`-7`, `7e0`)), denial.BadToken},
		{"minus zero", signRaw(t, header, replace(`-7`, `-0`)), denial.BadToken},
		{"huge integer", signRaw(t, header, replace(`-7`, `9223372036854775808`)), denial.BadToken},
		{"integer as text", signRaw(t, header, replace(`-7`, `"-7"`)), denial.BadToken},
		{"escaped letter", signRaw(t, header, replace(`"x"`, `"\u0078"`)), denial.BadToken},
		{"escaped slash", signRaw(t, header, replace(`"x"`, `"\/"`)), denial.BadToken},
		{"escaped angle", signRaw(t, header, replace(`a<b`, `a\u003cb`)), denial.BadToken},
		{"raw line separator", signRaw(t, header, replace(`\u2028`, "\u2028")), denial.BadToken},
		{"invalid UTF-8", signRaw(t, header, replace(`"x"`, "\"\xff\"")), denial.BadToken},
		{"not an object", signRaw(t, header, `["note"]`), denial.BadToken},
		{"nested bomb", signRaw(t, header, `{"kind":"note",`+strings.Repeat(`[`, 20000)), denial.BadToken},
		{"other kind", signRaw(t, header, replace(`"kind":"note"`, `"kind":"tick"`)), denial.WrongKind},
		{"longer kind", signRaw(t, header, replace(`"kind":"note"`, `"kind":"notes"`)), denial.WrongKind},
		{"escaped kind", signRaw(t, header, replace(`"kind":"note"`, `"kind":"\u006eote"`)), denial.BadToken},
		{"no kind", signRaw(t, header, `{}`), denial.WrongKind},
		{"padding", text + "==", denial.BadToken},
		{"line break at the end", text + "\n", denial.BadToken},
		{"line break in the payload", strings.Replace(text, ".", ".\n", 1), denial.BadToken},
		{"line break for a signature character", text[:len(text)-2] + "\n" + text[len(text)-1:], denial.BadToken},
		{"standard alphabet", strings.Replace(text, ".", ".+", 1), denial.BadToken},
		{"four parts", text + ".AAAA", denial.BadToken},
		{"two parts", text[:strings.LastIndexByte(text, '.')], denial.BadToken},
		{"empty", "", denial.BadToken},
		{"over the limit", strings.Repeat("A", limits.Document+1), denial.TooLarge},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got, err := decode(c.text); denial.Of(err) != c.want {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
		})
	}
}

// What is refused above is refused for its spelling alone: a lenient decoder
// finds the signatures good.
func TestLenientDecoderTakesThem(t *testing.T) {
	text := sign(t, sample())
	p := payloadOf(t, text)
	for name, other := range map[string]string{
		"doubled member": signRaw(t, header, strings.Replace(p, `"count":-7`, `"count":-8,"count":-7`, 1)),
		"header member":  signRaw(t, `{"typ":"JWT","alg":"ed25519-nkey","kid":"x"}`, p),
		"line break":     text[:len(text)-1] + "\n" + text[len(text)-1:],
	} {
		if _, err := jwt.DecodeGeneric(other); err != nil {
			t.Errorf("%s: the lenient decoder refuses, so nothing is shown: %v", name, err)
		}
		if _, err := decode(other); denial.Of(err) != denial.BadToken {
			t.Errorf("%s: got %v, want %s", name, err, denial.BadToken)
		}
	}
}

func TestFlippedCharacters(t *testing.T) {
	text := sign(t, sample())
	for i := range text {
		b := []byte(text)
		if b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		if _, err := decode(string(b)); denial.Of(err) == "" {
			t.Errorf("character %d changed: got %v, want a denial", i, err)
		}
	}
}

// A value that refuses its own text decides the reason of the document.
type picky struct{}

func (picky) MarshalText() ([]byte, error) { return nil, nil }
func (*picky) UnmarshalText(b []byte) error {
	return denial.New(denial.WildcardScope, "picked %q", b)
}

func TestReasonOfAMember(t *testing.T) {
	var c struct {
		jws.Head
		Name picky `json:"name"`
	}
	_, err := jws.Decode(sign(t, sample()), "note", &c)
	if denial.Of(err) != denial.WildcardScope {
		t.Errorf("got %v, want %s", err, denial.WildcardScope)
	}
}

func TestSignRefusals(t *testing.T) {
	kp := key(t, nkeys.PrefixByteAccount, "signer")
	if _, err := jws.Sign(&note{}, kp); denial.Of(err) != denial.BadToken {
		t.Errorf("no kind: got %v, want %s", err, denial.BadToken)
	}
	n := sample()
	n.Name = ""
	room := limits.Document - len(sign(t, n))
	n.Name = strings.Repeat("a", room*3/4)
	if text, err := jws.Sign(n, kp); err != nil || len(text) > limits.Document {
		t.Errorf("at the limit: got %d bytes, %v", len(text), err)
	} else if _, err := decode(text); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	n.Name += "aa"
	if _, err := jws.Sign(n, kp); denial.Of(err) != denial.TooLarge {
		t.Errorf("past the limit: got %v, want %s", err, denial.TooLarge)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	only, err := nkeys.FromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.Sign(sample(), only); err == nil {
		t.Error("signed with a public key")
	}
}

func TestPublicKey(t *testing.T) {
	for _, p := range []nkeys.PrefixByte{nkeys.PrefixByteAccount, nkeys.PrefixByteUser} {
		public, err := key(t, p, "public").PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jws.PublicKey(public); err != nil {
			t.Errorf("prefix %s: %v", p, err)
		}
		for name, bad := range map[string]string{
			"lower case": strings.ToLower(public),
			"cut":        public[:len(public)-1],
			"longer":     public + "A",
			"padding":    public + "=",
			"line break": public + "\n",
		} {
			if _, err := jws.PublicKey(bad); denial.Of(err) != denial.BadToken {
				t.Errorf("%s: got %v, want %s", name, err, denial.BadToken)
			}
		}
	}
	for _, p := range []nkeys.PrefixByte{nkeys.PrefixByteServer, nkeys.PrefixByteOperator, nkeys.PrefixByteCluster} {
		public, err := key(t, p, "public").PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jws.PublicKey(public); denial.Of(err) != denial.BadToken {
			t.Errorf("prefix %s: got %v, want %s", p, err, denial.BadToken)
		}
	}
	seed, err := key(t, nkeys.PrefixByteUser, "public").Seed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jws.PublicKey(string(seed)); denial.Of(err) != denial.BadToken || strings.Contains(err.Error(), string(seed)) {
		t.Errorf("a seed: got %v, want %s without the seed", err, denial.BadToken)
	}
}

// Under a key of small order a signature made without any secret verifies, so
// that its owner could say that anybody made it. crypto/ed25519 takes such keys.
func TestWeakKeys(t *testing.T) {
	little := func(hex string) []byte {
		raw := make([]byte, 0, 32)
		for i := 0; i < len(hex); i += 2 {
			raw = append(raw, unhex(hex[i])<<4|unhex(hex[i+1]))
		}
		return raw
	}
	forgeable := []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // 0 again
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // 1 again
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	}
	identity := little(forgeable[2])
	sig := append(bytes.Clone(identity), make([]byte, 32)...)
	for _, hex := range forgeable {
		raw := little(hex)
		forged := false
		for i := 0; i < 256 && !forged; i++ {
			forged = ed25519.Verify(raw, []byte{byte(i)}, sig)
		}
		if !forged {
			t.Errorf("%s: nothing forged without the secret, so this test shows nothing", hex)
		}
		public, err := nkeys.Encode(nkeys.PrefixByteUser, raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jws.PublicKey(string(public)); denial.Of(err) != denial.BadToken {
			t.Errorf("%s: got %v, want %s", hex, err, denial.BadToken)
		}
	}
	// Any other y at or above the prime is a second spelling as well.
	for low := 0xed; low <= 0xff; low++ {
		raw := bytes.Repeat([]byte{0xff}, 32)
		raw[0], raw[31] = byte(low), 0x7f
		public, err := nkeys.Encode(nkeys.PrefixByteUser, raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jws.PublicKey(string(public)); denial.Of(err) != denial.BadToken {
			t.Errorf("y = p + %d: got %v, want %s", low-0xed, err, denial.BadToken)
		}
	}
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func TestDigest(t *testing.T) {
	d := jws.Digest("abc")
	if want := "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"; d != want {
		t.Errorf("got %s, want %s", d, want)
	}
	if !jws.IsDigest(d) {
		t.Errorf("%s is not taken for a digest", d)
	}
	for _, bad := range []string{"", d[:42], d + "A", d[:42] + "1", d[:42] + "=", strings.Repeat("A", 42) + "\n", strings.Replace(d, "-", "+", 1)} {
		if jws.IsDigest(bad) {
			t.Errorf("%q is taken for a digest", bad)
		}
	}
}

// FuzzDecode: whatever decodes encodes again to the same text, and a document
// that verifies is one that the key has signed.
func FuzzDecode(f *testing.F) {
	text := sign(f, sample())
	p := payloadOf(f, text)
	f.Add([]byte(p))
	f.Add([]byte(strings.Replace(p, `-7`, `-7.0`, 1)))
	f.Add([]byte(strings.Replace(p, `["x"]`, `null`, 1)))
	f.Add([]byte(strings.Replace(p, `["x"]`, `[],"more":"\ufffd"`, 1)))
	f.Add([]byte(strings.Replace(p, `"kind":"note"`, `"kind":"note","kind":"note"`, 1)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		forged := signRaw(t, header, string(payload))
		n, err := decode(forged)
		if err != nil {
			if denial.Of(err) == "" {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		if again := sign(t, n); again != forged {
			t.Fatalf("got %s, want %s", again, forged)
		}
		// The standard decoder at its strictest must agree that it is a note.
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.DisallowUnknownFields()
		if err := dec.Decode(new(note)); err != nil {
			t.Fatalf("the strict standard decoder refuses: %v", err)
		}
	})
}

// FuzzText: no text but the one that was signed decodes and verifies.
func FuzzText(f *testing.F) {
	text := sign(f, sample())
	f.Add(text)
	f.Add(text + "\n")
	f.Add(text[:len(text)-1] + "B")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := decode(s); err == nil && s != text {
			t.Fatalf("a second text verifies: %q", s)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := sign(b, sample())
	b.ReportAllocs()
	for b.Loop() {
		var n note
		if _, err := jws.Decode(text, "note", &n); err != nil {
			b.Fatal(err)
		}
	}
}
