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
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	if token.Agent.IsZero() || token.Secret == "" {
		return agentdir.Info{}, errors.New("enrol: the join token is incomplete")
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
	if err := e.meet(ctx); err != nil {
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
	resp, err := e.post(ctx, req)
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
func checkVacant(dir string, token registry.JoinToken) error {
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
	if d.Info.CA != token.CA {
		return fmt.Errorf("enrol: %s belongs to another mesh (trust domain %q); name another directory", dir, d.Info.TrustDomain)
	}
	_, err = d.Key() // must be there and be the one that agent.json names
	return err
}

// host is the new instance with its keys.
type host struct {
	dir         string
	token       registry.JoinToken
	trustDomain string
	keys        agentdir.Keys
	key, curve  string // public
}

func newHost(dir string, token registry.JoinToken, trustDomain string) (*host, error) {
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

// request signs the join token's hash, the curve key and the certificate request
// together.
func (h *host) request() (wire.EnrollRequest, error) {
	csr, err := pki.CSR(h.keys.TLS, h.token.Agent, h.trustDomain)
	if err != nil {
		return wire.EnrollRequest{}, err
	}
	proof, err := jws.Sign(&wire.EnrollClaims{
		Head:  jws.Head{Kind: wire.KindEnroll, IssuedAt: time.Now().Unix()},
		Agent: h.token.Agent, Join: registry.JoinHash(h.token.Secret), Curve: h.curve, CSR: jws.Digest(string(csr)),
	}, h.keys.Key)
	if err != nil {
		return wire.EnrollRequest{}, fmt.Errorf("enrol: signing the request: %w", err)
	}
	return wire.EnrollRequest{Proof: proof, Secret: h.token.Secret, CSR: string(csr)}, nil
}

// write leaves agent.json for the end: a directory that has one is complete.
func (h *host) write(r wire.EnrollResponse, info agentdir.Info) error {
	if err := pki.WriteFile(filepath.Join(h.dir, agentdir.TLSCertFile), []byte(r.Certificate)); err != nil {
		return err
	}
	if err := pki.WriteFile(filepath.Join(h.dir, agentdir.CAFile), []byte(r.CA)); err != nil {
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
