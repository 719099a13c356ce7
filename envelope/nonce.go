package envelope

import (
	"crypto/rand"
	"encoding/base64"
)

// idBytes is the size of a nonce or correlation ID: 128 bits.
const idBytes = 16

// b64 refuses spare bits that are not zero: one spelling for each value.
var b64 = base64.RawURLEncoding.Strict()

// NewNonce returns a fresh nonce: 128 bits of crypto/rand, 22 characters.
func NewNonce() string { return newID() }

// NewCorrelation returns the ID of a new call tree, in the form of a nonce. Only
// the first caller makes one; whoever calls while handling keeps it.
func NewCorrelation() string { return newID() }

func newID() string {
	var raw [idBytes]byte
	rand.Read(raw[:]) // never fails: crypto/rand ends the program instead
	return b64.EncodeToString(raw[:])
}

// decodeExact decodes s if it is the canonical base64url of exactly len(dst)
// bytes. The decoder skips line breaks, but then too few bytes come out.
func decodeExact(dst []byte, s string) bool {
	var src [96]byte
	if len(s) != b64.EncodedLen(len(dst)) || len(s) > len(src) {
		return false
	}
	n, err := b64.Decode(dst, src[:copy(src[:], s)])
	return err == nil && n == len(dst)
}
