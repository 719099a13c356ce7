package controlplane_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Any replica says how all of them fare, what they refused together, who leads the
// streams of the cluster, and which server is away.
func TestStatusOfAll(t *testing.T) {
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
	if _, err := m.AddPlane(ctx); err != nil {
		t.Fatal(err)
	}
	dir, err := m.Add(ctx, registry.NewAgent{Agent: agentid.Require("eve")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cut(ctx, wire.OpSuspend, "eve", "test"); err != nil {
		t.Fatal(err)
	}
	const times = 8
	for range times {
		if _, err := m.Connect(ctx, dir); denial.Of(err) != denial.Suspended {
			t.Fatalf("got %v, want eve to be refused as suspended", err)
		}
	}
	s := status(t, ctx, m)
	for ; (len(s.ControlPlanes) != 2 || len(s.Troubles()) > 0) && ctx.Err() == nil; s = status(t, ctx, m) {
		time.Sleep(100 * time.Millisecond) // the two have just met, and the servers elect
	}
	if len(s.ControlPlanes) != 2 || s.ControlPlanes[0].Replica == s.ControlPlanes[1].Replica {
		t.Fatalf("got %+v, want two control planes", s.ControlPlanes)
	}
	sum, total := uint64(0), uint64(0)
	for _, c := range s.ControlPlanes {
		if !strings.HasPrefix(c.Server, "n") || c.Since.IsZero() || c.Time.Before(c.Since) || c.FeedLagMS > 15_000 {
			t.Errorf("got %+v, want where it is and since when", c)
		}
		total += c.Denials
		for _, d := range c.Denied {
			if d.Reason == denial.Suspended {
				sum += d.Count
			}
		}
	}
	if len(s.Denied) == 0 || s.Denied[0].Reason != denial.Suspended || s.Denied[0].Count != sum || sum < times || total < times {
		t.Errorf("got %+v of %+v, want at least %d suspended", s.Denied, s.ControlPlanes, times)
	}
	if got := s.Denied[0].PerMinute; got != float64(sum)/5 {
		t.Errorf("got %v a minute, want %d in five", got, sum)
	}
	if len(s.Streams) < 7 || len(s.MissingServers) > 0 {
		t.Errorf("got %+v and missing %v, want all streams and servers", s.Streams, s.MissingServers)
	}
	for _, v := range s.Streams {
		if v.Copies != 3 || v.Leader == "" || !v.Quorum {
			t.Errorf("got %+v, want three copies and a leader", v)
		}
	}

	m.StopNode(2)
	for s = status(t, ctx, m); !offline(s, "n3") && ctx.Err() == nil; {
		time.Sleep(500 * time.Millisecond)
		// What leads may have been there.
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		var now wire.MeshStatus
		if m.Operate(try, wire.AdminRequest{Op: wire.OpStatus}, &now) == nil {
			s = now
		}
		cancel()
	}
	if !offline(s, "n3") {
		t.Errorf("got %+v, want n3 to be away", s.Streams)
	}
}

// offline reports whether a server's copy of each stream is away.
func offline(s wire.MeshStatus, server string) bool {
	for _, v := range s.Streams {
		if len(v.Offline) != 1 || v.Offline[0] != server || !v.Quorum {
			return false
		}
	}
	return len(s.Streams) > 0
}
