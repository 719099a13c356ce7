package devmesh_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Three servers keep three copies of everything, two control planes serve all of
// them, agents on different servers call each other, and a cut that is decided on
// one server ends connections on another and is confirmed by all.
func TestCluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Nodes: 3, Log: log, ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	second, err := m.AddPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if second.URL() == m.Plane.URL() {
		t.Errorf("both control planes are at %s", second.URL())
	}
	scope := capability.RequireScope("read:logs")
	handler := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("keeper"), Rights: registry.Rights{Handle: []capability.Scope{scope}}}, 2)
	if err := handler.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return []byte("logs"), nil }); err != nil {
		t.Fatal(err)
	}
	caller := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Call: []capability.Scope{scope}}}, 1)
	if _, err := caller.Call(ctx, "read:logs", nil); err != nil {
		t.Fatalf("a call from one server to another: %v", err)
	}

	var view wire.MeshStatus
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &view); err != nil {
		t.Fatal(err)
	}
	if len(view.Servers) != 3 {
		t.Errorf("got servers %v, want all three", view.Servers)
	}

	r, err := m.Cut(ctx, wire.OpSuspend, "reader", "test")
	if err != nil {
		t.Fatal(err)
	}
	// Which of the two control planes closes the connection is a race.
	if !r.Confirmed || len(r.Unreachable) > 0 {
		t.Errorf("got %+v, want all servers to say that nothing is left", r)
	}
	call, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	var d *meshclient.Denied
	if _, err := caller.Call(call, "read:logs", nil); !errors.As(err, &d) || d.Reason != denial.Suspended {
		t.Errorf("the suspended agent's call: got %v, want %s", err, denial.Suspended)
	}
}

// A server that is stopped takes nothing along: its agents go to another, the
// registry can be changed meanwhile, and it comes back with what it missed.
func TestNodeAwayAndBack(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Nodes: 3, Log: zerolog.Nop(), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	scope := capability.RequireScope("read:logs")
	handler := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("keeper"), Rights: registry.Rights{Handle: []capability.Scope{scope}}}, 0)
	if err := handler.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return []byte("logs"), nil }); err != nil {
		t.Fatal(err)
	}
	caller := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Call: []capability.Scope{scope}}}, 1)
	m.StopNode(0)
	eventually(t, ctx, "a call while a server is away", func(ctx context.Context) error {
		_, err := caller.Call(ctx, "read:logs", nil)
		return err
	})
	eventually(t, ctx, "a change while a server is away", func(ctx context.Context) error {
		return m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("late")}}, nil)
	})
	if err := m.StartNode(ctx, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "a change when the server is back", func(ctx context.Context) error {
		return m.Operate(ctx, wire.AdminRequest{Op: wire.OpShow, Target: "late"}, nil)
	})
}

// eventually repeats what may fail while servers elect each other.
func eventually(t *testing.T, ctx context.Context, what string, f func(context.Context) error) {
	t.Helper()
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(try)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// add registers an agent and connects it to one server.
func add(t *testing.T, ctx context.Context, m *devmesh.Mesh, n registry.NewAgent, node int) *meshclient.Mesh {
	t.Helper()
	dir, err := m.Add(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Place(dir, node); err != nil {
		t.Fatal(err)
	}
	c, err := m.Connect(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
