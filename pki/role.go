package pki

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
)

// Role says which of the two authorities a CA is.
type Role string

const (
	// Agent is the CA of agents: it signs clients and nothing else.
	Agent Role = "agent"
	// Infra is the CA of servers, routes and the control plane.
	Infra Role = "infra"
)

// usages returns the extended key usages of everything under a CA of this role.
// The CA certificates carry them too: verifiers apply them downwards, so an
// agent CA cannot make a server, whatever its key is made to sign.
func (r Role) usages() ([]x509.ExtKeyUsage, error) {
	switch r {
	case Agent:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil
	case Infra:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, nil
	default:
		return nil, fmt.Errorf("pki: unknown CA role %q", string(r))
	}
}

// constrain adds the name constraints of the role to a CA's template; doc.go
// says why only agents have any. Trust domain constraints also admit its
// subdomains, so they are a second line; VerifyAgent is the first.
func (r Role) constrain(t *x509.Certificate, trustDomain string) {
	if r != Agent {
		return
	}
	t.PermittedDNSDomainsCritical = true // for all kinds of name, despite the field's name
	t.PermittedURIDomains = []string{trustDomain}
	t.ExcludedDNSDomains = []string{""} // the empty suffix: every name
	t.ExcludedEmailAddresses = []string{""}
	t.ExcludedIPRanges = []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	}
}

// check reports why c is not a CA certificate of this role and trust domain
// that allows the number of CAs below it.
func (r Role) check(c *x509.Certificate, trustDomain string, below int) error {
	want, err := r.usages()
	if err != nil {
		return err
	}
	switch {
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("pki: %q is not a CA certificate", c.Subject.CommonName)
	case c.MaxPathLen != below:
		return fmt.Errorf("pki: CA certificate %q allows %d CAs below it, not %d", c.Subject.CommonName, c.MaxPathLen, below)
	case !slices.Equal(c.ExtKeyUsage, want) || len(c.UnknownExtKeyUsage) > 0:
		return fmt.Errorf("pki: CA certificate %q is not of the %s CA", c.Subject.CommonName, r)
	case len(c.URIs) != 1 || c.URIs[0].String() != domainURI(trustDomain).String():
		return fmt.Errorf("pki: CA certificate %q is not of trust domain %q", c.Subject.CommonName, trustDomain)
	}
	return nil
}
