package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// Source serves a key, its certificate chain and a bundle of CA certificates
// from files to TLS. At each handshake it looks whether a file changed and, if
// so, loads all again; files that do not fit together (a renewal half done) are
// tried again at the next handshake, and until then what was loaded last stays
// in use. [Source.Err] tells.
type Source struct {
	certFile, keyFile, caFile string
	clock                     func() time.Time

	mu     sync.Mutex // serialises loading
	err    error      // why the last load failed; guarded by mu
	loaded atomic.Pointer[material]
}

type material struct {
	cert  *tls.Certificate
	roots *x509.CertPool // never nil: nil would mean the operating system's roots
	files []fs.FileInfo  // as they were when read, in the order of Source.paths
}

// NewSource loads the files and fails where they cannot be used; the key file
// must be 0600. An expired certificate loads, since an agent that slept needs
// its key to renew. caFile names the CAs to verify peers with; where it is
// empty, no peer can be verified and every handshake that has to is refused.
func NewSource(certFile, keyFile, caFile string, clock func() time.Time) (*Source, error) {
	if clock == nil {
		return nil, errors.New("pki: no clock")
	}
	s := &Source{certFile: certFile, keyFile: keyFile, caFile: caFile, clock: clock}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files now. On an error what was loaded before stays in use.
func (s *Source) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reload()
}

// Err returns why the files as they are now cannot be used, or nil.
func (s *Source) Err() error {
	s.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Leaf returns the certificate in use; do not change it.
func (s *Source) Leaf() *x509.Certificate { return s.current().cert.Leaf }

// NotAfter returns when the certificate in use ends.
func (s *Source) NotAfter() time.Time { return s.Leaf().NotAfter }

// Roots returns the pool of the CA file, empty where there is none; do not
// change it.
func (s *Source) Roots() *x509.CertPool { return s.current().roots }

func (s *Source) current() *material {
	m := s.loaded.Load()
	if !s.changed(m) {
		return m
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed(s.loaded.Load()) {
		_ = s.reload() // kept in s.err
	}
	return s.loaded.Load()
}

func (s *Source) paths() []string {
	p := []string{s.keyFile, s.certFile}
	if s.caFile != "" {
		p = append(p, s.caFile)
	}
	return p
}

func (s *Source) changed(m *material) bool {
	for i, p := range s.paths() {
		now, err := os.Stat(p)
		was := m.files[i]
		if err != nil || !os.SameFile(now, was) || !now.ModTime().Equal(was.ModTime()) || now.Size() != was.Size() || now.Mode() != was.Mode() {
			return true
		}
	}
	return false
}

// reload must be called with mu held.
func (s *Source) reload() error {
	m, err := s.load()
	s.err = err
	if err == nil {
		s.loaded.Store(m)
	}
	return err
}

func (s *Source) load() (*material, error) {
	keyText, keyInfo, err := read(s.keyFile, true, limits.SecretFile)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(keyText)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", s.keyFile, err)
	}
	certText, certInfo, err := read(s.certFile, false, limits.CertificateText)
	if err != nil {
		return nil, err
	}
	chain, err := ParseCertificates(certText)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", s.certFile, err)
	}
	if !key.owns(chain[0].PublicKey) {
		return nil, fmt.Errorf("pki: key %q and certificate %q do not belong together", s.keyFile, s.certFile)
	}
	m := &material{
		cert:  &tls.Certificate{PrivateKey: key, Leaf: chain[0]},
		roots: x509.NewCertPool(),
		files: []fs.FileInfo{keyInfo, certInfo},
	}
	for _, c := range chain {
		m.cert.Certificate = append(m.cert.Certificate, c.Raw)
	}
	if s.caFile != "" {
		caText, caInfo, err := read(s.caFile, false, limits.CertificateText)
		if err != nil {
			return nil, err
		}
		if m.roots, err = ParsePool(caText); err != nil {
			return nil, fmt.Errorf("reading %q: %w", s.caFile, err)
		}
		m.files = append(m.files, caInfo)
	}
	return m, nil
}

// loadPair reads a CA's certificates and key.
func loadPair(certFile, keyFile string) ([]*x509.Certificate, *Key, error) {
	text, _, err := read(certFile, false, limits.CertificateText)
	if err != nil {
		return nil, nil, err
	}
	certs, err := ParseCertificates(text)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %q: %w", certFile, err)
	}
	secret, err := ReadSecret(keyFile)
	if err != nil {
		return nil, nil, err
	}
	key, err := ParseKey(secret)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %q: %w", keyFile, err)
	}
	return certs, key, nil
}
