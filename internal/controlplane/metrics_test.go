package controlplane_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func get(t *testing.T, addr, path string) (int, string) {
	t.Helper()
	client := http.Client{Timeout: 15 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// has reports whether the metrics have a line that begins so, with another value than 0.
func has(text, line string) bool {
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), line); ok && strings.TrimSpace(rest) != "0" {
			return true
		}
	}
	return false
}

func metered(t *testing.T) *devmesh.Mesh {
	t.Helper()
	m, err := devmesh.Start(t.Context(), filepath.Join(t.TempDir(), "mesh"), devmesh.Options{
		Log: zerolog.Nop(), ClientLog: zerolog.Nop(), Configure: func(o *meshdir.InitOptions) { o.MetricsListen = "127.0.0.1:0" },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() }) //nolint:errcheck // the test is over
	return m
}

// What happens is counted, as a linter of Prometheus wants it, and names nobody.
func TestMetrics(t *testing.T) {
	m := metered(t)
	ctx := t.Context()
	logs := []capability.Scope{capability.RequireScope("read:logs")}
	dir, err := m.Add(ctx, registry.NewAgent{Agent: agentid.Require("canary-agent"), Rights: registry.Rights{Call: logs}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Connect(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cut(ctx, wire.OpSuspend, "canary-agent", "a test"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := m.Connect(short, dir); err == nil {
		t.Fatal("a suspended agent was let in")
	}

	code, text := get(t, m.Plane.MetricsAddr(), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("got %d\n%s", code, text)
	}
	for _, line := range []string{
		`sealmesh_decisions_total{kind="connect",reason="",verdict="accepted"}`,
		`sealmesh_decisions_total{kind="connect",reason="suspended",verdict="refused"}`,
		`sealmesh_decision_duration_seconds_count{kind="connect"}`,
		`sealmesh_cuts_total{confirmed="true"}`, `sealmesh_cut_duration_seconds_count`,
		`sealmesh_http_requests_total{code="200",path="/v1/enroll"}`,
		`sealmesh_http_requests_total{code="200",path="/v1/self"}`,
		`sealmesh_connected{account="CTRL"}`, `sealmesh_connected{account="SYS"}`, `sealmesh_sessions`, `sealmesh_servers`,
		`sealmesh_replay_nonces_max`, `sealmesh_monitor_state{state="grace"}`,
		`sealmesh_agents{status="suspended"}`, `sealmesh_instances{state=`, `sealmesh_stream_copies{state="current",stream="KV_MESH_AGENTS"}`,
		`sealmesh_expiry_timestamp_seconds{what=`, `sealmesh_build_info`, `go_goroutines`, `process_open_fds`,
	} {
		if !has(text, line) {
			t.Errorf("nothing is counted in %s", line)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "sealmesh_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, secret := range []string{"canary-agent", "127.0.0.1"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the metrics", secret)
		}
	}
	if found := regexp.MustCompile(`\b[USAXN][A-Z2-7]{55}\b`).FindString(text); found != "" {
		t.Errorf("a key is in the metrics: %s", found)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/self": 404, "/": 404} {
		if code, text := get(t, m.Plane.MetricsAddr(), path); code != want {
			t.Errorf("%s: got %d %s, want %d", path, code, text, want)
		}
	}
	documented(t, text)
}

// documented holds the names against the handbook, both ways.
func documented(t *testing.T, text string) {
	t.Helper()
	book, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`sealmesh_[a-z_]+[a-z]`)
	told := map[string]bool{}
	for _, n := range name.FindAllString(string(book), -1) {
		told[n] = true
	}
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (sealmesh_[a-z_]+)`).FindAllStringSubmatch(text, -1) {
		have[m[1]] = true
		if !told[m[1]] {
			t.Errorf("%s is not in docs/operations.md", m[1])
		}
	}
	for n := range told {
		if !have[n] && !strings.Contains(string(book), n+".") {
			t.Errorf("docs/operations.md names %s, which there is not", n)
		}
	}
}

// Where nothing can be decided it is not ready, and says why; it is alive all the same.
func TestReadiness(t *testing.T) {
	m := metered(t)
	m.Server.Close()
	addr := m.Plane.MetricsAddr()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if code, text := get(t, addr, "/readyz"); code == http.StatusServiceUnavailable && strings.HasPrefix(text, "not ready: nats-server cannot be reached") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("without nats-server: got %d %s", code, text)
		}
	}
	if code, _ := get(t, addr, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: got %d", code)
	}
	if code, text := get(t, addr, "/metrics"); code != http.StatusOK || has(text, `sealmesh_connected{account="CTRL"}`) {
		t.Errorf("metrics: got %d", code)
	}
	if err := m.UpServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if code, text := get(t, addr, "/readyz"); code == http.StatusOK {
			break
		} else if time.Now().After(end) {
			t.Fatalf("with nats-server again: got %d %s", code, text)
		}
	}
}

// That the address is taken keeps nobody from being admitted.
func TestMetricsAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test is over
	m, err := devmesh.Start(t.Context(), filepath.Join(t.TempDir(), "mesh"), devmesh.Options{
		Log: zerolog.Nop(), ClientLog: zerolog.Nop(), Configure: func(o *meshdir.InitOptions) { o.MetricsListen = l.Addr().String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // the test is over
	if at := m.Plane.MetricsAddr(); at != "" {
		t.Errorf("metrics at %s, which is somebody else's", at)
	}
}
