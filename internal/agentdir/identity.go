package agentdir

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// NextKeyFile is the key of a certificate that is being put in place of the one
// before.
const NextKeyFile = "tls.key.next"

// identityLock is locked while key and certificate are replaced.
const identityLock = ".tls.lock"

// errBusy is returned where another process replaces key and certificate.
var errBusy = errors.New("another process is replacing the certificate")

// identityStep is called after each step of a replacement; tests end it there.
var identityStep = func(string) error { return nil }

// WriteIdentity replaces the TLS key and the certificate of the directory at path
// by a pair that belongs together. Two files cannot be replaced in one step, so the
// key is written beside the old one first, then the certificate, and then the key
// takes the old one's name: wherever that ends, one of the two keys is that of the
// certificate, and [Open] says which. Who reads the files in between has to try
// again, as pki.Source does. It waits for the disk.
func WriteIdentity(path string, key *pki.Key, chain []byte) error {
	text, err := key.PEM()
	if err != nil {
		return err
	}
	defer clear(text)
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return err
	}
	if !owns(key, certs[0]) {
		return errors.New("agentdir: key and certificate do not belong together")
	}
	return locked(path, func() error {
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{NextKeyFile, func() error { return pki.ReplaceSecret(filepath.Join(path, NextKeyFile), text) }},
			{TLSCertFile, func() error { return pki.WriteFile(filepath.Join(path, TLSCertFile), chain) }},
			{TLSKeyFile, func() error { return takeNext(path) }},
		} {
			if err := step.do(); err != nil {
				return err
			}
			if err := identityStep(step.name); err != nil {
				return err
			}
		}
		return nil
	})
}

// mend ends a replacement of key and certificate that was interrupted. Where the
// new certificate is in place its key takes the old one's name; where it is not,
// the new key is of no use and goes.
func mend(path string) error {
	if _, err := os.Lstat(filepath.Join(path, NextKeyFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := locked(path, func() error {
		// Only now: who held the lock has ended what it did.
		next, err := readTLSKey(filepath.Join(path, NextKeyFile))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		cert, err := readLeaf(filepath.Join(path, TLSCertFile))
		if err != nil {
			return err
		}
		if owns(next, cert) {
			return takeNext(path)
		}
		return os.Remove(filepath.Join(path, NextKeyFile))
	})
	if errors.Is(err, errBusy) {
		return nil // it is being done, and pki.Source waits for it
	}
	if err != nil {
		return fmt.Errorf("agentdir: %s was left half way by a renewal: %w", filepath.Join(path, NextKeyFile), err)
	}
	return nil
}

// locked runs f while no other process replaces key and certificate of the
// directory. Unlike what is merged, two keys that are written at once can be lost
// both, so nobody goes on without the lock where there are locks.
func locked(path string, f func() error) error {
	unlock, held, err := lock(filepath.Join(path, identityLock), lockFor)
	if err != nil {
		return fmt.Errorf("agentdir: %w", err)
	}
	defer unlock()
	if !held {
		return fmt.Errorf("agentdir: %s: %w", path, errBusy)
	}
	return f()
}

// takeNext gives the new key the old one's name. The new key goes last: until then
// this can be done again.
func takeNext(path string) error {
	next := filepath.Join(path, NextKeyFile)
	text, err := pki.ReadSecret(next)
	if err != nil {
		return err
	}
	defer clear(text)
	if err := pki.ReplaceSecret(filepath.Join(path, TLSKeyFile), text); err != nil {
		return err
	}
	return os.Remove(next)
}

func owns(key *pki.Key, cert *x509.Certificate) bool {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	return ok && pub.Equal(cert.PublicKey)
}

func readTLSKey(path string) (*pki.Key, error) {
	text, err := pki.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	return pki.ParseKey(text)
}

func readLeaf(path string) (*x509.Certificate, error) {
	text, err := pki.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs[0], nil
}

// Certificates reads the directory's certificate chain, leaf first.
func (d *Dir) Certificates() ([]*x509.Certificate, error) {
	text, err := pki.ReadFile(d.File(TLSCertFile))
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("agentdir: %s: %w", d.File(TLSCertFile), err)
	}
	return certs, nil
}

// Life says when a certificate was issued and from when on it is to be renewed: at
// half of the time between that and its end, less up to spread of it, so that a
// fleet does not come at once. What it is backdated by does not count: of a life of a
// minute nothing would be left.
func Life(leaf *x509.Certificate) (issued, renew time.Time, spread time.Duration) {
	issued = leaf.NotBefore.Add(pki.Backdate)
	if !issued.Before(leaf.NotAfter) {
		issued = leaf.NotBefore // of an authority that backdates less, and a life that is shorter still
	}
	life := leaf.NotAfter.Sub(issued)
	return issued, issued.Add(life / 2), life / 10
}
