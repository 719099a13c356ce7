//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

// Of three nats-servers one may die, be it the one that leads the registry, or be
// cut off from the others.
func TestServers(t *testing.T) {
	wanted(t)
	t.Parallel()
	// Longer than servers take to elect a leader (four to nine seconds) and clients to
	// come back after that on a slow machine: nothing can be concluded from a silence
	// in which nobody could speak.
	w := newWorld(t, 30*time.Second)
	nc := w.service()
	ctrl, store := w.streams(nc)
	w.whole(ctrl, store)
	w.burns(nc)

	if !w.run("leader of the registry killed", func(t *testing.T) {
		id, p := w.victim(0)
		lead := w.leader(ctrl, "KV_MESH_AGENTS")
		w.lead(nc, store, lead) // so that both are lost in one blow
		began := time.Now()
		p.Kill()
		w.nodes[lead].Kill()
		w.expires(id)
		for _, d := range w.duos {
			w.talks(d)
			t.Logf("%s: at most %s without an answer (%s was killed)", d.name, d.quiet(began).Round(time.Millisecond), w.Name(lead))
		}
		w.unharmed()
		w.nodes[lead] = w.Node(lead)
		w.whole(ctrl, store)
		w.unharmed()
	}) {
		return
	}

	if !w.run("any other killed", func(t *testing.T) {
		w.home()
		id, p := w.victim(1)
		agents, replay := w.leader(ctrl, "KV_MESH_AGENTS"), w.leader(store, "KV_MESH_REPLAY")
		node := 0
		for node == agents || node == replay {
			node++
		}
		began := time.Now()
		p.Kill()
		w.nodes[node].Kill()
		w.expires(id)
		for _, d := range w.duos {
			if d.from != node && d.to != node {
				w.undisturbed(d, began) // nothing that it needs has gone
			}
			w.talks(d)
			t.Logf("%s: at most %s without an answer (%s was killed)", d.name, d.quiet(began).Round(time.Millisecond), w.Name(node))
		}
		w.unharmed()
		w.nodes[node] = w.Node(node)
		w.whole(ctrl, store)
		w.unharmed()
	}) {
		return
	}

	w.run("one cut off", func(t *testing.T) { w.cutOff(ctrl, store) })
}

// cutOff cuts the last server off, with an agent of each kind and one of the
// control planes on it.
//
// What is heard of nobody there for longer than the time-out counts as dead for the
// others, who cannot know better; whoever is alive comes back when the network
// does. That nobody is harmed on the other side, where all are heard, is what the
// control plane that was cut off must not spoil: to it, all of those were silent.
func (w *world) cutOff(stores ...jetstream.JetStream) {
	const node = 2
	inside := []string{w.duos[1].handID, w.duos[2].callerID}
	// Everybody goes back to where he was started: one control plane inside, one
	// outside.
	for i, name := range w.names {
		w.planes[i].Terminate(soon)
		w.planes[i] = w.StartReplica(name)
		w.planes[i].Await(process.PlaneUp)
	}
	w.home()
	w.admin = w.operator(0)
	lost := w.ghost("lost", node)

	// A short one harms nobody at all.
	w.part(node, true)
	w.pause(w.timeout / 3)
	w.part(node, false)
	for _, d := range w.duos {
		w.talks(d)
	}
	w.unharmed()

	id, p := w.victim(1)
	w.part(node, true)
	began := time.Now()
	p.Kill()
	var r wire.CutResult
	w.operate(wire.AdminRequest{Op: wire.OpRevoke, Target: "lost", Reason: "test"}, &r)
	if r.Confirmed {
		w.t.Errorf("got %+v: a cut that one server cannot have heard of was confirmed", r)
	}
	w.expires(id)
	w.pause(time.Until(began.Add(w.timeout + 5*time.Second)))
	for _, d := range w.duos {
		if d.from != node && d.to != node {
			w.t.Logf("%s: at most %s without an answer", d.name, d.quiet(began).Round(time.Millisecond))
		}
	}
	w.unharmed(inside...)
	w.part(node, false)
	lost.haunt()
	w.whole(stores...)
	for _, d := range w.duos {
		w.talks(d)
	}
	w.unharmed(inside...)
	// Those who were cut off are back, whatever was thought of them meanwhile.
	for _, agent := range inside {
		w.eventually(ever, agent+" is back", func(ctx context.Context) error {
			if v := w.show(agent); v.Status != registry.Active {
				return errors.New(w.epoch(v))
			}
			return nil
		})
	}
	w.eventually(ever, "no connection of the revoked is left", func(ctx context.Context) error {
		var v wire.AgentView
		if err := w.try(ctx, wire.AdminRequest{Op: wire.OpShow, Target: "lost"}, &v); err != nil {
			return err
		}
		for _, i := range v.Instances {
			if i.Connections > 0 {
				return errors.New(w.epoch(v))
			}
		}
		return nil
	})
}
