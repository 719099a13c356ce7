package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// rollWait is how long a roll may take on a busy machine.
const rollWait = 2 * time.Minute

// rolled starts a roll as an operator and waits for its end.
func rolled(t *testing.T, ctx context.Context, m *devmesh.Mesh) wire.Roll {
	t.Helper()
	var roll wire.Roll
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "start", Reason: "test"}, &roll); err != nil {
		t.Fatal(err)
	}
	id := roll.ID
	for roll.State == wire.RollRunning {
		select {
		case <-ctx.Done():
			t.Fatalf("the roll does not end: %+v", roll)
		case <-time.After(50 * time.Millisecond):
		}
		var now wire.Roll
		// One that is under way to a control plane whose own server is reloaded may be
		// lost.
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := m.Operate(try, wire.AdminRequest{Op: wire.OpRoll, Roll: "status"}, &now)
		cancel()
		if err == nil {
			roll = now
		} else if !errors.Is(err, meshclient.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if roll.ID != id {
		t.Errorf("got roll %s, want %s", roll.ID, id)
	}
	return roll
}

// traffic is calls without an end, and what became of them.
type traffic struct {
	made, failed atomic.Int64
	mu           sync.Mutex
	errs         []string
	nobody       map[string][]time.Time // by scope: when nobody handled it
	stop         context.CancelFunc
	wg           sync.WaitGroup
}

func (f *traffic) run(ctx context.Context, caller *meshclient.Mesh, scope string) {
	f.wg.Go(func() {
		for ctx.Err() == nil {
			at := time.Now()
			body := fmt.Sprint(f.made.Add(1))
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			reply, err := caller.Call(call, scope, []byte(body))
			cancel()
			if err == nil && string(reply.Data) != body {
				err = fmt.Errorf("got %q, want %q", reply.Data, body)
			}
			if err != nil {
				f.failed.Add(1)
				f.mu.Lock()
				if strings.Contains(err.Error(), "nobody handles") {
					f.nobody[scope] = append(f.nobody[scope], at)
				} else {
					f.errs = append(f.errs, fmt.Sprintf("after %s: %v", time.Since(at).Round(time.Millisecond), err))
				}
				f.mu.Unlock()
			}
		}
	})
}

func (f *traffic) end() []string {
	f.stop()
	f.wg.Wait()
	return f.errs
}

// handler enrols an agent that echoes on one server, caller one that calls.
func place(t *testing.T, ctx context.Context, m *devmesh.Mesh, name string, node int, n registry.Rights) *meshclient.Mesh {
	t.Helper()
	dir, err := m.Add(ctx, registry.NewAgent{Agent: agentid.Require(name), Kind: registry.Service, Heartbeat: registry.HeartbeatSession, Rights: n})
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

// The servers are reloaded one after another under traffic. Nobody's call is lost but
// those of a scope whose handlers were all on the server that is reloaded, and
// nothing takes a reload for a death or for a loss.
func TestRollUnderTraffic(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), rollWait)
			defer cancel()
			m, err := devmesh.Start(ctx, t.TempDir(), devmesh.Options{Nodes: nodes, Heartbeat: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = m.Close() })
			f := &traffic{nobody: map[string][]time.Time{}}
			var run context.Context
			run, f.stop = context.WithCancel(ctx)
			for i := range nodes {
				scope := capability.RequireScope(fmt.Sprintf("read:n%d", i))
				// On two servers, where there are more: callers on others are told at once where
				// the only one who handles a scope is not connected.
				for j := range min(2, nodes) {
					h := place(t, ctx, m, fmt.Sprintf("reader%d-%d", i, j), (i+j)%nodes, registry.Rights{Handle: []capability.Scope{scope}})
					if err := h.Handle(scope.String(), func(_ context.Context, r *meshclient.Request) ([]byte, error) {
						return r.Data, nil
					}); err != nil {
						t.Fatal(err)
					}
				}
				c := place(t, ctx, m, fmt.Sprintf("asker%d", i), (i+2)%nodes, registry.Rights{Call: []capability.Scope{scope}})
				if _, err := c.Call(ctx, scope.String(), []byte("first")); err != nil {
					t.Fatal(err)
				}
				f.run(run, c, scope.String())
			}
			var before, after wire.MeshStatus
			if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &before); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			roll := rolled(t, ctx, m)
			took := time.Since(start)
			errs := f.end()
			if roll.State != wire.RollDone || len(roll.Servers) != nodes {
				t.Fatalf("got %+v, want all done", roll)
			}
			clients := 0
			for _, s := range roll.Servers {
				if s.State != wire.ServerDone || s.NotAfter == nil || s.Missing != 0 {
					t.Errorf("got %+v, want it done, with a certificate", s)
				}
				clients += s.Clients
			}
			if clients < 2*nodes {
				t.Errorf("%d clients were there before their servers were reloaded, want at least %d", clients, 2*nodes)
			}
			t.Logf("%d calls, %d failed, roll of %d servers with %d clients took %s", f.made.Load(), f.failed.Load(), nodes, clients, took.Round(time.Millisecond))
			// What is left: a handler whose answer of the replay store is lost with its
			// connection refuses the call, which it has not begun. One such at a time.
			lost := 0
			for _, e := range errs {
				if strings.Contains(e, "replay-unavailable") {
					lost++
					continue
				}
				t.Errorf("a call failed %s", e)
			}
			// Handlers that come back from one reload go to any other server. Where all of a
			// scope are on the one that is reloaded next, nobody handles it until they are
			// back.
			for scope, at := range f.nobody {
				gaps, began := 1, at[0]
				for i := range at {
					if i > 0 && at[i].Sub(at[i-1]) > time.Second {
						gaps, began = gaps+1, at[i]
					}
					if gap := at[i].Sub(began); gap > time.Second {
						t.Errorf("nobody handled %s for %s", scope, gap)
						break
					}
				}
				t.Logf("nobody handled %s: %d calls, at %d times", scope, len(at), gaps)
				if gaps > nodes {
					t.Errorf("nobody handled %s at %d times in a roll of %d servers", scope, gaps, nodes)
				}
			}
			if lost > nodes*nodes {
				t.Errorf("%d calls of %d callers were refused because the replay store could not be asked", lost, nodes)
			}
			if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &after); err != nil {
				t.Fatal(err)
			}
			if after.Instances[registry.InstanceExpired] > 0 || after.Agents[registry.Expired] > 0 {
				t.Errorf("somebody expired: %v, %v", after.Agents, after.Instances)
			}
			if after.Monitor.Held > 0 {
				t.Errorf("the brake is on: %+v", after.Monitor)
			}
			if before.Replay == nil || after.Replay == nil || after.Replay.Raises != before.Replay.Raises {
				t.Errorf("a reload was taken for a loss of the replay store: %+v, before %+v", after.Replay, before.Replay)
			}
		})
	}
}

// admissions notes when the callout admitted whom, from the log.
type admissions struct {
	mu sync.Mutex
	at map[string][]time.Time
}

// Write implements io.Writer.
func (a *admissions) Write(line []byte) (int, error) {
	var rec struct{ Audit, Verdict, Sender string }
	if json.Unmarshal(line, &rec) == nil && rec.Audit == "connect" && rec.Verdict == "accepted" {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.at[rec.Sender] = append(a.at[rec.Sender], time.Now())
	}
	return len(line), nil
}

// first lists the first one of each after a time, sorted, as spans since then.
func (a *admissions) first(since time.Time, names []string) (out []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		if i := slices.IndexFunc(a.at[name], since.Before); i >= 0 {
			out = append(out, a.at[name][i].Sub(since))
		}
	}
	slices.Sort(out)
	return out
}

// Many clients of one server come back from its reload, each once. Where it is the only
// one they wait 100 to 200 ms, each for itself; in a cluster nats.go goes to the next
// server at once, and what spreads them is how fast the callout admits.
func TestRollOfACrowd(t *testing.T) {
	const crowd = 40
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), rollWait)
			defer cancel()
			seen := &admissions{at: map[string][]time.Time{}}
			m, err := devmesh.Start(ctx, t.TempDir(), devmesh.Options{Nodes: nodes, Log: zerolog.New(seen)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = m.Close() })
			m.Plane.SettleFor(15 * time.Second)
			var names []string
			for i := range crowd {
				name := fmt.Sprintf("one-of-many-%d", i)
				place(t, ctx, m, name, 0, registry.Rights{})
				names = append(names, name)
			}
			start := time.Now()
			roll := rolled(t, ctx, m)
			if roll.State != wire.RollDone || roll.Servers[0].Clients < crowd || roll.Servers[0].Missing != 0 {
				t.Fatalf("got %+v, want it done, with all clients", roll)
			}
			back := seen.first(start, names)
			if len(back) != crowd {
				t.Fatalf("%d of %d clients are back", len(back), crowd)
			}
			most := 0
			for i, at := range back {
				n := 0
				for _, b := range back[i:] {
					if b-at <= 10*time.Millisecond {
						n++
					}
				}
				most = max(most, n)
			}
			spread := back[crowd-1] - back[0]
			t.Logf("%d servers: %d clients were admitted again after %s to %s, half of them by %s, at most %d within 10 ms", nodes, crowd, back[0], back[crowd-1], back[crowd/2], most)
			if nodes == 1 && spread < 40*time.Millisecond {
				t.Errorf("all came back within %s: nothing spreads them", spread)
			}
			seen.mu.Lock()
			defer seen.mu.Unlock()
			for _, name := range names {
				if n := len(seen.at[name]) - 1; n > nodes {
					t.Errorf("%s was admitted %d times in a roll of %d servers", name, n, nodes)
				}
			}
		})
	}
}
