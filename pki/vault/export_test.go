package vault

import (
	"bytes"
	"crypto/x509"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/pki"
)

// Judge is what becomes of an answer to sign.
func Judge(body []byte, csr *x509.CertificateRequest, agent agentid.ID, roots []byte, trustDomain string, ttl time.Duration) ([]byte, error) {
	secret, err := api.ParseSecret(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	pool, err := pki.ParsePool(roots)
	if err != nil {
		return nil, err
	}
	pinned, err := pki.ParseCertificates(roots)
	if err != nil {
		return nil, err
	}
	i := &Issuer{cfg: Config{TrustDomain: trustDomain, Clock: time.Now, Mount: DefaultMount, Role: "agents"}, roots: pool, pinned: pinned}
	chain, err := signed(secret)
	if err != nil {
		return nil, err
	}
	if e := i.check(chain, csr, agent, ttl); e != nil {
		return nil, e
	}
	return pki.EncodeCertificates(chain...), nil
}
