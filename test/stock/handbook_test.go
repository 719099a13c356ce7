//go:build unix

package stock_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// handbook is docs/operations.md, whose commands are run as they stand there, in a
// shell, with the addresses of a test.
type handbook struct {
	t    *testing.T
	m    *process.Mesh
	text string
	with *strings.Replacer
}

func openHandbook(t *testing.T, m *process.Mesh, replaced ...string) *handbook {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return &handbook{t: t, m: m, text: string(text), with: strings.NewReplacer(replaced...)}
}

var shell = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// commands are those of a section and of the sections in it, each on a line.
func (h *handbook) commands(heading string) []string {
	h.t.Helper()
	_, rest, ok := strings.Cut(h.text, "\n"+heading+"\n")
	if !ok {
		h.t.Fatalf("the handbook has no section %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	if end := regexp.MustCompile(`(?m)^#{2,` + strconv.Itoa(len(level)) + `} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	var out []string
	for _, block := range shell.FindAllStringSubmatch(rest, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				out = append(out, line)
			}
		}
	}
	if len(out) == 0 {
		h.t.Fatalf("section %q has no commands", heading)
	}
	return out
}

var (
	comment  = regexp.MustCompile(`\s+# .*$`)
	exitCode = regexp.MustCompile(`# .*exit code (\d)`)
	prints   = regexp.MustCompile(`# prints (.*)$`)
)

// follow runs the commands of a section as a reader types them. A command that ends
// with & goes on beside the others; what a comment says of an exit code or of what is
// printed has to be so.
func (h *handbook) follow(heading string) {
	h.t.Helper()
	for _, line := range h.commands(heading) {
		h.typed(line)
	}
}

func (h *handbook) typed(line string) {
	h.t.Helper()
	command := comment.ReplaceAllString(line, "")
	script := "set -euo pipefail; PATH=" + filepath.Dir(programs.Path("sealmesh")) + ":$PATH; "
	if aside, ok := strings.CutSuffix(command, "&"); ok {
		process.Start(h.t, h.m.Work, "bash", "-c", script+"exec "+h.with.Replace(aside))
		return
	}
	want := 0
	if m := exitCode.FindStringSubmatch(line); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*process.Soon)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, "bash", "-c", script+h.with.Replace(command))
	c.Dir, c.Stdout, c.Stderr = h.m.Work, &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", line, err)
	}
	if got := c.ProcessState.ExitCode(); got != want {
		h.t.Fatalf("%s: got exit code %d, want %d\n%s%s", line, got, want, stdout.String(), stderr.String())
	}
	if m := prints.FindStringSubmatch(line); m != nil && !strings.Contains(stdout.String()+stderr.String(), m[1]) {
		h.t.Fatalf("%s: got\n%s%s", line, stdout.String(), stderr.String())
	}
}

// Whoever has a bare nats-server and the handbook gets from there to an agent that
// is revoked, by typing what it says and nothing else.
func TestFromABareServerToARevokedAgent(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	h := openHandbook(t, m, "127.0.0.1:4222", m.NATS, "127.0.0.1:4223", m.Control)
	h.follow("## From a bare nats-server to a revoked agent")
}
