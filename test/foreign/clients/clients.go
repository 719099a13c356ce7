//go:build unix

// Package clients runs the clients that are not ours, for the tests that have them as
// agents. Whoever imports it has the flags -nats and -node.
package clients

import (
	"flag"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

var (
	cli     = flag.String("nats", "", "the nats CLI; make foreign builds it")
	modules = flag.String("node", "", "a folder with the node_modules of test/foreign/node; make foreign installs them")
)

// Wanted reports whether the programs were given.
func Wanted() bool { return *cli != "" && *modules != "" }

// context is the context file in an agent's directory.
func context(dir string) string { return filepath.Join(dir, "nats-context.json") }

// NATS starts the nats CLI as the agent of a directory.
func NATS(t testing.TB, dir string, args ...string) *process.Process {
	t.Helper()
	// Nothing of whoever runs the tests has a say in it.
	home := t.TempDir()
	return process.Start(t, home, "env", append([]string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, *cli, "--context", context(dir)}, args...)...)
}

// Node starts the client for Node.js as the agent of a directory. The steps are those
// of agent.mjs.
func Node(t testing.TB, dir, trustDomain string, steps ...string) *process.Process {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("needs Node.js 18 or newer in the path: ", err)
	}
	_, file, _, _ := runtime.Caller(0)
	script := filepath.Join(filepath.Dir(file), "..", "node", "agent.mjs")
	return process.Start(t, t.TempDir(), node, append([]string{script, *modules, context(dir), trustDomain}, steps...)...)
}
