package controlplane_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// slowDoor holds one agent's second connection before it is looked at.
type slowDoor struct {
	authcallout.Registry
	victim           agentid.ID
	admissions       atomic.Int64
	entered, release chan struct{}
	opened           chan error
}

func (d *slowDoor) Admit(ctx context.Context, id agentid.ID, key string, presented []string) (authcallout.Admission, error) {
	if id == d.victim && d.admissions.Add(1) == 2 {
		close(d.entered)
		<-d.release
	}
	return d.Registry.Admit(ctx, id, key, presented)
}

func (d *slowDoor) Open(ctx context.Context, session authcallout.Session) error {
	err := d.Registry.Open(ctx, session)
	if session.Agent == d.victim {
		d.opened <- err
	}
	return err
}

// A client that ends while it replaces its connection has left: the new one, which
// may be admitted when nobody waits for it any more, does not make it one that
// came back and fell silent.
func TestGoodbyeIsTheLast(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	victim := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: victim, Rights: registry.Rights{Call: scopes("read:logs")}})
	d := &slowDoor{victim: victim, entered: make(chan struct{}), release: make(chan struct{}), opened: make(chan error, 10)}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.Plane, err = controlplane.StartWith(ctx, controlplane.Config{Mesh: m.Dir, Log: zerolog.Nop()}, func(r authcallout.Registry) authcallout.Registry {
		d.Registry = r
		return d
	}); err != nil {
		t.Fatal(err)
	}
	c := connect(t, ctx, m, dir)
	// A new right, for which the connection is replaced.
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "victim", Rights: registry.Rights{Call: scopes("read:more")}}, nil); err != nil {
		t.Fatal(err)
	}
	<-d.entered
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	select {
	case err = <-closed: // it did not wait
		close(d.release)
	case <-time.After(time.Second):
		close(d.release)
		err = <-closed
	}
	if err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-d.opened; err != nil {
			t.Fatalf("a connection was refused, which proves nothing: %v", err)
		}
	}
	eventually(t, ctx, "the end of the connections", func() bool {
		n, _, err := m.Plane.Connections(ctx, victim)
		return err == nil && n == 0
	})
	eventually(t, ctx, "the leave", func() bool { return show(t, ctx, m, "victim").Instances[0].State == registry.Left })
}
