package seal_test

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/internal/seal"
)

// One payload sealed and opened, beside the bare HPKE operation for one recipient
// that it rests on.
func BenchmarkSeal(b *testing.B) {
	var all []*seal.Key
	for i := range 8 {
		all = append(all, keyOf(b, fmt.Sprint("instance ", i)))
	}
	binding := asked(b)
	info := seal.BindingBytes(binding)
	private, err := ecdh.X25519().NewPrivateKey(sha("bench"))
	if err != nil {
		b.Fatal(err)
	}
	bare, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{256, 64 << 10} {
		plain := []byte(strings.Repeat("x", size))
		b.Run(fmt.Sprintf("hpke/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := hpke.Seal(bare.PublicKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, n := range []int{1, 8} {
			list := to(all[:n]...)
			b.Run(fmt.Sprintf("%d/%d", n, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := seal.Seal(list, binding, plain); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	var all []*seal.Key
	for i := range 8 {
		all = append(all, keyOf(b, fmt.Sprint("instance ", i)))
	}
	binding := asked(b)
	info := seal.BindingBytes(binding)
	private, err := ecdh.X25519().NewPrivateKey(sha("bench"))
	if err != nil {
		b.Fatal(err)
	}
	bare, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{256, 64 << 10} {
		plain := []byte(strings.Repeat("x", size))
		whole, err := hpke.Seal(bare.PublicKey(), hpke.HKDFSHA256(), hpke.AES256GCM(), info, plain)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("hpke/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := hpke.Open(bare, hpke.HKDFSHA256(), hpke.AES256GCM(), info, whole); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, n := range []int{1, 8} {
			payload := sealed(b, to(all[:n]...), binding, string(plain))
			b.Run(fmt.Sprintf("%d/%d", n, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := all[0].Open(binding, payload); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// Where the payload is for others, little is computed.
func BenchmarkNotForMe(b *testing.B) {
	binding, payload := asked(b), sealed(b, to(keyOf(b, "other")), asked(b), "tail 20")
	k := keyOf(b, "reader")
	for b.Loop() {
		if _, err := k.Open(binding, payload); err == nil {
			b.Fatal("it opens")
		}
	}
}
