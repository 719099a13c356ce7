package enrol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// DefaultTimeout bounds Enrol where its context has no deadline.
const DefaultTimeout = 30 * time.Second

// Enrol makes dir the directory of a new instance of the token's agent and
// returns what it holds. It may be run again after any failure, and in a
// directory that is enrolled already, which gets a new certificate.
//
// A refusal of the control plane is a denial; [ErrUnreachable] and
// [ErrWrongServer] are wrapped where it was not reached.
func Enrol(ctx context.Context, token registry.JoinToken, dir string) (agentdir.Info, error) {
	if token.Agent.IsZero() || token.Secret == "" {
		return agentdir.Info{}, errors.New("enrol: the join token is incomplete")
	}
	return enrol(ctx, ticket{JoinToken: token}, dir)
}

// Platform is what a host knows whose platform says who it is, in a token that it
// gives to whoever runs there: where to enrol, as what, and that token.
type Platform struct {
	URL   string // of the control plane
	CA    string // hash of the infra root's key
	Agent agentid.ID
	Token string // an OpenID Connect token; a secret
}

// String describes it without its token, so that it can stand in a log.
func (p Platform) String() string { return "platform identity for " + p.Agent.String() }

// GoString is String.
func (p Platform) GoString() string { return p.String() }

// EnrolByPlatform is Enrol with a token of the platform in place of a join token.
// The agent's join rule decides whether it is let in.
func EnrolByPlatform(ctx context.Context, p Platform, dir string) (agentdir.Info, error) {
	if p.Agent.IsZero() || p.Token == "" {
		return agentdir.Info{}, errors.New("enrol: the platform identity is incomplete")
	}
	return enrol(ctx, ticket{registry.JoinToken{URL: p.URL, CA: p.CA, Agent: p.Agent}, p.Token}, dir)
}

// ticket is what lets a host in: the secret of a join token or a platform's token.
type ticket struct {
	registry.JoinToken
	platform string
}

func enrol(ctx context.Context, token ticket, dir string) (agentdir.Info, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if err := checkVacant(dir, token); err != nil {
		return agentdir.Info{}, err
	}
	e, err := newEndpoint(token.URL, token.CA)
	if err != nil {
		return agentdir.Info{}, err
	}
	defer e.close()
	// Before any key is made: the certificate request names the trust domain,
	// which the control plane's certificate tells.
	if err := patiently(ctx, func() error { return e.meet(ctx) }); err != nil {
		return agentdir.Info{}, err
	}
	h, err := newHost(dir, token, e.trustDomain)
	if err != nil {
		return agentdir.Info{}, err
	}
	defer h.wipe()
	req, err := h.request()
	if err != nil {
		return agentdir.Info{}, err
	}
	var resp wire.EnrollResponse
	err = patiently(ctx, func() (err error) {
		resp, err = e.post(ctx, req)
		return err
	})
	if err != nil {
		return agentdir.Info{}, err
	}
	info, err := h.check(resp, time.Now())
	if err != nil {
		return agentdir.Info{}, fmt.Errorf("enrol: the answer of the control plane: %w", err)
	}
	return info, h.write(resp, info)
}

// checkVacant refuses a directory that belongs to somebody else, before
// anything is sent or written.
func checkVacant(dir string, token ticket) error {
	if _, err := os.Lstat(filepath.Join(dir, agentdir.InfoFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	d, err := agentdir.Open(dir)
	if err != nil {
		return err
	}
	if d.Info.Agent != token.Agent {
		return fmt.Errorf("enrol: %s is the directory of agent %q, not of %q; name another directory", dir, d.Info.Agent, token.Agent)
	}
	if d.Info.CA != token.CA && !knows(d, token.CA) {
		return fmt.Errorf("enrol: %s belongs to another mesh (trust domain %q); name another directory", dir, d.Info.TrustDomain)
	}
	_, err = d.Key() // must be there and be the one that agent.json names
	return err
}

// host is the new instance with its keys.
type host struct {
	dir         string
	token       ticket
	trustDomain string
	keys        agentdir.Keys
	key, curve  string // public
}

func newHost(dir string, token ticket, trustDomain string) (*host, error) {
	h := &host{dir: dir, token: token, trustDomain: trustDomain}
	var err error
	if h.keys, err = agentdir.NewKeys(dir); err != nil {
		return nil, err
	}
	if h.key, err = h.keys.Key.PublicKey(); err != nil {
		return nil, fmt.Errorf("enrol: %s: %w", agentdir.KeyFile, err)
	}
	if h.curve, err = h.keys.Curve.PublicKey(); err != nil {
		return nil, fmt.Errorf("enrol: %s: %w", agentdir.CurveFile, err)
	}
	if !nkeys.IsValidPublicUserKey(h.key) || !nkeys.IsValidPublicCurveKey(h.curve) {
		return nil, fmt.Errorf("enrol: the keys in %s are not those of an agent", dir)
	}
	return h, nil
}

func (h *host) wipe() {
	h.keys.Key.Wipe()
	h.keys.Curve.Wipe()
}

// request signs the hash of what lets the host in, the curve key and the certificate
// request together.
func (h *host) request() (wire.EnrollRequest, error) {
	csr, err := pki.CSR(h.keys.TLS, h.token.Agent, h.trustDomain)
	if err != nil {
		return wire.EnrollRequest{}, err
	}
	c := &wire.EnrollClaims{
		Head:  jws.Head{Kind: wire.KindEnroll, IssuedAt: time.Now().Unix()},
		Agent: h.token.Agent, Curve: h.curve, CSR: jws.Digest(string(csr)),
	}
	if h.token.platform != "" {
		c.OIDC = registry.JoinHash(h.token.platform)
	} else {
		c.Join = registry.JoinHash(h.token.Secret)
	}
	proof, err := jws.Sign(c, h.keys.Key)
	if err != nil {
		return wire.EnrollRequest{}, fmt.Errorf("enrol: signing the request: %w", err)
	}
	return wire.EnrollRequest{Proof: proof, Secret: h.token.Secret, OIDC: h.token.platform, CSR: string(csr)}, nil
}

// write leaves agent.json for the end: a directory that has one is complete.
func (h *host) write(r wire.EnrollResponse, info agentdir.Info) error {
	// With its key: a client that lives from the directory may have renewed both
	// since the key was read.
	if err := agentdir.WriteIdentity(h.dir, h.keys.TLS, []byte(r.Certificate)); err != nil {
		return err
	}
	if err := pki.WriteFile(filepath.Join(h.dir, agentdir.CAFile), []byte(r.CA)); err != nil {
		return err
	}
	if err := h.writeTrust(r); err != nil {
		return err
	}
	if err := agentdir.WriteContext(h.dir, info); err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	return agentdir.Write(h.dir, info)
}

func (h *host) info(r wire.EnrollResponse) agentdir.Info {
	return agentdir.Info{
		Schema: agentdir.Schema, Agent: h.token.Agent, Instance: agentid.InstanceOf(h.key),
		TrustDomain: h.trustDomain, Prefix: r.Prefix, NATS: r.NATS, Control: h.token.URL, CA: h.token.CA,
		Roots: r.Roots, SigningKeys: r.SigningKeys, Passport: r.Passport,
	}
}
