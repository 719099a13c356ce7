package capability_test

import (
	"math/big"
	"slices"
	"sync"
)

// As much of edwards25519 as it takes to ask whether a point has small order,
// from its definition: eight times it is the neutral point.

var (
	fieldPrime = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	// d of the curve -x² + y² = 1 + d·x²·y² is -121665/121666.
	curveD = div(big.NewInt(-121665), big.NewInt(121666))
)

func mod(n *big.Int) *big.Int     { return n.Mod(n, fieldPrime) }
func mul(a, b *big.Int) *big.Int  { return mod(new(big.Int).Mul(a, b)) }
func plus(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
func neg(a *big.Int) *big.Int     { return mod(new(big.Int).Neg(a)) }
func div(a, b *big.Int) *big.Int {
	return mul(mod(new(big.Int).Set(a)), new(big.Int).ModInverse(b, fieldPrime))
}

func ordinate(raw []byte) *big.Int {
	b := slices.Clone(raw)
	b[31] &= 0x7f
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func belowPrime(raw []byte) bool { return ordinate(raw).Cmp(fieldPrime) < 0 }

var known sync.Map // what smallOrder said of a key: few keys sign many documents

// smallOrder is dividesEight, remembered.
func smallOrder(raw []byte) bool {
	if said, ok := known.Load(string(raw)); ok {
		return said.(bool)
	}
	said := dividesEight(raw)
	known.Store(string(raw), said)
	return said
}

// dividesEight reports whether raw encodes a point, in whatever encoding, whose
// order divides eight.
func dividesEight(raw []byte) bool {
	one := big.NewInt(1)
	y := mod(ordinate(raw))
	yy := mul(y, y)
	// x² = (y² - 1) / (d·y² + 1)
	xx := div(plus(yy, neg(one)), plus(mul(curveD, yy), one))
	x := new(big.Int).ModSqrt(xx, fieldPrime)
	if x == nil {
		return false // no point
	}
	for range 3 { // the sign of x does not matter here
		t := mul(curveD, mul(mul(x, x), mul(y, y)))
		xy := mul(x, y)
		x, y = div(plus(xy, xy), plus(one, t)), div(plus(mul(y, y), mul(x, x)), plus(one, neg(t)))
	}
	return x.Sign() == 0 && y.Cmp(one) == 0
}
