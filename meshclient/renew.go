package meshclient

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// renew replaces the certificate at half of its life.
func (m *Mesh) renew(ctx context.Context) {
	leaf := m.tls.Leaf()
	if leaf == nil || m.cfg.clock().Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore)/2)) {
		return
	}
	if err := m.renewBy(ctx, m.renewOverMesh); err != nil {
		m.log.Warn().Err(err).Time("not_after", leaf.NotAfter).Msg("certificate could not be renewed yet")
		return
	}
	m.tended.replace = time.Now() // take it into use
}

// wakeUp renews a certificate that ended while the agent was away or asleep: no
// server lets it in any more, but its nkey still proves who it is.
func (m *Mesh) wakeUp(ctx context.Context) {
	if m.cfg.clock().Before(m.tls.NotAfter()) {
		return
	}
	if err := m.renewBy(ctx, m.renewOverHTTPS); err != nil {
		m.setAway(denied(err))
	}
}

func (m *Mesh) renewBy(ctx context.Context, request func(context.Context, string) (wire.Renewed, error)) error {
	text, err := pki.ReadSecret(m.dir.File(agentdir.TLSKeyFile))
	if err != nil {
		return err
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		return err
	}
	csr, err := pki.CSR(key, m.info.Agent, m.info.TrustDomain)
	if err != nil {
		return err
	}
	resp, err := request(ctx, string(csr))
	if err != nil {
		return err
	}
	if err := checkRenewed(resp.Certificate, key); err != nil {
		return err
	}
	if err := pki.WriteFile(m.dir.File(agentdir.TLSCertFile), []byte(resp.Certificate)); err != nil {
		return err
	}
	if err := m.tls.Reload(); err != nil {
		return err
	}
	m.log.Info().Time("not_after", m.tls.NotAfter()).Msg("certificate renewed")
	return nil
}

func (m *Mesh) renewOverMesh(ctx context.Context, csr string) (resp wire.Renewed, err error) {
	return resp, m.ask(ctx, wire.SelfRenew, wire.Renew{CSR: csr}, &resp)
}

func (m *Mesh) renewOverHTTPS(ctx context.Context, csr string) (resp wire.Renewed, err error) {
	proof, err := jws.Sign(&wire.RenewClaims{
		Head:  jws.Head{Kind: wire.KindRenew, IssuedAt: m.cfg.clock().Unix()},
		Agent: m.info.Agent, Audience: m.info.TrustDomain, CSR: jws.Digest(csr),
	}, documentSigner{m.key})
	if err != nil {
		return resp, err
	}
	body, err := json.Marshal(wire.RenewRequest{Proof: proof, CSR: csr})
	if err != nil {
		return resp, err
	}
	err = m.post(ctx, wire.PathRenew, body, &resp)
	var d *Denied
	switch {
	case errors.As(err, &d) && d.Reason == denial.BadCertificate:
		d.Hint = "sealmesh agent join " + m.info.Agent.String() + " makes a join token; then run sealmesh enroll again"
		return resp, d
	case err != nil && !errors.As(err, &d):
		return resp, fmt.Errorf("%w: renewing a certificate that ended: %w", ErrUnavailable, err)
	}
	return resp, err
}

// checkRenewed refuses a certificate for another key before it replaces one that
// works.
func checkRenewed(text string, key *pki.Key) error {
	certs, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		return err
	}
	mine, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("meshclient: %w", err)
	}
	if !slices.Equal(certs[0].RawSubjectPublicKeyInfo, mine) {
		return errors.New("meshclient: the renewed certificate is for another key")
	}
	return nil
}
