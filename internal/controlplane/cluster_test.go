package controlplane_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// On a cluster a cut reaches every server, says what it did at each, and is not
// confirmed while one of them is silent.
func TestCutOnACluster(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Nodes: 3})
	second, err := m.AddPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	victim, other := agentid.Require("victim"), agentid.Require("other")
	spread := func(id agentid.ID) (conns []*nats.Conn) {
		t.Helper()
		dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
		for node := range m.Servers {
			if err := m.Place(dir, node); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				nc, err := raw(t, dir)
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, nc)
			}
		}
		return conns
	}
	conns, others := spread(victim), spread(other)
	eventually(t, ctx, "the sessions in the index of the second replica", func() bool { return second.KnownSessions(other) == len(others) })

	r, err := m.Cut(ctx, wire.OpSuspend, "victim", "")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range r.Servers {
		names = append(names, s.Name)
		if !s.Asked || s.Closed != 2 || s.Left != 0 {
			t.Errorf("got %+v, want two connections closed and none left", s)
		}
	}
	slices.Sort(names)
	if !r.Confirmed || r.Cut != len(conns) || !slices.Equal(names, []string{"n1", "n2", "n3"}) {
		t.Errorf("got %+v, want a confirmed cut of %d", r, len(conns))
	}
	for _, nc := range conns {
		eventually(t, ctx, "the cut", nc.IsClosed)
	}
	for _, nc := range others {
		if nc.IsClosed() {
			t.Error("another agent was cut as well")
		}
	}
	t.Logf("%.1f ms", r.MS)

	down := m.Servers[2].ID()
	m.StopNode(2)
	// It may have been the one that led the registry, or by which somebody came.
	eventually(t, ctx, "a cut with two servers", func() bool {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, err = m.Cut(try, wire.OpSuspend, "other", "")
		return err == nil && len(r.Servers) > 2
	})
	if r.Confirmed || !slices.Equal(r.Unreachable, []string{down}) {
		t.Errorf("got %+v, want a cut that %s has not confirmed", r, down)
	}
	for _, s := range r.Servers {
		if want := s.Server != down; s.Asked != want || s.Left != 0 {
			t.Errorf("got %+v", s)
		}
	}
	for _, nc := range others {
		eventually(t, ctx, "the cut", nc.IsClosed)
	}
	// The replica that did it says so; the other one may have found the same.
	eventually(t, ctx, "the pending cut", func() bool {
		return slices.ContainsFunc(status(t, ctx, m).PendingCuts, func(w wire.PendingCut) bool {
			return w.Agent == other && slices.Equal(w.Unreachable, []string{down})
		})
	})
}
