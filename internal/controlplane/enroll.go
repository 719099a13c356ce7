package controlplane

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// serveEnroll admits a new instance by a join token, or by a token of its platform.
// All that can be refused without either is looked at first: a bad request costs no
// use, and no question to an issuer.
func (p *Plane) serveEnroll(ctx context.Context, from caller, body []byte) (any, error) {
	var req wire.EnrollRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	var c wire.EnrollClaims
	u, err := jws.Decode(req.Proof, wire.KindEnroll, &c)
	if err := p.proved(u, err, c.IssuedAt); err != nil {
		return nil, err
	}
	if c.Join != hashOf(req.Secret) || c.OIDC != hashOf(req.OIDC) || (c.Join == "") == (c.OIDC == "") || c.CSR != jws.Digest(req.CSR) {
		return nil, denial.New(denial.BadInput, "proof is for another join token, platform token or certificate request")
	}
	csr, err := pki.ParseCSR([]byte(req.CSR))
	if err != nil {
		return nil, err
	}
	if err := pki.CheckCSR(csr, c.Agent, p.cfg.Mesh.Config.TrustDomain); err != nil {
		return nil, err
	}
	e := registry.Enrolment{
		Hash: c.Join, Agent: c.Agent, Key: c.Issuer, Curve: c.Curve, Host: from.host,
		TLS: jws.Digest(string(csr.RawSubjectPublicKeyInfo)),
	}
	how := "by a join token"
	var i *registry.Instance
	if c.OIDC != "" {
		how = "by a platform token"
		i, err = p.enrolByPlatform(ctx, e, req.OIDC)
	} else {
		_, i, err = p.store.Enrol(ctx, e)
	}
	if err != nil {
		p.change(c.Agent, c.Agent, agentid.InstanceOf(c.Issuer), "enrol", "", err)
		return nil, err
	}
	chain, err := p.authorities().issuer.SignAgent(ctx, csr, c.Agent, time.Duration(p.cfg.Mesh.Config.Certificate.TTL), p.clock())
	if err != nil {
		return nil, err
	}
	if err := p.recordCertificate(ctx, c.Agent, i.Instance, chain, p.trustVersion()); err != nil {
		return nil, err
	}
	p.change(c.Agent, c.Agent, i.Instance, "enrol", how, nil)
	mesh := p.cfg.Mesh
	return wire.EnrollResponse{
		Schema: wire.EnrollSchema, Agent: c.Agent, TrustDomain: mesh.Config.TrustDomain, Prefix: mesh.Config.Prefix,
		NATS: mesh.Config.NATS.URLs, Roots: p.store.Ring().Roots(), SigningKeys: p.store.Ring().Certificates(),
		Passport: i.Passport, Certificate: string(chain), CA: string(pki.EncodeCertificates(p.authorities().infraRoots...)), Trust: p.authorities().trust,
	}, nil
}

// hashOf is how the proof names a secret; none where there is none.
func hashOf(secret string) string {
	if secret == "" {
		return ""
	}
	return registry.JoinHash(secret)
}

// enrolByPlatform registers the instance of a host whose platform says who it is.
// Where there is no room for it, those make room that are gone.
func (p *Plane) enrolByPlatform(ctx context.Context, e registry.Enrolment, token string) (*registry.Instance, error) {
	proven, err := p.prove(ctx, e.Agent, token)
	if err != nil {
		return nil, err
	}
	_, i, err := p.store.EnrolByRule(ctx, e, proven)
	if denial.Of(err) != denial.QuotaExceeded {
		return i, err
	}
	if n, failed := p.reap(ctx, e.Agent, 0); n == 0 {
		if failed != nil {
			p.log.Warn().Err(failed).Str("agent", e.Agent.String()).Msg("instances that are gone cannot be reaped")
		}
		return nil, err
	}
	_, i, err = p.store.EnrolByRule(ctx, e, proven)
	return i, err
}
