//go:build unix

package cluster_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/sealmesh/sealmesh/test/foreign/clients"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

var (
	chaos    = flag.Bool("cluster", false, "run the chaos tests, which take minutes")
	programs process.Programs
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !*chaos {
		fmt.Fprintln(os.Stderr, "THE CHAOS TESTS WERE LEFT OUT: they take minutes; make cluster runs them")
		os.Exit(m.Run())
	}
	os.Exit(process.Main(m, &programs, process.Sealmesh, process.NATSServer))
}

// wanted skips a test that was not asked for.
func wanted(t *testing.T) {
	t.Helper()
	if !*chaos {
		t.Skip("left out: make cluster runs it")
	}
	if !clients.Wanted() {
		t.Fatal("needs the nats CLI and a client for Node.js, which make cluster gives it")
	}
}
