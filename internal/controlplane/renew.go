package controlplane

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// renew issues a certificate for the asking instance's own identity, over the
// mesh.
func (p *Plane) renew(ctx context.Context, from agentid.ID, inst agentid.Instance, req wire.Renew) (any, error) {
	return p.certify(ctx, from, inst, req.CSR, req.Trust)
}

// serveRenew does the same over HTTPS, for those whose certificate has ended or is no
// longer taken. As on the bus, the nkey alone is not enough: whoever stole it must not
// get a certificate by it.
func (p *Plane) serveRenew(ctx context.Context, from caller, body []byte) (any, error) {
	var req wire.RenewRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	var c wire.RenewClaims
	u, err := jws.Decode(req.Proof, wire.KindRenew, &c)
	if err := p.proved(u, err, c.IssuedAt); err != nil {
		return nil, err
	}
	if c.Audience != p.cfg.Mesh.Config.TrustDomain {
		return nil, errStranger
	}
	if c.CSR != jws.Digest(req.CSR) {
		return nil, denial.New(denial.BadInput, "proof is for another certificate request")
	}
	a, i, err := p.holder(ctx, c.Agent, c.Issuer)
	if err != nil {
		return nil, err
	}
	// Who is expired may come back, and needs a certificate for that.
	if err := a.Admissible(); err != nil {
		return nil, err
	}
	if err := i.Admissible(a, p.clock()); err != nil && denial.Of(err) != denial.Flapping {
		return nil, err
	}
	if end := time.Unix(i.NotAfter, 0); p.clock().After(end.Add(p.cfg.Mesh.Config.Certificate.RenewAfterExpiry.Of(a.AgentKind))) {
		return nil, denial.New(denial.BadCertificate, "certificate ended %s, too long ago for a %s to renew it by its key", end.UTC().Format(time.RFC3339), a.AgentKind)
	}
	if err := p.holdsTLSKey(ctx, c.Agent, i.Instance, from.shown); err != nil {
		return nil, err
	}
	return p.certify(ctx, c.Agent, i.Instance, req.CSR, req.Trust)
}

// holdsTLSKey refuses a caller that has no TLS key of the instance. That the key was
// certified for it is noted when it is, for longer than most sleep; after that it is
// shown by who signed the certificate.
func (p *Plane) holdsTLSKey(ctx context.Context, id agentid.ID, inst agentid.Instance, shown []*x509.Certificate) error {
	if len(shown) == 0 {
		return denial.New(denial.BadCertificate, "renewing by key takes the TLS key of the last certificate too, and none was shown")
	}
	leaf := shown[0]
	held, err := p.store.HoldsTLSKey(ctx, id, inst, jws.Digest(string(leaf.RawSubjectPublicKeyInfo)))
	if err != nil || held {
		return err
	}
	roots := x509.NewCertPool()
	for _, c := range p.authorities().agentRoots {
		roots.AddCert(c)
	}
	cert, err := pki.VerifyAgent(shown, roots, p.cfg.Mesh.Config.TrustDomain, leaf.NotAfter)
	if err != nil {
		return err
	}
	if cert.ID != id {
		return denial.New(denial.BadCertificate, "the TLS key is that of %q", cert.ID)
	}
	return nil
}

// certify signs for the identity that the asking key proved and for no other, and a
// TLS key that no other instance has.
func (p *Plane) certify(ctx context.Context, id agentid.ID, inst agentid.Instance, request string, trust uint64) (any, error) {
	csr, err := pki.ParseCSR([]byte(request))
	if err != nil {
		return nil, err
	}
	if err := pki.CheckCSR(csr, id, p.cfg.Mesh.Config.TrustDomain); err != nil {
		return nil, err
	}
	if err := p.store.BindTLSKey(ctx, id, inst, jws.Digest(string(csr.RawSubjectPublicKeyInfo))); err != nil {
		return nil, err
	}
	chain, err := p.authorities().issuer.SignAgent(ctx, csr, id, time.Duration(p.cfg.Mesh.Config.Certificate.TTL), p.clock())
	if err != nil {
		return nil, err
	}
	if err := p.recordCertificate(ctx, id, inst, chain, trust); err != nil {
		return nil, err
	}
	p.change(id, id, inst, "renew", "", nil)
	return wire.Renewed{Certificate: string(chain), Trust: p.authorities().trust}, nil
}
