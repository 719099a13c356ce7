package vault

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// FetchRoots asks Vault which roots the certificates of the role chain to and
// returns them as a PEM bundle. It is for an operator who makes a mesh or means to
// trust a new root: what it returns is as true as whoever may write to the mount.
func (i *Issuer) FetchRoots(ctx context.Context) ([]byte, error) {
	roots, err := i.served(ctx)
	if err != nil {
		return nil, err
	}
	return pki.EncodeCertificates(roots...), nil
}

// served returns the roots of the CA that the role signs with.
func (i *Issuer) served(ctx context.Context) ([]*x509.Certificate, error) {
	path := i.cfg.Mount + "/issuer/" + i.issuerRef(ctx) + "/json"
	secret, err := i.do(ctx, "reading the CA", http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, problem(BadIssuer, "vault list "+i.cfg.Mount+"/issuers", "%s: there is no such issuer or mount", path)
	}
	chain, err := certificates(secret.Data["ca_chain"])
	if err != nil {
		return nil, problem(BadIssuer, "vault read "+path, "%s holds no chain: %s", path, clean(err.Error()))
	}
	roots := slices.DeleteFunc(chain, func(c *x509.Certificate) bool { return !selfSigned(c) })
	if len(roots) == 0 {
		return nil, problem(BadIssuer, "import the chain with its root: vault write "+i.cfg.Mount+"/intermediate/set-signed certificate=@CHAIN.pem", "%s: the chain in Vault ends before a root", path)
	}
	for _, c := range roots {
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, problem(BadIssuer, "vault read "+path, "%s: %q is not a CA's certificate", path, c.Subject.String())
		}
	}
	return roots, nil
}

// issuerRef is the issuer that the role names, the mount's default one where the
// role cannot be read.
func (i *Issuer) issuerRef(ctx context.Context) string {
	role, err := i.role(ctx)
	if err == nil {
		if ref, _ := role["issuer_ref"].(string); roleName.MatchString(ref) {
			return ref
		}
	}
	return "default"
}

// CheckPin compares the roots that Vault serves with those that are pinned.
func (i *Issuer) CheckPin(ctx context.Context) error {
	roots, err := i.served(ctx)
	if err != nil {
		return err
	}
	for _, c := range roots {
		if !slices.ContainsFunc(i.pinned, c.Equal) {
			return problem(OtherRoot, otherRootHint, "Vault serves the root %q (%s), which this mesh does not trust", c.Subject.String(), pki.RootHash(c))
		}
	}
	return nil
}

// lookEvery is how often [Issuer.Run] compares what Vault serves and how the role
// is set up.
const lookEvery = 5 * time.Minute

// Run renews the token and watches Vault until ctx ends. After each look, and after
// each certificate, report gets what is wrong, nil where all is well; it is called
// by one goroutine. ttl is the life that certificates are asked for.
func (i *Issuer) Run(ctx context.Context, ttl time.Duration, report func(error)) {
	var looked time.Time
	var standing error // what the last look at Vault found
	for {
		wait, e := i.auth.tend(ctx)
		now := i.cfg.Clock()
		// What failed is looked at again each time.
		if e == nil && (looked.IsZero() || now.Sub(looked) >= lookEvery || standing != nil) {
			looked, standing = now, i.look(ctx, ttl)
		}
		switch {
		case ctx.Err() != nil: // what failed, failed for that
			return
		case e != nil:
			looked = time.Time{} // much may have changed when Vault is back
			report(e)
		default:
			report(standing)
		}
		if !i.rest(ctx, wait, func(err error) { standing = err; report(err) }) {
			return
		}
	}
}

// rest waits, and passes on how signing goes meanwhile. It reports false when ctx
// has ended.
func (i *Issuer) rest(ctx context.Context, wait time.Duration, report func(error)) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case err := <-i.news:
			if ctx.Err() == nil {
				report(err)
			}
		case <-t.C:
			return true
		}
	}
}

// look reports the first thing that keeps certificates from being issued as asked.
func (i *Issuer) look(ctx context.Context, ttl time.Duration) error {
	if err := i.CheckPin(ctx); err != nil {
		return err
	}
	found, err := i.CheckRole(ctx, ttl)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.Blocks {
			return problem(BadRole, f.Remedy, "%s", f.What)
		}
	}
	return nil
}
