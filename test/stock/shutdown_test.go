//go:build unix

package stock_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// free checks that nobody listens at an address any more.
func free(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Errorf("%s is still taken: %v", addr, err)
		return
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// occupy listens at an address until the test ends.
func occupy(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// gone reports whether there is no process with this number.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// "up" ends in order whatever it is doing, and what is connected stays.
func TestUpEndsInOrder(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	up := m.Up()
	up.Await(process.IsUp)
	m.Must("agent", "add", "--enroll", "reader", "--handle", "read:logs")
	m.Must("agent", "add", "--enroll", "asker", "--call", "read:logs")
	handler := m.Run("handle", "read:logs", "--as", "reader", "--", "cat")
	handler.AwaitLog(`"message":"handling"`)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		if got := m.Eventually(back, "call", "read:logs", "hello", "--as", "asker", "--timeout", "5s"); got != "hello" {
			t.Errorf("call: got %q, want %q", got, "hello")
		}
		up.Signal(signal)
		if code := up.Wait(ending); code != 0 {
			t.Errorf("%s: got exit code %d, want 0", signal, code)
		}
		if up.Survivors() {
			t.Errorf("%s: something of it is left", signal)
		}
		free(t, m.NATS)
		free(t, m.Control)
		up = m.Up()
		up.Await(process.IsUp)
	}
	select {
	case <-handler.Done():
		t.Error("the handler did not outlive the mesh")
	default:
	}
	if code := handler.Terminate(ending); code != 0 {
		t.Errorf("handler: got exit code %d, want 0", code)
	}
	if code := up.Terminate(ending); code != 0 {
		t.Errorf("up: got exit code %d, want 0", code)
	}
}

// An end that comes while everything still starts is one in order, too.
func TestUpEndsWhileItStarts(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Init()
	for delay := time.Duration(0); delay < 400*time.Millisecond; delay += 40 * time.Millisecond {
		up := m.Up()
		select {
		case <-up.Done():
			t.Fatal("it ended by itself")
		case <-time.After(delay):
		}
		up.Signal(syscall.SIGTERM)
		code := up.Wait(ending)
		// Before the program listens to signals they end it; interrupted in its
		// start it did not do what it was asked to do.
		if up.Survivors() || code > 1 {
			t.Errorf("ended after %s: got exit code %d, want 0, 1 or the signal", delay, code)
		}
		free(t, m.NATS)
		free(t, m.Control)
	}
	m.Up().Await(process.IsUp)
	m.Must("status")
}

// A handler finishes what it does and leaves no command behind.
func TestHandlerFinishes(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	up := m.Up()
	up.Await(process.IsUp)
	m.Must("agent", "add", "--enroll", "reader", "--handle", "read:logs")
	m.Must("agent", "add", "--enroll", "asker", "--call", "read:logs")
	fifo := filepath.Join(m.Work, "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(m.Work, "pid")
	handler := m.Run("handle", "read:logs", "--as", "reader", "--", "sh", "-c", "echo $$ >pid.new; mv pid.new pid; cat go-on")
	handler.AwaitLog(`"message":"handling"`)
	call := m.Run("call", "read:logs", "--as", "asker")
	for end := time.Now().Add(process.Soon); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(pid); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the command did not start")
		}
	}
	handler.Signal(syscall.SIGTERM)
	select {
	case <-handler.Done():
		t.Fatal("the handler left a call unanswered")
	case <-time.After(200 * time.Millisecond):
	}
	if err := os.WriteFile(fifo, []byte("done"), 0); err != nil {
		t.Fatal(err)
	}
	if code := handler.Wait(ending); code != 0 {
		t.Errorf("handler: got exit code %d, want 0", code)
	}
	if code := call.Wait(ending); code != 0 || call.Stdout.String() != "done" {
		t.Errorf("call: got exit code %d and %q, want 0 and %q", code, call.Stdout, "done")
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if !gone(n) {
		t.Errorf("the command, process %d, is still there", n)
	}
}

// A port that is taken is said in one error that names it, and nothing is left
// running.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		taken func(m *process.Mesh) string
		start func(m *process.Mesh) *process.Process
		json  bool
	}{
		{"up, nats-server's", func(m *process.Mesh) string { return m.NATS }, func(m *process.Mesh) *process.Process { return m.Up() }, false},
		{"up, the control plane's", func(m *process.Mesh) string { return m.Control }, func(m *process.Mesh) *process.Process { return m.Up() }, false},
		{"up --json", func(m *process.Mesh) string { return m.NATS }, func(m *process.Mesh) *process.Process { return m.Up("--json") }, true},
		{"server", func(m *process.Mesh) string { return m.Control }, func(m *process.Mesh) *process.Process {
			m.Server(m.Conf())
			return m.Plane()
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := process.NewMesh(t, programs)
			m.Init()
			addr := c.taken(m)
			occupy(t, addr)
			p := c.start(m)
			if code := p.Wait(ending); code != 1 {
				t.Errorf("got exit code %d, want 1", code)
			}
			if p.Survivors() {
				t.Error("something of it is left")
			}
			said := errorLines(p.Stderr.String())
			if c.json {
				var doc struct {
					Error struct{ Message string }
				}
				if err := json.Unmarshal([]byte(p.Stdout.String()), &doc); err != nil {
					t.Fatalf("%v\n%s", err, p.Stdout)
				}
				said = append(said, doc.Error.Message)
			} else if out := p.Stdout.String(); out != "" {
				t.Errorf("it said that all is well: %q", out)
			}
			if len(said) != 1 || !strings.Contains(said[0], addr) || !strings.Contains(said[0], "in use") {
				t.Errorf("got errors %q, want one that says that %s is in use", said, addr)
			}
			for _, other := range []string{m.NATS, m.Control} {
				if other != addr && c.name != "server" {
					free(t, other)
				}
			}
		})
	}
}

// errorLines are the lines for people on standard error.
func errorLines(s string) (out []string) {
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "sealmesh: ") {
			out = append(out, line)
		}
	}
	return out
}

// A second "up" on the same mesh fails on the port and harms nobody.
func TestSecondUp(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	first := m.Up()
	first.Await(process.IsUp)
	m.Must("agent", "add", "--enroll", "asker", "--call", "read:logs")
	d := &deployment{Mesh: m, t: t}
	before := d.records()
	for range 3 {
		if code := m.Up().Wait(ending); code != 1 {
			t.Errorf("second up: got exit code %d, want 1", code)
		}
		m.Must("agent", "suspend", "asker")
		m.Must("agent", "resume", "asker")
	}
	var was, is struct{ Epoch uint64 }
	m.Document(&is, "agent", "show", "asker")
	if is.Epoch != 4 {
		t.Errorf("epoch of asker: got %d, want 4\nat first:\n%s", is.Epoch, before)
	}
	first.Kill()
	m.Up().Await(process.IsUp)
	was = is
	m.Document(&is, "agent", "show", "asker")
	if is != was {
		t.Errorf("epoch of asker after a crash: got %d, want %d", is.Epoch, was.Epoch)
	}
}
