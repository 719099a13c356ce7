package registry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/registry"
)

var admin = agentid.Require("admin")

func (w *world) founder(id agentid.ID) registry.Founder {
	w.Helper()
	label := id.String() + " founder"
	return registry.Founder{
		Agent: registry.NewAgent{Agent: id, Kind: registry.Person, Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: scopes("admin:registry")}},
		Key:   public(w.TB, key(w.TB, nkeys.PrefixByteUser, label)), Curve: public(w.TB, key(w.TB, nkeys.PrefixByteCurve, label)),
		TLS:    jws.Digest(label),
		Serial: "07", NotAfter: start.Add(24 * time.Hour),
	}
}

func (w *world) foundWith(s *registry.Store, curve string, founders ...registry.Founder) error {
	w.Helper()
	return s.Found(w.ctx(), public(w.TB, key(w.TB, nkeys.PrefixByteUser, "service")), public(w.TB, key(w.TB, nkeys.PrefixByteCurve, curve)), founders)
}

func (w *world) found(s *registry.Store) {
	w.Helper()
	if err := w.foundWith(s, "service", w.founder(admin)); err != nil {
		w.Fatalf("founding: %v", err)
	}
	if err := s.Tick(w.ctx(), 0, time.Time{}, nil); err != nil {
		w.Fatalf("first tick: %v", err)
	}
}

func TestFound(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.found(s)
	r := w.raw()

	a := w.agent(s, admin)
	if a.Status != registry.Active || a.Epoch != 1 || a.AgentKind != registry.Person {
		t.Errorf("founder: got %s, epoch %d, %s", a.Status, a.Epoch, a.AgentKind)
	}
	wantScopes(t, "founder", w.chain(s, admin, "admin:registry").Scopes(), "admin:registry")
	i := w.instance(s, admin, agentid.InstanceOf(w.founder(admin).Key))
	if i.Serial != "07" || i.NotAfter != start.Add(24*time.Hour).Unix() {
		t.Errorf("founder's certificate: got %s until %d", i.Serial, i.NotAfter)
	}
	if c := w.agent(s, agentid.Control); c.Status != registry.Active || len(c.Tokens) != 0 {
		t.Errorf("control: got %s with %d tokens", c.Status, len(c.Tokens))
	}
	ring := string(r.get(registry.AgentsBucket, registry.RingKey).Data)
	if got := registry.SplitRing(ring); len(got) != 2 || got[0] != w.ring.Certificates()[0] {
		t.Errorf("signing keys: got %d, want the 2 of the ring", len(got))
	}

	// Again, by another replica: nothing is written.
	before := payload(t, a)
	writes := r.writes(registry.AgentsBucket)
	if err := w.foundWith(w.store(), "service", w.founder(admin)); err != nil {
		t.Errorf("founding again: %v", err)
	}
	if got := r.writes(registry.AgentsBucket) - writes; got != 0 {
		t.Errorf("founding again wrote %d times, want none", got)
	}
	if got := payload(t, w.agent(s, admin)); got != before {
		t.Errorf("founding again changed the founder")
	}
}

func TestFoundersOnlyOnce(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.found(s)
	if err := w.foundWith(s, "service", w.founder(carol)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Agent(w.ctx(), carol); denial.Of(err) != denial.UnlistedAgent {
		t.Errorf("a founder in a registry that ticked: got %v, want %s", err, denial.UnlistedAgent)
	}
	// A revoked admin does not come back, whoever deletes the tick.
	if _, err := s.Revoke(w.ctx(), admin, "root", "left the firm"); err != nil {
		t.Fatal(err)
	}
	w.raw().delete(registry.AgentsBucket, registry.TickKey)
	w.restart()
	s = w.store()
	if err := w.foundWith(s, "service", w.founder(admin), w.founder(carol)); err != nil {
		t.Errorf("founding after the tick was deleted: %v", err)
	}
	if got := w.agent(s, admin).Status; got != registry.Revoked {
		t.Errorf("a revoked founder: got %s", got)
	}
	if _, err := s.Agent(w.ctx(), carol); denial.Of(err) != denial.UnlistedAgent {
		t.Errorf("a founder after the tick was deleted: got %v, want %s", err, denial.UnlistedAgent)
	}
}

// An interrupted founding is finished by the next start, and replicas that found
// at the same time do not stumble over each other.
func TestFoundTogether(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for n := range errs {
		s := w.store()
		wg.Go(func() { errs[n] = w.foundWith(s, "service", w.founder(admin)) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Errorf("founding together: %v", err)
		}
	}
	s := w.store()
	if a := w.agent(s, admin); a.Status != registry.Active || len(a.Tokens) != 1 {
		t.Errorf("got %s with %d tokens", a.Status, len(a.Tokens))
	}
	if list, err := s.Instances(w.ctx(), agentid.ID{}); err != nil || len(list) != 2 {
		t.Errorf("got %d instances, %v, want the founder's and the control plane's", len(list), err)
	}
}

// A new xkey must not keep the control plane from starting, nor raise the epoch of
// its instance, under which the other replicas sign.
func TestFoundWithNewCurveKey(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.found(s)
	if err := w.foundWith(s, "other"); err != nil {
		t.Fatal(err)
	}
	i := w.instance(s, agentid.Control, agentid.InstanceOf(public(t, key(t, nkeys.PrefixByteUser, "service"))))
	p, err := i.Identity(w.ring, start)
	if err != nil {
		t.Fatal(err)
	}
	if p.Curve == public(t, key(t, nkeys.PrefixByteCurve, "other")) || i.Epoch != 1 {
		t.Errorf("got the new curve key or epoch %d", i.Epoch)
	}
}

func (r raw) tick() *registry.Tick {
	r.Helper()
	t, err := registry.DecodeTick(string(r.get(registry.AgentsBucket, registry.TickKey).Data), r.ring, r.clock.Now())
	if err != nil {
		r.Fatalf("tick: %v", err)
	}
	return t
}

func TestTick(t *testing.T) {
	w := newWorld(t)
	one, two, r := w.store(), w.store(), w.raw()
	const least = 2 * time.Second
	tick := func(s *registry.Store, since time.Time) *registry.Tick {
		t.Helper()
		if err := s.Tick(w.ctx(), least, since, []registry.EpochEntry{{Agent: bob, Epoch: 3}}); err != nil {
			t.Fatal(err)
		}
		return r.tick()
	}
	first := tick(one, time.Time{})
	if first.Time != start.UnixMilli() || first.Incarnation != 1 || len(first.Changed) != 1 {
		t.Errorf("first tick: got %+v", first)
	}
	if got := tick(two, time.Time{}); got.Revision != first.Revision {
		t.Errorf("another replica ticked within %s", least)
	}
	w.clock.add(least)
	second := tick(two, time.Time{})
	if second.Revision <= first.Revision {
		t.Errorf("revision: got %d after %d", second.Revision, first.Revision)
	}
	// A raise of the replay time is never left to another replica's tick.
	since := start.Add(-time.Minute)
	third := tick(one, since)
	if third.ReplaySince != since.UnixMilli() || third.Revision <= second.Revision {
		t.Errorf("replay time: got %d in revision %d, want %d", third.ReplaySince, third.Revision, since.UnixMilli())
	}
	w.clock.add(least)
	if got := tick(two, since.Add(-time.Hour)); got.ReplaySince != since.UnixMilli() {
		t.Errorf("replay time was lowered to %d", got.ReplaySince)
	}
	// A clock that stepped back does not stop the pulse.
	w.clock.add(-time.Hour)
	if got := tick(one, time.Time{}); got.Time != w.clock.Now().UnixMilli() {
		t.Errorf("no tick after the clock stepped back")
	}
	w.clock.add(time.Hour)
	// An old tick that is written back takes nothing back where it was seen, and
	// the next revision lies above all of them.
	last := r.tick()
	r.put(registry.AgentsBucket, registry.TickKey, string(r.get(registry.AgentsBucket, registry.TickKey).Data))
	r.put(registry.AgentsBucket, registry.TickKey, sign(t, &tickDoc{registry.Tick{Incarnation: 1, Revision: 1, Time: 1}}, "tick", w.records))
	if got := tick(one, time.Time{}); got.ReplaySince != since.UnixMilli() || got.Revision <= last.Revision {
		t.Errorf("after an old tick: got %+v", got)
	}
	// A tick that does not verify is not built upon.
	r.put(registry.AgentsBucket, registry.TickKey, sign(t, &tickDoc{registry.Tick{Incarnation: 9}}, "tick", w.tokens))
	wantReason(t, "tick over a forged one", one.Tick(w.ctx(), 0, time.Time{}, nil), denial.UnknownSigner)
}

// Many replicas at once, each with a replay time of its own: the latest one is
// in force when they are done.
func TestTicksTogether(t *testing.T) {
	w := newWorld(t)
	r := w.raw()
	const replicas = 8
	var stores []*registry.Store
	for range replicas {
		stores = append(stores, w.store())
	}
	var revision uint64
	for round := range 5 {
		var wg sync.WaitGroup
		for n, s := range stores {
			wg.Go(func() {
				if err := s.Tick(w.ctx(), 0, start.Add(time.Duration(replicas*round+n)*time.Second), nil); err != nil {
					t.Errorf("tick: %v", err)
				}
			})
		}
		wg.Wait()
		got := r.tick()
		if want := start.Add(time.Duration(replicas*round+replicas-1) * time.Second).UnixMilli(); got.ReplaySince != want {
			t.Errorf("round %d: replay time: got %d, want %d", round, got.ReplaySince, want)
		}
		if got.Revision <= revision {
			t.Errorf("round %d: revision %d after %d", round, got.Revision, revision)
		}
		revision = got.Revision
	}
}

// When very many epochs rise at once, the mesh must hear its pulse all the more.
func TestTickOfManyChanges(t *testing.T) {
	w := newWorld(t)
	var many []registry.EpochEntry
	for n := range 3000 {
		many = append(many, registry.EpochEntry{Agent: agentid.Require(fmt.Sprintf("a%d-%s", n, strings.Repeat("x", 50))), Epoch: uint64(n)})
	}
	if err := w.store().Tick(w.ctx(), 0, time.Time{}, many); err != nil {
		t.Fatal(err)
	}
	got := w.raw().tick().Changed
	if len(got) < 100 || got[len(got)-1] != many[len(many)-1] {
		t.Errorf("got %d entries, want as many of the last ones as fit", len(got))
	}
}
