package meshclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// request is one of the two ways to ask for a certificate.
type request func(ctx context.Context, csr string) (wire.Renewed, error)

// renew replaces the certificate over the mesh once that is due: from half of its
// life on, or when the control plane asked for it.
func (m *Mesh) renew(ctx context.Context) {
	r, leaf := &m.tended.renewal, m.tls.Leaf()
	r.follow(leaf)
	ordered := m.ordered()
	due := !m.cfg.clock().Before(r.due) || !ordered.IsZero() && !time.Now().Before(ordered)
	if next := m.tended.replace; !next.IsZero() && !time.Now().Before(next) && !m.cfg.clock().Before(r.earliest) {
		due = true // the connection is about to be replaced anyway: once is enough
	}
	if time.Now().Before(r.again) {
		return
	}
	ask := m.renewOverMesh
	if m.uprooted() {
		// This connection may be cut at any moment, and comes back with another
		// certificate alone.
		due, ask = true, m.renewOverHTTPS
	}
	if !due || !m.tryRenewal(ctx, leaf, ask) {
		return
	}
	m.carriedOut(ordered)
	m.tended.replace = time.Now() // take it into use
}

// wakeUp renews by the key alone while no server is there, or lets the agent in: a
// certificate that ended while it was away or asleep, and one that is about to. Its
// nkey still proves who it is.
func (m *Mesh) wakeUp(ctx context.Context) {
	r, leaf := &m.tended.renewal, m.tls.Leaf()
	r.follow(leaf)
	m.mendTrust(ctx)
	now := m.cfg.clock()
	if now.Before(r.alarms[0]) || time.Now().Before(r.again) {
		return
	}
	if !m.tryRenewal(ctx, leaf, m.renewOverHTTPS) && !now.Before(leaf.NotAfter) {
		m.setAway(denied(m.renewing.failure()))
	}
}

// tryRenewal tries once, and notes when to try again.
func (m *Mesh) tryRenewal(ctx context.Context, leaf *x509.Certificate, ask request) bool {
	r := &m.tended.renewal
	err := m.renewBy(ctx, ask)
	m.renewing.tried(err)
	if err == nil {
		r.follow(m.tls.Leaf())
		return true
	}
	wait := r.wait()
	r.again = time.Now().Add(wait)
	r.failed++
	m.log.Warn().Err(err).Time("not_after", leaf.NotAfter).Dur("again_in", wait).Msg("certificate could not be renewed yet")
	return false
}

// renewBy makes a new key, has it certified and puts both in place. Nothing of the
// old certificate is of use with the new one, so whoever copied the old key has until
// the old certificate's end.
func (m *Mesh) renewBy(ctx context.Context, ask request) error {
	key, err := pki.NewTLSKey()
	if err != nil {
		return err
	}
	csr, err := pki.CSR(key, m.info.Agent, m.info.TrustDomain)
	if err != nil {
		return err
	}
	resp, err := ask(ctx, string(csr))
	if err != nil {
		return err
	}
	if err := m.checkRenewed(resp.Certificate, key); err != nil {
		return err
	}
	if err := agentdir.WriteIdentity(m.dir.Path, key, []byte(resp.Certificate)); err != nil {
		return err
	}
	if err := m.tls.Reload(); err != nil {
		return err
	}
	m.log.Info().Time("not_after", m.tls.NotAfter()).Msg("certificate renewed")
	m.onTrust(resp.Trust)
	return nil
}

func (m *Mesh) renewOverMesh(ctx context.Context, csr string) (resp wire.Renewed, err error) {
	return resp, m.ask(ctx, wire.SelfRenew, wire.Renew{CSR: csr, Trust: m.floors.Trust()}, &resp)
}

func (m *Mesh) renewOverHTTPS(ctx context.Context, csr string) (resp wire.Renewed, err error) {
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	proof, err := jws.Sign(&wire.RenewClaims{
		Head:  jws.Head{Kind: wire.KindRenew, IssuedAt: m.cfg.clock().Unix()},
		Agent: m.info.Agent, Audience: m.info.TrustDomain, CSR: jws.Digest(csr),
	}, documentSigner{m.key})
	if err != nil {
		return resp, err
	}
	body, err := json.Marshal(wire.RenewRequest{Proof: proof, CSR: csr, Trust: m.floors.Trust()})
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
		return resp, fmt.Errorf("%w: renewing a certificate by its key: %w", ErrUnavailable, err)
	}
	return resp, err
}

// checkRenewed refuses what could not be lived from before it replaces a certificate
// that works: one for another key or name, and one that is not valid now. Agents pin
// no root of the agents' authority, so the chain is held up to what came with it.
func (m *Mesh) checkRenewed(text string, key *pki.Key) error {
	chain, err := pki.ParseCertificates([]byte(text))
	if err != nil {
		return err
	}
	if len(chain) < 2 {
		return errors.New("meshclient: the renewed certificate comes without its intermediate")
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(chain[0].PublicKey) {
		return errors.New("meshclient: the renewed certificate is for another key")
	}
	roots, err := pki.ParsePool(pki.EncodeCertificates(chain[1:]...))
	if err != nil {
		return err
	}
	cert, err := pki.VerifyAgent(chain[:1], roots, m.info.TrustDomain, m.cfg.clock())
	if err != nil {
		return fmt.Errorf("meshclient: the renewed certificate: %w", err)
	}
	if cert.ID != m.info.Agent {
		return fmt.Errorf("meshclient: the renewed certificate is for agent %q", cert.ID)
	}
	return nil
}

// renewal is when the certificate in use is renewed. The tending goroutine's.
type renewal struct {
	leaf     *x509.Certificate // that the rest is about
	life     time.Duration
	earliest time.Time
	due      time.Time    // somewhere between earliest and half of its life
	alarms   [4]time.Time // when it is said that it was not renewed
	told     int          // how many of these were
	again    time.Time    // not tried again earlier
	failed   int          // tries in a row
}

// alarmAt are the parts of a certificate's life that are left when it is said that
// it was not renewed, in percent; the last is its end.
var alarmAt = [4]time.Duration{20, 10, 5, 0}

// follow begins anew with a certificate that came in place of the one before, also
// where another process that shares the directory brought it.
func (r *renewal) follow(leaf *x509.Certificate) {
	if r.leaf != nil && leaf.Equal(r.leaf) {
		return
	}
	issued, half, spread := agentdir.Life(leaf)
	*r = renewal{leaf: leaf, life: leaf.NotAfter.Sub(issued), earliest: half.Add(-spread)}
	r.due = half.Add(-rand.N(spread + 1))
	for i, percent := range alarmAt {
		r.alarms[i] = leaf.NotAfter.Add(-r.life * percent / 100)
	}
}

// Bounds of the time between two tries to renew a certificate.
const (
	renewLeast     = 250 * time.Millisecond
	renewFirstMost = 30 * time.Second
	renewMost      = 15 * time.Minute
)

// wait is how long after one more failure the next try comes: twice as long after
// each, in parts of the life that is to be renewed, and spread, so that a fleet that
// waits for a control plane does not come to it at once.
func (r *renewal) wait() time.Duration {
	first := min(max(r.life/100, renewLeast), renewFirstMost)
	most := min(max(r.life/20, 4*renewLeast), renewMost)
	d := min(first<<min(r.failed, 16), most)
	return d/2 + rand.N(d)
}

// next is when something is to be done about the certificate, by the wall clock now.
func (r *renewal) next(now time.Time, connected bool) time.Time {
	if r.leaf == nil {
		return time.Time{}
	}
	at := r.due
	if !connected {
		at = r.alarms[0]
	}
	wait := max(at.Sub(now), time.Until(r.again))
	if r.told < len(r.alarms) {
		wait = min(wait, r.alarms[r.told].Sub(now))
	}
	return time.Now().Add(wait)
}

// alarm says once for each part of its life that the certificate was not renewed.
func (m *Mesh) alarm() {
	r := &m.tended.renewal
	r.follow(m.tls.Leaf())
	before, now := r.told, m.cfg.clock()
	for r.told < len(r.alarms) && !now.Before(r.alarms[r.told]) {
		r.told++
	}
	if r.told == before {
		return
	}
	e := m.log.Error().AnErr("cause", m.renewing.failure()).Time("not_after", r.leaf.NotAfter)
	if left := r.leaf.NotAfter.Sub(now); left > 0 {
		e.Dur("left", left).Msg("certificate was not renewed and ends soon")
	} else {
		e.Msg("certificate was not renewed and has ended: no server lets this instance in with it")
	}
}

// Renew replaces the certificate and the TLS key of an agent's directory now, for a
// program that is not connected; a Mesh does it by itself. It asks over the mesh, and
// where no server can be reached the control plane by the instance's key alone. A
// Mesh that lives from the same directory takes the new ones into use by itself. It
// returns *[Denied] where the mesh refuses, and an error wrapping [ErrUnavailable]
// where nobody could be asked.
func Renew(ctx context.Context, opts ...Option) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultConnectTimeout)
		defer cancel()
	}
	end, _ := ctx.Deadline()
	connecting, cancel := context.WithTimeout(ctx, time.Until(end)/2) // what is left is for the other way
	defer cancel()
	m, err := Connect(connecting, opts...)
	if err == nil {
		return errors.Join(denied(m.renewBy(ctx, m.renewOverMesh)), m.Close())
	}
	if !errors.Is(err, ErrUnavailable) {
		return err
	}
	cfg, err := configure(opts)
	if err != nil {
		return err
	}
	dir, err := agentdir.Find(cfg.as, cfg.meshDir)
	if err != nil {
		return err
	}
	if m, err = newMesh(cfg, dir); err != nil {
		return err
	}
	defer m.tending.Wait()
	defer m.cancel()
	return denied(m.renewBy(ctx, m.renewOverHTTPS))
}
