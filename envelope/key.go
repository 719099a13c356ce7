package envelope

import (
	"crypto/ed25519"
	"fmt"
	"io"

	"github.com/nats-io/nkeys"
)

// Signer signs envelopes with one user nkey. Implementations must be safe for
// concurrent use if their owner signs concurrently.
type Signer interface {
	PublicKey() string // "U…"
	Sign(message []byte) ([]byte, error)
}

// Key is the Signer of a process that holds its own seed. It derives the private
// key once, where an nkeys.KeyPair does so at every signature and takes twice as
// long. However it is printed, only its public key shows.
type Key struct {
	public  string
	private ed25519.PrivateKey
}

// NewKey reads the seed of a user nkey ("SU…"). The seed stays the caller's to
// wipe.
func NewKey(seed []byte) (*Key, error) {
	prefix, raw, err := nkeys.DecodeSeed(seed)
	if err != nil || prefix != nkeys.PrefixByteUser {
		// Neither the seed nor the decoder's opinion of it belongs in an error.
		return nil, fmt.Errorf("envelope: not the seed of a user nkey")
	}
	defer clear(raw)
	private := ed25519.NewKeyFromSeed(raw)
	public, err := nkeys.Encode(nkeys.PrefixByteUser, private.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("envelope: encode public key: %w", err)
	}
	return &Key{string(public), private}, nil
}

// PublicKey implements Signer.
func (k *Key) PublicKey() string { return k.public }

// Sign implements Signer.
func (k *Key) Sign(message []byte) ([]byte, error) { return ed25519.Sign(k.private, message), nil }

// Format implements fmt.Formatter for every verb, so that no %+v or %d of
// something that holds a key prints it.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.public) }

// point is an encoded point of the curve: a public key, or the first half of a
// signature.
type point [32]byte

// strict reports whether p is the canonical encoding of a point that is not of
// small order. crypto/ed25519 accepts every encoding of a public key, the eight
// points of small order among them, and under one of those a signature can be
// made without a private key that holds for every message, or for one in eight.
// Whether 32 bytes are a point at all is left to crypto/ed25519.
func (p point) strict() bool {
	p[31] &= 0x7f // the sign of x: both signs of each y below are of small order
	switch p {
	case smallOrder[0], smallOrder[1], smallOrder[2], smallOrder[3], smallOrder[4]:
		return false
	}
	return less(p, prime)
}

// formed reports whether a signature is in its one encoding: R by the rules of
// keys, and S below the order of the base point.
func formed(signature *[ed25519.SignatureSize]byte) bool {
	r, s := point(signature[:32]), point(signature[32:])
	return r.strict() && less(s, groupOrder)
}

// less compares little-endian numbers.
func less(a, b point) bool {
	for i := len(a) - 1; i >= 0; i-- {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

var (
	// prime is 2²⁵⁵ − 19, the order of the field.
	prime = point{
		0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	}
	// groupOrder is L, the order of the base point. A signature's second half
	// below L has no twin that verifies as well.
	groupOrder = point{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
	}
	// smallOrder are the y coordinates of the eight points of small order.
	smallOrder = [...]point{
		{},  // order 4, twice
		{1}, // order 1
		{ // order 2: −1
			0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
		},
		{ // order 8, twice
			0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
			0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
		},
		{ // order 8, twice
			0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
			0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
		},
	}
)
