package enrol

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// check holds the answer against what was asked for. That it is the mesh's own
// the pinned connection vouches for; this finds an answer that is for somebody
// else or could not be lived from, before it replaces anything on disk.
func (h *host) check(r wire.EnrollResponse, now time.Time) (agentdir.Info, error) {
	var none agentdir.Info
	if r.Schema != wire.EnrollSchema {
		return none, fmt.Errorf("schema %.80q is not %s; is this program older than the control plane?", r.Schema, wire.EnrollSchema)
	}
	if r.Agent != h.token.Agent {
		return none, fmt.Errorf("it is for agent %q, not for %q", r.Agent, h.token.Agent)
	}
	if r.TrustDomain != h.trustDomain {
		return none, fmt.Errorf("it is of trust domain %.80q, the control plane's certificate of %q", r.TrustDomain, h.trustDomain)
	}
	if _, err := subject.New(r.Prefix); err != nil {
		return none, err
	}
	if err := checkServers(r.NATS); err != nil {
		return none, err
	}
	if err := h.checkPassport(r, now); err != nil {
		return none, err
	}
	if err := h.checkCertificate(r.Certificate, now); err != nil {
		return none, err
	}
	if err := h.checkCA(r.CA); err != nil {
		return none, err
	}
	if err := h.checkTrust(r); err != nil {
		return none, err
	}
	return h.info(r), nil
}

// checkServers refuses a server that would be spoken to without TLS.
func checkServers(urls []string) error {
	if len(urls) == 0 {
		return errors.New("it names no nats-server")
	}
	for _, s := range urls {
		if u, err := url.Parse(s); err != nil || u.Scheme != "tls" || u.Hostname() == "" || u.User != nil {
			return errors.New("a nats-server in it is not tls://host:port")
		}
	}
	return nil
}

func (h *host) checkPassport(r wire.EnrollResponse, now time.Time) error {
	ring, err := capability.NewKeyring(r.Roots, r.SigningKeys)
	if err != nil {
		return err
	}
	p, err := capability.VerifyPassport(r.Passport, ring, now)
	if err != nil {
		return fmt.Errorf("passport: %w", err)
	}
	if p.Agent != h.token.Agent || p.Key != h.key || p.Curve != h.curve {
		return errors.New("the passport is not for this agent and these keys")
	}
	return nil
}

// checkCertificate holds the chain up to the intermediate that came with it:
// agents pin no root of the agent CA, which only nats-servers and the control
// plane need.
func (h *host) checkCertificate(text string, now time.Time) error {
	chain, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		return err
	}
	if len(chain) < 2 {
		return errors.New("the certificate comes without its intermediate")
	}
	roots, err := pki.ParsePool(pki.EncodeCertificates(chain[1:]...))
	if err != nil {
		return err
	}
	cert, err := pki.VerifyAgent(chain[:1], roots, h.trustDomain, now)
	if err != nil {
		return err
	}
	if cert.ID != h.token.Agent {
		return fmt.Errorf("the certificate is for agent %q, not for %q", cert.ID, h.token.Agent)
	}
	pub, ok := h.keys.TLS.Public().(*ecdsa.PublicKey)
	if !ok || !pub.Equal(chain[0].PublicKey) {
		return errors.New("the certificate is not for this host's key")
	}
	return nil
}

// checkCA wants the pinned root among those that servers will be verified with.
func (h *host) checkCA(text string) error {
	if _, err := pki.ParsePool([]byte(text)); err != nil {
		return err
	}
	certs, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		return err
	}
	for _, c := range certs {
		if pki.RootHash(c) == h.token.CA {
			return nil
		}
	}
	return errors.New("the CA that is pinned is not among the roots: it may have been replaced since; make a new join token, and take the hash from sealmesh ca show")
}
