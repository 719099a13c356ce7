package pki

import (
	"crypto/x509"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// AgentCertificate is what a verified certificate says.
type AgentCertificate struct {
	ID       agentid.ID
	Serial   string // lower-case hexadecimal without leading zeros
	NotAfter time.Time
}

// VerifyAgent returns the agent that the chain (leaf first) proves at the time
// now. Roots must be the agent CA's alone. It does not know revocation; the
// caller compares Serial with the registry.
//
// Refusals are denial.NoCertificate for an empty chain, denial.Internal where
// the verifier itself is not set up (no roots, no clock, no trust domain), and
// denial.BadCertificate for everything else. The certificate must name one
// agent of the trust domain and nothing else, be for TLS clients only, be no CA,
// be valid now and chain to the roots.
func VerifyAgent(chain []*x509.Certificate, roots *x509.CertPool, trustDomain string, now time.Time) (AgentCertificate, error) {
	// Without these, crypto/x509 would take the operating system's roots and
	// clock: fail closed.
	if roots == nil || roots.Equal(x509.NewCertPool()) {
		return AgentCertificate{}, denial.New(denial.Internal, "no agent CA is configured, so every certificate is refused")
	}
	if now.IsZero() {
		return AgentCertificate{}, denial.New(denial.Internal, "no time to verify a certificate at")
	}
	if _, err := agentid.ParseTrustDomain(trustDomain); err != nil {
		return AgentCertificate{}, denial.New(denial.Internal, "no trust domain to verify a certificate in: %w", err)
	}
	if len(chain) == 0 {
		return AgentCertificate{}, denial.New(denial.NoCertificate, "no client certificate")
	}
	if len(chain) > limits.Certificates {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "more than %d certificates in the chain", limits.Certificates)
	}
	intermediates := x509.NewCertPool()
	for i, c := range chain {
		if c == nil || len(c.Raw) == 0 {
			return AgentCertificate{}, denial.New(denial.BadCertificate, "certificate %d of the chain is empty", i+1)
		}
		if i > 0 {
			intermediates.AddCert(c)
		}
	}

	leaf := chain[0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "a CA's certificate is no agent's")
	}
	// Exactly this usage: a certificate that may also serve is one of the infra
	// CA, or of an issuer set up wrongly.
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(leaf.UnknownExtKeyUsage) > 0 {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "the certificate must be for TLS clients and for nothing else")
	}
	if leaf.SerialNumber.Sign() <= 0 {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "the serial number is not positive")
	}
	id, err := names{leaf.URIs, leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses, leaf.Extensions}.agent(trustDomain)
	if err != nil {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "the certificate does not name one agent of this mesh: %w", err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return AgentCertificate{}, denial.New(denial.BadCertificate, "agent %q: %w", id, err)
	}
	return AgentCertificate{ID: id, Serial: leaf.SerialNumber.Text(16), NotAfter: leaf.NotAfter}, nil
}
