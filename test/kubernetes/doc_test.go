// Package kubernetes_test checks examples/kubernetes without a cluster, from the
// files alone and by what a stock nats-server and the built programs make of them:
//
//   - every manifest is read strictly as what the Kubernetes API takes, and so is
//     what the NATS chart makes of the values: by a model of the chart (chart_test.go),
//     or as it was rendered (-rendered);
//   - pods are held against what they should be (pods_test.go);
//   - the commands of the README are run, with a kubectl that keeps what it is given
//     (readme_test.go);
//   - network policies are held against who has to talk to whom (network_test.go), and
//     pods against the standard "restricted" by Kubernetes' own code (admission_test.go);
//   - volumes are laid out as a kubelet would (mount_test.go), and from them three
//     nats-servers, two control planes and an agent are started (mesh_test.go).
//
// What it cannot see: an API server's further checks, scheduling, DNS, who enforces
// network policies, and the files' owners, since all runs as one user here. Modes are
// as a kubelet sets them.
package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	root    = "../.."
	example = root + "/examples/kubernetes"
)

// bin has the programs that are run: sealmesh, nats-server and the handler.
var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sealmesh-kubernetes")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	bin = filepath.Join(dir, "bin")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-C", root, "-o", bin+"/",
		"./cmd/sealmesh", "./examples/quickstart/handler", "github.com/nats-io/nats-server/v2")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
