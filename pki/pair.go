package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// nextKey is the name of a new key until its certificate is in place.
func nextKey(keyFile string) string { return keyFile + ".next" }

// ReplacePair puts a new key and its chain in the place of a certificate and its key
// that a server or an agent uses. There is no moment without both on the disk: the
// key is written beside the old one first, then the certificate, and then the key
// takes its name. What a crash leaves half way [MendPair] finishes or takes back.
// A [Source] that looks in between keeps what it has.
func ReplacePair(certFile, keyFile string, key *Key, chain []byte) error {
	certs, err := ParseCertificates(chain)
	if err != nil {
		return err
	}
	if !key.owns(certs[0].PublicKey) {
		return errors.New("pki: the new certificate is not for the new key")
	}
	text, err := key.PEM()
	if err != nil {
		return err
	}
	defer clear(text)
	if err := ReplaceSecret(nextKey(keyFile), text); err != nil {
		return err
	}
	if err := WriteFile(certFile, chain); err != nil {
		return err
	}
	if err := os.Rename(nextKey(keyFile), keyFile); err != nil {
		return fmt.Errorf("pki: writing %q: %w", keyFile, cause(err))
	}
	return nil
}

// PairHalfDone reports whether a [ReplacePair] of a key file is under way or was
// interrupted.
func PairHalfDone(keyFile string) bool {
	_, err := os.Lstat(nextKey(keyFile))
	return err == nil
}

// MendPair ends a [ReplacePair] that was interrupted: forward where the certificate
// is the new key's already, else back. It reports whether there was one. Callers
// that replace at the same time need a lock.
func MendPair(certFile, keyFile string) (mended bool, err error) {
	text, err := ReadSecret(nextKey(keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer clear(text)
	chain, err := readChain(certFile)
	if err != nil {
		return false, err
	}
	key, err := ParseKey(text)
	if err != nil || !key.owns(chain[0].PublicKey) {
		err = os.Remove(nextKey(keyFile))
	} else {
		err = os.Rename(nextKey(keyFile), keyFile)
	}
	if err != nil {
		return false, fmt.Errorf("pki: mending %q: %w", keyFile, cause(err))
	}
	return true, nil
}

func readChain(path string) ([]*x509.Certificate, error) {
	text, _, err := read(path, false, limits.CertificateText)
	if err != nil {
		return nil, err
	}
	chain, err := ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", path, err)
	}
	return chain, nil
}

// SignedNow reports whether a server's chain ends as those do that the CA signs
// now: with its intermediate and root, and with what goes beside them while one
// root replaces another. A chain that does not was signed before the CA changed.
func (ca *CA) SignedNow(chain []*x509.Certificate) bool {
	now, err := ParseCertificates(ca.Bundle())
	if err != nil || len(chain) != len(now)+1 {
		return false
	}
	for i, c := range now {
		if !bytes.Equal(chain[i+1].Raw, c.Raw) {
			return false
		}
	}
	return true
}

// ServerCSR makes the PEM certificate request of a server's key. It names nothing:
// what the certificate is for, the mesh's configuration says, not whoever asks.
func ServerCSR(key *Key) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("pki: making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: csrBlock, Bytes: der}), nil
}

// CheckServerCSR returns nil if the request is signed by the key in it, which is
// ECDSA on P-256, and asks for nothing, no name and no extension. One that does
// want a name is refused and not trimmed: an agent's request is none of a server.
func CheckServerCSR(csr *x509.CertificateRequest) error {
	if err := checkRequest(csr); err != nil {
		return err
	}
	if len(csr.Extensions) > 0 {
		return denial.New(denial.BadInput, "certificate request of a server: it must ask for no name and no extension")
	}
	return nil
}
