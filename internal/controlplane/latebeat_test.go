package controlplane_test

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/registry"
)

// A replica that does not hear somebody asks the stream before it expires him: on
// the other side of a network that was cut he was heard all the time.
func TestWhoIsHeardElsewhereIsNotExpired(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	var log lines
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.New(&log), ClientLog: zerolog.Nop(), Heartbeat: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("far"), Rights: registry.Rights{Call: scopes("read:logs")}}))
	before := show(t, ctx, m, "far")
	if err := m.Plane.DeafTo(agentid.Require("far")); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "a judgement", func() bool { return log.with("the instance was heard elsewhere") != "" })
	after := show(t, ctx, m, "far")
	if after.Status != registry.Active || after.Epoch != before.Epoch || after.Instances[0].Epoch != before.Instances[0].Epoch {
		t.Errorf("got %s under %d.%d, want it as it was", after.Status, after.Epoch, after.Instances[0].Epoch)
	}
}
