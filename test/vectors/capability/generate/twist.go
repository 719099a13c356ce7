package main

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"math/big"
	"slices"
)

// Ed25519 as far as a forger needs it: scalars, and the points that differ from
// an honest one by the point of order two, (0, -1), so that (x, y) becomes
// (-x, -y). Whoever multiplies by the cofactor cannot tell the two apart.

var (
	prime      = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	groupOrder = func() *big.Int { // of the base point
		tail, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
		return tail.Add(tail, new(big.Int).Lsh(big.NewInt(1), 252))
	}()
)

func fromLittle(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func toLittle(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return b
}

// twisted returns the encoding of the point that lies opposite: both
// coordinates negated.
func twisted(point []byte) []byte {
	p := slices.Clone(point)
	sign := p[31] & 0x80
	p[31] &^= 0x80
	out := toLittle(new(big.Int).Sub(prime, fromLittle(p)))
	out[31] |= sign ^ 0x80
	return out
}

func hash(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// secrets returns the scalar of a seed and what its nonces are derived from.
func secrets(seed [32]byte) (scalar *big.Int, nonces []byte) {
	h := hash(seed[:])
	h[0] &= 248
	h[31] = h[31]&127 | 64
	return fromLittle(h[:32]), h[32:]
}

// commit returns the n-th commitment of a message: r and the encoding of r times
// the base point, which the standard library lets out in a signature.
func commit(seed [32]byte, signed string, n uint32) (r *big.Int, encoded []byte) {
	m := binary.BigEndian.AppendUint32([]byte(signed), n)
	_, nonces := secrets(seed)
	return fromLittle(hash(nonces, m)), ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), m)[:32]
}

func answer(seed [32]byte, r *big.Int, k *big.Int) []byte {
	scalar, _ := secrets(seed)
	s := new(big.Int).Mul(k, scalar)
	s.Add(s, r)
	return toLittle(s.Mod(s, groupOrder))
}

// signTwistedKey signs for the key that lies opposite to that of the seed. The
// equation without the cofactor holds if, and only if, the challenge is even; it
// is chosen to be what is asked for, whether or not it is reduced first.
func signTwistedKey(seed [32]byte, signed string, holds bool) []byte {
	public := twisted(key{userKey, seed}.raw())
	for n := uint32(0); ; n++ {
		r, commitment := commit(seed, signed, n)
		k := fromLittle(hash(commitment, public, []byte(signed)))
		reduced := new(big.Int).Mod(k, groupOrder)
		if even := k.Bit(0) == 0; even == holds && k.Bit(0) == reduced.Bit(0) {
			return append(commitment, answer(seed, r, k)...)
		}
	}
}

// signTwistedCommitment signs for an honest key with a commitment that lies
// opposite. Only the equation with the cofactor holds.
func signTwistedCommitment(seed [32]byte, signed string) []byte {
	r, commitment := commit(seed, signed, 0)
	commitment = twisted(commitment)
	k := fromLittle(hash(commitment, key{userKey, seed}.raw(), []byte(signed)))
	return append(commitment, answer(seed, r, k)...)
}

// secondForm adds the order of the base point to the second half of a signature,
// which verifies wherever that half is not held below it.
func secondForm(sig []byte) []byte {
	s := new(big.Int).Add(fromLittle(sig[32:]), groupOrder)
	return append(slices.Clone(sig[:32]), toLittle(s)...)
}

// mixed gives the instance that signs the i-th token the key that lies opposite
// to its own.
func (s *story) mixed(i int, holds bool) {
	l := s.links[i]
	seed := l.token.by.seed
	public := nkey(userKey, twisted(l.token.by.raw()))
	l.passport.nkey = public
	l.tokenDoc.set("iss", text(public))
	l.tokenDoc.sign = func(signed string) []byte { return signTwistedKey(seed, signed, holds) }
}

func sub(n *big.Int, by int64) *big.Int { return new(big.Int).Sub(n, big.NewInt(by)) }

// signWithoutCommitment signs for an honest key with the neutral point in the
// place of the commitment.
func signWithoutCommitment(seed [32]byte, signed string) []byte {
	neutral := append([]byte{1}, make([]byte, 31)...)
	k := fromLittle(hash(neutral, key{userKey, seed}.raw(), []byte(signed)))
	return append(neutral, answer(seed, new(big.Int), k)...)
}
