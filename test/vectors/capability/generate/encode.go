package main

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
)

// What follows is the format written once more, from the specification and
// without the packages that implement it: a mistake there must not find its way
// into the vectors, and a forger writes what those packages refuse to write.

const header = `{"typ":"JWT","alg":"ed25519-nkey"}`

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return b64(sum[:])
}

// The first byte of a public nkey says what it is.
const (
	accountKey byte = 0
	userKey    byte = 20 << 3
	curveKey   byte = 23 << 3
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
func (k key) sign(signed string) []byte   { return ed25519.Sign(k.private(), []byte(signed)) }

// curveOf is the public curve key of a name.
func curveOf(name string) string {
	seed := seedOf("curve of " + name)
	k, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		panic(err) // every 32 bytes are one
	}
	return nkey(curveKey, k.PublicKey().Bytes())
}

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

// number, text and list write JSON values; text takes its argument as it stands
// between the quotes.
func number(n int64) string { return strconv.FormatInt(n, 10) }
func text(s string) string  { return `"` + s + `"` }

func list(items []string) string {
	if items == nil {
		return "null"
	}
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = text(s)
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
