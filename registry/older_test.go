package registry_test

import (
	"errors"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/epochlog"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// memory is a registry.Memory without a disk.
type memory struct {
	mu     sync.Mutex
	floors map[string]registry.Floor
	kept   int
	fails  error
}

func newMemory() *memory { return &memory{floors: map[string]registry.Floor{}} }

func (m *memory) Floors() map[string]registry.Floor {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.floors)
}

func (m *memory) Remember(key string, f registry.Floor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.floors[key] = m.floors[key].Over(key, f)
}

func (m *memory) Keep() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept++
	return m.fails
}

func (m *memory) reset() (kept int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept, m.kept = m.kept, 0
	return kept
}

// remembering opens one more store, as a start of a control plane that has seen
// what the memory holds.
func (w *world) remembering(m registry.Memory) *registry.Store {
	w.Helper()
	c := w.config()
	c.Memory = m
	s, err := registry.Open(w.ctx(), c)
	if err != nil {
		w.Fatalf("opening the registry: %v", err)
	}
	return s
}

// backup copies the server's directory, restore puts the copy in its place.
func (w *world) backup() (restore func()) {
	w.Helper()
	copied := w.TempDir()
	w.stop()
	if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
		w.Fatal(err)
	}
	w.run()
	return func() {
		w.Helper()
		w.stop()
		if err := os.RemoveAll(w.dir); err != nil {
			w.Fatal(err)
		}
		if err := os.CopyFS(w.dir, os.DirFS(copied)); err != nil {
			w.Fatal(err)
		}
		w.run()
	}
}

func older(s *registry.Store) string {
	var keys []string
	for _, o := range s.Older() {
		k := o.Key
		if o.Found == (registry.Floor{}) {
			k += " (gone)"
		}
		keys = append(keys, k)
	}
	return strings.Join(keys, " ")
}

// A backup of the registry is put back. A control plane that remembers finds it
// out at its start, brings nobody back who was taken out since, names what is
// older, ticks above everything that clients heard, and lets an operator set each
// record right.
func TestRestoredBackup(t *testing.T) {
	w := newWorld(t)
	state := t.TempDir()
	remember := func() *epochlog.Log {
		t.Helper()
		m, err := epochlog.Open(state, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	erin := agentid.Require("erin")
	ctx := w.ctx()
	m := remember()
	s := w.remembering(m)
	w.found(s)
	for _, id := range []agentid.ID{bob, carol, erin} {
		w.add(s, id)
	}
	bobs, carols, erins := w.active(s, bob, "bob 1"), w.active(s, carol, "carol 1"), w.active(s, erin, "erin 1")
	lost := w.active(s, carol, "carol 2")
	if _, err := s.SetTopic(ctx, registry.Topic{Topic: "news", MaxAge: 60}, "admin"); err != nil {
		t.Fatal(err)
	}
	tick := func() {
		t.Helper()
		if err := s.Tick(ctx, 0, time.Time{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	tick()
	restore := w.backup()

	s = w.remembering(m)
	tick()
	a, err := s.Revoke(ctx, bob, "admin", "stolen")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Suspend(ctx, carol, "admin", "odd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeInstance(ctx, carol, lost, "admin", "stolen"); err != nil {
		t.Fatal(err)
	}
	w.add(s, dave)
	daves := w.active(s, dave, "dave 1")
	if err := s.Leave(ctx, erin, erins); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetTopic(ctx, registry.Topic{Topic: "late", MaxAge: 60}, "admin"); err != nil {
		t.Fatal(err)
	}
	tick()
	heard := w.raw().tick()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	restore()

	// One that remembers nothing takes everything for true: this is what is guarded
	// against.
	if got := w.agent(w.store(), bob).Status; got != registry.Active {
		t.Fatalf("the backup has %s as %s: nothing was put back", bob, got)
	}

	m = remember()
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	s = w.remembering(m)
	if back, err := s.WentBack(ctx); err != nil || !back {
		t.Fatalf("got %v, %v, want that the registry went back", back, err)
	}
	for id, inst := range map[agentid.ID]agentid.Instance{bob: bobs, carol: carols} {
		_, err := s.Agent(ctx, id)
		wantReason(t, id.String(), err, denial.OlderRecord)
		_, _, err = s.Attest(ctx, id, inst, "")
		wantReason(t, "attestation of "+id.String(), err, denial.OlderRecord)
		wantReason(t, "standing of "+id.String(), s.Directory(ctx).Standing(id), denial.OlderRecord)
	}
	if err := s.Reconcile(ctx); err != nil {
		t.Fatal(err)
	}
	// Instances are as they were when they were seen last; what they belong to is
	// named.
	if got, want := older(s), "bob carol dave (gone) "+registry.InstanceKey(dave, daves)+" (gone) "+registry.TopicsKey; got != want {
		t.Errorf("older: got %q, want %q", got, want)
	}
	for inst, want := range map[agentid.Instance]registry.State{bobs: registry.InstanceRevoked, lost: registry.InstanceRevoked, carols: registry.Online, erins: registry.Left} {
		id := map[agentid.Instance]agentid.ID{bobs: bob, lost: carol, carols: carol, erins: erin}[inst]
		if got := w.instance(s, id, inst); got.State != want {
			t.Errorf("%s/%s is %s, want %s", id, inst, got.State, want)
		}
	}
	if _, _, err := s.Attest(ctx, erin, erins, ""); err != nil {
		t.Errorf("an agent that nobody touched: %v", err)
	}
	list, err := s.Agents(ctx, false)
	if err != nil || len(list) != 5 {
		t.Fatalf("got %d agents, %v", len(list), err)
	}
	for _, a := range list {
		if want := map[agentid.ID]registry.Status{bob: registry.Revoked, carol: registry.Suspended}[a.Agent]; want != "" && a.Status != want {
			t.Errorf("%s is listed as %s, want %s", a.Agent, a.Status, want)
		}
	}

	// Clients take no tick that is not above the last one.
	tick()
	first := w.raw().tick()
	if first.Incarnation != heard.Incarnation+1 || s.Incarnation() != first.Incarnation {
		t.Errorf("got incarnation %d after %d", first.Incarnation, heard.Incarnation)
	}
	if first.Revision >= heard.Revision {
		t.Errorf("revision %d is above %d: the test put nothing back", first.Revision, heard.Revision)
	}
	if back, err := s.WentBack(ctx); err != nil || back {
		t.Errorf("after a tick: got %v, %v", back, err)
	}

	// Set right, one by one: nobody comes back but by an operator, and who was revoked
	// never.
	_, err = s.Suspend(ctx, bob, "admin", "restored")
	wantReason(t, "suspending who was revoked", err, denial.WrongState)
	_, err = s.Resume(ctx, carol, "admin", "")
	wantReason(t, "resuming at once", err, denial.OlderRecord)
	if got, err := s.Revoke(ctx, bob, "admin", "restored"); err != nil || got.Epoch <= a.Epoch || got.Revision <= a.Revision || got.Status != registry.Revoked {
		t.Errorf("revoking: got %+v, %v, want it above %d, %d", got, err, a.Epoch, a.Revision)
	}
	if got, err := s.Suspend(ctx, carol, "admin", "restored"); err != nil || got.Epoch <= c.Epoch || got.Revision <= c.Revision || got.Status != registry.Suspended {
		t.Errorf("suspending: got %+v, %v, want it above %d, %d", got, err, c.Epoch, c.Revision)
	}
	if _, err := s.Resume(ctx, carol, "admin", "looked at"); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Attest(ctx, carol, carols, ""); err != nil {
		t.Errorf("after resuming: %v", err)
	}
	_, _, err = s.Attest(ctx, carol, lost, "")
	wantReason(t, "the instance that was revoked", err, denial.Revoked)
	_, err = s.Add(ctx, registry.NewAgent{Agent: dave}, "admin")
	wantReason(t, "adding one that is gone", err, denial.BadRecord)
	if got := w.add(s, dave, func(n *registry.NewAgent) { n.Replace = true }); got.Epoch <= 1 || got.Since != got.Epoch {
		t.Errorf("replacing one that is gone: got %+v", got)
	}
	if got, want := older(s), registry.TopicsKey; got != want {
		t.Errorf("older after all agents: got %q, want %q", got, want)
	}
	wantReason(t, "its old key", w.tryEnrol(s, dave, "dave 1"), denial.BadRecord)
	if topics, err := s.SetTopic(ctx, registry.Topic{Topic: "late", MaxAge: 60}, "admin"); err != nil || len(topics.Topics) != 2 || topics.Revision != 3 {
		t.Errorf("setting a topic again: got %+v, %v", topics, err)
	}
	if got, want := older(s), registry.InstanceKey(dave, daves)+" (gone)"; got != want {
		t.Errorf("older at the end: got %q, want %q", got, want)
	}
}

// Two replicas, one of them at a server that serves an old state: each has seen
// enough to refuse it.
func TestServerThatServesAnOldState(t *testing.T) {
	w := newWorld(t)
	ctx := w.ctx()
	m := newMemory()
	s := w.remembering(m)
	inst := w.reach(s, registry.Active)
	old := newOldServer(t, w)
	s = w.remembering(m)
	a, err := s.Revoke(ctx, bob, "admin", "stolen")
	if err != nil {
		t.Fatal(err)
	}
	// The other replica has heard of it, by its watch or by a read.
	second := newMemory()
	w.agent(w.remembering(second), bob)
	fooled := old.remembering(second)
	_, err = fooled.Agent(ctx, bob)
	wantReason(t, "the agent", err, denial.OlderRecord)
	_, _, err = fooled.Attest(ctx, bob, inst, "")
	wantReason(t, "attestation", err, denial.OlderRecord)
	_, err = fooled.Add(ctx, registry.NewAgent{Agent: bob, Replace: true}, "admin")
	wantReason(t, "replacing", err, denial.OlderRecord)
	for name, do := range map[string]func() error{
		"resuming": func() error { _, err := fooled.Resume(ctx, bob, "admin", ""); return err },
		"granting": func() error {
			_, err := fooled.Grant(ctx, bob, registry.Rights{Call: scopes("x:y")}, 0, "admin")
			return err
		},
	} {
		wantReason(t, name, do(), denial.OlderRecord)
	}
	if got := older(fooled); got != "bob" {
		t.Errorf("got %q, want bob", got)
	}
	// What it writes there all the same does not fall below the truth.
	if got, err := fooled.Revoke(ctx, bob, "admin", ""); err != nil || got.Epoch <= a.Epoch {
		t.Errorf("revoking there: got %+v, %v", got, err)
	}
}

// newOldServer is a server with the state of now.
func newOldServer(t *testing.T, w *world) *world {
	t.Helper()
	old := *w
	old.dir = t.TempDir()
	w.stop()
	if err := os.CopyFS(old.dir, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	w.run()
	old.run()
	t.Cleanup(old.stop)
	return &old
}

// A tombstone is deleted from the bucket and the control plane started anew: the
// name stays taken, and comes back above its old epoch only.
func TestDeletedTombstoneIsRemembered(t *testing.T) {
	w := newWorld(t)
	ctx := w.ctx()
	m := newMemory()
	s, r := w.remembering(m), w.raw()
	w.add(s, bob)
	secret, _, err := s.NewJoin(ctx, bob, registry.MaxJoinTTL, 5, "admin")
	if err != nil {
		t.Fatal(err)
	}
	first := w.enrolment(secret, bob, "bob 1")
	if _, _, err := s.Enrol(ctx, first); err != nil {
		t.Fatal(err)
	}
	inst := agentid.InstanceOf(first.Key)
	old := w.agent(s, bob).Tokens[0]
	a, err := s.Remove(ctx, bob, "admin", "")
	if err != nil {
		t.Fatal(err)
	}
	// Without a trace: the stream forgets that the keys were ever there.
	for _, key := range []string{"bob", registry.InstanceKey(bob, inst)} {
		r.purge(registry.AgentsBucket, key)
	}
	s = w.remembering(m)
	_, err = s.Agent(ctx, bob)
	wantReason(t, "reading", err, denial.BadRecord)
	_, err = s.Add(ctx, registry.NewAgent{Agent: bob}, "admin")
	wantReason(t, "adding", err, denial.BadRecord)
	fresh := w.add(s, bob, func(n *registry.NewAgent) { n.Replace = true })
	if fresh.Epoch <= a.Epoch || fresh.Revision <= a.Revision || fresh.Since != fresh.Epoch {
		t.Errorf("replaced: epoch %d, revision %d after %d, %d", fresh.Epoch, fresh.Revision, a.Epoch, a.Revision)
	}
	_, _, err = s.Enrol(ctx, first)
	wantReason(t, "the old join token", err, denial.BadJoinToken)
	wantReason(t, "the old key", w.tryEnrol(s, bob, "bob 1"), denial.BadRecord)
	w.active(s, bob, "bob 2")
	wantReason(t, "the old root token", s.Directory(ctx).TokenLive(bob, old), denial.TokenTakenBack)
	if err := s.Directory(ctx).SignerStanding(bob, first.Key); denial.Of(err) == "" {
		t.Errorf("what the old key signs: got %v, want a refusal", err)
	}
	// Nor does the old instance's record, put back as it was.
	r.put(registry.AgentsBucket, registry.InstanceKey(bob, inst), sign(t, &instanceDoc{registry.Instance{
		Agent: bob, Instance: inst, Epoch: 1, Revision: 1, Since: 1, State: registry.Enrolled,
	}}, "instance", w.records))
	if _, _, err := s.Attest(ctx, bob, inst, ""); denial.Of(err) == "" {
		t.Errorf("the old instance: got %v, want a refusal", err)
	}
}

// A registry that holds nothing though something is remembered was lost: to found
// it again would bring the first administrator back. A start that was interrupted
// is none of that.
func TestLostRegistryIsNotFoundedAgain(t *testing.T) {
	w := newWorld(t)
	ctx := w.ctx()
	m := newMemory()
	service, curve := public(t, key(t, nkeys.PrefixByteUser, "service")), public(t, key(t, nkeys.PrefixByteCurve, "service"))
	s := w.remembering(m)
	if err := s.Found(ctx, service, curve, nil); err != nil {
		t.Fatal(err)
	}
	// Ended before the first tick.
	s = w.remembering(m)
	if back, err := s.WentBack(ctx); back || err != nil {
		t.Errorf("after an interrupted start: got %v, %v", back, err)
	}
	if err := s.Found(ctx, service, curve, nil); err != nil {
		t.Errorf("after an interrupted start: %v", err)
	}
	if err := s.Tick(ctx, 0, time.Time{}, nil); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	w.run()
	s = w.remembering(m)
	if _, err := s.WentBack(ctx); err == nil || !strings.Contains(err.Error(), "epochs.log") {
		t.Errorf("got %v, want an error that says what helps", err)
	}
	if err := s.Found(ctx, service, curve, nil); err == nil {
		t.Error("a lost registry was founded again")
	}
	if ticked, err := s.Ticked(ctx); err != nil || !ticked {
		t.Errorf("ticked: got %v, %v", ticked, err)
	}
}

// What takes authority away is on the disk before it is answered, by one look at
// it, and the rest is not waited for.
func TestWhatIsKept(t *testing.T) {
	w := newWorld(t)
	ctx := w.ctx()
	m := newMemory()
	s := w.remembering(m)
	w.add(s, bob)
	var insts []agentid.Instance
	for _, label := range []string{"bob 1", "bob 2", "bob 3"} {
		insts = append(insts, w.active(s, bob, label))
	}
	token := w.delegate(s, bob, "bob 1", carol, time.Hour)
	if n := m.reset(); n != 0 {
		t.Errorf("making an agent: the disk was waited for %d times", n)
	}
	for _, c := range []struct {
		name string
		do   func() error
		want int
	}{
		{"grant", func() error {
			_, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("x:y")}, 0, "admin")
			return err
		}, 0},
		{"ungrant", func() error {
			_, err := s.Ungrant(ctx, bob, registry.Rights{Call: scopes("x:y")}, "admin")
			return err
		}, 1},
		{"end a delegation", func() error {
			_, err := s.EndDelegation(ctx, bob, lastToken(t, token, w), w.clock.Now().Add(time.Hour))
			return err
		}, 1},
		{"leave", func() error { return s.Leave(ctx, bob, insts[1]) }, 0},
		{"attest", func() error { _, _, err := s.Attest(ctx, bob, insts[1], ""); return err }, 0},
		{"suspend", func() error { _, err := s.Suspend(ctx, bob, "admin", ""); return err }, 1},
		{"suspend again", func() error { _, err := s.Suspend(ctx, bob, "admin", ""); return err }, 0},
		{"resume", func() error { _, err := s.Resume(ctx, bob, "admin", ""); return err }, 0},
		{"revoke an instance", func() error { _, err := s.RevokeInstance(ctx, bob, insts[0], "admin", ""); return err }, 1},
		{"revoke", func() error { _, err := s.Revoke(ctx, bob, "admin", ""); return err }, 1},
		{"replace", func() error {
			_, err := s.Add(ctx, registry.NewAgent{Agent: bob, Replace: true}, "admin")
			return err
		}, 1},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := m.reset(); got != c.want {
			t.Errorf("%s: the disk was waited for %d times, want %d", c.name, got, c.want)
		}
	}
	// Whoever cannot be told that it is kept is told so, and the change is made.
	m.fails = errors.New("disk full")
	w.active(s, bob, "bob 4")
	if _, err := s.Suspend(ctx, bob, "admin", ""); !errors.Is(err, m.fails) {
		t.Errorf("got %v, want %v", err, m.fails)
	}
	if got := w.agent(s, bob).Status; got != registry.Suspended {
		t.Errorf("it is %s", got)
	}
}

// lastToken is the digest of the delegation that a chain ends with.
func lastToken(t *testing.T, chain string, w *world) string {
	t.Helper()
	c, err := capability.Verify(chain, w.ring, w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	hops := c.Hops()
	return hops[len(hops)-1].Token
}

// The watch names records that are older than what was seen, and hands none of
// them on.
func TestWatchNamesOlderRecords(t *testing.T) {
	w := newWorld(t)
	m := newMemory()
	s, r := w.remembering(m), w.raw()
	ctx := w.ctx()
	inst := w.reach(s, registry.Active)
	key := registry.InstanceKey(bob, inst)
	oldAgent, oldInstance := string(r.get(registry.AgentsBucket, "bob").Data), string(r.get(registry.AgentsBucket, key).Data)
	if _, err := s.Suspend(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeInstance(ctx, bob, inst, "admin", ""); err != nil {
		t.Fatal(err)
	}
	r.put(registry.AgentsBucket, "bob", oldAgent)
	events := make(chan registry.Event, 100)
	go s.Watch(ctx, func(e registry.Event) error { events <- e; return nil }) //nolint:errcheck // it ends with the test
	for e := range events {
		if e.Agent != nil {
			t.Errorf("the older record was handed on: %+v", e.Agent)
		}
		if e.Current {
			break
		}
		if e.Older != "" && e.Older != "bob" {
			t.Errorf("got %s as older", e.Older)
		}
	}
	r.put(registry.AgentsBucket, key, oldInstance)
	for e := range events {
		if e.Older == key {
			break
		}
		t.Errorf("got %+v, want the older instance named", e)
	}
	if got := older(s); got != "" {
		t.Errorf("noted before it was read: %s", got)
	}
	for _, k := range []string{"bob", key, registry.TickKey, "nobody"} {
		if err := s.Check(ctx, k); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	if got, want := older(s), "bob "+key; got != want {
		t.Errorf("older: got %q, want %q", got, want)
	}
	// The list says what is known, so that a cut goes by that.
	list, err := s.Instances(ctx, bob)
	if err != nil || len(list) != 1 || list[0].State != registry.InstanceRevoked || list[0].Epoch != 2 {
		t.Errorf("listed: got %+v, %v, want it revoked in epoch 2", list, err)
	}
	// One operation sets the agent and its instances right, and revoked stays revoked.
	if _, err := s.Suspend(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(s, bob, inst).State; got != registry.InstanceRevoked {
		t.Errorf("the instance is %s", got)
	}
	if got := older(s); got != "" {
		t.Errorf("older after mending: %s", got)
	}
}

// purge has the stream forget a key.
func (r raw) purge(bucket, key string) {
	r.Helper()
	st, err := r.js.Stream(r.ctx(), subject.KVStream(bucket))
	if err == nil {
		err = st.Purge(r.ctx(), jetstream.WithPurgeSubject(subject.KV(bucket, key)))
	}
	if err != nil {
		r.Fatal(err)
	}
}
