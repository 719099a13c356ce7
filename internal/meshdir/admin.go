package meshdir

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// AdminAgent is the agent that Init makes: the operator's own, as which the
// admin commands act.
const AdminAgent = "admin"

// admin makes the first agent without an enrolment, because whoever could admit
// it does not run yet: its keys are made here, and the registry takes it from
// bootstrap.json when it starts for the first time.
func (b *builder) admin() error {
	id := agentid.Require(AdminAgent)
	dir := filepath.Join(b.dir, agentsDir, AdminAgent)
	keys, err := agentdir.NewKeys(dir)
	if err != nil {
		return err
	}
	defer keys.Key.Wipe()
	defer keys.Curve.Wipe()
	key, err := keys.Key.PublicKey()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	curve, err := keys.Curve.PublicKey()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	cert, err := b.adminCertificate(id, keys.TLS)
	if err != nil {
		return err
	}
	records, err := b.mesh.RecordsKey()
	if err != nil {
		return err
	}
	defer records.Wipe()
	passport, err := capability.IssuePassport(records, id, key, curve, b.now)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(keys.TLS.Public())
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	c := b.mesh.Config
	info := agentdir.Info{
		Agent: id, Instance: agentid.InstanceOf(key), TrustDomain: c.TrustDomain, Prefix: c.Prefix,
		NATS: c.NATS.URLs, Control: c.Control.URL, CA: b.infraCA.RootHash(),
		Roots: b.mesh.Roots(), SigningKeys: b.mesh.SigningKeyCertificates(), Passport: passport,
	}
	if err := agentdir.WriteContext(dir, info); err != nil {
		return err
	}
	if err := agentdir.Write(dir, info); err != nil {
		return err
	}
	return b.json([]registry.Founder{{
		Agent: registry.NewAgent{
			Agent: id, Kind: registry.Person, Heartbeat: registry.HeartbeatNone,
			Rights: registry.Rights{Call: []capability.Scope{capability.RequireScope("admin:registry")}},
		},
		Key: key, Curve: curve, Serial: cert.Serial, NotAfter: cert.NotAfter, CA: b.agentRoot(), Trust: 1, TLS: jws.Digest(string(spki)),
	}}, serverDir, "bootstrap.json")
}

// adminCertificate signs and writes the agent's certificate and the root that it
// verifies servers with.
func (b *builder) adminCertificate(id agentid.ID, key *pki.Key) (pki.AgentCertificate, error) {
	var none pki.AgentCertificate
	c := b.mesh.Config
	text, err := pki.CSR(key, id, c.TrustDomain)
	if err != nil {
		return none, err
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		return none, err
	}
	chainText, err := b.agents.SignAgent(context.Background(), csr, id, c.Certificate.TTL, b.now)
	if err != nil {
		return none, err
	}
	chain, err := pki.ParseCertificates(chainText)
	if err != nil {
		return none, err
	}
	roots, err := pki.ParsePool(b.agents.Roots())
	if err != nil {
		return none, err
	}
	cert, err := pki.VerifyAgent(chain, roots, c.TrustDomain, b.now)
	if err != nil {
		return none, err
	}
	if c.Certificate.Issuer == IssuerVault {
		if err := b.checkLife(cert.NotAfter); err != nil {
			return none, err
		}
	}
	if err := b.public(chainText, agentsDir, AdminAgent, agentdir.TLSCertFile); err != nil {
		return none, err
	}
	return cert, b.public(b.infraCA.Roots(), agentsDir, AdminAgent, agentdir.CAFile)
}

// agentRoot is the hash of the root of agents where there is one, as of a mesh just
// made; a Vault that has several says nothing by it.
func (b *builder) agentRoot() string {
	roots, err := pki.ParseCertificates(b.agents.Roots())
	if err != nil || len(roots) != 1 {
		return ""
	}
	return pki.RootHash(roots[0])
}
