//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

// What docs/operations.md says of each way in which a part of the mesh can be away.
func TestModes(t *testing.T) {
	wanted(t)
	t.Parallel()
	w := newWorld(t, 30*time.Second)
	nc := w.service()
	ctrl, store := w.streams(nc)
	w.whole(ctrl, store)
	news := w.news()
	alone := w.alone(2)
	w.duos = append(w.duos, alone)
	w.callingOf(alone)

	if !w.run("one control plane", func(t *testing.T) {
		for i, name := range w.names {
			began := time.Now()
			w.planes[i].Kill()
			w.operate(wire.AdminRequest{Op: wire.OpSet, Target: alone.handID, Settings: &wire.Settings{Labels: &map[string]string{"without": name}}}, nil)
			late := w.ghost("late-"+name, 0) // is added, enrolled, let in and calls
			w.operate(wire.AdminRequest{Op: wire.OpRevoke, Target: late.id}, nil)
			late.haunt()
			w.pause(5 * time.Second)
			for _, d := range w.duos {
				w.undisturbed(d, began)
			}
			w.status(t, "ALARM: replicas of the control plane do not answer", true)
			w.planes[i] = w.StartReplica(name)
			w.planes[i].Await(process.PlaneUp)
		}
		w.unharmed()
	}) {
		return
	}

	if !w.run("no control plane", func(t *testing.T) {
		for _, p := range w.planes {
			p.Kill()
		}
		began := time.Now()
		if r := w.Do("call", alone.scope, "x", "--as", w.Agent(alone.callerID), "--timeout", "8s"); r.Code != 4 {
			t.Errorf("a new connection: got exit code %d, want 4 (unavailable)\n%s", r.Code, r.Stderr)
		}
		if r := w.Do("agent", "ls", "--timeout", "5s"); r.Code != 4 {
			t.Errorf("a command: got exit code %d, want 4\n%s", r.Code, r.Stderr)
		}
		news.flows(w, "without a control plane")
		for _, d := range w.duos {
			w.undisturbed(d, began)
		}
		// Whoever loses its connection now is not let in anywhere, and not given up.
		w.nodes[0].Kill()
		w.nodes[0] = w.Node(0)
		w.pause(2 * time.Second)
		back := time.Now()
		for i, name := range w.names {
			w.planes[i] = w.StartReplica(name)
			w.planes[i].Await(process.PlaneUp)
		}
		for _, d := range w.duos {
			w.talks(d)
		}
		t.Logf("all talk %s after the control planes were started", time.Since(back).Round(time.Millisecond))
		w.unharmed()
	}) {
		return
	}

	w.run("no quorum", func(t *testing.T) {
		w.whole(ctrl, store)
		w.home()
		began := time.Now()
		w.nodes[0].Kill()
		w.nodes[1].Kill()
		// Nothing that needs the store passes: a call cannot be told from a replay.
		w.eventually(ever, "calls are refused", func(context.Context) error {
			calls := alone.since(began)
			if len(calls) == 0 {
				return errors.New("none was made")
			}
			if err := calls[len(calls)-1].err; denial.Of(err) != denial.ReplayUnavailable && !errors.Is(err, meshclient.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("the last one ended in %w", errors.Join(err))
			}
			return nil
		})
		settled := time.Now()
		w.pause(8 * time.Second)
		for _, c := range alone.since(settled) {
			if c.err == nil {
				t.Errorf("a call %s after the blow was answered, though no nonce can be stored", c.began.Sub(began).Round(time.Millisecond))
			}
		}
		news.flows(w, "without a quorum")
		if err := w.try(w.ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: alone.callerID}, nil); err == nil {
			t.Error("a change was made that nobody can have stored")
		}
		back := time.Now()
		w.nodes[0], w.nodes[1] = w.Node(0), w.Node(1)
		for _, d := range w.duos {
			w.talks(d)
		}
		t.Logf("all talk %s after the servers were started", time.Since(back).Round(time.Millisecond))
		w.whole(ctrl, store)
		w.unharmed()
	})
}

// alone is a duo on one server.
func (w *world) alone(node int) *duo {
	w.t.Helper()
	d := &duo{name: "on " + w.Name(node), from: node, to: node, scope: "do:alone", callerID: "asks-alone", handID: "answers-alone"}
	scope := []capability.Scope{capability.RequireScope(d.scope)}
	w.add(d.handID, node, registry.Rights{Handle: scope})
	w.add(d.callerID, node, registry.Rights{Call: scope})
	w.enter(d)
	return d
}

// callingOf has one more duo talk.
func (w *world) callingOf(d *duo) {
	all := w.duos
	w.duos = []*duo{d}
	w.calling()
	w.duos = all
}

// status wants `sealmesh status` to fail with an alarm, or to be content.
func (w *world) status(t *testing.T, alarm string, there bool) {
	t.Helper()
	w.eventually(soon, "status: "+alarm, func(context.Context) error {
		r := w.Do("status", "--as", w.Agent("admin"), "--timeout", "10s")
		if strings.Contains(r.Stdout, alarm) != there || there && r.Code != 1 {
			return fmt.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
}

// news are live events from one agent to another, both on the last server.
type news struct {
	from  *meshclient.Mesh
	heard chan string
}

func (w *world) news() *news {
	w.t.Helper()
	n := &news{heard: make(chan string, 1024)}
	w.add("press", 2, registry.Rights{Publish: []string{"news"}})
	w.add("fan", 2, registry.Rights{Subscribe: []string{"news"}})
	n.from = w.connect(w.Agent("press"))
	if err := w.connect(w.Agent("fan")).Subscribe("news", func(_ context.Context, e *meshclient.Event) { n.heard <- string(e.Data) }); err != nil {
		w.t.Fatal(err)
	}
	n.flows(w, "at first")
	return n
}

// flows fails the test unless an event is heard soon.
func (n *news) flows(w *world, what string) {
	w.t.Helper()
	w.eventually(soon, "events "+what, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := n.from.Publish(ctx, "news", []byte(what)); err != nil {
			return err
		}
		for {
			select {
			case got := <-n.heard:
				if got == what {
					return nil
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}
