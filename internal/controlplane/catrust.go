package controlplane

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// trustVersion is that of the trust document in force; zero where there is none.
func (p *Plane) trustVersion() uint64 { return p.authorities().version }

// recordCertificate notes what was just issued, and which trust document the instance
// had when it asked.
func (p *Plane) recordCertificate(ctx context.Context, id agentid.ID, inst agentid.Instance, chain []byte, trust uint64) error {
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		return err
	}
	a := p.authorities()
	c, err := pki.VerifyAgent(certs, a.roots, p.cfg.Mesh.Config.TrustDomain, p.clock())
	if err != nil {
		return err
	}
	return p.store.SetCertificate(ctx, id, inst, registry.Certificate{
		Serial: c.Serial, NotAfter: c.NotAfter, CA: a.rootOf(certs), Trust: trust,
	})
}

// rootOf is the hash of the root that a chain rests on. One that rests on two while a
// root is replaced, as its intermediate is certified by both, counts for the new one,
// which comes first in the list.
func (a *authorities) rootOf(chain []*x509.Certificate) string {
	for _, root := range a.agentRoots {
		for _, c := range chain {
			if c.CheckSignatureFrom(root) == nil {
				return pki.RootHash(root)
			}
		}
	}
	return ""
}

// followAuthorities publishes the trust document and takes over what changes in the
// files: from then on this replica signs with the new CA and takes certificates of the
// roots that count.
func (p *Plane) followAuthorities(ctx context.Context) error {
	if err := p.settleTrust(ctx); err != nil {
		return err
	}
	p.onChange("certificate authorities", p.cfg.Mesh.AuthorityFiles, func() error {
		if err := p.reloadAuthorities(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(p.ctx, workTimeout)
		defer cancel()
		return p.settleTrust(ctx)
	})
	p.wg.Go(p.tendRotation)
	return nil
}

// settleTrust brings files and registry together: the newer document is in force. Where
// another replica has dropped the old root, this one does as well.
func (p *Plane) settleTrust(ctx context.Context) error {
	a := p.authorities()
	if a.trust == "" {
		return nil
	}
	td := p.cfg.Mesh.Config.TrustDomain
	published, _, err := p.store.Trust(ctx, td)
	switch {
	case err != nil && denial.Of(err) == "":
		return err
	case err != nil:
		p.log.Error().Err(err).Msg("ALARM: the trust document in the registry is not the authority's; it is replaced")
	case published != nil && a.rotation != nil && published.Version >= a.rotation.After:
		return p.dropOldRoot(ctx)
	case published != nil && published.Version > a.version:
		p.log.Warn().Uint64("published", published.Version).Uint64("here", a.version).Msg("ALARM: server/ is behind the trust document of the mesh: copy it from where sealmesh ca rotate ran")
		p.settled.Store(a.version)
		return nil
	}
	return p.publishTrust(ctx, a)
}

func (p *Plane) publishTrust(ctx context.Context, a *authorities) error {
	wrote, err := p.store.PublishTrust(ctx, a.trust, p.cfg.Mesh.Config.TrustDomain)
	if err != nil {
		return err
	}
	if wrote {
		p.log.Info().Uint64("version", a.version).Msg("trust document published")
	}
	p.settled.Store(a.version)
	return nil
}

// reloadAuthorities is loadAuthorities while servers run. Where a root of agents counts
// no more they have to be told: until then their TLS lets its certificates in, and the
// callout alone refuses them. They have to show certificates of the root for servers
// that new agents trust. A new root of agents needs no reload, which cuts connections:
// what is signed under it is certified by the old one as well.
func (p *Plane) reloadAuthorities() error {
	before := p.authorities()
	if err := p.loadAuthorities(); err != nil {
		return err
	}
	after := p.authorities()
	why := ""
	switch {
	case slices.ContainsFunc(before.agentRoots, func(c *x509.Certificate) bool { return !slices.ContainsFunc(after.agentRoots, c.Equal) }):
		why = "a root of the agent CA counts no more"
	case !before.infra.Root().Equal(after.infra.Root()):
		why = "the infra CA has a new root"
	default:
		return nil
	}
	p.wg.Go(func() {
		if err := p.roll(p.ctx, why); err != nil && p.ctx.Err() == nil {
			p.log.Error().Err(err).Str("why", why).Msg("ALARM: nats-servers have to be reloaded, and were not")
		}
	})
	return nil
}

const (
	// tendRotationEvery is how often a rotation is looked after.
	tendRotationEvery = 2 * time.Second
	// behindShown is how many instances a status names.
	behindShown = 100
)

// tendRotation ends a rotation when nobody needs the old root any more, and publishes a
// document that could not be: agents that never hear of it go by the old one.
func (p *Plane) tendRotation() {
	tick := time.NewTicker(tendRotationEvery)
	defer tick.Stop()
	var told string
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
		a := p.authorities()
		if a.rotation == nil && a.version == p.settled.Load() {
			continue
		}
		ctx, cancel := context.WithTimeout(p.ctx, 2*workTimeout)
		err := p.tendOnce(ctx, &told)
		cancel()
		if err != nil && p.ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("rotation of a CA cannot go on now")
		}
	}
}

func (p *Plane) tendOnce(ctx context.Context, told *string) error {
	r, err := p.rotation(ctx)
	if err != nil {
		return err
	}
	if r == nil {
		return p.settleTrust(ctx)
	}
	if len(r.Waits) > 0 {
		if now := strings.Join(r.Waits, "; "); now != *told {
			p.log.Info().Str("ca", r.Role).Strs("waits_for", r.Waits).Msg("rotation of a CA waits")
			*told = now
		}
		return nil
	}
	return p.dropOldRoot(ctx)
}

// dropOldRoot ends the rotation in the files and publishes that.
func (p *Plane) dropOldRoot(ctx context.Context) error {
	if err := p.cfg.Mesh.DropOldCA(); err != nil {
		return err
	}
	if err := p.reloadAuthorities(); err != nil {
		return err
	}
	p.log.Info().Uint64("version", p.trustVersion()).Msg("old root of a CA dropped")
	return p.publishTrust(ctx, p.authorities())
}

// rotation says of the one that is under way what it waits for; nil: there is none.
func (p *Plane) rotation(ctx context.Context) (*wire.CARotation, error) {
	a := p.authorities()
	if a.rotation == nil {
		return nil, nil //nolint:nilnil // none is under way
	}
	r := &wire.CARotation{
		Role: string(a.rotation.Role), Old: a.rotation.Old, New: a.rotation.New, Started: a.rotation.Started,
		Waits: []string{}, Behind: []wire.CABehind{},
	}
	all, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		return nil, err
	}
	now := p.clock()
	for _, i := range all {
		b, behind := behindOf(i, a.rotation, now)
		if !behind {
			continue
		}
		if r.Left++; len(r.Behind) < behindShown {
			r.Behind = append(r.Behind, b)
		}
	}
	switch {
	case r.Left > 0 && a.rotation.Role == pki.Agent:
		r.Waits = append(r.Waits, fmt.Sprintf("%d instances renew their certificates", r.Left))
	case r.Left > 0:
		r.Waits = append(r.Waits, fmt.Sprintf("%d instances learn of the new root, with their next certificate", r.Left))
	}
	if a.rotation.Role == pki.Infra {
		r.Waits = append(r.Waits, p.oldServers(ctx, a)...)
	}
	return r, nil
}

// behindOf reports whether a live instance still needs the old root. One whose
// certificate has ended does not: it asks for a new one, and for the trust document,
// before it can do anything.
func behindOf(i *registry.Instance, r *meshdir.Rotation, now time.Time) (wire.CABehind, bool) {
	b := wire.CABehind{
		Agent: i.Agent, Instance: i.Instance, Trust: i.Trust,
		OldRoot: r.Role == pki.Agent && i.CA != r.New, NotAfter: time.Unix(i.NotAfter, 0).UTC(),
	}
	if i.Agent.Reserved() || i.State != registry.Online || !now.Before(b.NotAfter) {
		return b, false
	}
	return b, b.OldRoot || r.Role == pki.Infra && i.Trust < r.Overlap
}

// oldServers names the nats-servers, and the control plane, that show a certificate of
// the old root still.
func (p *Plane) oldServers(ctx context.Context, a *authorities) []string {
	var out []string
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.infra.Root())
	path, err := pki.ParseCertificates(a.infra.Plain().Bundle())
	if err != nil {
		return []string{err.Error()}
	}
	middle.AddCert(path[0])
	of := func(leaf *x509.Certificate) bool {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, CurrentTime: p.clock(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err == nil
	}
	if !of(p.source.Leaf()) {
		out = append(out, "the control plane's certificate is of the old root")
	}
	for _, u := range p.cfg.Mesh.Config.NATS.URLs {
		addr := strings.TrimPrefix(u, "tls://")
		ctx, cancel := context.WithTimeout(ctx, connectWait)
		leaf, err := p.shown(ctx, addr)
		cancel()
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("nats-server %s cannot be looked at: %v", addr, err))
		case !of(leaf):
			out = append(out, fmt.Sprintf("nats-server %s shows a certificate of the old root: it has to be reloaded", addr))
		}
	}
	return out
}

// operateCA answers the operations on the CAs.
func (p *Plane) operateCA(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	if req.Op == wire.OpCADrop {
		if p.authorities().rotation == nil {
			return nil, denial.New(denial.WrongState, "no CA is being rotated")
		}
		err := p.dropOldRoot(ctx)
		p.change(by, agentid.ID{}, agentid.Instance{}, string(req.Op), req.Reason, err)
		if err != nil {
			return nil, err
		}
	}
	a := p.authorities()
	s := wire.CAStatus{Schema: wire.CASchema, Trust: a.version}
	agent := wire.CAView{Role: string(pki.Agent), Roots: caRoots(a.agentRoots)}
	if ca, ok := a.issuer.(*pki.CA); ok {
		agent.Intermediate = ca.NotAfter().UTC()
	}
	s.CAs = []wire.CAView{agent, {Role: string(pki.Infra), Roots: caRoots(a.infraRoots), Intermediate: a.infra.NotAfter().UTC()}}
	var err error
	s.Rotation, err = p.rotation(ctx)
	return s, err
}

func caRoots(roots []*x509.Certificate) []wire.CARoot {
	out := make([]wire.CARoot, 0, len(roots))
	for _, c := range roots {
		out = append(out, wire.CARoot{Hash: pki.RootHash(c), NotAfter: c.NotAfter.UTC()})
	}
	return out
}

// serveTrust gives the trust document to anybody.
func (p *Plane) serveTrust(w http.ResponseWriter, _ *http.Request) {
	a := p.authorities()
	if a.trust == "" {
		p.reply(w, http.StatusNotFound, wire.Failure{Reason: denial.NotFound, Detail: "this mesh has no trust document yet", Hint: denial.Hint(denial.NotFound)})
		return
	}
	p.reply(w, http.StatusOK, wire.TrustResponse{Trust: a.trust})
}
