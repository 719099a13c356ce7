package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Lifetimes of leaf certificates.
const (
	// DefaultAgentTTL is the lifetime of an agent's certificate.
	DefaultAgentTTL = 24 * time.Hour
	// MaxAgentTTL is the longest that may be asked for: a certificate is not
	// looked up on every message, so it has to end by itself.
	MaxAgentTTL = 7 * 24 * time.Hour
	// DefaultServerTTL is the lifetime of a server's certificate. It is long
	// because a stock nats-server drops connections when it is reloaded.
	DefaultServerTTL = 90 * 24 * time.Hour
)

// CA is an online intermediate of one authority, with its root's certificate.
type CA struct {
	role        Role
	trustDomain string
	key         *Key
	cert        *x509.Certificate
	root        *x509.Certificate

	// While one root replaces another: the same intermediate certified by the old
	// root, and that root. Both nil otherwise.
	cross, before *x509.Certificate
}

// Load reads a CA of the role and trust domain: certFile is what [CA.Bundle]
// gives (intermediate, then root, and the two of [Root.Cross] where there are), keyFile
// the intermediate's key. Files of the
// other CA, of another trust domain or of a root are refused here, not at the
// first certificate. An expired CA loads; it signs nothing.
func Load(role Role, trustDomain, certFile, keyFile string) (*CA, error) {
	if err := checkDomain(trustDomain); err != nil {
		return nil, err
	}
	certs, key, err := loadPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if len(certs) != 2 && len(certs) != 4 {
		return nil, fmt.Errorf("pki: %q must hold the intermediate and the root, not %d certificates", certFile, len(certs))
	}
	mid, root := certs[0], certs[1]
	if err := role.check(mid, trustDomain, 0); err != nil {
		return nil, fmt.Errorf("reading %q: %w", certFile, err)
	}
	if err := checkRoot(role, trustDomain, root); err != nil {
		return nil, fmt.Errorf("reading %q: %w", certFile, err)
	}
	if err := mid.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("pki: the intermediate in %q is not signed by the root in it", certFile)
	}
	if !key.owns(mid.PublicKey) {
		return nil, fmt.Errorf("pki: key %q is not that of the intermediate in %q", keyFile, certFile)
	}
	ca := &CA{role: role, trustDomain: trustDomain, key: key, cert: mid, root: root}
	if len(certs) == 4 {
		if err := ca.setCross(certs[2], certs[3]); err != nil {
			return nil, fmt.Errorf("reading %q: %w", certFile, err)
		}
	}
	return ca, nil
}

func (ca *CA) setCross(cross, before *x509.Certificate) error {
	if err := ca.role.check(cross, ca.trustDomain, 0); err != nil {
		return err
	}
	if err := checkRoot(ca.role, ca.trustDomain, before); err != nil {
		return err
	}
	if err := cross.CheckSignatureFrom(before); err != nil {
		return errors.New("pki: the second certificate of the intermediate is not signed by the root that follows it")
	}
	if !bytes.Equal(cross.RawSubjectPublicKeyInfo, ca.cert.RawSubjectPublicKeyInfo) || !bytes.Equal(cross.RawSubject, ca.cert.RawSubject) {
		return errors.New("pki: the second certificate is of another intermediate")
	}
	ca.cross, ca.before = cross, before
	return nil
}

// path is the intermediate's certificates, which everybody needs who has a root.
func (ca *CA) path() []*x509.Certificate {
	if ca.cross == nil {
		return []*x509.Certificate{ca.cert}
	}
	return []*x509.Certificate{ca.cert, ca.cross}
}

// SignAgent implements [Issuer]. Only the agent CA does it. A zero ttl means
// DefaultAgentTTL; the certificate never outlives the intermediate.
func (ca *CA) SignAgent(ctx context.Context, csr *x509.CertificateRequest, agent agentid.ID, ttl time.Duration, now time.Time) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("pki: signing an agent's certificate: %w", err)
	}
	if ca.role != Agent {
		return nil, fmt.Errorf("pki: the %s CA signs no agents", ca.role)
	}
	if err := CheckCSR(csr, agent, ca.trustDomain); err != nil {
		return nil, err
	}
	if ca.key.owns(csr.PublicKey) {
		return nil, denial.New(denial.BadInput, "certificate request is for the CA's own key")
	}
	if ttl > MaxAgentTTL {
		return nil, denial.New(denial.BadInput, "an agent's certificate lives %s at most, not %s", MaxAgentTTL, ttl)
	}
	uri, err := agentURI(agent, ca.trustDomain)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.leaf(csr.PublicKey, []*url.URL{uri}, nil, ttl, DefaultAgentTTL, now)
	if err != nil {
		return nil, err
	}
	return EncodeCertificates(append([]*x509.Certificate{leaf}, ca.path()...)...), nil
}

// SignServer returns the PEM chain of a certificate with which a server or the
// control plane serves and connects. Only the infra CA does it. Hosts are DNS
// names in lower case and IP addresses, with no wildcards; a service that only
// connects needs none. Service is its name, a DNS label, in the SPIFFE ID
// spiffe://<trust-domain>/sealmesh/<service>. A zero ttl means DefaultServerTTL.
//
// The chain ends with the root, which TLS would not need, so that a client that
// knows only the root's hash can verify the server ([PinnedTLS]).
func (ca *CA) SignServer(pub crypto.PublicKey, hosts []string, service string, ttl time.Duration, now time.Time) ([]byte, error) {
	if ca.role != Infra {
		return nil, fmt.Errorf("pki: the %s CA signs no servers", ca.role)
	}
	if !isP256(pub) {
		return nil, denial.New(denial.BadInput, "server key is not ECDSA on P-256")
	}
	// A service name has the form of an agent ID and can never be read as one,
	// since it stands under another path.
	if _, err := agentid.Parse(service); err != nil {
		return nil, denial.New(denial.BadInput, "service name %.80q is not a DNS label", service)
	}
	if len(hosts) > limits.Hosts {
		return nil, denial.New(denial.BadInput, "more than %d hosts", limits.Hosts)
	}
	uri, err := url.Parse(agentid.ServiceSPIFFE(ca.trustDomain, service))
	if err != nil {
		return nil, fmt.Errorf("pki: service name: %w", err)
	}
	leaf, err := ca.leaf(pub, []*url.URL{uri}, hosts, ttl, DefaultServerTTL, now)
	if err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{leaf, ca.cert, ca.root}
	if ca.cross != nil {
		chain = append(chain, ca.cross, ca.before)
	}
	return EncodeCertificates(chain...), nil
}

func (ca *CA) leaf(pub crypto.PublicKey, uris []*url.URL, hosts []string, ttl, byDefault time.Duration, now time.Time) (*x509.Certificate, error) {
	if ttl < 0 {
		return nil, denial.New(denial.BadInput, "lifetime %s is negative", ttl)
	}
	if ttl == 0 {
		ttl = byDefault
	}
	if err := within(ca.cert, now); err != nil {
		return nil, err
	}
	t, err := template(now, earlier(now.Add(ttl), ca.cert.NotAfter))
	if err != nil {
		return nil, err
	}
	if t.NotBefore.Before(ca.cert.NotBefore) {
		t.NotBefore = ca.cert.NotBefore
	}
	t.URIs = uris
	t.KeyUsage = x509.KeyUsageDigitalSignature
	if t.ExtKeyUsage, err = ca.role.usages(); err != nil {
		return nil, err
	}
	for _, h := range hosts {
		if addr, err := netip.ParseAddr(h); err == nil && addr.Zone() == "" {
			t.IPAddresses = append(t.IPAddresses, net.IP(addr.Unmap().AsSlice()))
			continue
		}
		// A trust domain is a DNS name in lower case as well.
		if _, err := agentid.ParseTrustDomain(h); err != nil {
			return nil, denial.New(denial.BadInput, "host %.80q is neither an IP address nor a DNS name in lower case", h)
		}
		t.DNSNames = append(t.DNSNames, h)
	}
	return sign(t, ca.cert, pub, ca.key)
}

// Roots implements [Issuer]: the PEM certificate of the root.
func (ca *CA) Roots() []byte { return EncodeCertificates(ca.root) }

// RootHash returns the pin of the CA's root, see the function [RootHash].
func (ca *CA) RootHash() string { return RootHash(ca.root) }

// Bundle returns what [Load] reads: the intermediate, then the root.
func (ca *CA) Bundle() []byte {
	if ca.cross == nil {
		return EncodeCertificates(ca.cert, ca.root)
	}
	return EncodeCertificates(ca.cert, ca.root, ca.cross, ca.before)
}

// Plain returns the CA without what [Root.Cross] added: what it signs chains to its
// own root alone.
func (ca *CA) Plain() *CA {
	plain := *ca
	plain.cross, plain.before = nil, nil
	return &plain
}

// Root returns the root's certificate; do not change it.
func (ca *CA) Root() *x509.Certificate { return ca.root }

// Key returns the intermediate's private key.
func (ca *CA) Key() *Key { return ca.key }

// Certificate returns the intermediate's certificate; do not change it.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// NotAfter returns when the intermediate ends.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// TrustDomain returns the trust domain in which the CA names agents.
func (ca *CA) TrustDomain() string { return ca.trustDomain }
