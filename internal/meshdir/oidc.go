package meshdir

import (
	"fmt"
	"net/url"
	"path/filepath"

	"github.com/sealmesh/sealmesh/registry"
)

// maxIssuers is how many OpenID Connect issuers one mesh may name.
const maxIssuers = 16

// OIDC is an OpenID Connect issuer whose tokens may enrol instances of agents with a
// join rule that names it.
type OIDC struct {
	Issuer  string `yaml:"issuer"`   // https:// URL, as it stands in the tokens
	CAFile  string `yaml:"ca_file"`  // PEM of the CAs of its server; relative to the mesh directory, the system's where empty
	KeysURL string `yaml:"keys_url"` // of its JWKS, where discovery does not tell or names another host
}

// Issuers returns the OIDC issuers with absolute paths.
func (m *Mesh) Issuers() []OIDC {
	out := make([]OIDC, 0, len(m.Config.OIDC))
	for _, o := range m.Config.OIDC {
		if o.CAFile != "" && !filepath.IsAbs(o.CAFile) {
			o.CAFile = m.path(o.CAFile)
		}
		out = append(out, o)
	}
	return out
}

func (c Config) checkOIDC() error {
	if len(c.OIDC) > maxIssuers {
		return fmt.Errorf("oidc: %d issuers, at most %d", len(c.OIDC), maxIssuers)
	}
	seen := map[string]bool{}
	for _, o := range c.OIDC {
		if err := registry.CheckIssuer(o.Issuer); err != nil {
			return fmt.Errorf("oidc: %w", err)
		}
		if seen[o.Issuer] {
			return fmt.Errorf("oidc: issuer %q is listed twice", o.Issuer)
		}
		seen[o.Issuer] = true
		if o.KeysURL == "" {
			continue
		}
		if u, err := url.Parse(o.KeysURL); err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			return fmt.Errorf("oidc: keys_url of %q is not an https:// URL", o.Issuer)
		}
	}
	return nil
}
