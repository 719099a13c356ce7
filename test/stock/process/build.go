//go:build unix

package process

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The programs.
const (
	Sealmesh   = "github.com/sealmesh/sealmesh/cmd/sealmesh"
	NATSServer = "github.com/nats-io/nats-server/v2"
)

// Programs is the folder of built programs.
type Programs struct{ dir string }

// Path returns the file of a program by its short name.
func (p Programs) Path(name string) string { return filepath.Join(p.dir, name) }

// Main is a TestMain: it builds packages once, runs the tests, removes what it
// built and returns the exit code. The mesh's own program is built with the race
// detector where the tests are; nats-server is always the stock one.
func Main(m *testing.M, p *Programs, packages ...string) int {
	dir, err := os.MkdirTemp("", "sealmesh-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system cleans its temporary directory
	for _, pkg := range packages {
		if err := build(dir, pkg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	p.dir = dir
	// These tests wait for programs most of their time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// environment is that of the programs. One with the race detector in it would
// rest for a second before it ends.
func environment() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

func build(dir, pkg string) error {
	name := "sealmesh"
	args := []string{"build"}
	switch {
	case pkg == NATSServer:
		name = "nats-server"
	case raceEnabled:
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "-o", filepath.Join(dir, name), pkg)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
