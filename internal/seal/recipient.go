package seal

import (
	"bytes"
	"fmt"

	"github.com/nats-io/nkeys"
)

const keyLen = 32

// Recipient is the public half of a curve key, to which payloads are sealed. It is
// comparable; the zero value is nobody, and nothing is sealed to it.
type Recipient struct{ key [keyLen]byte }

// ParseRecipient reads a public curve key ("X…") in its one spelling. It refuses
// those 32 bytes that are a second encoding of a point, which would make two
// recipients of one, and the points of small order, with which everybody computes
// the same shared secret.
func ParseRecipient(curve string) (Recipient, error) {
	raw, err := nkeys.Decode(nkeys.PrefixByteCurve, []byte(curve))
	if err != nil || len(raw) != keyLen {
		return Recipient{}, fmt.Errorf("seal: %.60q is not a public curve key", curve)
	}
	r := Recipient{[keyLen]byte(raw)}
	if r.String() != curve {
		// The base32 decoder skips line breaks.
		return Recipient{}, fmt.Errorf("seal: %.60q is not the one spelling of a public curve key", curve)
	}
	if !strict(r.key) {
		return Recipient{}, fmt.Errorf("seal: nothing can be sealed to the key %s", curve)
	}
	return r, nil
}

// String returns the key as it stands in a passport; the zero value gives the
// empty string.
func (r Recipient) String() string {
	if r.IsZero() {
		return ""
	}
	text, err := nkeys.Encode(nkeys.PrefixByteCurve, r.key[:])
	if err != nil {
		return ""
	}
	return string(text)
}

// IsZero reports whether r is nobody.
func (r Recipient) IsZero() bool { return r == Recipient{} }

func (r Recipient) compare(other Recipient) int { return bytes.Compare(r.key[:], other.key[:]) }

// strict reports whether an encoded u coordinate is canonical and not of small
// order. X25519 ignores the highest bit and reduces the rest.
func strict(u [keyLen]byte) bool {
	for i := keyLen - 1; i >= 0; i-- {
		if u[i] != prime[i] {
			if u[i] > prime[i] {
				return false
			}
			break
		}
		if i == 0 {
			return false // 2²⁵⁵ − 19 itself is nought
		}
	}
	for _, small := range smallOrder {
		if u == small {
			return false
		}
	}
	return true
}

var (
	// prime is 2²⁵⁵ − 19, little-endian.
	prime = [keyLen]byte{
		0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	}
	// smallOrder are the u coordinates of small order, on the curve and on its twist.
	smallOrder = [...][keyLen]byte{
		{},
		{1},
		{
			0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
		},
		{
			0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
		},
		{
			0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
		},
	}
)
