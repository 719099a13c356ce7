package kubernetes_test

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// pod is one whose volumes are laid out below a folder, which stands for the root of
// its containers' file systems.
type pod struct {
	o        *operator
	template template
	name     string
	root     string
	token    func(subject, audience string) string // of its service account
	mounts   map[string]string                     // path to folder
}

// lay makes the volumes of a pod as a kubelet does, with the files' modes.
func (o *operator) lay(p template, name string, token func(subject, audience string) string) *pod {
	o.t.Helper()
	out := &pod{o: o, template: p, name: name, root: filepath.Join(o.t.TempDir(), name), token: token, mounts: map[string]string{}}
	volumes := map[string]string{}
	for _, v := range p.spec.Volumes {
		volumes[v.Name] = out.volume(v)
	}
	for _, c := range p.claims {
		volumes[c.Name] = out.folder(c.Name)
	}
	for _, c := range p.containers() {
		for _, m := range c.VolumeMounts {
			from := volumes[m.Name]
			if m.SubPathExpr != "" {
				from = filepath.Join(from, out.expand(c, m.SubPathExpr))
			}
			if was, ok := out.mounts[m.MountPath]; ok && was != from {
				o.t.Fatalf("%s: two volumes at %s", name, m.MountPath)
			} else if ok {
				continue
			}
			out.mounts[m.MountPath] = from
			at := out.root + m.MountPath
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				o.t.Fatal(err)
			}
			if err := os.Symlink(from, at); err != nil {
				o.t.Fatal(err)
			}
		}
	}
	return out
}

func (p *pod) folder(name string) string {
	p.o.t.Helper()
	dir := filepath.Join(p.root, "volumes", name)
	if err := os.MkdirAll(dir, 0o770); err != nil {
		p.o.t.Fatal(err)
	}
	return dir
}

func (p *pod) volume(v corev1.Volume) string {
	t := p.o.t
	t.Helper()
	dir := p.folder(v.Name)
	put := func(path, text string, mode *int32) {
		perm := os.FileMode(0o644)
		if mode != nil {
			perm = os.FileMode(*mode)
		}
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, at, text, perm)
	}
	items := func(files map[string]string, items []corev1.KeyToPath, mode *int32) {
		if items == nil {
			for key, text := range files {
				put(key, text, mode)
			}
		}
		for _, i := range items {
			text, ok := files[i.Key]
			if !ok {
				t.Fatalf("volume %s: there is no %s", v.Name, i.Key)
			}
			put(i.Path, text, mode)
		}
	}
	ns := p.template.namespace
	switch {
	case v.EmptyDir != nil:
	case v.ConfigMap != nil && v.Name == "config" && v.ConfigMap.Name == "nats-config": // the chart's, which nobody reads
	case v.Secret != nil:
		items(p.o.object(ns, "secret", v.Secret.SecretName), v.Secret.Items, v.Secret.DefaultMode)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s.Secret != nil:
				items(p.o.object(ns, "secret", s.Secret.Name), s.Secret.Items, v.Projected.DefaultMode)
			case s.ConfigMap != nil:
				items(p.o.object(ns, "configmap", s.ConfigMap.Name), s.ConfigMap.Items, v.Projected.DefaultMode)
			case s.ServiceAccountToken != nil:
				mode := int32(0o600)
				subject := "system:serviceaccount:" + ns + ":" + p.template.spec.ServiceAccountName
				put(s.ServiceAccountToken.Path, p.token(subject, s.ServiceAccountToken.Audience), &mode)
			default:
				t.Fatalf("volume %s: %+v", v.Name, s)
			}
		}
	default:
		t.Fatalf("volume %s: %+v", v.Name, v)
	}
	return dir
}

// env is a container's environment.
func (p *pod) env(c corev1.Container) map[string]string {
	p.o.t.Helper()
	out := map[string]string{}
	for _, e := range c.Env {
		switch f := e.ValueFrom; {
		case f == nil:
			out[e.Name] = e.Value
		case f.FieldRef != nil && f.FieldRef.FieldPath == "metadata.name":
			out[e.Name] = p.name
		case f.ConfigMapKeyRef != nil:
			v, ok := p.o.object(p.template.namespace, "configmap", f.ConfigMapKeyRef.Name)[f.ConfigMapKeyRef.Key]
			if !ok {
				p.o.t.Fatalf("%s: no %s in %s", e.Name, f.ConfigMapKeyRef.Key, f.ConfigMapKeyRef.Name)
			}
			out[e.Name] = v
		default:
			p.o.t.Fatalf("%s: %+v", e.Name, f)
		}
	}
	return out
}

var variable = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

// expand replaces $(NAME) as Kubernetes does.
func (p *pod) expand(c corev1.Container, text string) string {
	p.o.t.Helper()
	env := p.env(c)
	return variable.ReplaceAllStringFunc(text, func(s string) string {
		v, ok := env[s[2:len(s)-1]]
		if !ok {
			p.o.t.Fatalf("%s/%s: %s is not set", p.name, c.Name, s)
		}
		return v
	})
}

// here replaces paths in a container by where they are on this machine.
func (p *pod) here(text string) string {
	var paths []string
	for m := range p.mounts {
		paths = append(paths, m)
	}
	// The longest first, or a path would be taken for one that it begins with.
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
	var pairs []string
	for _, m := range paths {
		pairs = append(pairs, m, p.root+m)
		if filepath.Dir(m) == text { // a folder of mounts
			return p.root + text
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// rewrite has a mounted file name what is on this machine, and whatever the pairs say.
func (p *pod) rewrite(path string, pairs ...string) {
	t := p.o.t
	t.Helper()
	path = p.root + path
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text := p.here(read(t, path))
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%s has no %q", path, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, path, text, info.Mode().Perm())
}

// command is how a container is started, with the entry point of its image where it
// names none.
func (p *pod) command(c corev1.Container) (env, args []string) {
	p.o.t.Helper()
	words := slices.Concat(c.Command, c.Args)
	if len(c.Command) == 0 {
		repository, _, _ := strings.Cut(filepath.Base(c.Image), ":")
		entry, ok := map[string]string{"nats": "nats-server", "sealmesh": "sealmesh"}[repository]
		if !ok {
			p.o.t.Fatalf("image %s starts nothing by itself", c.Image)
		}
		words = append([]string{entry}, words...)
	}
	for i, w := range words {
		words[i] = p.here(p.expand(c, w))
	}
	words[0] = strings.TrimPrefix(words[0], "/usr/local/bin/")
	for name, value := range p.env(c) {
		env = append(env, name+"="+p.here(value))
	}
	return env, words
}

// The stand-in for a kubelet lays out what is asked for.
func TestVolumesAreLaidOut(t *testing.T) {
	o := asWritten(t)
	p := templates(t, chart(t))[0]
	one := o.lay(p, "nats-1", nil)
	entries, err := os.ReadDir(one.root + "/etc/sealmesh")
	if err != nil || len(entries) != 6 {
		t.Fatalf("got %v, %v, want the six files of one server", entries, err)
	}
	if info, err := os.Stat(one.root + "/etc/sealmesh/server.key"); err != nil || info.Mode().Perm() != 0o440 {
		t.Errorf("got %v, %v, want mode 0440", info, err)
	}
	if read(t, one.root+"/etc/sealmesh/server.key") != read(t, filepath.Join(o.dir, "mesh/nats/nats-1/server.key")) {
		t.Error("got the key of another server")
	}
}
