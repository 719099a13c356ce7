package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// alarmShare is the part of a life that is left when somebody is told: what renews
// itself has done so long before.
const alarmShare = 5

// loads is whether the control plane would start from the directory.
func loads(_ context.Context, p *patient) []Finding {
	if p.mesh != nil {
		return []Finding{{Level: OK, What: "the mesh directory is complete"}}
	}
	_, err := meshdir.Load(p.dir)
	if err == nil { // it changed this moment
		return nil
	}
	return []Finding{{Level: Wrong, What: err.Error(), Remedy: hint(err, "mend the file, or restore it from a backup")}}
}

func hint(err error, otherwise string) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		return h.Hint()
	}
	return otherwise
}

// ends looks at every certificate in the directory.
func ends(_ context.Context, p *patient) (out []Finding) {
	count := 0
	p.walk(func(rel string, _ fs.FileInfo) {
		if !strings.HasSuffix(rel, ".crt") {
			return
		}
		certs, err := certificates(filepath.Join(p.dir, filepath.FromSlash(rel)))
		if err != nil {
			out = append(out, Finding{Wrong, fmt.Sprintf("%s cannot be read: %v", rel, err), "restore it from a backup, or make it anew"})
			return
		}
		for _, c := range certs {
			count++
			if f, ok := p.life(rel, c); ok {
				out = append(out, f)
			}
		}
	}, &out)
	if count == 0 {
		return append(out, Finding{Wrong, "there is no certificate in " + p.dir, "sealmesh init makes a mesh; --mesh DIR names another directory"})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: fmt.Sprintf("none of %d certificates ends soon", count)})
	}
	return out
}

// life judges how much of a certificate's is left.
func (p *patient) life(rel string, c *x509.Certificate) (Finding, bool) {
	name := c.Subject.CommonName
	if name == "" && len(c.URIs) > 0 {
		name = c.URIs[0].String()
	}
	left, whole := c.NotAfter.Sub(p.now), c.NotAfter.Sub(c.NotBefore)
	end := c.NotAfter.UTC().Format(time.RFC3339)
	agent := strings.HasPrefix(rel, "agents/")
	switch {
	case p.now.Before(c.NotBefore):
		return Finding{Wrong, fmt.Sprintf("%s: %q is not valid before %s", rel, name, c.NotBefore.UTC().Format(time.RFC3339)), "set the clock of this host, or of the one that issued it"}, true
	case left <= 0 && agent && !c.IsCA:
		// Its own client does that as soon as it connects.
		return Finding{Warning, fmt.Sprintf("%s: %q ended %s", rel, name, end), "start the agent: it renews by its key if its kind allows that; else sealmesh agent join and enroll"}, true
	case left <= 0:
		return Finding{Wrong, fmt.Sprintf("%s: %q ended %s", rel, name, end), renewal(rel, c)}, true
	case left < whole/alarmShare && !(agent && !c.IsCA):
		return Finding{Warning, fmt.Sprintf("%s: %q ends %s, in %s", rel, name, end, left.Round(time.Minute)), renewal(rel, c)}, true
	}
	return Finding{}, false
}

// renewal says who renews a certificate of servers and CAs.
func renewal(rel string, c *x509.Certificate) string {
	switch {
	case c.IsCA && strings.HasPrefix(rel, "server/agent-ca"), c.IsCA && strings.HasPrefix(rel, "root/agent-ca"):
		return "sealmesh ca rotate --role agent, with root/ online"
	case c.IsCA:
		return "sealmesh ca rotate, with root/ online"
	}
	return "start the control plane, which renews it; its log says why it could not"
}

// signingKeys looks at the keys that the authority certified.
func signingKeys(_ context.Context, p *patient) (out []Finding) {
	if p.mesh == nil {
		return nil
	}
	ring, err := p.mesh.Ring()
	if err != nil {
		return []Finding{{Wrong, err.Error(), "restore server/signing-keys.json from a backup"}}
	}
	keys := ring.Keys()
	seen := map[capability.Purpose]bool{}
	for _, k := range keys {
		// The first of a purpose is the one that lasts longest.
		if seen[k.Purpose] {
			continue
		}
		seen[k.Purpose] = true
		left, end := k.Expires.Sub(p.now), k.Expires.UTC().Format(time.RFC3339)
		switch {
		case left <= 0:
			out = append(out, Finding{Wrong, fmt.Sprintf("the signing key for %s ended %s, and there is no other", k.Purpose, end), "sealmesh keys renew, with root/ online"})
		case left < k.Expires.Sub(k.NotBefore)/alarmShare:
			out = append(out, Finding{Warning, fmt.Sprintf("the signing key for %s ends %s", k.Purpose, end), "sealmesh keys renew, with root/ online"})
		}
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: fmt.Sprintf("none of %d signing keys ends soon", len(keys))})
	}
	return out
}

// rootOffline looks for keys that nothing needs while the mesh runs.
func rootOffline(_ context.Context, p *patient) []Finding {
	var there []string
	entries, _ := os.ReadDir(filepath.Join(p.dir, "root")) // what cannot be read is not there for others either
	for _, e := range entries {
		if secret(e.Name()) {
			there = append(there, "root/"+e.Name())
		}
	}
	if len(there) == 0 {
		return []Finding{{Level: OK, What: "the keys of the roots are offline"}}
	}
	return []Finding{{Warning, "the keys that everything rests on are online: " + strings.Join(there, ", "), "move " + filepath.Join(p.dir, "root") + " to a medium that is offline; nothing that runs needs it"}}
}

// modes looks at who may read the secrets.
func modes(_ context.Context, p *patient) (out []Finding) {
	if runtime.GOOS == "windows" {
		return nil // it has access lists, which this does not judge
	}
	count := 0
	one := func(path string, info fs.FileInfo) {
		count++
		if info.Mode().Perm()&^0o600 != 0 {
			e := &pki.ModeError{Path: path, Mode: info.Mode()}
			out = append(out, Finding{Wrong, fmt.Sprintf("%s has mode %04o, so that others can use the secret in it", path, info.Mode().Perm()), e.Hint()})
		}
	}
	p.walk(func(rel string, info fs.FileInfo) {
		if secret(filepath.Base(rel)) {
			one(filepath.Join(p.dir, filepath.FromSlash(rel)), info)
		}
	}, &out)
	if p.mesh != nil {
		for _, path := range p.mesh.VaultSecrets() {
			info, err := os.Stat(path)
			if err != nil {
				out = append(out, Finding{Wrong, fmt.Sprintf("the credential for Vault cannot be read: %v", err), "write it there, mode 0600, as the user of the control plane"})
				continue
			}
			one(path, info)
		}
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: fmt.Sprintf("%d secret files are for their owner alone", count)})
	}
	return out
}

// secret tells secret files by their names, also while they are replaced.
func secret(name string) bool {
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".next"), ".old")
	return strings.HasSuffix(name, ".nk") || strings.HasSuffix(name, ".key") || name == "cluster-secret.conf"
}

// vaultRole asks Vault, where it issues the certificates.
func vaultRole(ctx context.Context, p *patient) (out []Finding) {
	if p.mesh == nil || p.mesh.Config.Certificate.Issuer != meshdir.IssuerVault {
		return nil
	}
	failed := func(err error) []Finding {
		return append(out, Finding{Wrong, err.Error(), hint(err, "look into Vault's log")})
	}
	i, err := p.mesh.VaultIssuer(ctx)
	if err != nil {
		return failed(err)
	}
	// What is asked first says best why Vault answers nothing.
	policy, err := i.CheckPolicy(ctx)
	if err != nil {
		return failed(err)
	}
	if err := i.CheckPin(ctx); err != nil {
		out = failed(err)
	}
	role, err := i.CheckRole(ctx, p.mesh.Config.Certificate.TTL)
	if err != nil {
		out = failed(err)
	}
	for _, f := range append(policy, role...) {
		level := Warning
		if f.Blocks {
			level = Wrong
		}
		out = append(out, Finding{level, f.What, f.Remedy})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: "Vault serves the pinned root, and its role and policy are as they have to be"})
	}
	return out
}

// walk calls f with the regular files of the mesh directory but for JetStream's.
// What cannot be looked at is added to the findings.
func (p *patient) walk(f func(rel string, info fs.FileInfo), out *[]Finding) {
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			*out = append(*out, Finding{Wrong, fmt.Sprintf("%s cannot be looked at: %v", path, err), "run sealmesh doctor as the owner of the mesh directory"})
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() && d.Name() == "jetstream" {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil // it was removed this moment
		}
		rel, err := filepath.Rel(p.dir, path)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), info)
		return nil
	})
	if err != nil {
		*out = append(*out, Finding{Wrong, err.Error(), "run sealmesh doctor as the owner of the mesh directory"})
	}
}

func certificates(path string) ([]*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, limits.CertificateText+1))
	if err != nil {
		return nil, err
	}
	return pki.ParseCertificates(text)
}
