package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// Lifetimes of the two levels of a CA.
const (
	RootTTL         = 10 * 365 * 24 * time.Hour
	IntermediateTTL = 365 * 24 * time.Hour
)

// Backdate is how long before its issue a certificate becomes valid, so that a
// peer whose clock is a little slow does not refuse a fresh one.
const Backdate = time.Minute

// Root is the key and certificate at the top of one authority. It signs
// intermediates and nothing else, and its key belongs offline.
type Root struct {
	role        Role
	trustDomain string
	key         *Key
	cert        *x509.Certificate
}

// NewCA makes a new authority of the role ("agent" or "infra") for the trust
// domain, valid for RootTTL from now. A trust domain that reads as an IP
// address is refused, since no constraint can name it.
func NewCA(role Role, trustDomain string, now time.Time) (*Root, error) {
	if err := checkDomain(trustDomain); err != nil {
		return nil, err
	}
	t, err := caTemplate(role, trustDomain, "root", now, now.Add(RootTTL))
	if err != nil {
		return nil, err
	}
	t.MaxPathLen = 1
	key, err := NewTLSKey()
	if err != nil {
		return nil, err
	}
	cert, err := sign(t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Root{role, trustDomain, key, cert}, nil
}

// LoadRoot reads a root from the bundle that holds its certificate (as
// [CA.Bundle] writes it) and the file of its key.
func LoadRoot(role Role, trustDomain, certFile, keyFile string) (*Root, error) {
	certs, key, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	root := certs[len(certs)-1]
	if err := checkRoot(role, trustDomain, root); err != nil {
		return nil, fmt.Errorf("reading %q: %w", certFile, err)
	}
	if !key.owns(root.PublicKey) {
		return nil, fmt.Errorf("pki: key %q is not that of the root in %q", keyFile, certFile)
	}
	return &Root{role, trustDomain, key, root}, nil
}

// Intermediate makes a new online CA under the root, valid for IntermediateTTL
// from now or until the root ends.
func (r *Root) Intermediate(now time.Time) (*CA, error) {
	if err := within(r.cert, now); err != nil {
		return nil, err
	}
	t, err := caTemplate(r.role, r.trustDomain, "intermediate", now, earlier(now.Add(IntermediateTTL), r.cert.NotAfter))
	if err != nil {
		return nil, err
	}
	t.MaxPathLenZero = true
	key, err := NewTLSKey()
	if err != nil {
		return nil, err
	}
	cert, err := sign(t, r.cert, key.Public(), r.key)
	if err != nil {
		return nil, err
	}
	return &CA{role: r.role, trustDomain: r.trustDomain, key: key, cert: cert, root: r.cert}, nil
}

// Cross returns the CA with its intermediate certified by r as well, the root that its
// own replaces. What it signs from then on chains to either, so that nobody is refused
// who knows one of them only, and servers and clients need not learn of the new root
// at one moment.
func (r *Root) Cross(ca *CA, now time.Time) (*CA, error) {
	if err := within(r.cert, now); err != nil {
		return nil, err
	}
	t, err := caTemplate(r.role, r.trustDomain, "intermediate", now, earlier(ca.cert.NotAfter, r.cert.NotAfter))
	if err != nil {
		return nil, err
	}
	t.MaxPathLenZero = true
	cert, err := sign(t, r.cert, ca.key.Public(), r.key)
	if err != nil {
		return nil, err
	}
	both := ca.Plain()
	if err := both.setCross(cert, r.cert); err != nil {
		return nil, err
	}
	return both, nil
}

// Key returns the root's private key.
func (r *Root) Key() *Key { return r.key }

// Certificate returns the root's certificate; do not change it.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// RootHash names a root for pinning: SHA-256 of its public key info, base64url,
// 43 characters. It stays the same when the root is made anew for the same key.
func RootHash(root *x509.Certificate) string {
	sum := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func checkDomain(trustDomain string) error {
	if _, err := agentid.ParseTrustDomain(trustDomain); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(trustDomain); err == nil {
		return fmt.Errorf("pki: trust domain %q must not be an IP address", trustDomain)
	}
	return nil
}

// domainURI is the SPIFFE ID of the trust domain itself, which CA certificates
// carry.
func domainURI(trustDomain string) *url.URL { return &url.URL{Scheme: "spiffe", Host: trustDomain} }

func caTemplate(role Role, trustDomain, level string, now, notAfter time.Time) (*x509.Certificate, error) {
	usages, err := role.usages()
	if err != nil {
		return nil, err
	}
	t, err := template(now, notAfter)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: fmt.Sprintf("Sealmesh %s %s", role, level)}
	t.URIs = []*url.URL{domainURI(trustDomain)}
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	t.ExtKeyUsage = usages
	role.constrain(t, trustDomain)
	return t, nil
}

// template returns what every certificate has: a random serial of 128 bits and
// a window.
func template(now, notAfter time.Time) (*x509.Certificate, error) {
	if now.IsZero() {
		return nil, errors.New("pki: no time given")
	}
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, fmt.Errorf("pki: making a serial: %w", err)
	}
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		NotBefore:             now.Add(-Backdate),
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
	}, nil
}

func sign(t, parent *x509.Certificate, pub any, key *Key) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("pki: signing a certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: signing a certificate: %w", err)
	}
	return c, nil
}

func checkRoot(role Role, trustDomain string, root *x509.Certificate) error {
	if err := role.check(root, trustDomain, 1); err != nil {
		return err
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("pki: the root %q is not signed by itself", root.Subject.CommonName)
	}
	return nil
}

// within refuses to sign with a CA certificate outside its own window.
func within(c *x509.Certificate, now time.Time) error {
	switch {
	case now.IsZero():
		return errors.New("pki: no time given")
	case now.Before(c.NotBefore):
		return fmt.Errorf("pki: %q is not valid before %s", c.Subject.CommonName, c.NotBefore.Format(time.RFC3339))
	case !now.Before(c.NotAfter):
		return fmt.Errorf("pki: %q expired at %s", c.Subject.CommonName, c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
