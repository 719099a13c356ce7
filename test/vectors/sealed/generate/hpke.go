package main

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// suite is what RFC 9180 leaves to choose: the KEM is DHKEM(X25519, HKDF-SHA256),
// the KDF HKDF-SHA256.
type suite struct {
	aead    uint16
	keySize int
}

var (
	aes256 = suite{0x0002, 32}
	aes128 = suite{0x0001, 16} // what a story gets wrong
)

const (
	kemID = 0x0020
	kdfID = 0x0001
)

// wrap is Seal of RFC 9180 section 6.1 in base mode, its first and only message.
// dh is the shared point, which a story may compute in a way of its own.
func (s suite) wrap(dh, enc, public, info, plain []byte) []byte {
	kem := binary.BigEndian.AppendUint16([]byte("KEM"), kemID)
	prk := labeledExtract(kem, nil, "eae_prk", dh)
	shared := labeledExpand(kem, prk, "shared_secret", concat(enc, public), 32)

	id := []byte("HPKE")
	for _, n := range []uint16{kemID, kdfID, s.aead} {
		id = binary.BigEndian.AppendUint16(id, n)
	}
	context := concat([]byte{0}, labeledExtract(id, nil, "psk_id_hash", nil), labeledExtract(id, nil, "info_hash", info))
	secret := labeledExtract(id, shared, "secret", nil)
	key := labeledExpand(id, secret, "key", context, s.keySize)
	nonce := labeledExpand(id, secret, "base_nonce", context, 12)
	return gcm(key).Seal(nil, nonce, plain, nil)
}

func labeledExtract(suite, salt []byte, label string, ikm []byte) []byte {
	return extract(salt, concat([]byte("HPKE-v1"), suite, []byte(label), ikm))
}

func labeledExpand(suite, prk []byte, label string, info []byte, n int) []byte {
	return expand(prk, concat(binary.BigEndian.AppendUint16(nil, uint16(n)), []byte("HPKE-v1"), suite, []byte(label), info), n)
}

// extract and expand are HKDF (RFC 5869) with SHA-256.
func extract(salt, ikm []byte) []byte {
	if len(salt) == 0 {
		salt = make([]byte, sha256.Size)
	}
	return mac(salt, ikm)
}

func expand(prk, info []byte, n int) []byte {
	var out, last []byte
	for i := byte(1); len(out) < n; i++ {
		last = mac(prk, concat(last, info, []byte{i}))
		out = append(out, last...)
	}
	return out[:n]
}

func mac(key, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	return h.Sum(nil)
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return a
}

func x25519(private, public []byte) []byte {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		panic(err)
	}
	p, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		panic(err)
	}
	shared, err := k.ECDH(p)
	if err != nil {
		panic(err)
	}
	return shared
}

func publicOf(private []byte) []byte {
	k, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		panic(err)
	}
	return k.PublicKey().Bytes()
}

func concat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
