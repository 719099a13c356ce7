package vault

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

// clockSlack is how much longer than asked a certificate may seem to live, for
// Vault's clock may be ahead.
const clockSlack = time.Minute

// Issuer signs agents' certificates by Vault. [New] makes one.
type Issuer struct {
	cfg    Config
	roots  *x509.CertPool // never nil
	pinned []*x509.Certificate
	auth   *session
	news   chan error // how the last signing went, for Run
}

var _ pki.Issuer = (*Issuer)(nil)

// Roots implements pki.Issuer: the pinned roots, whatever Vault says.
func (i *Issuer) Roots() []byte { return pki.EncodeCertificates(i.pinned...) }

// SignAgent implements pki.Issuer. What Vault or its role stands in the way of is
// an [*Error]; a request that no issuer signs is a denial.
func (i *Issuer) SignAgent(ctx context.Context, csr *x509.CertificateRequest, agent agentid.ID, ttl time.Duration, now time.Time) ([]byte, error) {
	if err := pki.CheckCSR(csr, agent, i.cfg.TrustDomain); err != nil {
		return nil, err
	}
	if ttl < 0 || ttl > pki.MaxAgentTTL {
		return nil, denial.New(denial.BadInput, "an agent's certificate lives %s at most, not %s", pki.MaxAgentTTL, ttl)
	}
	if ttl == 0 {
		ttl = pki.DefaultAgentTTL
	}
	if now.IsZero() {
		return nil, errors.New("vault: no time given")
	}
	chain, err := i.sign(ctx, csr, agent, ttl)
	select {
	case <-i.news: // what nobody fetched is old
	default:
	}
	select {
	case i.news <- err:
	default:
	}
	return chain, err
}

func (i *Issuer) sign(ctx context.Context, csr *x509.CertificateRequest, agent agentid.ID, ttl time.Duration) ([]byte, error) {
	secret, err := i.do(ctx, "signing", http.MethodPut, i.signPath(), map[string]any{
		"csr":                  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw})),
		"ttl":                  strconv.FormatInt(max(1, int64(ttl/time.Second)), 10) + "s",
		"format":               "pem",
		"exclude_cn_from_sans": true,
	})
	if err != nil {
		return nil, err
	}
	chain, err := signed(secret)
	if err != nil {
		return nil, problem(Unreachable, standby, "signing: the answer of %s holds no certificate chain: %s", i.cfg.Address, clean(err.Error()))
	}
	if e := i.check(chain, csr, agent, ttl); e != nil {
		return nil, e
	}
	return pki.EncodeCertificates(chain...), nil
}

func (i *Issuer) signPath() string { return i.cfg.Mount + "/sign/" + i.cfg.Role }

// do makes one request, with another token where the one at hand has ended.
func (i *Issuer) do(ctx context.Context, did, method, path string, body map[string]any) (*api.Secret, error) {
	for again := false; ; again = true {
		if e := i.auth.ready(ctx); e != nil {
			return nil, e
		}
		token := i.auth.current()
		var secret *api.Secret
		var err error
		if method == http.MethodGet {
			secret, err = i.auth.client.Logical().ReadWithContext(ctx, path)
		} else {
			secret, err = i.auth.client.Logical().WriteWithContext(ctx, path, body)
		}
		if err == nil {
			return secret, nil
		}
		var r *api.ResponseError
		if errors.As(err, &r) && r.StatusCode == http.StatusForbidden && !again {
			retry, dead := i.auth.rejected(ctx, token)
			if retry {
				continue
			}
			if dead != nil {
				return nil, dead
			}
		}
		return nil, i.explain(did, path, err)
	}
}

// signed reads the chain from an answer: the leaf, then what signed it, without
// roots unless a root signed the leaf itself.
func signed(secret *api.Secret) ([]*x509.Certificate, error) {
	if secret == nil {
		return nil, errors.New("it is empty")
	}
	leaf, err := certificates(secret.Data["certificate"])
	if err != nil {
		return nil, err
	}
	if len(leaf) != 1 {
		return nil, errors.New("there is more than one certificate in place of one")
	}
	above, err := certificates(secret.Data["ca_chain"])
	if err != nil {
		// A root that signs itself has no chain in some versions.
		if above, err = certificates(secret.Data["issuing_ca"]); err != nil {
			return nil, err
		}
	}
	chain := leaf
	for n, c := range above {
		if n == 0 || !selfSigned(c) {
			chain = append(chain, c)
		}
	}
	if len(chain) > limits.Certificates {
		return nil, errors.New("the chain is too long")
	}
	return chain, nil
}

// certificates reads a field that is PEM text or a list of such.
func certificates(field any) ([]*x509.Certificate, error) {
	var text strings.Builder
	switch v := field.(type) {
	case string:
		text.WriteString(v)
	case []any:
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil, errors.New("a certificate in it is no text")
			}
			text.WriteString(strings.TrimSpace(s) + "\n")
		}
	default:
		return nil, errors.New("a certificate is missing")
	}
	return pki.ParseCertificates([]byte(text.String()))
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignatureFrom(c) == nil
}

// check is what stands between a role that is set up wrongly, or a Vault that is
// not the operator's any more, and a certificate that the mesh would accept.
func (i *Issuer) check(chain []*x509.Certificate, csr *x509.CertificateRequest, agent agentid.ID, ttl time.Duration) *Error {
	leaf, now := chain[0], i.cfg.Clock()
	if want, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || !want.Equal(leaf.PublicKey) {
		return problem(BadRole, i.roleHint(), "the certificate that Vault gave is for another key than that of the request")
	}
	if e := i.shape(leaf); e != nil {
		return e
	}
	if end := now.Add(ttl + clockSlack); leaf.NotAfter.After(end) {
		return problem(BadRole, i.patch("not_after= ttl=0 max_ttl="+short(pki.MaxAgentTTL)), "the certificate that Vault gave lives until %s, and %s was asked for", leaf.NotAfter.UTC().Format(time.RFC3339), ttl)
	}
	if now.Before(leaf.NotBefore) {
		return problem(BadRole, "set Vault's clock and this host's to the same time, or "+i.patch("not_before_duration=60s"), "the certificate that Vault gave is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if e := i.anchored(chain, now); e != nil {
		return e
	}
	cert, err := pki.VerifyAgent(chain, i.roots, i.cfg.TrustDomain, now)
	if err != nil {
		return problem(BadRole, i.roleHint(), "the certificate that Vault gave cannot be used: %s", clean(denial.Detail(err)))
	}
	if cert.ID != agent {
		return problem(BadRole, i.patch("use_csr_sans=true"), "the certificate that Vault gave is for agent %q, not for %q", cert.ID, agent)
	}
	return nil
}

// shape explains the certificates of roles that are wrong in ways that VerifyAgent
// refuses, because it cannot know which field of a role they come from.
func (i *Issuer) shape(leaf *x509.Certificate) *Error {
	wrong := func(fields, what string) *Error {
		return problem(BadRole, i.patch(fields), "the certificate that Vault gave %s", what)
	}
	switch {
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return wrong("key_usage=DigitalSignature", "may sign certificates")
	case len(leaf.URIs) == 0:
		return wrong("use_csr_sans=true allowed_uri_sans="+i.uriPattern(), "does not name the agent")
	}
	client := false
	for _, u := range leaf.ExtKeyUsage {
		client = client || u == x509.ExtKeyUsageClientAuth
	}
	switch {
	case !client:
		return wrong("client_flag=true", "is not for TLS clients")
	case len(leaf.ExtKeyUsage) > 1 || len(leaf.UnknownExtKeyUsage) > 0:
		return wrong("server_flag=false code_signing_flag=false email_protection_flag=false ext_key_usage= ext_key_usage_oids=", "is for more than TLS clients")
	}
	return nil
}

// anchored is the pin: the certificate must chain to a root of the mesh.
func (i *Issuer) anchored(chain []*x509.Certificate, now time.Time) *Error {
	if len(i.pinned) == 0 {
		return problem(OtherRoot, "sealmesh init writes it", "the mesh has no pinned root of Vault")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: i.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if u := (x509.UnknownAuthorityError{}); errors.As(err, &u) {
		return problem(OtherRoot, otherRootHint, "Vault signs under %q, which does not chain to a root of this mesh", chain[0].Issuer.String())
	}
	return nil // anything else VerifyAgent says better
}

const otherRootHint = "if somebody meant this, take the new root in (docs/operations.md, Vault); if not, find out who changed the mount"

// uriPattern is what the role has to allow.
func (i *Issuer) uriPattern() string { return "spiffe://" + i.cfg.TrustDomain + "/agent/*" }
