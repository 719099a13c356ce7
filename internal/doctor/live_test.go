package doctor_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/doctor"
	"github.com/sealmesh/sealmesh/internal/natsserver"
)

func start(t *testing.T, o devmesh.Options) (context.Context, *devmesh.Mesh) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	o.Log, o.ClientLog = zerolog.Nop(), zerolog.Nop()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, m
}

func examine(ctx context.Context, m *devmesh.Mesh) doctor.Report {
	return doctor.Examine(ctx, doctor.Options{Dir: m.Dir.Dir, Mesh: m.Dir})
}

// wants looks for a finding.
func wants(t *testing.T, r doctor.Report, l doctor.Level, what string) {
	t.Helper()
	for _, f := range findings(r, l) {
		if strings.Contains(f.What, what) {
			return
		}
	}
	t.Errorf("got %+v, want %s about %q", r, l, what)
}

// A mesh that runs is well; without its control plane, and then without its server, it
// is not, and that is said and not waited for.
func TestRunning(t *testing.T) {
	t.Parallel()
	ctx, m := start(t, devmesh.Options{})
	offline(t, m.Dir.Dir)
	r := examine(ctx, m)
	if !r.Healthy() || r.Warnings() != 0 {
		t.Errorf("got %+v, want nothing to complain of", r)
	}
	wants(t, r, doctor.OK, "refuses who shows no certificate")
	wants(t, r, doctor.OK, "refuses an agent's certificate without a key")
	wants(t, r, doctor.OK, "no grant of")

	// Everybody's clock differs from ours by a minute.
	r = doctor.Examine(ctx, doctor.Options{Dir: m.Dir.Dir, Mesh: m.Dir, Now: func() time.Time { return time.Now().Add(-time.Minute) }})
	wants(t, r, doctor.Wrong, "the clock of nats-server nats-1 is 1m0s ahead of this host's, and what is signed is refused")
	wants(t, r, doctor.Wrong, "the clock of control plane")

	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	r = examine(ctx, m)
	wants(t, r, doctor.Wrong, "no control plane answers at")
	wants(t, r, doctor.Wrong, "no agent can come in: no callout is answered")
	wants(t, r, doctor.OK, "refuses who shows no certificate")
	wants(t, r, doctor.OK, "streams, each in as many copies")

	m.Server.Close()
	r = examine(ctx, m)
	wants(t, r, doctor.Wrong, "cannot be reached")
	wants(t, r, doctor.Wrong, "no nats-server lets the control plane's user in SYS in")
}

// Routes refuse an agent's certificate, and a server that is away is missed. One that
// takes the agent CA for routes is found, by its configuration and by trying.
func TestCluster(t *testing.T) {
	t.Parallel()
	ctx, m := start(t, devmesh.Options{Nodes: 3})
	if _, err := m.AddPlane(ctx); err != nil {
		t.Fatal(err)
	}
	offline(t, m.Dir.Dir)
	var r doctor.Report
	for r = examine(ctx, m); !r.Healthy() && ctx.Err() == nil; r = examine(ctx, m) { // the servers have just met
		time.Sleep(time.Second)
	}
	if !r.Healthy() {
		t.Fatalf("got %+v, want nothing wrong", r)
	}
	wants(t, r, doctor.OK, "the route listener at "+m.Dir.Config.NATS.Servers[2].Route+" refuses an agent's certificate")
	wants(t, r, doctor.OK, "3 servers answered")
	wants(t, r, doctor.OK, "2 control planes answered")

	m.StopNode(2)
	r = examine(ctx, m)
	wants(t, r, doctor.Wrong, "nats-server n3 does not answer the others")
	wants(t, r, doctor.Wrong, "cannot be reached")

	// The same server, which now takes for a server whom it takes for a client.
	dir := filepath.Join(m.Dir.Dir, "nats", "n3")
	edit(t, filepath.Join(dir, "nats-server.conf"), `infra-ca\.crt`, `ca.crt`)
	srv, err := natsserver.Start(ctx, natsserver.Config{File: filepath.Join(dir, "nats-server.conf"), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	r = examine(ctx, m)
	wants(t, r, doctor.Wrong, "nats/n3/nats-server.conf: the route listener believes the agent CA")
	wants(t, r, doctor.Wrong, "the route listener at "+m.Dir.Config.NATS.Servers[2].Route+" takes an agent's certificate")

	// Without a majority nothing can be written.
	srv.Close()
	m.StopNode(1)
	r = examine(ctx, m)
	if r.Healthy() {
		t.Error("got nothing wrong with one server of three")
	}
}
