package pki

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// PinnedTLS returns the configuration of a client that knows nothing of the
// mesh but the hash of its infra root ([RootHash]), as from a join token, and
// the name or address of the server. The server must send its root, as chains
// of [CA.SignServer] do, and everything is verified as if that root had been
// configured. The client presents no certificate.
func PinnedTLS(rootHash, serverName string, clock func() time.Time) (*tls.Config, error) {
	pin, err := base64.RawURLEncoding.Strict().DecodeString(rootHash)
	if err != nil || len(pin) != sha256.Size || strings.ContainsAny(rootHash, "\r\n") {
		return nil, errors.New("pki: the hash of the CA is not 43 characters of base64url")
	}
	if serverName == "" {
		return nil, errors.New("pki: no server name to verify")
	}
	if clock == nil {
		return nil, errors.New("pki: no clock")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		Time:       clock,
		// The root arrives in the handshake, so the standard verification has
		// nothing to start from; VerifyConnection does all of it and runs on
		// every handshake.
		InsecureSkipVerify: true, //nolint:gosec // verified below against the pinned root
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyPinned(cs.PeerCertificates, pin, serverName, clock())
		},
	}, nil
}

func verifyPinned(chain []*x509.Certificate, pin []byte, serverName string, now time.Time) error {
	if len(chain) == 0 || len(chain) > limits.Certificates || now.IsZero() {
		return errors.New("pki: the server's certificate cannot be verified")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		// The hash covers the key alone; that the certificate around it is
		// genuine, its window and limits included, shows its own signature.
		if subtle.ConstantTimeCompare(sum[:], pin) == 1 && c.IsCA && c.CheckSignatureFrom(c) == nil {
			roots.AddCert(c)
			found = true
			continue
		}
		intermediates.AddCert(c)
	}
	if !found {
		return errors.New("pki: the server does not belong to the pinned CA")
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		DNSName:       serverName,
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("pki: verifying the server against the pinned CA: %w", err)
	}
	return nil
}
