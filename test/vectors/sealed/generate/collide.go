package main

import (
	"crypto/aes"
	"encoding/binary"
)

// collide returns one ciphertext of 16 bytes and a tag that AES-256-GCM opens
// under both keys, with the zero nonce and no associated data: to two things. GCM
// authenticates with a polynomial over a key of its own; one block is enough to
// make two polynomials agree on a tag. Nobody has to guess anything for that.
func collide(one, other []byte) []byte {
	h1, e1 := ghash(one)
	h2, e2 := ghash(other)
	length := make([]byte, 16)
	binary.BigEndian.PutUint64(length[8:], 128)
	// Tag = c·H² + length·H + E, for both keys the same.
	l := read(length)
	c := mul(add(mul(l, add(h1, h2)), add(e1, e2)), inverse(add(mul(h1, h1), mul(h2, h2))))
	tag := add(add(mul(c, mul(h1, h1)), mul(l, h1)), e1)
	return concat(c.block(), tag.block())
}

// ghash returns the key of GCM's polynomial, and what masks the tag.
func ghash(key []byte) (h, mask element) {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	out := make([]byte, 16)
	b.Encrypt(out, out)
	h = read(out)
	counter := make([]byte, 16)
	counter[15] = 1
	b.Encrypt(out, counter)
	return h, read(out)
}

// element is one of GCM's field: the first bit of a block is the coefficient of x⁰.
type element struct{ hi, lo uint64 }

func read(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a element) block() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.hi), a.lo)
}

func add(a, b element) element { return element{a.hi ^ b.hi, a.lo ^ b.lo} }

// mul multiplies modulo x¹²⁸ + x⁷ + x² + x + 1.
func mul(a, b element) (z element) {
	for i := range 128 {
		word := a.hi
		if i >= 64 {
			word = a.lo
		}
		if word>>(63-i%64)&1 == 1 {
			z = add(z, b)
		}
		carry := b.lo & 1
		b = element{b.hi >> 1, b.lo>>1 | b.hi<<63}
		b.hi ^= carry * (0xe1 << 56)
	}
	return z
}

// inverse is a to the power of 2¹²⁸ − 2.
func inverse(a element) element {
	z := element{hi: 1 << 63}
	for range 127 {
		a = mul(a, a)
		z = mul(z, a)
	}
	return z
}
