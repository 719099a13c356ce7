package registry_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func TestWatch(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	w.found(s)
	w.add(s, bob)
	inst := w.active(s, bob, "bob 1")
	r.put(registry.AgentsBucket, "carol", "junk")

	ctx, cancel := context.WithCancel(w.ctx())
	defer cancel()
	events := make(chan registry.Event, 100)
	done := make(chan error, 1)
	go func() {
		done <- w.store().Watch(ctx, func(e registry.Event) error { events <- e; return nil })
	}()
	next := func() registry.Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case err := <-done:
			t.Fatalf("the watch ended: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
		}
		return registry.Event{}
	}
	// What was there: every agent and instance, but not junk, the tick or the ring.
	var names []string
	for {
		e := next()
		if e.Current {
			if e.Agent != nil || e.Instance != nil {
				t.Errorf("the first current event has a record: %+v", e)
			}
			break
		}
		switch {
		case e.Agent != nil && e.Instance == nil:
			names = append(names, e.Agent.Agent.String())
		case e.Instance != nil && e.Agent == nil:
			names = append(names, e.Instance.Agent.String()+"/")
		default:
			t.Errorf("got %+v", e)
		}
	}
	if got := strings.Join(names, " "); len(names) != 6 || !strings.Contains(got, "bob") || !strings.Contains(got, "bob/") || !strings.Contains(got, "control/") {
		t.Errorf("got %s", got)
	}
	// What changes; a deleted record and an unsigned one are nothing.
	r.delete(registry.AgentsBucket, "admin")
	r.put(registry.AgentsBucket, "bob", "junk")
	r.put(registry.AgentsBucket, "bob", string(sign(t, &agentDoc{*w.agentOf(bob)}, "agent", w.tokens)))
	if _, err := s.RevokeInstance(w.ctx(), bob, inst, "admin", ""); err != nil {
		t.Fatal(err)
	}
	if e := next(); !e.Current || e.Instance == nil || e.Instance.State != registry.InstanceRevoked {
		t.Errorf("got %+v, want the instance revoked", e)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func (w *world) agentOf(id agentid.ID) *registry.Agent {
	return &registry.Agent{Agent: id, Status: registry.Active, Epoch: 99, Revision: 99}
}

// A watch that ends without being told to says so: silence would be taken for
// calm.
func TestWatchEndsLoudly(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	s, err := registry.Open(w.ctx(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.add(s, bob)
	boom := errors.New("boom")
	if err := s.Watch(w.ctx(), func(registry.Event) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v, want what the function returned", err)
	}
	err = s.Watch(w.ctx(), func(e registry.Event) error {
		if e.Current {
			cfg.Conn.Close()
		}
		return nil
	})
	if err == nil {
		t.Error("a watch whose connection closed ends without an error")
	}
	// So do lists: half a list would leave the other half uncut.
	if _, err := s.Agents(w.ctx(), false); err == nil || denial.Of(err) != "" {
		t.Errorf("a list without a connection: got %v", err)
	}
	if _, err := s.Sessions(w.ctx(), agentid.ID{}); err == nil {
		t.Error("sessions without a connection: no error")
	}
}

// A watcher that stops early leaves no goroutine behind, however much was still
// to come.
func TestWatchLeavesNothing(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	s, err := registry.Open(w.ctx(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := w.raw()
	w.add(s, bob)
	text := string(r.get(registry.AgentsBucket, "bob").Data)
	for n := range 600 { // more than a watcher buffers
		r.put(registry.AgentsBucket, fmt.Sprintf("x%d", n), text)
	}
	st, err := r.js.Stream(w.ctx(), subject.KVStream(registry.AgentsBucket))
	if err != nil {
		t.Fatal(err)
	}
	// full returns when all has been sent to the watcher, which nobody empties.
	full := func() {
		t.Helper()
		for {
			pending := 0
			for info := range st.ListConsumers(w.ctx()).Info() {
				pending += int(info.NumPending)
			}
			if pending == 0 {
				break
			}
		}
		if err := cfg.Conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	stop := errors.New("enough")
	watch := func() {
		if err := s.Watch(w.ctx(), func(registry.Event) error { full(); return stop }); !errors.Is(err, stop) {
			t.Fatalf("got %v", err)
		}
	}
	watch()
	before := runtime.NumGoroutine()
	for range 20 {
		watch()
	}
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); runtime.NumGoroutine() > before+5; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// Lists are read from the leader and complete: what was written before is there,
// what ended or was deleted is not, in the order of the names.
func TestLists(t *testing.T) {
	w := newWorld(t)
	one, two, r := w.store(), w.store(), w.raw()
	var want []string
	for n := range 120 {
		id := agentid.Require(fmt.Sprintf("a%03d", n))
		w.add(one, id, func(a *registry.NewAgent) { a.Rights = registry.Rights{} })
		want = append(want, id.String())
		if n%40 == 39 {
			list, err := two.Agents(w.ctx(), false)
			if err != nil || len(list) != n+1 {
				t.Fatalf("after %d: got %d, %v", n+1, len(list), err)
			}
		}
	}
	r.delete(registry.AgentsBucket, "a050")
	want = append(want[:50], want[51:]...)
	list, err := two.Agents(w.ctx(), false)
	if err != nil || len(list) != len(want) {
		t.Fatalf("got %d, %v, want %d", len(list), err, len(want))
	}
	for i, a := range list {
		if a.Agent.String() != want[i] {
			t.Errorf("place %d: got %s, want %s", i, a.Agent, want[i])
		}
	}
	if list, err := two.Instances(w.ctx(), agentid.Require("a001")); err != nil || len(list) != 0 {
		t.Errorf("instances of an agent without any: got %d, %v", len(list), err)
	}
}

func TestOpenRefusesHalfAConfig(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*registry.Config){
		"no connection": func(c *registry.Config) { c.Conn = nil }, "no ring": func(c *registry.Config) { c.Ring = nil },
		"no records key": func(c *registry.Config) { c.Records = nil }, "no tokens key": func(c *registry.Config) { c.Tokens = nil },
		"no clock": func(c *registry.Config) { c.Clock = nil }, "no space": func(c *registry.Config) { c.Space = registry.Config{}.Space },
		"negative life": func(c *registry.Config) { c.TokenTTL = -1 },
	} {
		cfg := w.config()
		edit(&cfg)
		if s, err := registry.Open(w.ctx(), cfg); err == nil || s != nil {
			t.Errorf("%s: got a store", name)
		}
	}
}
