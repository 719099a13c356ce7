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
	with []string // what stands in the handbook and what a test has in its place
}

func openHandbook(t *testing.T, m *process.Mesh, replaced ...string) *handbook {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	return &handbook{t: t, m: m, text: string(text), with: replaced}
}

var headings = regexp.MustCompile(`(?m)^#{2,3} `)

var shell = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// commands are those of a section, without the sections in it, each on a line.
func (h *handbook) commands(heading string) []string {
	h.t.Helper()
	_, rest, ok := strings.Cut(h.text, "\n"+heading+"\n")
	if !ok {
		h.t.Fatalf("the handbook has no section %q", heading)
	}
	if end := headings.FindStringIndex(rest); end != nil {
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

// sections are the headings of those that have commands.
func (h *handbook) sections() (out []string) {
	starts := append(headings.FindAllStringIndex(h.text, -1), []int{len(h.text), 0})
	for i, s := range starts[:len(starts)-1] {
		section := h.text[s[0]:starts[i+1][0]]
		if heading, _, _ := strings.Cut(section, "\n"); shell.MatchString(section) {
			out = append(out, heading)
		}
	}
	return out
}

var (
	comment  = regexp.MustCompile(`\s+# .*$`)
	exitCode = regexp.MustCompile(`# .*exit code (\d)`)
	prints   = regexp.MustCompile(`# prints (.*)$`)
)

// follow runs the commands of a section as a reader types them. What a comment says
// of an exit code or of what is printed has to be so.
func (h *handbook) follow(heading string) {
	h.t.Helper()
	for _, line := range h.commands(heading) {
		h.typed(line)
	}
}

// typed runs one command and returns what it printed. One that ends with & goes on
// beside those that follow.
func (h *handbook) typed(line string) string {
	h.t.Helper()
	command := strings.NewReplacer(h.with...).Replace(comment.ReplaceAllString(line, ""))
	script := "set -euo pipefail; PATH=" + filepath.Dir(programs.Path("sealmesh")) + ":$PATH; "
	if aside, ok := strings.CutSuffix(command, "&"); ok {
		process.Start(h.t, h.m.Work, "bash", "-c", script+"exec "+aside)
		return ""
	}
	want := 0
	if m := exitCode.FindStringSubmatch(line); m != nil {
		want, _ = strconv.Atoi(m[1])
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*process.Soon)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(ctx, "bash", "-c", script+command)
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
	return stdout.String()
}

// Whoever has a bare nats-server and the handbook gets from there to an agent that
// is revoked, by typing what it says and nothing else.
func TestFromABareServerToARevokedAgent(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	h := openHandbook(t, m, "127.0.0.1:4222", m.NATS, "127.0.0.1:4223", m.Control)
	h.follow("## From a bare nats-server to a revoked agent")
}

// finish waits for what has to be done before a change of keys can be finished.
func finish(_ *handbook, d *deployment, line string) bool {
	args, ok := strings.CutSuffix(comment.ReplaceAllString(line, ""), " --finish")
	if ok {
		d.Eventually(2*process.Soon, append(strings.Fields(args)[1:], "--finish")...)
	}
	return ok
}

// Every section with commands is typed on a mesh of its own, after what its reader has
// done before.
func TestHandbook(t *testing.T) {
	t.Parallel()
	const (
		reader = "sealmesh agent add reader --handle read:logs --enroll"
		lead   = "sealmesh agent add lead --call read:logs --may-delegate read:logs --label team=logs --enroll"
		temp   = "sealmesh agent add temp --label team=logs --label site=b --enroll"
		serve  = "sealmesh handle --as reader read:logs -- cat &"
		lend   = "sealmesh token delegate --as lead --to temp --scope read:logs --for 10m --send"
	)
	cases := []struct {
		heading string
		before  []string
		do      func(h *handbook, d *deployment, line string) bool // in place of a line
	}{
		{heading: "## Agents"},
		{heading: "### Lent rights", before: []string{lead, temp}, do: func(h *handbook, _ *deployment, line string) bool {
			if strings.Contains(line, "--send") {
				h.with = append(h.with, "DIGEST", strings.TrimSpace(h.typed(line)))
				return true
			}
			return false
		}},
		{heading: "### Plain rights"},
		{heading: "### Durable topics", before: []string{"sealmesh agent add fan --subscribe news --enroll"}, do: func(h *handbook, _ *deployment, line string) bool {
			if strings.HasPrefix(line, "sealmesh subscribe") {
				h.typed(comment.ReplaceAllString(line, "") + " &")
				return true
			}
			return false
		}},
		{heading: "## The mesh as code", before: []string{reader}},
		{heading: "## When an agent is compromised", before: []string{lead, temp, lend, "sealmesh agent add monitor --enroll"}},
		{heading: "## What happened", before: []string{reader}},
		{heading: "## Proving it", before: []string{reader}},
		{heading: "## Watching", before: []string{reader}},
		{heading: "### Step by step", before: []string{reader}},
		{heading: "## Uninstall", before: []string{reader, "sealmesh topic add news"}, do: func(h *handbook, d *deployment, line string) bool {
			if strings.HasPrefix(line, "rm -r") {
				d.stopPlane()
				d.stopServer()
			}
			return false
		}},
		{heading: "### Certificates of agents", before: []string{reader, serve}},
		{heading: "### Suspend: something behaves oddly", before: []string{reader, serve}},
		{heading: "### Revoke one instance: a pod was compromised", before: []string{reader}, do: func(h *handbook, d *deployment, _ string) bool {
			var shown struct {
				Instances []struct{ Instance string }
			}
			d.Document(&shown, "agent", "show", "reader")
			h.with = []string{"7f3c2k9q", shown.Instances[0].Instance}
			return false
		}},
		{heading: "### Revoke and replace: all keys of an agent leaked", before: []string{reader, serve}},
		{heading: "### Emergency: an agent must go and no control plane is there", before: []string{reader}, do: func(h *handbook, d *deployment, line string) bool {
			switch {
			case strings.HasSuffix(line, "--dry-run"):
				d.stopPlane()
			case line == "sealmesh server":
				d.startPlane()
				d.plane.Await(process.PlaneUp)
				return true
			}
			return false
		}},
		{heading: "### Signing keys: renew them, or replace them", before: []string{reader, serve}, do: finish},
		{heading: "### Replace the issuer or the xkey", before: []string{reader, serve}, do: func(h *handbook, d *deployment, line string) bool {
			switch {
			case strings.HasPrefix(line, "sealmesh keys show"):
				d.stopServer()
				d.startServer()
				d.Eventually(back, "agent", "ls")
			}
			return false
		}},
		{heading: "### The authority root: replaced as planned, or because it leaked", before: []string{
			"sealmesh agent add reader --handle read:logs | sealmesh enroll --join - --to DIR",
		}, do: func(h *handbook, d *deployment, line string) bool {
			if strings.Contains(line, "enroll") { // the control plane reads its files every two seconds
				h.typed("until " + comment.ReplaceAllString(line, "") + "; do sleep 1; done")
				return true
			}
			return finish(h, d, line)
		}},
		{heading: "### Restore a backup: the registry is damaged or gone", before: []string{
			reader, "sealmesh agent add gone --call read:logs --enroll",
		}, do: func(h *handbook, d *deployment, line string) bool {
			switch {
			case strings.HasPrefix(line, "rm -r"):
				d.stopPlane()
				d.stopServer()
				h.typed("mkdir backup && cp -Rp mesh/nats/jetstream backup/")
				d.startServer()
				d.startPlane()
				d.plane.Await(process.PlaneUp)
				for _, since := range []string{
					"sealmesh agent revoke gone", "sealmesh agent suspend reader", "sealmesh agent resume reader",
					"sealmesh agent add late --call read:logs --enroll", "sealmesh topic add news",
				} {
					h.typed(since)
				}
				d.stopPlane()
				d.stopServer()
			case line == "sealmesh up":
				d.Up().Await(process.IsUp)
				return true
			}
			return false
		}},
	}
	run := map[string]bool{"## From a bare nats-server to a revoked agent": true}
	for _, c := range cases {
		run[c.heading] = true
	}
	for heading, where := range map[string]string{
		"## Making a mesh":                       "TestFromABareServerToARevokedAgent, with addresses that a test can have",
		"### On three nats-servers":              "test/cluster",
		"### On a nats-server that already runs": "TestExistingServer",
		"### Enrolment":                          "internal/controlplane and the scripts of cmd/sealmesh, with tokens of their own",
		"### How fast a cut is":                  "make bench-revoke",
		"## Sizing":                              "internal/bench: it takes two minutes",
		"## Foreign clients":                     "test/foreign, which has the nats CLI",
		"### Setting up Vault":                   "test/vault",
		"### Many fall silent at once":           "cmd/sealmesh/testdata/monitor.txtar: there is nothing to decide until many are silent",
	} {
		if run[heading] {
			t.Errorf("%s is run here and by %s", heading, where)
		}
		run[heading] = true
	}
	for _, heading := range openHandbook(t, nil).sections() {
		if !run[heading] {
			t.Errorf("nobody runs the commands of the section %q", heading)
		}
	}
	for _, c := range cases {
		t.Run(strings.TrimLeft(c.heading, "# "), func(t *testing.T) {
			t.Parallel()
			d := deploy(t)
			h := openHandbook(t, d.Mesh)
			for _, line := range c.before {
				h.typed(line)
			}
			for _, line := range h.commands(c.heading) {
				if c.do == nil || !c.do(h, d, line) {
					h.typed(line)
				}
			}
		})
	}
}
