package controlplane_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Without a system account nobody can close a connection. Whoever was cut is
// refused at once all the same, and the answer says by when the connection has
// ended by itself; stock clients are no exception.
func TestCutWithoutASystemAccount(t *testing.T) {
	t.Parallel()
	const ttl = 6 * time.Second
	m, ctx := start(t, devmesh.Options{Session: ttl, Configure: func(o *meshdir.InitOptions) { o.NoSystemAccount = true }})
	s := status(t, ctx, m)
	if want := (ttl*11/10 + time.Second).Milliseconds(); s.RevocationBoundMS != want || !slices.Equal(s.Insecure, []string{"nats.insecure_no_system_account"}) {
		t.Errorf("got a bound of %d ms, insecure %q; want %d", s.RevocationBoundMS, s.Insecure, want)
	}
	long, ctx2 := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.NoSystemAccount = true }})
	if s := status(t, ctx2, long); s.RevocationBoundMS != (5*time.Minute*11/10 + time.Second).Milliseconds() {
		t.Errorf("got a bound of %d ms with sessions of an hour, want that of five minutes", s.RevocationBoundMS)
	}
	read := scopes("read:logs")
	bystander := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("bystander")}))
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("victim"), Stock: true, Rights: registry.Rights{Call: read}})
	c := connect(t, ctx, m, dir)
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *meshclient.Mesh) error {
		_, err := c.Call(ctx, "self:session", []byte(`{"server":"x","client":1}`), meshclient.To("control"))
		return err
	}
	if err := ask(c); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	r, err := m.Cut(ctx, wire.OpSuspend, "victim", "")
	if err != nil {
		t.Fatal(err)
	}
	if r.Confirmed || r.Cut != 0 || r.Bound == nil || !r.Bound.After(before) || r.Bound.After(time.Now().Add(ttl*11/10+2*time.Second)) {
		t.Errorf("got %+v, want an unconfirmed cut with a bound", r)
	}
	if err := ask(c); !errors.Is(err, denial.Suspended) {
		t.Errorf("got %v, want %q", err, denial.Suspended)
	}
	s = status(t, ctx, m)
	if r.Bound != nil && time.Now().Before(*r.Bound) && (len(s.PendingCuts) != 1 || s.PendingCuts[0].Bound == nil) {
		t.Errorf("got %+v, want the cut pending with a bound", s.PendingCuts)
	}
	if r.Bound != nil && time.Now().Add(time.Second).Before(*r.Bound) && nc.IsClosed() {
		t.Error("somebody closed the connection, which proves nothing")
	}
	eventually(t, ctx, "the end of the connection", nc.IsClosed)
	eventually(t, ctx, "the end of the pending cut", func() bool { return len(status(t, ctx, m).PendingCuts) == 0 })
	// Those who were not cut go on, over the ends of their sessions.
	if err := ask(bystander); err != nil {
		t.Error(err)
	}
	if _, err := raw(t, dir); err == nil {
		t.Error("it was let in again")
	}
}

// A cut that waits for connections to end by themselves does not hold off the next one
// of the same agent.
func TestPendingCutDoesNotHoldOffTheNext(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.NoSystemAccount = true }})
	id := agentid.Require("victim")
	connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: id}))
	if _, err := m.Cut(ctx, wire.OpSuspend, "victim", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the first try", func() bool {
		return len(status(t, ctx, m).PendingCuts) == 1 && !m.Plane.CutWaits(id)
	})
	m.Plane.CutSoon(id)
	eventually(t, ctx, "the cut that was asked for", func() bool { return !m.Plane.CutWaits(id) })
}
