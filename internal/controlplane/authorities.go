package controlplane

import (
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// authorities are the CAs as the files of the mesh directory have them: who signs
// agents' certificates and servers', and whom an agent's may be from. They are
// replaced as a whole when the files change.
type authorities struct {
	issuer pki.Issuer
	roots  *x509.CertPool // agent roots that count; never nil
	infra  *pki.CA
	trust  string // the signed trust document; empty where the mesh has none

	version    uint64              // of that document
	agentRoots []*x509.Certificate // those in roots, the one of new certificates first
	infraRoots []*x509.Certificate // with which servers are verified, likewise
	rotation   *meshdir.Rotation   // nil: none is under way
}

// authorities returns those in use. They are not changed, only replaced.
func (p *Plane) authorities() *authorities { return p.trusted.Load() }

// loadAuthorities reads all of them, and takes them into use or none.
func (p *Plane) loadAuthorities() error {
	ctx, cancel := context.WithTimeout(p.ctx, connectWait)
	defer cancel()
	a, err := readAuthorities(ctx, p.cfg.Mesh)
	if err != nil {
		return err
	}
	p.trusted.Store(a)
	return nil
}

func readAuthorities(ctx context.Context, mesh *meshdir.Mesh) (*authorities, error) {
	var a authorities
	var err error
	if a.issuer, err = mesh.AgentIssuer(ctx); err != nil {
		return nil, err
	}
	if a.agentRoots, err = mesh.AgentRoots(a.issuer); err != nil {
		return nil, err
	}
	if a.roots, err = pki.ParsePool(pki.EncodeCertificates(a.agentRoots...)); err != nil {
		return nil, err
	}
	if a.infra, err = mesh.InfraCA(); err != nil {
		return nil, err
	}
	if a.infraRoots, err = mesh.InfraRoots(); err != nil {
		return nil, err
	}
	if a.rotation, err = mesh.Rotation(); err != nil {
		return nil, err
	}
	text, doc, err := mesh.Trust()
	if err != nil {
		return nil, err
	}
	if doc != nil {
		a.trust, a.version = text, doc.Version
	}
	return &a, nil
}

const (
	// lookAtFiles is how often files are looked at for changes.
	lookAtFiles = 2 * time.Second
	// againAfter is how long after a failure they are read again although they did
	// not change: what failed may be something else, as a server of Vault.
	againAfter = 30 * time.Second
)

// onChange calls f, in a goroutine of the plane's own, whenever one of the files was
// written, replaced, made or removed since onChange was called. What is wrong with
// what f finds is logged under the name what and the state before stays in use, until
// the next change or a while later. The list of files is asked for each time.
func (p *Plane) onChange(what string, files func() []string, f func() error) {
	known := lookAt(files())
	p.wg.Go(func() {
		tick := time.NewTicker(lookAtFiles)
		defer tick.Stop()
		var failed time.Time
		for {
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
			}
			// Looked at before they are read: a change that comes between is found at
			// the next look.
			now := lookAt(files())
			if slices.EqualFunc(known, now, fileLook.same) && (failed.IsZero() || time.Since(failed) < againAfter) {
				continue
			}
			known, failed = now, time.Time{}
			if err := f(); err != nil {
				failed = time.Now()
				p.log.Error().Err(fmt.Errorf("controlplane: %s: %w", what, err)).Msg("files that changed cannot be used; what was read before stays in use")
				continue
			}
			p.log.Info().Str("what", what).Msg("files changed and were taken into use")
		}
	})
}

// fileLook is what a file looked like, with no info where there is none.
type fileLook struct {
	path string
	info fs.FileInfo
}

func lookAt(paths []string) []fileLook {
	out := make([]fileLook, 0, len(paths))
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			info = nil
		}
		out = append(out, fileLook{p, info})
	}
	return out
}

func (a fileLook) same(b fileLook) bool {
	if a.path != b.path || (a.info == nil) != (b.info == nil) {
		return false
	}
	return a.info == nil || os.SameFile(a.info, b.info) && a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime())
}
