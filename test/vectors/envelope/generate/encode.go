package main

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
)

// What follows is the format written once more, from the specification and
// without the packages that implement it: a mistake there must not find its way
// into the vectors, and a forger writes what those packages refuse to write.

func b64(b []byte) string   { return base64.RawURLEncoding.EncodeToString(b) }
func std64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return b64(sum[:])
}

// id is 128 bits that follow from a label.
func id(label string) string {
	sum := sha256.Sum256([]byte("sealmesh vector id: " + label))
	return b64(sum[:16])
}

// The first byte of a public nkey says what it is.
const (
	accountKey byte = 0
	userKey    byte = 20 << 3
	serverKey  byte = 13 << 3
)

// key is an Ed25519 key with a kind. Its seed follows from its name, so that
// every run signs alike.
type key struct {
	kind byte
	seed [32]byte
}

func seedOf(name string) [32]byte { return sha256.Sum256([]byte("sealmesh vector key: " + name)) }

func account(name string) key { return key{accountKey, seedOf(name)} }
func user(name string) key    { return key{userKey, seedOf(name)} }

func (k key) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.seed[:]) }
func (k key) raw() []byte                 { return k.private().Public().(ed25519.PublicKey) }
func (k key) public() string              { return nkey(k.kind, k.raw()) }
func (k key) sign(signed []byte) []byte   { return ed25519.Sign(k.private(), signed) }

// nkey encodes a public key: kind, key, CRC-16 (XMODEM, little-endian), base32.
func nkey(kind byte, raw []byte) string {
	b := append([]byte{kind}, raw...)
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(binary.LittleEndian.AppendUint16(b, crc16(b)))
}

func crc16(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			top := crc & 0x8000
			crc <<= 1
			if top != 0 {
				crc ^= 0x1021
			}
		}
	}
	return crc
}

// instanceOf is the short name of a public nkey.
func instanceOf(public string) string {
	sum := sha256.Sum256([]byte(public))
	return base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").EncodeToString(sum[:5])
}

// item is a text with its length before it.
func item(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// signedBytes is what a signature covers; request is nil for all
// but replies and bodies.
func signedBytes(domain, subject, envelope string, payload, request []byte) []byte {
	hash := sha256.Sum256(payload)
	b := []byte("sealmesh-envelope-v1\n")
	for _, x := range [][]byte{[]byte(domain), []byte(subject), []byte(envelope), hash[:]} {
		b = append(b, item(x)...)
	}
	if request != nil {
		b = append(b, item(request)...)
	}
	return b
}

// sorted brings headers into the order in which they are hashed: that of their
// names; the values of one name stay as they are.
func sorted(headers [][2]string) [][2]string {
	out := slices.Clone(headers)
	slices.SortStableFunc(out, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	return out
}

// headerDigest is hd.
func headerDigest(headers [][2]string) string {
	b := []byte("sealmesh-headers-v1\n")
	list := sorted(headers)
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n][0] == list[0][0] {
			n++
		}
		b = append(b, item([]byte(list[0][0]))...)
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		for _, h := range list[:n] {
			b = append(b, item([]byte(h[1]))...)
		}
		list = list[n:]
	}
	return digest(b)
}

func join(tokens ...string) string { return strings.Join(tokens, ".") }
