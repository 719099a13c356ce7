package envelope_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// lineBreak and nameEnd take header lines apart in what a fuzzer invents; no
// header that may be signed holds either.
const (
	lineBreak = "\x1e"
	nameEnd   = "\x1f"
)

func joinHeaders(lines [][2]string) string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = l[0] + nameEnd + l[1]
	}
	return strings.Join(out, lineBreak)
}

func splitHeaders(s string) map[string][]string {
	h := map[string][]string{}
	if s == "" {
		return h
	}
	for line := range strings.SplitSeq(s, lineBreak) {
		name, value, _ := strings.Cut(line, nameEnd)
		h[name] = append(h[name], value)
	}
	return h
}

// seed is a vector as far as the format goes.
type seed struct {
	domain, subject, headers string
	payload, request         []byte
}

// seeds are the messages of test/vectors/envelope, but for the few that are
// larger than a fuzzer should be fed with.
func seeds(t testing.TB) []seed {
	t.Helper()
	var out []seed
	err := filepath.WalkDir(filepath.FromSlash("../test/vectors/envelope"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v struct {
			TrustDomain  string                   `json:"trust_domain"`
			Subscription struct{ Request string } `json:"subscription"`
			Message      struct {
				Subject string
				Headers [][2]string
				Payload []byte
				Zeros   int `json:"payload_zeros"`
			}
		}
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		if v.TrustDomain == "" || v.Message.Zeros > 0 {
			return nil
		}
		request, err := base64.RawURLEncoding.DecodeString(v.Subscription.Request)
		out = append(out, seed{v.TrustDomain, v.Message.Subject, joinHeaders(v.Message.Headers), v.Message.Payload, request})
		return err
	})
	if err != nil || len(out) < 1000 {
		t.Fatalf("found %d messages: %v", len(out), err)
	}
	return out
}

func (s seed) message() envelope.Message {
	return envelope.Message{Subject: s.subject, Header: splitHeaders(s.headers), Data: s.payload}
}

func (s seed) digest() *envelope.Digest {
	if len(s.request) != len(envelope.Digest{}) {
		return nil
	}
	return (*envelope.Digest)(s.request)
}

// verify takes a message as if the registry listed the key that it names.
func (s seed) verify() (*envelope.Unverified, *envelope.Verified, error) {
	u, err := envelope.Parse(s.message())
	if err != nil {
		return nil, nil, err
	}
	key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(u.UnsafeFields().Key))
	if err != nil {
		return u, nil, err
	}
	v, err := u.Verify(s.domain, key, s.digest())
	return u, v, err
}

// FuzzParse: whatever parses is within the limits, encodes again to the bytes of
// its header, names a key and bears a signature of the one encoding, and has no
// header that another reader might take for one of the mesh; whatever does not is
// refused with one of the reasons of steps 1 and 2.
func FuzzParse(f *testing.F) {
	for _, s := range seeds(f) {
		f.Add(s.subject, s.headers, s.payload)
	}
	f.Fuzz(func(t *testing.T, subject, headers string, payload []byte) {
		m := seed{subject: subject, headers: headers, payload: payload}.message()
		u, err := envelope.Parse(m)
		if err != nil {
			wantReason(t, err, denial.TooLarge, denial.BadEnvelope, denial.BadVersion, denial.Loop, denial.BadSignature)
			return
		}
		fields := u.UnsafeFields()
		if got := envelope.Encode(fields); got != text(m) || len(got) > limits.Envelope || len(subject) > limits.Subject {
			t.Errorf("got %q of %q", got, text(m))
		}
		key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(fields.Key))
		if err != nil || !envelope.StrictKey(key) {
			t.Errorf("key %q passed: %v", fields.Key, err)
		}
		if again, err := nkeys.Encode(nkeys.PrefixByteUser, key); err != nil || string(again) != fields.Key {
			t.Errorf("key %q encodes again to %q", fields.Key, again)
		}
		sig := signatureOf(t, m)
		if signature(sig) != m.Header[envelope.HeaderSignature][0] || !envelope.Formed(sig) {
			t.Errorf("signature %q passed", m.Header[envelope.HeaderSignature])
		}
		app := 0
		for name, values := range m.Header {
			lower := strings.ToLower(name)
			switch {
			case name == envelope.HeaderEnvelope || name == envelope.HeaderSignature:
			case strings.HasPrefix(lower, "mesh-"), lower == "nats-msg-id" && !slices.Equal(values, []string{fields.Nonce}):
				t.Errorf("header %q: %q passed", name, values)
			case !strings.HasPrefix(lower, "nats-") && lower != "traceparent" && lower != "tracestate":
				app += len(values)
			}
		}
		if app > limits.AppHeaders {
			t.Errorf("%d application headers passed", app)
		}
	})
}

func signatureOf(t testing.TB, m envelope.Message) []byte {
	t.Helper()
	sig, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(m.Header[envelope.HeaderSignature][0], "ed25519:"))
	if err != nil || len(sig) != ed25519.SignatureSize {
		t.Fatalf("signature %q passed: %v", m.Header[envelope.HeaderSignature], err)
	}
	return sig
}

// FuzzVerify: whatever verifies was signed by the key that it names, and nothing
// that was not signed here does: a fuzzer holds no key. What is handed on is what
// was signed.
func FuzzVerify(f *testing.F) {
	signed := map[envelope.Digest]bool{}
	for _, s := range seeds(f) {
		f.Add(s.domain, s.subject, s.headers, s.payload, s.request)
		if _, v, err := s.verify(); err == nil {
			signed[v.Digest()] = true
		}
	}
	if len(signed) < 50 {
		f.Fatalf("%d messages verify", len(signed))
	}
	f.Fuzz(func(t *testing.T, domain, subject, headers string, payload, request []byte) {
		s := seed{domain, subject, headers, payload, request}
		u, v, err := s.verify()
		if err != nil {
			if !errorsAs(err) {
				t.Errorf("got %v, want a denial", err)
			}
			return
		}
		if !signed[v.Digest()] {
			t.Errorf("verifies without having been signed: %+v", v.Fields())
		}
		m := s.message()
		if envelope.Encode(v.Fields()) != text(m) || v.Fields() != u.UnsafeFields() || v.Subject() != subject || !bytes.Equal(v.Data(), payload) {
			t.Errorf("hands on something else: %+v", v.Fields())
		}
		key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(v.Fields().Key))
		if err != nil || !ed25519.Verify(key, envelope.SignedBytes(domain, subject, text(m), payload, s.digest()), signatureOf(t, m)) {
			t.Errorf("not signed by the key that it names, %s: %v", v.Fields().Key, err)
		}
		if (v.Header() != nil) != (v.Fields().HeaderDigest != "") {
			t.Errorf("hands on headers %q with hd %q", v.Header(), v.Fields().HeaderDigest)
		}
		for name, values := range v.Header() {
			if !slices.Equal(values, m.Header[name]) {
				t.Errorf("hands on %q: %q", name, values)
			}
		}
	})
}

// FuzzHeaders: application headers that can be signed arrive as they are, and two
// lists of them have one digest only if they are one list.
func FuzzHeaders(f *testing.F) {
	a := agent(f, "writer")
	f.Add("Tenant\x1fblue\x1ePath\x1faa\x1ePath\x1fb", "Path\x1faa\x1ePath\x1fb\x1eTenant\x1fblue")
	f.Add("Tenan\x1ftblue", "Tenant\x1fblue")
	f.Add("A\x1f1\x1ea\x1f1", "A\x1f1\x1eA\x1f1")
	f.Add("Mesh-X\x1f1", "traceparent\x1f1")
	f.Add("A\x1f 1", "A\x1f1\r\n")
	f.Add("", "A\x1f")
	for _, s := range seeds(f) {
		if strings.Contains(s.headers, "hd=") {
			_, app, _ := strings.Cut(s.headers, lineBreak)
			_, app, _ = strings.Cut(app, lineBreak)
			f.Add(app, "Tenant\x1fblue")
		}
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		sign := func(list string) (map[string][]string, string) {
			app := splitHeaders(list)
			header, _, err := envelope.Sign(domain, a.key, a.fields(), call, app, nil, nil)
			if err != nil {
				wantReason(t, err, denial.BadEnvelope, denial.TooLarge)
				return nil, ""
			}
			v := a.mustVerify(t, envelope.Message{Subject: call, Header: header}, nil)
			if got := v.Header(); len(got) != len(app) || len(got) > 0 && !equalHeaders(got, app) {
				t.Errorf("got %q, want %q", got, app)
			}
			return app, v.Fields().HeaderDigest
		}
		first, hdFirst := sign(one)
		second, hdSecond := sign(two)
		if first == nil || second == nil {
			return
		}
		if same := equalHeaders(first, second); same != (hdFirst == hdSecond) {
			t.Errorf("%q and %q have the digests %s and %s", first, second, hdFirst, hdSecond)
		}
	})
}

func equalHeaders(a, b map[string][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, values := range a {
		if !slices.Equal(values, b[name]) {
			return false
		}
	}
	return true
}
