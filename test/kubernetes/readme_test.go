package kubernetes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	heading = regexp.MustCompile(`(?m)^## (.*)$`)
	shell   = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
)

// sections are the commands of the README by heading, those before the first under "".
func sections(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(example, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, out := string(b), map[string]string{}
	at := append(heading.FindAllStringSubmatchIndex(text, -1), []int{len(text), len(text), len(text), len(text)})
	name, from := "", 0
	for _, h := range at {
		for _, m := range shell.FindAllStringSubmatch(text[from:h[0]], -1) {
			out[name] += m[1]
		}
		name, from = text[h[2]:h[3]], h[1]
	}
	return out
}

// operator is somebody who follows the README: a folder with the files of the example,
// and a cluster that keeps what is put there.
type operator struct {
	t        *testing.T
	dir      string // as examples/kubernetes
	cluster  string
	commands map[string]string
}

// follow makes an operator who replaces what the pairs say, in commands and files. Each
// must be there to be replaced.
func follow(t *testing.T, pairs ...string) *operator {
	t.Helper()
	work := t.TempDir()
	o := &operator{t: t, dir: filepath.Join(work, "example"), cluster: filepath.Join(work, "cluster"), commands: sections(t)}
	tools := filepath.Join(work, "tools")
	for _, d := range []string{o.dir, o.cluster, tools} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(example, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	met := make([]bool, len(pairs))
	replace := func(text string) string {
		for i := 0; i < len(pairs); i += 2 {
			met[i] = met[i] || strings.Contains(text, pairs[i])
			text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
		}
		return text
	}
	for _, f := range files {
		write(t, filepath.Join(o.dir, filepath.Base(f)), replace(read(t, f)), 0o600)
	}
	for name, c := range o.commands {
		o.commands[name] = replace(c)
	}
	for i := 0; i < len(pairs); i += 2 {
		if !met[i] {
			t.Fatalf("nothing to replace: %q", pairs[i])
		}
	}
	write(t, filepath.Join(tools, "kubectl"), read(t, "kubectl.sh"), 0o700)
	for _, name := range []string{"docker", "helm"} {
		write(t, filepath.Join(tools, name), "#!/bin/sh\necho \""+name+" $*\" >>\"$CLUSTER/log\"\n", 0o700)
	}
	t.Setenv("PATH", tools+":"+bin+":"+os.Getenv("PATH"))
	t.Setenv("CLUSTER", o.cluster)
	t.Setenv("HOME", work)
	for _, name := range []string{"SEALMESH_MESH", "SEALMESH_AS", "SEALMESH_JOIN"} {
		t.Setenv(name, "") // what the developer has
		os.Unsetenv(name)  //nolint:errcheck // it was set above
	}
	return o
}

// do types the commands of one section.
func (o *operator) do(section string) string {
	o.t.Helper()
	script := o.commands[section]
	if script == "" {
		o.t.Fatalf("the README has no commands under %q", section)
	}
	return o.run(script)
}

func (o *operator) run(script string) string {
	o.t.Helper()
	out, err := o.try(script)
	if err != nil {
		o.t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

func (o *operator) try(script string) (string, error) {
	cmd := exec.CommandContext(o.t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = o.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// object returns what the cluster was given under a name, by key.
func (o *operator) object(namespace, kind, name string) map[string]string {
	o.t.Helper()
	dir := filepath.Join(o.cluster, namespace, kind, name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		o.t.Fatalf("%s %s was not made: %v", kind, name, err)
	}
	out := map[string]string{}
	for _, e := range entries {
		out[e.Name()] = read(o.t, filepath.Join(dir, e.Name()))
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
