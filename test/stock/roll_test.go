//go:build unix

package stock_test

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

// certificate is the one in a file.
func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A stock nats-server is given new certificates by the control plane beside it: the
// files are renewed at half of their life, and the server is made to read them. Who
// is connected comes back. The command that an operator gives does the same.
func TestStockServerGetsNewCertificates(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Init()
	crt := filepath.Join(m.Dir(), "nats", "server.crt")
	m.Edit(filepath.Join(m.Dir(), "sealmesh.yaml"), "server_ttl: 2160h", "server_ttl: 20s")
	made := certificate(t, crt)
	m.Must("cert", "server", "nats-1")
	first := certificate(t, crt)
	if first.Equal(made) || time.Until(first.NotAfter) > time.Minute {
		t.Fatalf("cert server left a certificate until %s", first.NotAfter)
	}
	m.Server(m.Conf())
	m.Plane().Await(process.PlaneUp)
	m.Must("agent", "add", "reader", "--handle", "read:logs", "--enroll")
	m.Must("agent", "add", "asker", "--call", "read:logs", "--enroll")
	m.Run("handle", "--as", "reader", "read:logs", "--", "cat")
	m.Eventually(process.Soon, "call", "--as", "asker", "read:logs", "before")

	var roll wire.Roll
	for end := time.Now().Add(4 * process.Soon); roll.State != wire.RollDone; time.Sleep(100 * time.Millisecond) {
		m.Document(&roll, "nats", "status")
		if roll.State == wire.RollFailed || time.Now().After(end) {
			t.Fatalf("got %+v, want it done", roll)
		}
	}
	if roll.Why != "certificates were renewed" || len(roll.Servers) != 1 || roll.Servers[0].NotAfter == nil {
		t.Fatalf("got %+v, want one server that was reloaded for its certificate", roll)
	}
	if at := *roll.Servers[0].NotAfter; !at.After(first.NotAfter) {
		t.Errorf("the server shows a certificate until %s, and had one until %s before", at, first.NotAfter)
	}
	if certificate(t, crt).Equal(first) {
		t.Error("the file still has the first certificate")
	}
	m.Eventually(process.Soon, "call", "--as", "asker", "read:logs", "after")

	// Once more, as an operator does; the control plane may be at it by itself.
	m.Edit(filepath.Join(m.Dir(), "sealmesh.yaml"), "server_ttl: 20s", "server_ttl: 2160h")
	m.Must("cert", "server", "nats-1")
	m.Eventually(4*process.Soon, "nats", "reload", "--wait")
	m.Document(&roll, "nats", "status")
	if want := certificate(t, crt).NotAfter; roll.Servers[0].NotAfter == nil || !roll.Servers[0].NotAfter.Equal(want) {
		t.Errorf("after a reload by hand the server shows %+v, want a certificate until %s", roll.Servers[0], want)
	}
}

// A stock nats-server takes another issuer only when it starts, and no other change of
// its files before: whoever asks for a reload is told so, by the control plane's own
// roll as well, and what to do.
func TestStockServerNeedsARestart(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Init()
	server := m.Server(m.Conf())
	plane := m.Plane()
	plane.Await(process.PlaneUp)
	m.Must("keys", "rotate", "issuer")
	m.Must("cert", "server", "nats-1") // a new certificate is refused with the rest
	r := m.Do("nats", "reload", "--wait")
	for _, want := range []string{"nats-1: refuses its files until it is restarted", `a change of "AuthCallout"`, "ALARM: restart nats-1"} {
		if r.Code != 1 || !strings.Contains(r.Stdout, want) {
			t.Errorf("got exit code %d and\n%s%swant 1 and %q", r.Code, r.Stdout, r.Stderr, want)
		}
	}
	plane.AwaitLog(`"restart_needed":["nats-1"]`)
	if r := m.Do("nats", "status"); r.Code != 1 || !strings.Contains(r.Stdout, "ALARM: restart nats-1") {
		t.Errorf("status: got exit code %d and\n%s", r.Code, r.Stdout)
	}
	server.Terminate(ending)
	m.Server(m.Conf())
	if out := m.Eventually(process.Soon, "nats", "status"); !strings.Contains(out, "nats-1: it was restarted since") {
		t.Errorf("after the restart: got\n%s", out)
	}
	m.Must("nats", "reload", "--wait")
}
