//go:build unix

package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Mesh is a mesh directory, the programs that serve it and the commands that
// drive it. It is the directory "mesh" in a working directory of its own.
type Mesh struct {
	t        testing.TB
	programs Programs
	Work     string // where commands run
	NATS     string // host:port of nats-server
	Control  string // host:port of the control plane
}

// NewMesh picks addresses for a mesh. Nothing is made yet.
func NewMesh(t testing.TB, p Programs) *Mesh {
	t.Helper()
	return &Mesh{t: t, programs: p, Work: t.TempDir(), NATS: address(t), Control: address(t)}
}

// address finds a free address. Programs are stopped and started at it again,
// so it lies below the ports that the system gives to outgoing connections and
// to listeners that do not ask for one: those would take it meanwhile.
func address(t testing.TB) string {
	t.Helper()
	for range 200 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(11000+rand.IntN(20000)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// Dir is the mesh directory.
func (m *Mesh) Dir() string { return filepath.Join(m.Work, "mesh") }

// Agent is the directory of an agent's first instance.
func (m *Mesh) Agent(id string) string { return filepath.Join(m.Dir(), "agents", id) }

// Init makes the mesh.
func (m *Mesh) Init() {
	m.t.Helper()
	m.Must("init", "--listen", m.NATS, "--control-listen", m.Control)
}

// Server starts the stock nats-server and returns when it listens. Its working
// directory is not that of the mesh.
func (m *Mesh) Server(conf string) *Process {
	m.t.Helper()
	p := Start(m.t, m.t.TempDir(), m.programs.Path("nats-server"), "-c", conf)
	p.AwaitLog("Server is ready")
	return p
}

// Conf is the configuration that Init wrote for nats-server.
func (m *Mesh) Conf() string { return filepath.Join(m.Dir(), "nats", "nats-server.conf") }

// Plane starts the control plane; it may have to wait for its nats-server.
func (m *Mesh) Plane() *Process {
	m.t.Helper()
	return Start(m.t, m.Work, m.programs.Path("sealmesh"), "server")
}

// PlaneUp is what the control plane prints when it is up.
const PlaneUp = "the control plane of mesh.local is up"

// Up starts nats-server and control plane in one process. Where there is no
// mesh yet it is made.
func (m *Mesh) Up(args ...string) *Process {
	m.t.Helper()
	all := []string{"up"}
	if fresh, err := filepath.Glob(filepath.Join(m.Dir(), "*")); err != nil || len(fresh) == 0 {
		all = append(all, "--listen", m.NATS, "--control-listen", m.Control)
	}
	return Start(m.t, m.Work, m.programs.Path("sealmesh"), append(all, args...)...)
}

// IsUp is what "up" prints when the mesh is up.
const IsUp = "the mesh mesh.local is up"

// Run starts any other verb.
func (m *Mesh) Run(args ...string) *Process {
	m.t.Helper()
	return Start(m.t, m.Work, m.programs.Path("sealmesh"), args...)
}

// Result is what a command did.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Do runs a command to its end.
func (m *Mesh) Do(args ...string) Result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Soon)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, m.programs.Path("sealmesh"), args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = m.Work, environment(), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("sealmesh %s: %v", strings.Join(args, " "), err)
	}
	return Result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// Must runs a command that has to succeed and returns its standard output.
func (m *Mesh) Must(args ...string) string {
	m.t.Helper()
	r := m.Do(args...)
	if r.Code != 0 {
		m.t.Fatalf("sealmesh %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Document runs a command with --json that has to succeed and decodes what it
// prints.
func (m *Mesh) Document(into any, args ...string) {
	m.t.Helper()
	out := m.Must(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		m.t.Fatalf("sealmesh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Eventually runs a command until it succeeds and returns its standard output.
func (m *Mesh) Eventually(within time.Duration, args ...string) string {
	m.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		r := m.Do(args...)
		if r.Code == 0 {
			return r.Stdout
		}
		if time.Now().After(end) {
			m.t.Fatalf("sealmesh %s still fails after %s: exit code %d\n%s%s", strings.Join(args, " "), within, r.Code, r.Stdout, r.Stderr)
		}
	}
}
