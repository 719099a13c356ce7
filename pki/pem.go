package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/sealmesh/sealmesh/internal/limits"
)

const certBlock = "CERTIFICATE"

// ParseCertificates reads a chain or bundle: one or more CERTIFICATE blocks and
// white space, nothing else. A block of another type is an error, so that a key
// pasted into a public file is noticed.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	if len(text) > limits.CertificateText {
		return nil, fmt.Errorf("pki: certificates take more than %d bytes", limits.CertificateText)
	}
	var out []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; {
		if len(out) == limits.Certificates {
			return nil, fmt.Errorf("pki: more than %d certificates", limits.Certificates)
		}
		var der []byte
		var err error
		if der, rest, err = nextBlock(rest, certBlock); err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("pki: certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("pki: no certificate found")
	}
	return out, nil
}

// EncodeCertificates is the inverse of [ParseCertificates].
func EncodeCertificates(certs ...*x509.Certificate) []byte {
	var buf bytes.Buffer
	for _, c := range certs {
		buf.Write(encodeDER(c.Raw))
	}
	return buf.Bytes()
}

// ParsePool reads a bundle of CA certificates into a pool. A certificate that
// is not a CA's is an error: as a root it would vouch for itself.
func ParsePool(text []byte) (*x509.CertPool, error) {
	certs, err := ParseCertificates(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for i, c := range certs {
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, fmt.Errorf("pki: certificate %d of the bundle is not a CA's", i+1)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

func encodeDER(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der})
}

// oneBlock reads text that is exactly one PEM block of the type.
func oneBlock(text []byte, kind string, limit int) ([]byte, error) {
	if len(text) > limit {
		return nil, fmt.Errorf("pki: %s takes more than %d bytes", kind, limit)
	}
	der, rest, err := nextBlock(bytes.TrimSpace(text), kind)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("pki: text after the %s block", kind)
	}
	return der, nil
}

// nextBlock reads the block that text begins with. pem.Decode alone would skip
// over anything in front of it, and over blocks that it cannot read. The errors
// quote nothing, since the text may be a secret.
func nextBlock(text []byte, kind string) (der, rest []byte, err error) {
	if !bytes.HasPrefix(text, []byte("-----BEGIN "+kind+"-----")) {
		return nil, nil, fmt.Errorf("pki: not a PEM block of type %s", kind)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, nil, fmt.Errorf("pki: malformed PEM block of type %s", kind)
	}
	if len(block.Headers) > 0 {
		return nil, nil, fmt.Errorf("pki: PEM block of type %s has headers", kind)
	}
	// A damaged block followed by a good one decodes as the good one.
	if bytes.Count(text[:len(text)-len(rest)], []byte("-----BEGIN ")) != 1 {
		return nil, nil, fmt.Errorf("pki: malformed PEM block of type %s", kind)
	}
	return block.Bytes, bytes.TrimSpace(rest), nil
}
