package gate_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// feed is the subscriptions of one process.
type feed struct {
	mu    sync.Mutex
	of    map[string]int
	ended []string
	fail  error
}

func (f *feed) Follow(id agentid.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		f.of[id.String()]++
	}
	return f.fail
}

func (f *feed) Unfollow(ids []agentid.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.of, id.String())
		f.ended = append(f.ended, id.String())
	}
}

// names are those who are followed.
func (f *feed) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.of))
}

// brings passes a document on to whoever follows its agent.
func (f *feed) brings(n *node, key, text string) {
	name, _, _ := strings.Cut(key, ".")
	if slices.Contains(f.names(), name) {
		n.peers.Observe(key, text)
	}
}

func (w *world) following(settle time.Duration) (*node, *feed) {
	w.t.Helper()
	f := &feed{of: map[string]int{}}
	return w.startWith(func(c *gate.PeersConfig) { c.Feed, c.Settle = f, settle }), f
}

// Everybody whose record is read is followed by then: the sender, and all in its
// chains. Nobody else is.
func TestFollowsBeforeReading(t *testing.T) {
	w := newWorld(t)
	lender, helper := w.enrol("lender", "read:logs"), w.enrol("helper")
	w.enrol("stranger")
	lent := lender.delegate(w.verify(w.store.chains[lender.chain]), helper, "read:logs")
	n, f := w.following(0)
	w.store.during = func(_ context.Context, key string) {
		name, _, _ := strings.Cut(key, ".")
		if !slices.Contains(f.names(), name) && name != "sealmesh" && name != lent.Digest() {
			t.Errorf("%s was read before it was followed", key)
		}
	}
	at := func() *attempt { at := helper.call(); at.fields.Token = lent.Digest(); return at }
	for range 3 {
		wantReason(t, at().to(n), "")
	}
	if got, want := f.names(), []string{"helper", "lender"}; !slices.Equal(got, want) {
		t.Errorf("got %v followed, want %v", got, want)
	}
	for name, times := range f.of {
		if times != 1 {
			t.Errorf("%s was followed %d times", name, times)
		}
	}
	// What it brings counts at once, also of an instance that was never met.
	f.brings(n, "lender", lender.change(suspend))
	wantReason(t, at().to(n), denial.DelegatorCut)
}

// Whom the feed cannot be had of is not relied on.
func TestFollowFails(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	n, f := w.following(0)
	f.fail = errors.New("no room")
	wantReason(t, a.call().to(n), denial.RegistryUnavailable)
	if got := w.store.count("writer"); got != 0 {
		t.Errorf("got %d reads of a record whose changes would not be heard", got)
	}
	f.fail = nil
	wantReason(t, a.call().to(n), "")
}

// A record that was read before the subscription had settled is read once more: what
// changed in between may have reached nobody. After that it is relied on.
func TestReadOnceMore(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	n, _ := w.following(time.Second)
	w.clock.advance(10 * time.Second) // long after the process began
	w.tickTo(n)
	wantReason(t, a.call().to(n), "")
	w.clock.advance(900 * time.Millisecond)
	wantReason(t, a.call().to(n), "")
	if got := w.store.count("writer", a.instanceKey()); got != 2 {
		t.Errorf("got %d reads before the subscription settled, want one of each record", got)
	}
	w.clock.advance(100 * time.Millisecond)
	for range 5 {
		wantReason(t, a.call().to(n), "")
	}
	w.clock.advance(10 * time.Second)
	w.tickTo(n)
	wantReason(t, a.call().to(n), "")
	if got := w.store.count("writer", a.instanceKey()); got != 4 {
		t.Errorf("got %d reads in all, want two of each record", got)
	}
}

// That is what finds a change that was lost on its way to the subscription, of the
// agent and of the instance, when somebody is met and when the connection is new.
func TestChangeBeforeSettling(t *testing.T) {
	for name, change := range map[string]func(*actor){
		"agent":    func(a *actor) { a.change(suspend) },
		"instance": func(a *actor) { a.w.changeInstanceSilently(a) },
	} {
		for _, again := range []bool{false, true} {
			w := newWorld(t)
			a := w.enrol("writer", "read:logs")
			n, _ := w.following(time.Second)
			if again {
				wantReason(t, a.call().to(n), "")
				w.clock.advance(5 * time.Second)
				w.tickTo(n)
				wantReason(t, a.call().to(n), "")
				n.peers.Gap()
			}
			wantReason(t, a.call().to(n), "")
			old := a.call()
			change(a)
			w.clock.advance(500 * time.Millisecond)
			wantReason(t, old.to(n), "")
			w.clock.advance(600 * time.Millisecond)
			old = a.call()
			old.fields.Epoch = a.epoch()
			if err := old.to(n); err == nil {
				t.Errorf("%s, again %v: relied on although it changed before the subscription settled", name, again)
			}
		}
	}
}

// Who was not asked for in a quarter of an hour is let go, and with it its
// subscription; who is used stays. Of those who are gone the epochs stay.
func TestIdlePeersAreLetGo(t *testing.T) {
	w := newWorld(t)
	idle, busy := w.enrol("idle", "read:logs"), w.enrol("busy", "read:logs")
	old, oldKey := w.store.records["idle"], w.store.records[idle.instanceKey()]
	n, f := w.following(0)
	idle.change(suspend)
	idle.change(resume)
	idle.changeInstance(func(r *registry.Instance) { r.Epoch = 2 })
	wantReason(t, idle.call().to(n), "")
	keys := func() int { return n.peers.Met() }
	pass := func(d time.Duration) {
		for end := w.clock.Now().Add(d); w.clock.Now().Before(end); {
			w.clock.advance(gate.TickInterval)
			w.tickTo(n)
			wantReason(t, busy.call().to(n), "")
		}
	}
	pass(gate.KeepPeer - time.Minute)
	if got, want := f.names(), []string{"busy", "idle"}; !slices.Equal(got, want) || keys() != 2 {
		t.Fatalf("got %v followed and %d keys known, want %v", got, keys(), want)
	}
	pass(3 * time.Minute)
	if got, want := f.names(), []string{"busy"}; !slices.Equal(got, want) || !slices.Equal(f.ended, []string{"idle"}) || keys() != 1 {
		t.Fatalf("got %v followed, %v ended and %d keys known, want %v", got, f.ended, keys(), want)
	}
	// A broker that serves what was current before finds the floor.
	now := w.store.records["idle"]
	w.store.set(func(s *store) { s.records["idle"] = old })
	wantReason(t, idle.call().to(n), denial.BadRecord)
	w.store.set(func(s *store) { s.records["idle"] = now })
	current := w.store.records[idle.instanceKey()]
	w.store.set(func(s *store) { s.records[idle.instanceKey()] = oldKey })
	wantReason(t, idle.call().to(n), denial.BadRecord)
	w.store.set(func(s *store) { s.records[idle.instanceKey()] = current })
	wantReason(t, idle.call().to(n), "")
	if got, want := f.names(), []string{"busy", "idle"}; !slices.Equal(got, want) {
		t.Errorf("got %v followed, want %v", got, want)
	}
}

// Names that nobody has do not stay subscribed.
func TestUnknownNamesAreLetGo(t *testing.T) {
	w := newWorld(t)
	n, f := w.following(0)
	for _, name := range []string{"nobody", "noone"} {
		if _, err := n.peers.Agent(t.Context(), agentid.Require(name)); denial.Of(err) != denial.UnlistedAgent {
			t.Fatal(err)
		}
	}
	if got := f.names(); len(got) != 2 {
		t.Fatalf("got %v followed while they were asked for", got)
	}
	for range 10 {
		w.clock.advance(gate.TickInterval)
		w.tickTo(n)
	}
	if got := f.names(); len(got) != 0 {
		t.Errorf("got %v followed, want nobody", got)
	}
	// One that was enrolled meanwhile is found.
	a := w.enrol("nobody", "read:logs")
	wantReason(t, a.call().to(n), "")
}

// Whoever names them while the control plane is silent does not fill the memory, and
// who is known keeps what is known of it.
func TestUnknownNamesAreLetGoInSilence(t *testing.T) {
	w := newWorld(t)
	n, f := w.following(0)
	busy := w.enrol("busy", "read:logs")
	wantReason(t, busy.call().to(n), "")
	for i := range 20 {
		if _, err := n.peers.Agent(t.Context(), agentid.Require(fmt.Sprintf("nobody-%d", i))); denial.Of(err) != denial.UnlistedAgent {
			t.Fatal(err)
		}
		w.clock.advance(gate.TickInterval)
	}
	if got := f.names(); len(got) > 10 || !slices.Contains(got, "busy") {
		t.Errorf("got %v followed, want busy and the last few", got)
	}
}

// Nor does one go of whom a record is just being read: it would be relied on, and
// nobody would hear what becomes of it.
func TestNotLetGoWhileRead(t *testing.T) {
	w := newWorld(t)
	n, f := w.following(0)
	for range 6 {
		w.clock.advance(gate.TickInterval - time.Millisecond)
		w.tickTo(n)
		if !slices.Equal(f.names(), []string{"writer"}) {
			if _, err := n.peers.Agent(t.Context(), agentid.Require("writer")); denial.Of(err) != denial.UnlistedAgent {
				t.Fatal(err)
			}
		}
	}
	w.clock.advance(time.Second) // by now it would be let go
	a := w.enrol("writer", "read:logs")
	w.store.during = func(context.Context, string) {
		w.store.during = nil
		w.tickTo(n)
	}
	wantReason(t, a.call().to(n), "")
	if got, want := f.names(), []string{"writer"}; !slices.Equal(got, want) || len(f.ended) != 0 {
		t.Errorf("got %v followed and %v ended, want %v", got, f.ended, want)
	}
}

// Those to whom something is sealed are followed as well, and the list of their
// instances is asked for once more when that has settled.
func TestRecipientsAreFollowed(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer")
	asked := 0
	f := &feed{of: map[string]int{}}
	n := w.startWith(func(c *gate.PeersConfig) {
		c.Feed, c.Settle = f, time.Second
		c.Instances = func(context.Context, agentid.ID, agentid.Instance) (map[agentid.Instance]string, agentid.Instance, error) {
			asked++
			if !slices.Contains(f.names(), "writer") {
				t.Error("asked for the instances of somebody who is not followed")
			}
			return map[agentid.Instance]string{a.instance.Instance: w.store.records[a.instanceKey()]}, agentid.Instance{}, nil
		}
	})
	for i, want := range []int{1, 1, 2, 2} {
		if i == 2 {
			w.clock.advance(time.Second)
		}
		if to, err := n.peers.Recipients(t.Context(), a.id); err != nil || len(to) != 1 {
			t.Fatalf("got %v, %v, want one recipient", to, err)
		}
		if asked != want {
			t.Errorf("use %d: asked %d times, want %d", i, asked, want)
		}
	}
}

// Lookups, letting go and the feed at once; the race detector looks on. What was
// revoked in the end is refused by whoever had it let go, or not.
func TestLettingGoWhileUsed(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	n, f := w.following(0)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 100 {
				// The clock leaps: ahead of the next tick, or past all that a peer is kept
				// for while it is read.
				_, err := n.peers.Sender(t.Context(), a.id, a.key.PublicKey())
				if r := denial.Of(err); err != nil && r != denial.FeedStale && r != denial.RegistryUnavailable {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			w.clock.advance(gate.KeepPeer)
			w.tickTo(n)
		}
	})
	wg.Wait()
	w.clock.advance(gate.TickInterval) // what failed a moment ago is tried again
	w.tickTo(n)
	wantReason(t, a.call().to(n), "")
	f.brings(n, "writer", a.change(func(r *registry.Agent) { r.Status = registry.Revoked; r.Epoch++ }))
	wantReason(t, a.call().to(n), denial.Revoked)
}
