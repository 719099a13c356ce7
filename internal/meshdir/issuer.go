package meshdir

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/pki/vault"
)

// What certificate.issuer may be.
const (
	// IssuerEmbedded is the agent CA in the mesh directory.
	IssuerEmbedded = "embedded"
	// IssuerVault is the PKI secrets engine of HashiCorp Vault. The mesh directory
	// has no key of an agent CA then.
	IssuerVault = "vault"
)

// Vault is which Vault signs the agents' certificates, and how the control plane
// logs in there. Files that are not named absolutely are below the mesh directory.
type Vault struct {
	Address   string  `yaml:"address"`
	Namespace string  `yaml:"namespace"`
	Mount     string  `yaml:"mount"`
	Role      string  `yaml:"role"`
	CAFile    string  `yaml:"ca_file"`
	TokenFile string  `yaml:"token_file"`
	AppRole   AppRole `yaml:"approle"`
}

// AppRole is a login by a role ID and a secret ID.
type AppRole struct {
	Mount        string `yaml:"mount"`
	RoleIDFile   string `yaml:"role_id_file"`
	SecretIDFile string `yaml:"secret_id_file"`
}

func (v Vault) config() vault.Config {
	c := vault.Config{
		Address: v.Address, Namespace: v.Namespace, Mount: v.Mount, Role: v.Role,
		CAFile: v.CAFile, TokenFile: v.TokenFile, Clock: time.Now,
	}
	if v.AppRole != (AppRole{}) {
		c.AppRole = &vault.AppRole{Mount: v.AppRole.Mount, RoleIDFile: v.AppRole.RoleIDFile, SecretIDFile: v.AppRole.SecretIDFile}
	}
	return c
}

func (c Config) checkIssuer() error {
	switch c.Certificate.Issuer {
	case IssuerEmbedded:
		if c.Vault != (Vault{}) {
			return fmt.Errorf("vault: it has no effect unless certificate.issuer is %s", IssuerVault)
		}
		return nil
	case IssuerVault:
		if err := c.Vault.config().Check(); err != nil {
			return fmt.Errorf("vault: %w", err)
		}
		return nil
	}
	return fmt.Errorf("certificate.issuer: %q is neither %s nor %s", clip(c.Certificate.Issuer), IssuerEmbedded, IssuerVault)
}

// AgentIssuer opens what signs agents' certificates, as certificate.issuer says. It
// asks nobody: with Vault away, a control plane starts and takes the certificates
// that there are, for the roots that count are those in server/agent-ca.crt.
func (m *Mesh) AgentIssuer(context.Context) (pki.Issuer, error) {
	if m.Config.Certificate.Issuer != IssuerVault {
		return m.AgentCA()
	}
	path := m.path(serverDir, "agent-ca.crt")
	roots, err := readPublic(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Path: path, Problem: "the file is missing", hint: "it holds the roots of Vault that this mesh trusts; restore it from a backup", cause: err}
	}
	if err != nil {
		return nil, err
	}
	i, err := m.vault(roots)
	if err != nil {
		return nil, err
	}
	if len(i.Roots()) == 0 {
		return nil, &Error{Path: path, Problem: "holds no root", hint: "it holds the roots of Vault that this mesh trusts; restore it from a backup"}
	}
	return i, nil
}

// VaultIssuer is [Mesh.AgentIssuer] where certificate.issuer is vault.
func (m *Mesh) VaultIssuer(ctx context.Context) (*vault.Issuer, error) {
	i, err := m.AgentIssuer(ctx)
	if err != nil {
		return nil, err
	}
	v, ok := i.(*vault.Issuer)
	if !ok {
		return nil, fmt.Errorf("meshdir: certificate.issuer is %s", m.Config.Certificate.Issuer)
	}
	return v, nil
}

func (m *Mesh) vault(roots []byte) (*vault.Issuer, error) {
	c := m.Config.Vault.config()
	c.TrustDomain, c.Roots = m.Config.TrustDomain, roots
	files := []*string{&c.CAFile, &c.TokenFile}
	if c.AppRole != nil {
		files = append(files, &c.AppRole.RoleIDFile, &c.AppRole.SecretIDFile)
	}
	for _, f := range files {
		if *f != "" {
			*f = m.under(*f)
		}
	}
	return vault.New(c)
}

// vaultAuthority takes the roots that Vault serves, which is the one moment at
// which they are believed, and pins them in the place of an agent CA.
func (b *builder) vaultAuthority() error {
	asking, err := b.mesh.vault(nil)
	if err != nil {
		return err
	}
	ctx := context.Background() // each request has a time limit of its own
	roots, err := asking.FetchRoots(ctx)
	if err != nil {
		return err
	}
	i, err := b.mesh.vault(roots)
	if err != nil {
		return err
	}
	b.agents = i
	return b.public(i.Roots(), serverDir, "agent-ca.crt")
}

// checkLife checks more of the first certificate than that it can be used: a role
// that shortens every certificate is better noticed now.
func (b *builder) checkLife(notAfter time.Time) error {
	ttl := b.mesh.Config.Certificate.TTL
	if life := notAfter.Sub(b.now); life < ttl-ttl/10-2*backdate {
		return fmt.Errorf("meshdir: Vault gives certificates that live %s, not %s as certificate.ttl says; raise max_ttl of the role and of the mount, or lower certificate.ttl", life.Round(time.Second), short(ttl))
	}
	return nil
}

// announced are the agent roots that a trust document names. Where Vault signs, it
// names none: its root is changed there and in the files, with root/ offline, and an
// agent that was told of the old root alone would throw its new certificate away, and
// the next.
func (m *Mesh) announced(agent []*x509.Certificate) []*x509.Certificate {
	if m.Config.Certificate.Issuer == IssuerVault {
		return nil
	}
	return agent
}

// VaultSecrets returns the absolute paths of the files by which the control plane
// logs in to Vault, none where certificate.issuer is not vault.
func (m *Mesh) VaultSecrets() []string {
	var out []string
	for _, f := range []string{m.Config.Vault.TokenFile, m.Config.Vault.AppRole.RoleIDFile, m.Config.Vault.AppRole.SecretIDFile} {
		if f != "" {
			out = append(out, m.under(f))
		}
	}
	return out
}

// under makes a path absolute that may be relative to the mesh directory.
func (m *Mesh) under(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return m.path(path)
}
