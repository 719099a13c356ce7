package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// ClientTLS returns the configuration of a client that presents the source's
// certificate and takes only servers whose certificate chains to the source's
// CA file. An empty serverName leaves the name to the dialer (net/http, nats.go
// and tls.Dial set it to the host they dial).
//
// The client's certificate is read at each handshake. So is the removal of a
// root; a root that was added counts from the next call of ClientTLS, or at
// once where the dialer asks [Source.Roots] itself (nats.go's RootCAsHandler).
// Setting InsecureSkipVerify on the result has no effect but that every
// handshake fails.
func (s *Source) ClientTLS(serverName string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		RootCAs:    s.current().roots,
		Time:       s.clock,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return s.current().cert, nil
		},
		VerifyConnection: s.checkServer,
	}
}

// checkServer runs after the standard verification, which alone knows the name
// that was dialled (ConnectionState has none for an IP address).
func (s *Source) checkServer(cs tls.ConnectionState) error {
	if len(cs.VerifiedChains) == 0 || len(cs.PeerCertificates) == 0 {
		return errors.New("pki: the server's certificate was not verified")
	}
	intermediates := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	if _, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots:         s.current().roots,
		Intermediates: intermediates,
		CurrentTime:   s.clock(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("pki: verifying the server: %w", err)
	}
	return nil
}

// ServerTLS returns the configuration of a server that asks for no client
// certificate, as the control plane's HTTPS endpoint, which agents reach before
// they have one.
func (s *Source) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Time:                   s.clock,
		SessionTicketsDisabled: true, // a resumed session would show an old certificate
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.current().cert, nil
		},
	}
}

// MutualTLS returns the configuration of a server that takes only clients whose
// certificate chains to the source's CA file, which is read at each handshake.
// Who the client is, is for [VerifyAgent] to say. Each handshake runs on a copy
// made here, so later changes to the result have no effect on it.
func (s *Source) MutualTLS() *tls.Config {
	c := s.ServerTLS()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = s.current().roots
	base := c.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = s.current().roots
		return now, nil
	}
	return c
}
