package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"slices"
)

// Ed25519 as far as a forger needs it: scalars, encodings, and the points that
// differ from an honest one by the point of order two, (0, -1), so that (x, y)
// becomes (-x, -y). Whoever multiplies by the cofactor cannot tell the two apart.

var (
	prime      = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	groupOrder = func() *big.Int { // of the base point
		tail, _ := new(big.Int).SetString("27742317777372353535851937790883648493", 10)
		return tail.Add(tail, new(big.Int).Lsh(big.NewInt(1), 252))
	}()
)

const basePoint = "5866666666666666666666666666666666666666666666666666666666666666"

func sub(n *big.Int, by int64) *big.Int { return new(big.Int).Sub(n, big.NewInt(by)) }

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

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

// opposite returns the encoding of the point with both coordinates negated.
func opposite(point []byte) []byte {
	p := slices.Clone(point)
	sign := p[31] & 0x80
	p[31] &^= 0x80
	out := toLittle(new(big.Int).Sub(prime, fromLittle(p)))
	out[31] |= sign ^ 0x80
	return out
}

// onCurve reports whether there is a point with this y.
func onCurve(y *big.Int) bool {
	// x² = (y² - 1) / (d·y² + 1), d = -121665/121666
	d := new(big.Int).ModInverse(big.NewInt(121666), prime)
	d.Mul(d, big.NewInt(-121665)).Mod(d, prime)
	yy := new(big.Int).Mul(y, y)
	num := sub(yy, 1)
	den := new(big.Int).Mul(d, yy)
	den.Add(den, big.NewInt(1)).Mod(den, prime).ModInverse(den, prime)
	return big.Jacobi(num.Mul(num, den).Mod(num, prime), prime) >= 0
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
func commit(seed [32]byte, signed []byte, n uint32) (r *big.Int, encoded []byte) {
	m := binary.BigEndian.AppendUint32(slices.Clone(signed), n)
	_, nonces := secrets(seed)
	return fromLittle(hash(nonces, m)), ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), m)[:32]
}

func answer(seed [32]byte, r *big.Int, k *big.Int) []byte {
	scalar, _ := secrets(seed)
	s := new(big.Int).Mul(k, scalar)
	s.Add(s, r)
	return toLittle(s.Mod(s, groupOrder))
}

// signOppositeKey signs for the key that lies opposite to that of the seed. The
// equation without the cofactor holds if, and only if, the challenge is even; it
// is chosen to be what is asked for, whether or not it is reduced first.
func signOppositeKey(seed [32]byte, signed []byte, holds bool) []byte {
	public := opposite(key{userKey, seed}.raw())
	for n := uint32(0); ; n++ {
		r, commitment := commit(seed, signed, n)
		k := fromLittle(hash(commitment, public, signed))
		reduced := new(big.Int).Mod(k, groupOrder)
		if even := k.Bit(0) == 0; even == holds && k.Bit(0) == reduced.Bit(0) {
			return append(commitment, answer(seed, r, k)...)
		}
	}
}

// signOppositeCommitment signs for an honest key with a commitment that lies
// opposite. Only the equation with the cofactor holds.
func signOppositeCommitment(seed [32]byte, signed []byte) []byte {
	r, commitment := commit(seed, signed, 0)
	commitment = opposite(commitment)
	k := fromLittle(hash(commitment, key{userKey, seed}.raw(), signed))
	return append(commitment, answer(seed, r, k)...)
}

// signWithNothing signs with a commitment of zero, of which the encoding is one
// of those of the neutral point.
func signWithNothing(seed [32]byte, commitment, signed []byte) []byte {
	k := fromLittle(hash(commitment, key{userKey, seed}.raw(), signed))
	return append(slices.Clone(commitment), answer(seed, new(big.Int), k)...)
}

// secondForm adds the order of the base point to the second half of a signature,
// which verifies wherever that half is not held below it.
func secondForm(sig []byte) []byte {
	s := new(big.Int).Add(fromLittle(sig[32:]), groupOrder)
	return append(slices.Clone(sig[:32]), toLittle(s)...)
}

// small are the fourteen encodings of the eight points of small order that
// decoders are known to take.
var small = []struct{ name, hex, rule string }{
	{"order-1", "0100000000000000000000000000000000000000000000000000000000000000", "S2"},
	{"order-2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "S2"},
	{"order-4", "0000000000000000000000000000000000000000000000000000000000000000", "S2"},
	{"order-4-negative", "0000000000000000000000000000000000000000000000000000000000000080", "S2"},
	{"order-8", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "S2"},
	{"order-8-negative", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "S2"},
	{"order-8-other", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "S2"},
	{"order-8-other-negative", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa", "S2"},
	{"order-1-sign-of-nought", "0100000000000000000000000000000000000000000000000000000000000080", "S2"},
	{"order-2-sign-of-nought", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "S2"},
	{"order-1-second-encoding", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "S1"},
	{"order-1-second-encoding-sign-of-nought", "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "S1"},
	{"order-4-second-encoding", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "S1"},
	{"order-4-second-encoding-negative", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff", "S1"},
}

// without the small ones: y not below the prime.
var large = []struct{ name, hex string }{
	{"second-encoding", "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"},
	{"second-encoding-negative", "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
	{"highest-encoding", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"},
	{"highest-encoding-negative", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
}

func (b *book) curve() {
	weak := func(name, rule, description string, raw []byte) {
		b.refuseAt("2c", "key/"+name, rule, "bad-envelope", description, note, func(s *story) {
			s.letter.set("key", nkey(userKey, raw))
			forged := append(unhex(basePoint), toLittle(big.NewInt(1))...)
			s.letter.sign = func([]byte) []byte { return forged }
			// The nonce for which the forged signature verifies on a library that
			// knows no better, where there is one.
			for n := range int64(64) {
				s.letter.set("nonce", id("weak "+itoa(n)))
				if ed25519.Verify(raw, s.letter.wire(domain).signed, forged) {
					return
				}
			}
		})
	}
	for _, x := range small {
		weak(x.name, x.rule, "a key of small order, with a signature that needs no private key", unhex(x.hex))
		b.refuseAt("2e", "signature/r-of-"+x.name, x.rule, "bad-signature", "R is of small order", call, func(s *story) {
			s.letter.sign = func(signed []byte) []byte { return signWithNothing(writer.seed, unhex(x.hex), signed) }
		})
	}
	for _, x := range large {
		weak(x.name, "S1", "a key that is not the canonical encoding of its point", unhex(x.hex))
		b.refuseAt("2e", "signature/r-"+x.name, "S1", "bad-signature", "R is not the canonical encoding of a point", call, func(s *story) {
			s.letter.sign = func(signed []byte) []byte { return append(unhex(x.hex), writer.sign(signed)[32:]...) }
		})
	}

	b.refuse("equation/opposite-commitment", "S4", "bad-signature", "R differs by a point of order two: only the equation with the cofactor holds", call, func(s *story) {
		s.letter.sign = func(signed []byte) []byte { return signOppositeCommitment(writer.seed, signed) }
	})
	mixed := func(holds bool) func(*story) {
		return func(s *story) {
			public := nkey(userKey, opposite(writer.raw()))
			s.instance(writer).NKey = public
			s.letter.set("key", public)
			s.letter.sign = func(signed []byte) []byte { return signOppositeKey(writer.seed, signed, holds) }
		}
	}
	b.refuse("equation/mixed-order-key", "S4", "bad-signature", "the key differs by a point of order two, and the challenge is odd: only the equation with the cofactor holds", call, mixed(false))
	b.accept("mixed-order-key", "S4", "the key differs by a point of order two, and the challenge is even: the equation without the cofactor holds", call, mixed(true))
	b.refuse("equation/key-is-no-point", "S4", "bad-signature", "the key is in its form and no point of the curve", call, func(s *story) {
		y := big.NewInt(2)
		for onCurve(y) {
			y.Add(y, big.NewInt(1))
		}
		public := nkey(userKey, toLittle(y))
		s.instance(writer).NKey = public
		s.letter.set("key", public)
	})
	b.refuse("equation/r-is-no-point", "S4", "bad-signature", "R is in its form and no point of the curve", call, func(s *story) {
		y := big.NewInt(2)
		for onCurve(y) {
			y.Add(y, big.NewInt(1))
		}
		s.letter.sign = func(signed []byte) []byte { return append(toLittle(y), writer.sign(signed)[32:]...) }
	})
}
