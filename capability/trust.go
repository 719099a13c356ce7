package capability

import (
	"crypto/x509"
	"encoding/base64"
	"math"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

const kindTrust = "trust"

// trustRoots is the most roots in one list of a trust document: an overlap needs
// two, and what every agent takes over must stay small.
const trustRoots = 8

// Trust says which X.509 roots count in a mesh, signed by its authority root. Of two
// documents the one with the higher version counts; who took one MUST NOT take an
// older one again, or a root that leaked could be brought back.
type Trust struct {
	jws.Head
	TrustDomain string `json:"trust_domain"`
	Version     uint64 `json:"version"` // from 1 on
	// Infra and Agent are the roots of servers and of agents, each the base64url of
	// its DER. Agent may be empty: then the document says nothing of agents' roots.
	Infra []string `json:"infra"`
	Agent []string `json:"agent,omitempty"`
}

func (t *Trust) form() error {
	if _, err := agentid.ParseTrustDomain(t.TrustDomain); err != nil {
		return denial.New(denial.BadToken, "trust document of no trust domain")
	}
	// Integers of documents have 64 bits and a sign.
	if t.Version == 0 || t.Version > math.MaxInt64 {
		return denial.New(denial.BadToken, "trust document without a version, or with one that is too high")
	}
	if len(t.Infra) == 0 {
		return denial.New(denial.BadToken, "trust document without a root for servers")
	}
	for _, list := range [][]string{t.Infra, t.Agent} {
		if _, err := rootsOf(list); err != nil {
			return err
		}
	}
	return nil
}

var derText = base64.RawURLEncoding.Strict()

// rootsOf decodes one list of roots.
func rootsOf(list []string) ([]*x509.Certificate, error) {
	if len(list) > trustRoots {
		return nil, denial.New(denial.BadToken, "trust document with more than %d roots of one kind", trustRoots)
	}
	out := make([]*x509.Certificate, 0, len(list))
	for i, text := range list {
		der, err := derText.DecodeString(text)
		// The decoder skips line breaks, which would be a second spelling.
		if err != nil || derText.EncodeToString(der) != text {
			return nil, denial.New(denial.BadToken, "root %d of a trust document is not canonical base64url", i+1)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil || !c.BasicConstraintsValid || !c.IsCA {
			return nil, denial.New(denial.BadToken, "root %d of a trust document is no CA's certificate", i+1)
		}
		if slices.Contains(list[:i], text) {
			return nil, denial.New(denial.BadToken, "root %d of a trust document stands in it twice", i+1)
		}
		out = append(out, c)
	}
	return out, nil
}

// InfraRoots returns the roots of servers.
func (t *Trust) InfraRoots() ([]*x509.Certificate, error) { return rootsOf(t.Infra) }

// AgentRoots returns the roots of agents; none means that the document says nothing
// of them.
func (t *Trust) AgentRoots() ([]*x509.Certificate, error) { return rootsOf(t.Agent) }

// SignTrust signs a trust document with an authority root. It refuses what
// [VerifyTrust] would refuse.
func SignTrust(root Signer, trustDomain string, version uint64, infra, agent []*x509.Certificate, now time.Time) (string, error) {
	issuer, err := issuerOf(root)
	if err != nil {
		return "", err
	}
	t := Trust{Head: jws.Head{Kind: kindTrust, Issuer: issuer, IssuedAt: now.Unix()}, TrustDomain: trustDomain, Version: version}
	t.Infra, t.Agent = []string{}, nil
	for _, c := range infra {
		t.Infra = append(t.Infra, derText.EncodeToString(c.Raw))
	}
	for _, c := range agent {
		t.Agent = append(t.Agent, derText.EncodeToString(c.Raw))
	}
	if err := t.form(); err != nil {
		return "", err
	}
	return jws.Sign(&t, root)
}

// VerifyTrust reads a trust document of the trust domain. Only a pinned authority root
// may have signed it: no signing key, whatever it is certified for, since those are
// online, and whoever has one of them must not say who the servers are. Which version
// is new enough, the caller decides. Refusals are those of documents,
// denial.UnknownSigner and denial.BadToken.
func VerifyTrust(text string, roots []string, trustDomain string) (*Trust, error) {
	var t Trust
	u, err := jws.Decode(text, kindTrust, &t)
	if err != nil {
		return nil, err
	}
	if !isAccountKey(t.Issuer) || !slices.Contains(roots, t.Issuer) {
		return nil, denial.New(denial.UnknownSigner, "signed by %s, which is not a pinned root", clip(t.Issuer))
	}
	// Before certificates of a stranger are parsed.
	if err := u.Verify(); err != nil {
		return nil, err
	}
	if err := t.form(); err != nil {
		return nil, err
	}
	if t.TrustDomain != trustDomain {
		return nil, denial.New(denial.BadToken, "trust document of %q, not of %q", clip(t.TrustDomain), trustDomain)
	}
	return &t, nil
}
