// Package jws implements the one signed document of Sealmesh: a compact JWT in
// NATS' form, read by a strict decoder.
//
// It exists because a lenient decoder lets one document be spelt in many ways,
// and then a digest no longer names it: jwt/v2 takes fifteen spellings of one
// token, duplicate claims, and an older algorithm that signs the payload alone.
// Here a document has exactly one spelling:
//
//   - the header is these bytes and no others: {"typ":"JWT","alg":"ed25519-nkey"}
//   - base64url without padding, spare bits zero
//   - the payload is what encoding the decoded claims again gives: members in
//     the order of the struct, no white space, no unknown, missing or doubled
//     member, integers only
//   - the signature is Ed25519 over header.payload
//
// Every claims type has a Kind, which names what the document is, and Decode
// takes only the kind that it is asked for, so that no document can be passed
// off as another. (docs/spec/capability.md, section "Signed documents".)
package jws

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// header is base64url of {"typ":"JWT","alg":"ed25519-nkey"}.
const header = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ"

var b64 = base64.RawURLEncoding.Strict()

// Head is what every document begins with. Claims types embed it first.
type Head struct {
	Kind     string `json:"kind"`
	Issuer   string `json:"iss"` // public nkey of the signer
	IssuedAt int64  `json:"iat"` // Unix seconds
}

func (h *Head) head() *Head { return h }

type claims interface{ head() *Head }

// Signer signs with one nkey. An nkeys.KeyPair is one.
type Signer interface {
	PublicKey() (string, error)
	Sign(input []byte) ([]byte, error)
}

// Sign encodes c, a pointer to a struct that embeds Head with its Kind and
// IssuedAt set, and signs it with key, which becomes the issuer.
func Sign(c claims, key Signer) (string, error) {
	h := c.head()
	if h.Kind == "" {
		return "", denial.New(denial.BadToken, "a document must have a kind")
	}
	pub, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	h.Issuer = pub
	payload, err := marshal(c)
	if err != nil {
		return "", err
	}
	signed := header + "." + b64.EncodeToString(payload)
	if len(signed)+1+b64.EncodedLen(ed25519.SignatureSize) > limits.Document {
		return "", denial.New(denial.TooLarge, "document of kind %q is longer than %d bytes", h.Kind, limits.Document)
	}
	sig, err := key.Sign([]byte(signed))
	if err != nil {
		return "", err
	}
	return signed + "." + b64.EncodeToString(sig), nil
}

// Unverified is a decoded document whose signature nobody has checked yet.
type Unverified struct {
	signed string
	sig    []byte
	head   *Head
}

// Decode reads token into c, a pointer to the zero value of the claims type of
// that kind. Nothing in c may be believed before Verify returned nil.
func Decode(token, kind string, c claims) (*Unverified, error) {
	if len(token) > limits.Document {
		return nil, denial.New(denial.TooLarge, "document is longer than %d bytes", limits.Document)
	}
	rest, ok := strings.CutPrefix(token, header+".")
	if !ok {
		return nil, denial.New(denial.BadToken, "header is not the one this form has")
	}
	body, sigText, ok := strings.Cut(rest, ".")
	if !ok || len(sigText) != b64.EncodedLen(ed25519.SignatureSize) {
		return nil, denial.New(denial.BadToken, "must have a header, a payload and a signature of 64 bytes")
	}
	// The base64 decoder skips line breaks, which would be a second spelling.
	if strings.ContainsAny(rest, "\r\n") {
		return nil, denial.New(denial.BadToken, "line break in a document")
	}
	sig, err := b64.DecodeString(sigText)
	if err != nil {
		return nil, denial.New(denial.BadToken, "signature is not canonical base64url")
	}
	payload, err := b64.DecodeString(body)
	if err != nil {
		return nil, denial.New(denial.BadToken, "payload is not canonical base64url")
	}
	// The one valid encoding begins with the kind, so the kind is judged before
	// anything is parsed, and a document of another kind never reaches c.
	if !hasKind(payload, kind) {
		return nil, refuseKind(payload, kind)
	}
	// Unknown, doubled, misspelt and missing members are not looked for one by
	// one: none of them survives being encoded again.
	if err := json.Unmarshal(payload, c); err != nil {
		if reason := denial.Of(err); reason != "" {
			return nil, denial.New(reason, "payload of kind %q: %s", kind, denial.Detail(err))
		}
		return nil, denial.New(denial.BadToken, "payload of kind %q does not parse: %v", kind, err)
	}
	again, err := marshal(c)
	if err != nil {
		return nil, denial.New(denial.BadToken, "payload of kind %q does not encode: %v", kind, err)
	}
	if !bytes.Equal(again, payload) {
		return nil, denial.New(denial.BadToken, "payload of kind %q is not in its one valid encoding", kind)
	}
	return &Unverified{signed: token[:len(header)+1+len(body)], sig: sig, head: c.head()}, nil
}

// hasKind reports whether payload begins as a document of the kind does.
func hasKind(payload []byte, kind string) bool {
	const before, after = `{"kind":"`, `",`
	return len(payload) > len(before)+len(kind)+len(after) &&
		string(payload[:len(before)]) == before &&
		string(payload[len(before):len(before)+len(kind)]) == kind &&
		string(payload[len(before)+len(kind):len(before)+len(kind)+len(after)]) == after
}

// refuseKind says why payload does not begin as a document of the kind.
func refuseKind(payload []byte, kind string) error {
	var h *struct {
		Kind string `json:"kind"`
	}
	// null is read without an error and is no object either.
	if err := json.Unmarshal(payload, &h); err != nil || h == nil {
		return denial.New(denial.BadToken, "payload is not a JSON object")
	}
	if h.Kind != kind {
		return denial.New(denial.WrongKind, "document is a %.40q, not a %q", h.Kind, kind)
	}
	return denial.New(denial.BadToken, "payload of kind %q is not in its one valid encoding", kind)
}

// UnsafeIssuer returns the key that the document says signed it.
func (u *Unverified) UnsafeIssuer() string { return u.head.Issuer }

// Verify checks the signature against the issuer that the document names. The
// caller still has to decide whether that issuer may sign such a document.
func (u *Unverified) Verify() error {
	pub, err := PublicKey(u.head.Issuer)
	if err != nil {
		return err
	}
	// With R of small order a signer leaves out its commitment; the library takes
	// it and others do not, and they would disagree about one document.
	if weak(u.sig[:ed25519.PublicKeySize]) || !ed25519.Verify(pub, []byte(u.signed), u.sig) {
		return denial.New(denial.BadSignature, "signature of a %q document does not verify", u.head.Kind)
	}
	return nil
}

// PublicKey decodes a public account or user nkey to its Ed25519 key; keys of
// other kinds and malformed ones are refused.
func PublicKey(nkey string) (ed25519.PublicKey, error) {
	prefix := nkeys.Prefix(nkey)
	if prefix != nkeys.PrefixByteAccount && prefix != nkeys.PrefixByteUser {
		return nil, denial.New(denial.BadToken, "issuer is neither an account nor a user key")
	}
	raw, err := nkeys.Decode(prefix, []byte(nkey))
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, denial.New(denial.BadToken, "issuer is not a public nkey")
	}
	// The base32 decoder skips line breaks as well; only the spelling that
	// encodes again is one.
	if again, err := nkeys.Encode(prefix, raw); err != nil || string(again) != nkey {
		return nil, denial.New(denial.BadToken, "issuer is not in its one valid spelling")
	}
	if weak(raw) {
		return nil, denial.New(denial.BadToken, "issuer is a key that anybody can sign for")
	}
	return ed25519.PublicKey(raw), nil
}

// smallOrder lists the y coordinates of the points whose order divides eight.
// A signature made without any secret verifies under such a key for one message
// in eight or more, so its owner could disown whatever it signed.
var smallOrder = [...][ed25519.PublicKeySize]byte{
	{},  // 0, order 4
	{1}, // 1, the identity
	{ // -1, order 2
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
	{ // order 8
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{ // order 8
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
}

// weak reports whether raw is of small order or a second spelling of a point:
// crypto/ed25519 takes both.
func weak(raw []byte) bool {
	y := [ed25519.PublicKeySize]byte(raw)
	y[31] &= 0x7f // the top bit is the sign of x
	for i := range smallOrder {
		if y == smallOrder[i] {
			return true
		}
	}
	// y must be below the field's prime, 2^255-19.
	if y[0] < 0xed || y[31] != 0x7f {
		return false
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return false
		}
	}
	return true
}

// Digest is the name of a document or chain: the SHA-256 of its text in
// base64url, 43 characters.
func Digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return b64.EncodeToString(sum[:])
}

// IsDigest reports whether s has the form of a Digest.
func IsDigest(s string) bool {
	if len(s) != b64.EncodedLen(sha256.Size) || strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := b64.DecodeString(s)
	return err == nil
}

func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
