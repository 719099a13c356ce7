package bench_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sealmesh/sealmesh/internal/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Everything that a revoked agent did is measured, on a mesh on which all of it
// came through before: one whose messages nobody takes would be cut in no time.
func TestRevoke(t *testing.T) {
	const runs = 3
	var seen []int
	r, err := bench.Revoke(t.Context(), bench.RevokeOptions{
		Runs: runs, Nodes: []int{1}, Rate: 500,
		Progress: func(nodes, done, of int) { seen = append(seen, nodes, done, of) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := seen[len(seen)-3:], []int{1, runs, runs}; got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("last progress is %v, want %v", got, want)
	}
	rows := map[string]bench.Row{}
	for _, b := range r.Benchmarks {
		name, ok := strings.CutPrefix(b.Name, "revoke/1-node/")
		if !ok || b.Unit != "ms" || b.Runs != runs || b.Value != b.P50 || b.P50 > b.P99 || b.P99 > b.Max {
			t.Errorf("row %+v", b)
		}
		rows[name] = b
	}
	kick := rows["bare-kick"]
	if kick.P50 <= 0 || kick.BaselineName != "" {
		t.Errorf("the baseline is %+v", kick)
	}
	for _, name := range []string{"connection-closed", "last-message", "last-stored-message", "delegate-refused", "command-confirmed"} {
		b, ok := rows[name]
		if !ok {
			t.Errorf("no row %s", name)
			continue
		}
		if b.BaselineName != "bare-kick" || b.Baseline != kick.P50 || b.Ratio != b.P50/kick.P50 {
			t.Errorf("%s compares to %q of %v as %v, want bare-kick of %v as %v", name, b.BaselineName, b.Baseline, b.Ratio, kick.P50, b.P50/kick.P50)
		}
	}
	for _, name := range []string{"connection-closed", "command-confirmed"} {
		if rows[name].P50 <= 0 {
			t.Errorf("%s took no time: %+v", name, rows[name])
		}
	}
}

// Each load is carried, each thing that is stored takes room, and what has the same
// over plain NATS beside it compares to that.
func TestSize(t *testing.T) {
	const agents = 3
	r, err := bench.Size(t.Context(), bench.SizeOptions{Agents: agents, Nodes: []int{1}, For: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bench.Row{}
	for _, b := range r.Benchmarks {
		name, ok := strings.CutPrefix(b.Name, "size/1-node/")
		if !ok || b.Value <= 0 || b.Runs <= 0 || b.P50 > b.P99 || b.P99 > b.Max {
			t.Errorf("row %+v", b)
		}
		rows[name] = b
	}
	for name, base := range map[string]string{
		"connects": "plain-connects", "connect": "plain-connect", "call": "plain-request", "calls": "plain-requests", "events": "plain-events",
		"add-and-enrol": "", "registry-of-an-agent": "", "audit-of-a-call": "", "nonce-of-a-call": "", "stored-event": "", "stored-event-size": "",
	} {
		b, ok := rows[name]
		if !ok || b.BaselineName != base || base != "" && b.Ratio != b.Value/rows[base].Value {
			t.Errorf("%s: got %+v, want a comparison with %q of %v", name, b, base, rows[base].Value)
		}
	}
	if got := rows["connect"].Runs; got != agents {
		t.Errorf("%d connects, want %d", got, agents)
	}
}
