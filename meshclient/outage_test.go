package meshclient_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// ahead is a clock that a test moves on.
type ahead struct{ by atomic.Int64 }

func (a *ahead) now() time.Time          { return time.Now().Add(time.Duration(a.by.Load())) }
func (a *ahead) advance(d time.Duration) { a.by.Add(int64(d)) }

// changed signs another record of an agent, as the control plane would.
func changed(t *testing.T, m *devmesh.Mesh, text string, change func(*registry.Agent)) string {
	t.Helper()
	ring, err := m.Dir.Ring()
	if err != nil {
		t.Fatal(err)
	}
	var a registry.Agent
	if _, err := jws.Decode(text, "agent", &a); err != nil {
		t.Fatal(err)
	}
	change(&a)
	a.Revision++
	key, err := m.Dir.RecordsKey()
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.Sign(&a, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.DecodeAgent(out, a.Agent, ring, time.Now()); err != nil {
		t.Fatal(err)
	}
	return out
}

// wantRefused has an agent call read:logs, and its call refused by the handler, which
// tells nobody who has no standing.
func wantRefused(t *testing.T, from *meshclient.Mesh, refused <-chan meshclient.Refusal, want denial.Reason) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := from.Call(ctx, "read:logs", nil)
		answered <- err
	}()
	select {
	case r := <-refused:
		if r.Sender != from.ID() || r.Reason != want {
			t.Errorf("got a refusal of %s for %q (%s), want of %s for %q", r.Sender, r.Reason, r.Detail, from.ID(), want)
		}
	case err := <-answered:
		t.Errorf("got an answer to %s (%v), want a refusal for %q", from.ID(), err, want)
		answered <- err
	case <-time.After(30 * time.Second):
		t.Errorf("nothing was refused of %s", from.ID())
	}
	cancel()
	<-answered
}

// The control plane is away: those who know each other go on. What changes in the
// registry all the same is found by the next use once nothing was heard for 15 s,
// even by one to whom the server brings nothing.
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	var clock ahead
	refused := make(chan meshclient.Refusal, 100)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}), meshclient.Clock(clock.now),
		meshclient.OnRefused(func(r meshclient.Refusal) { refused <- r }))
	handle(t, reader, "read:logs", echo)
	known := connected(t, m, enrolled(t, m, "known", registry.Rights{Call: scopes("read:logs")}))
	bad := connected(t, m, enrolled(t, m, "bad", registry.Rights{Call: scopes("read:logs")}))
	call := func(c *meshclient.Mesh) error { _, err := c.Call(ctx, "read:logs", nil); return err }
	for _, c := range []*meshclient.Mesh{known, bad} {
		if err := call(c); err != nil {
			t.Fatal(err)
		}
	}
	ctrl := service(t, m)
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*meshclient.Mesh{known, bad} {
		if err := call(c); err != nil {
			t.Errorf("%s cannot call without the control plane: %v", c.ID(), err)
		}
	}
	for _, c := range []*meshclient.Mesh{reader, bad} { // neither hears what becomes of bad
		if err := c.Deafen(); err != nil {
			t.Fatal(err)
		}
	}
	put(t, ctrl, "bad", changed(t, m, raw(t, ctrl, "bad"), func(a *registry.Agent) { a.Status = registry.Revoked; a.Epoch++ }))
	clock.advance(gate.TickAlarm + time.Second)
	wantRefused(t, bad, refused, denial.Revoked)
	if err := call(known); err != nil {
		t.Errorf("%s cannot call after 16 s without ticks: %v", known.ID(), err)
	}
	if got := reader.Silence(); got < gate.TickAlarm {
		t.Errorf("the reader has heard something %v ago", got)
	}
}
