package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// probeLife is how long the certificate lives that doctor makes for itself.
const probeLife = 10 * time.Minute

// probe is who such a certificate is for: nobody enrolled it, so with the certificate
// alone nothing is open.
var probe = agentid.Require("doctor")

// agentCertificate returns a certificate that an agent might show. With the embedded
// CA it is made for the occasion, kept in memory, and short-lived; else it is the
// operator's agent's.
func (p *patient) agentCertificate() (*tls.Certificate, error) {
	if p.mesh.Config.Certificate.Issuer == meshdir.IssuerEmbedded {
		return p.probeCertificate()
	}
	d, err := agentdir.Open(p.operatorDir())
	if err != nil {
		return nil, err
	}
	key, err := pki.ReadSecret(d.File(agentdir.TLSKeyFile))
	if err != nil {
		return nil, err
	}
	defer clear(key)
	text, err := pki.ReadFile(d.File(agentdir.TLSCertFile))
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(text, key)
	if err != nil {
		return nil, fmt.Errorf("doctor: %w", err)
	}
	return &c, nil
}

func (p *patient) probeCertificate() (*tls.Certificate, error) {
	ca, err := p.mesh.AgentCA()
	if err != nil {
		return nil, err
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		return nil, err
	}
	text, err := pki.CSR(key, probe, p.mesh.Config.TrustDomain)
	if err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		return nil, err
	}
	// TLS has a clock of its own.
	chain, err := ca.SignAgent(context.Background(), csr, probe, probeLife, time.Now())
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return nil, err
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: certs[0]}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}

// showing is a configuration that shows a certificate whatever the other side asks
// for, or none, and believes anybody: what is asked is whether the other side believes
// us, and nothing is said to it that could be secret.
func showing(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// operatorDir is where the agent lives that asks the control plane.
func (p *patient) operatorDir() string {
	if p.As != "" {
		return p.As
	}
	return filepath.Join(p.mesh.Dir, "agents", "admin")
}

// leafOf is the first certificate of a connection.
func leafOf(c *tls.Conn) *x509.Certificate {
	if list := c.ConnectionState().PeerCertificates; len(list) > 0 {
		return list[0]
	}
	return nil
}
