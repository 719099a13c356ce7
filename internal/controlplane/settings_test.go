package controlplane_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func ptr[T any](v T) *T { return &v }

func TestSet(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("legacy"), Stock: true, Rights: registry.Rights{Call: scopes("read:logs")}})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	set := func(s *wire.Settings) (v wire.AgentView, err error) {
		return v, m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "legacy", Settings: s}, &v)
	}
	v, err := set(&wire.Settings{Kind: ptr(registry.Job), Labels: &map[string]string{"team": "a"}, Depth: ptr(2)})
	if err != nil {
		t.Fatal(err)
	}
	if v.Kind != registry.Job || v.Labels["team"] != "a" || v.Depth != 2 || !v.Stock || v.Epoch != 1 || v.Heartbeat != registry.HeartbeatNone {
		t.Errorf("got %+v", v)
	}
	if err := nc.Flush(); err != nil {
		t.Errorf("the connection was closed by what takes nothing away: %v", err)
	}
	// Its connection was to last as long as its certificate.
	if v, err = set(&wire.Settings{Stock: ptr(false)}); err != nil || v.Stock || v.Epoch != 2 {
		t.Errorf("got %+v, %v, want no stock client in epoch 2", v, err)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
	if _, err := set(nil); !errors.Is(err, denial.BadInput) {
		t.Errorf("without settings: got %v, want %s", err, denial.BadInput)
	}
	if _, err := set(&wire.Settings{Kind: ptr(registry.Kind("pet"))}); !errors.Is(err, denial.BadInput) {
		t.Errorf("an unknown kind: got %v, want %s", err, denial.BadInput)
	}
}

// A running client takes up beating when it is watched from now on, before its
// silence is taken for death.
func TestSetHeartbeatOfRunningAgent(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 300 * time.Millisecond})
	id := agentid.Require("worker")
	connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: scopes("read:logs")}}))
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "worker", Settings: &wire.Settings{Heartbeat: ptr(registry.HeartbeatSession)}}, nil); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	eventually(t, ctx, "a beat after three time-outs", func() bool {
		v := show(t, ctx, m, "worker")
		if v.Status != registry.Active || v.Epoch != 1 {
			t.Fatalf("got %s in epoch %d, want it active in epoch 1", v.Status, v.Epoch)
		}
		last := v.Instances[0].LastBeat
		return last != nil && last.After(since.Add(3*time.Second))
	})
}

// Who no longer must always be there may be away.
func TestSetHeartbeatOfAbsentAgent(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 300 * time.Millisecond})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("worker"), Heartbeat: registry.HeartbeatAlways, Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the leave", func() bool { return show(t, ctx, m, "worker").Instances[0].State == registry.Left })
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "worker", Settings: &wire.Settings{Heartbeat: ptr(registry.HeartbeatSession)}}, nil); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(3 * time.Second) // three time-outs
	eventually(t, ctx, "a long absence", func() bool { return time.Now().After(long) })
	if v := show(t, ctx, m, "worker"); v.Status != registry.Active || v.Epoch != 1 {
		t.Errorf("got %s in epoch %d, want it active in epoch 1", v.Status, v.Epoch)
	}
}
