package docs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// build builds programs of the module and returns their folder.
func build(t *testing.T, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", dir + "/"}, packages...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

var command = regexp.MustCompile(`(?m)(?:^|\| |ssh \S+ )(?:go run \./cmd/|\./|bin/)?sealmesh((?: [a-z][a-z-]*)+)`)

// Every command that a document tells the reader to type is one.
func TestCommandsExist(t *testing.T) {
	bin := filepath.Join(build(t, "./cmd/sealmesh"), "sealmesh")
	known := map[string]bool{}
	n := 0
	for path, text := range documents(t) {
		for _, b := range blocks(text, "sh") {
			for _, m := range command.FindAllStringSubmatch(b, -1) {
				n++
				words := strings.Fields(m[1])
				// The first word is a verb, the second one only below a noun.
				words = words[:min(len(words), 2)]
				if words[0] != "agent" && words[0] != "token" {
					words = words[:1]
				}
				verb := strings.Join(words, " ")
				ok, seen := known[verb]
				if !seen {
					out, err := exec.CommandContext(t.Context(), bin, append(words, "--help")...).Output()
					ok = err == nil && bytes.Contains(out, []byte("sealmesh "+verb))
					known[verb] = ok
				}
				if !ok {
					t.Errorf("%s: there is no command sealmesh %s", path, verb)
				}
			}
		}
	}
	if n == 0 {
		t.Error("found no command in any document")
	}
}

func TestQuickstart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bin := build(t, "./examples/quickstart/...")
	dir := filepath.Join(t.TempDir(), "mesh")
	mesh, err := devmesh.Start(ctx, dir, devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer mesh.Close() //nolint:errcheck // the test is over
	logs := []capability.Scope{capability.RequireScope("read:logs")}
	for id, rights := range map[string]registry.Rights{"reader": {Handle: logs}, "asker": {Call: logs}} {
		if _, err := mesh.Add(ctx, registry.NewAgent{Agent: agentid.Require(id), Rights: rights}); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "SEALMESH_MESH="+dir)

	var log bytes.Buffer
	handler := exec.CommandContext(ctx, filepath.Join(bin, "handler"))
	handler.Env, handler.Stderr = env, &log
	if err := handler.Start(); err != nil {
		t.Fatal(err)
	}

	call := func() (string, string, error) {
		var stdout, stderr bytes.Buffer
		c := exec.CommandContext(ctx, filepath.Join(bin, "caller"))
		c.Env, c.Stdout, c.Stderr = env, &stdout, &stderr
		err := c.Run()
		return stdout.String(), stderr.String(), err
	}
	promised := documents(t)["examples/quickstart/README.md"]
	// The handler may not be there yet; nobody else knows when it is.
	out, complaint, err := call()
	for err != nil && strings.Contains(complaint, "nobody handles") && ctx.Err() == nil {
		out, complaint, err = call()
	}
	if err != nil {
		t.Fatalf("caller: %v\n%s", err, complaint)
	}
	if want := fmt.Sprintf("It prints `%s`.", strings.TrimSpace(out)); !strings.Contains(promised, want) {
		t.Errorf("got %q, and the README says something else", out)
	}

	if _, err := mesh.Cut(ctx, wire.OpSuspend, "asker", t.Name()); err != nil {
		t.Fatal(err)
	}
	if _, complaint, err = call(); err == nil || !strings.Contains(complaint, "denied: suspended") {
		t.Errorf("suspended caller: got %v and %q, want denied: suspended", err, complaint)
	}

	if err := handler.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := handler.Wait(); err != nil {
		t.Errorf("handler after an interrupt: got %v, want a clean end\n%s", err, log.String())
	}
}
