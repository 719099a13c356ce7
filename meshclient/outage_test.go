package meshclient_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
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

// door is a handler of read:logs that goes by a clock of its own and tells what it
// let in and what not.
type door struct {
	*meshclient.Mesh
	clock   ahead
	took    chan agentid.ID
	refused chan meshclient.Refusal
}

func newDoor(t *testing.T, m *devmesh.Mesh) *door {
	t.Helper()
	d := &door{took: make(chan agentid.ID, 100), refused: make(chan meshclient.Refusal, 100)}
	d.Mesh = connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}),
		meshclient.Clock(d.clock.now), meshclient.OnRefused(func(r meshclient.Refusal) { d.refused <- r }))
	handle(t, d.Mesh, "read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		d.took <- req.From
		return nil, nil
	})
	return d
}

// knock has somebody call who judges nothing about itself, and returns why it was
// refused, if it was.
func (d *door) knock(t *testing.T, in *intruder, chain string) denial.Reason {
	t.Helper()
	in.forge(t, chain)
	select {
	case id := <-d.took:
		if id != in.Self {
			t.Fatalf("got a call of %s, want of %s", id, in.Self)
		}
		return ""
	case r := <-d.refused:
		if r.Sender != in.Self {
			t.Fatalf("got a refusal of %s, want of %s", r.Sender, in.Self)
		}
		return r.Reason
	case <-time.After(30 * time.Second):
		t.Fatalf("nothing was heard of a call of %s", in.Self)
		return ""
	}
}

// token returns the digest of an agent's root token.
func token(t *testing.T, record string) string {
	t.Helper()
	var a registry.Agent
	if _, err := jws.Decode(record, "agent", &a); err != nil || len(a.Tokens) == 0 {
		t.Fatalf("got %+v, %v, want a record with a token", a, err)
	}
	return a.Tokens[0]
}

// The control plane is away: those who know each other go on. What changes in the
// registry all the same is found by the next use once nothing was heard for 15 s,
// even by one to whom the server brings nothing.
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := newDoor(t, m)
	known := intrude(t, enrolled(t, m, "known", registry.Rights{Call: scopes("read:logs")}))
	bad := intrude(t, enrolled(t, m, "bad", registry.Rights{Call: scopes("read:logs")}))
	ctrl := service(t, m)
	knownToken, badToken := token(t, raw(t, ctrl, "known")), token(t, raw(t, ctrl, "bad"))
	let := func(when string) {
		t.Helper()
		for in, chain := range map[*intruder]string{known: knownToken, bad: badToken} {
			if got := reader.knock(t, in, chain); got != "" {
				t.Errorf("%s: %s was refused: %s", when, in.Self, got)
			}
		}
	}
	let("before")
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	let("without the control plane")
	if err := reader.Deafen(); err != nil {
		t.Fatal(err)
	}
	put(t, ctrl, "bad", changed(t, m, raw(t, ctrl, "bad"), func(a *registry.Agent) { a.Status = registry.Revoked; a.Epoch++ }))
	reader.clock.advance(gate.TickAlarm + time.Second)
	if got := reader.knock(t, bad, badToken); got != denial.Revoked {
		t.Errorf("got %q of one who was revoked, 16 s after the last tick, want %q", got, denial.Revoked)
	}
	if got := reader.knock(t, known, knownToken); got != "" {
		t.Errorf("16 s after the last tick %s was refused: %s", known.Self, got)
	}
	if got := reader.Silence(); got < gate.TickAlarm {
		t.Errorf("the reader has heard something %v ago", got)
	}
}
