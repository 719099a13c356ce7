package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// One suite and no negotiation: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
// AES-256-GCM, which is also what encrypts the content.
var (
	kem  = hpke.DHKEM(ecdh.X25519())
	kdf  = hpke.HKDFSHA256()
	aead = hpke.AES256GCM()
)

// Seal makes a payload of plain that any one of the recipients opens, for this
// binding. Recipients may come in any order and more than once; there must be one
// at least and limits.Instances at most. A payload past limits.Body is
// denial.TooLarge.
func Seal(to []Recipient, b Binding, plain []byte) ([]byte, error) {
	if !b.complete() {
		return nil, errors.New("seal: the binding is not complete")
	}
	to = slices.Clone(to)
	slices.SortFunc(to, Recipient.compare)
	to = slices.Compact(to)
	if len(to) == 0 || len(to) > limits.Instances {
		return nil, fmt.Errorf("seal: %d recipients, want 1 to %d", len(to), limits.Instances)
	}
	if len(plain) > limits.Body-Overhead(len(to)) {
		return nil, denial.New(denial.TooLarge, "a payload of %d bytes, sealed to %d instances, is longer than %d", len(plain), len(to), limits.Body)
	}
	var secret [secretLen]byte
	defer clear(secret[:])
	rand.Read(secret[:]) //nolint:errcheck // it does not fail
	binding := b.bytes()
	out := make([]byte, prologueLen, Overhead(len(to))+len(plain))
	out[0] = version
	binary.BigEndian.PutUint16(out[1:], uint16(len(to)))
	for _, r := range to {
		if !strict(r.key) {
			return nil, fmt.Errorf("seal: nothing can be sealed to the key %s", r)
		}
		public, err := kem.NewPublicKey(r.key[:])
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		wrapped, err := hpke.Seal(public, kdf, aead, binding, secret[:])
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		out = append(out, r.key[:]...)
		out = append(out, wrapped...)
	}
	lock, commitment, err := derive(&secret, binding, out)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	out = append(out, commitment[:]...)
	return lock.Seal(out, zeroNonce[:], plain, nil), nil
}

// Open returns what was sealed to this key for this binding. It refuses with
// denial.CannotOpen whatever else the bytes are; that this key is none of the
// recipients', which anybody can read in them, is the one cause that is told from
// others.
func (k *Key) Open(b Binding, payload []byte) ([]byte, error) {
	if k == nil || k.private == nil || !b.complete() {
		return nil, denial.New(denial.CannotOpen, "no key, or no complete binding")
	}
	s, err := parse(payload)
	if err != nil {
		return nil, err
	}
	wrapped, ok := s.find(k.public)
	if !ok {
		return nil, denial.New(denial.CannotOpen, "sealed to other instances than this one")
	}
	if !strict([keyLen]byte(wrapped[:encLen])) {
		return nil, malformed // also the encodings with which anybody knows the shared secret
	}
	binding := b.bytes()
	raw, err := hpke.Open(k.private, kdf, aead, binding, wrapped)
	if err != nil {
		return nil, doesNotOpen
	}
	defer clear(raw)
	secret := [secretLen]byte(raw) // as long as what was wrapped
	defer clear(secret[:])
	lock, commitment, err := derive(&secret, binding, s.header)
	if err != nil || subtle.ConstantTimeCompare(commitment[:], s.commitment) != 1 {
		return nil, doesNotOpen
	}
	plain, err := lock.Open(nil, zeroNonce[:], s.content, nil)
	if err != nil {
		return nil, doesNotOpen
	}
	return plain, nil
}

var doesNotOpen = denial.New(denial.CannotOpen, "not sealed for this message of this sender")

// zeroNonce is the nonce of the content: its key is used once.
var zeroNonce [12]byte

// derive makes the content's key and the commitment to it. Both follow from the
// secret, the binding and the whole header, so that no recipient can be added,
// removed or exchanged. The commitment makes what is opened the same for all:
// AES-GCM has ciphertexts that two keys open to two things, and a sender who wraps
// one key for one instance and the other for another would have said both under
// one signature.
func derive(secret *[secretLen]byte, binding, header []byte) (lock cipher.AEAD, commitment [commitmentLen]byte, err error) {
	okm, err := hkdf.Key(sha256.New, secret[:], nil, contentInfo(binding, header), 32+commitmentLen)
	if err != nil {
		return nil, commitment, err
	}
	defer clear(okm)
	copy(commitment[:], okm[32:])
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		return nil, commitment, err
	}
	lock, err = cipher.NewGCM(block)
	return lock, commitment, err
}
