package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sealmesh/sealmesh/internal/epochlog"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// owners looks for secret files that do not belong to whom the mesh belongs to: the
// mode is no protection from their owner.
func owners(_ context.Context, p *patient) (out []Finding) {
	info, err := os.Stat(filepath.Join(p.dir, meshdir.ConfigFile))
	if err != nil {
		return nil // loads says so
	}
	own, ok := ownerOf(info)
	if !ok {
		return nil
	}
	p.walk(func(rel string, info fs.FileInfo) {
		// Those of nats-server and of agents may belong to the users that these run as.
		if !secret(filepath.Base(rel)) || !strings.HasPrefix(rel, "server/") && !strings.HasPrefix(rel, "root/") {
			return
		}
		if uid, ok := ownerOf(info); ok && uid != own {
			out = append(out, Finding{Wrong, fmt.Sprintf("%s belongs to user %d, and the mesh to user %d", rel, uid, own), fmt.Sprintf("chown %d %s", own, filepath.Join(p.dir, filepath.FromSlash(rel)))})
		}
	}, &out)
	return out
}

// state looks at what the control plane must be able to write, and must not forget.
func state(_ context.Context, p *patient) []Finding {
	if p.mesh == nil {
		return nil
	}
	dir := p.mesh.State()
	// Only a file that is made shows that one can be: a mount may be read-only.
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("the state directory cannot be written: %v", err), "name a directory that lasts and can be written as state in sealmesh.yaml; the control plane does not start otherwise"}}
	}
	_, err = os.Stat(filepath.Join(dir, epochlog.File))
	switch {
	case err == nil:
		return []Finding{{Level: OK, What: "the log of epochs is there and its directory can be written"}}
	case !errors.Is(err, fs.ErrNotExist):
		return []Finding{{Wrong, fmt.Sprintf("the log of epochs cannot be looked at: %v", err), "run sealmesh doctor as the user of the control plane"}}
	case p.stored():
		return []Finding{{Warning, "there is no log of epochs in " + dir + ", and there is a registry: an older one would not be noticed", "where the control plane runs on another host, nothing; else find out who removed it, and never restore it from a backup"}}
	}
	return []Finding{{Level: OK, What: "the state directory can be written; no control plane has run with it yet"}}
}

// stored reports whether a nats-server has stored anything here.
func (p *patient) stored() bool {
	dirs := []string{p.mesh.Store()}
	for _, conf := range p.mesh.ServerConfs() {
		dirs = append(dirs, filepath.Join(filepath.Dir(conf), "jetstream"))
	}
	for _, d := range dirs {
		if list, err := os.ReadDir(d); err == nil && len(list) > 0 {
			return true
		}
	}
	return false
}

// seed is the private half of any nkey.
var seed = regexp.MustCompile(`\bS[ANUOCX][A-Z2-7]{56}\b`)

// seeds looks for private keys of the mesh where nats-server could read them: it needs
// none, and with the issuer's it could admit anybody.
func seeds(_ context.Context, p *patient) (out []Finding) {
	remedy := "move it out of nats/, and replace the key: sealmesh keys rotate"
	p.walk(func(rel string, info fs.FileInfo) {
		if !strings.HasPrefix(rel, "nats/") {
			return
		}
		if strings.HasSuffix(rel, ".nk") {
			out = append(out, Finding{Wrong, rel + " is a seed, and nats-server needs none", remedy})
			return
		}
		if info.Size() > limits.HTTPBody {
			return
		}
		text, err := os.ReadFile(filepath.Join(p.dir, filepath.FromSlash(rel)))
		if err == nil && seed.Match(text) {
			out = append(out, Finding{Wrong, rel + " holds a seed, and nats-server needs none", remedy})
		}
		clear(text)
	}, &out)
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: "nats/ holds no seeds"})
	}
	return out
}

// insecure looks for settings that take protection away.
func insecure(_ context.Context, p *patient) (out []Finding) {
	if p.mesh == nil {
		return nil
	}
	for _, name := range p.mesh.Config.Insecure() {
		out = append(out, Finding{Warning, name + " is set in " + meshdir.ConfigFile, "take it out if the mesh can do without"})
	}
	for _, conf := range p.mesh.ServerConfs() {
		text, err := os.ReadFile(conf)
		if err != nil {
			continue // serverConfs says so
		}
		for n, line := range strings.Split(string(text), "\n") {
			line, _, _ = strings.Cut(line, "#")
			if strings.Contains(line, "insecure") {
				out = append(out, Finding{Warning, fmt.Sprintf("%s:%d: %s", p.rel(conf), n+1, strings.TrimSpace(line)), "take it out"})
			}
		}
	}
	return out
}

// rel is a path as it is shown.
func (p *patient) rel(path string) string {
	if abs, err := filepath.Abs(p.dir); err == nil {
		if rel, err := filepath.Rel(abs, path); err == nil && !strings.HasPrefix(rel, "..") {
			return filepath.ToSlash(rel)
		}
	}
	return path
}
