package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/sealmesh/sealmesh/internal/limits"
)

const keyBlock = "PRIVATE KEY"

// Key is a private TLS or CA key, ECDSA on P-256. It is a crypto.Signer, and it
// prints as "pki.Key(redacted)" whatever the verb, because *ecdsa.PrivateKey
// prints its secret.
type Key struct{ k *ecdsa.PrivateKey }

var (
	_ crypto.Signer = (*Key)(nil)
	_ fmt.Formatter = Key{}
)

// NewTLSKey makes a new key.
func NewTLSKey() (*Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: making a key: %w", err)
	}
	return &Key{k}, nil
}

// ParseKey reads what [Key.PEM] wrote: one PKCS #8 block, nothing around it but
// white space. Errors never quote the input.
func ParseKey(text []byte) (*Key, error) {
	der, err := oneBlock(text, keyBlock, limits.SecretFile)
	if err != nil {
		return nil, err
	}
	// The cause is dropped: a parser's message could quote what it read.
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("pki: not a PKCS #8 private key")
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, errors.New("pki: private key is not ECDSA on P-256")
	}
	return &Key{k}, nil
}

// PEM returns the key as one PKCS #8 block. It is a secret: write it with
// [WriteSecret].
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.k)
	if err != nil {
		return nil, errors.New("pki: key does not encode")
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// Public implements crypto.Signer; the result is an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.k.Public() }

// Sign implements crypto.Signer.
func (k *Key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.k.Sign(random, digest, opts)
}

// Format implements fmt.Formatter and shows nothing of the key.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "pki.Key(redacted)") }

// isP256 reports whether pub is a key of the one algorithm that the mesh's CAs
// certify.
func isP256(pub crypto.PublicKey) bool {
	p, ok := pub.(*ecdsa.PublicKey)
	return ok && p != nil && p.Curve == elliptic.P256()
}

func (k *Key) owns(pub crypto.PublicKey) bool {
	p, ok := pub.(*ecdsa.PublicKey)
	return ok && k.k.PublicKey.Equal(p)
}
