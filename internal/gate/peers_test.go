package gate_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// A sender that knows of its new epoch before the feed told makes the record be
// read afresh, once.
func TestHigherEpoch(t *testing.T) {
	for name, rise := range map[string]func(*actor){
		"agent": func(a *actor) { a.change(func(r *registry.Agent) { r.Epoch++ }) },
		"instance": func(a *actor) {
			a.changeInstance(func(r *registry.Instance) { r.Epoch += 2 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.enrol("writer", "read:logs")
			old := a.call()
			wantReason(t, a.call().to(w.node), "")
			rise(a)
			before := w.store.count("writer", a.instanceKey())
			for range 3 {
				wantReason(t, a.call().to(w.node), "")
			}
			if got := w.store.count("writer", a.instanceKey()) - before; got != 2 {
				t.Errorf("got %d reads, want one of each record", got)
			}
			// A lower one never comes back, so nothing is read for it.
			before = w.store.count()
			wantReason(t, old.to(w.node), denial.StaleEpoch)
			mixed := a.call()
			mixed.fields.Epoch.Agent, mixed.fields.Epoch.Instance = 9, 0
			wantReason(t, mixed.to(w.node), denial.StaleEpoch)
			if got := w.store.count() - before; got != 0 {
				t.Errorf("got %d reads for epochs that are over", got)
			}
		})
	}
}

// A higher epoch that nobody gave costs reads, but not without limit, and only
// the liar is refused for it.
func TestClaimedEpochIsLimited(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	var last denial.Reason
	for range 200 {
		at := a.call()
		at.fields.Epoch.Agent += 7
		last = denial.Of(at.to(w.node))
	}
	if last != denial.RateLimited {
		t.Errorf("got %q after 200 lies, want %q", last, denial.RateLimited)
	}
	wantReason(t, a.call().to(w.node), "") // what is true needs no read
}

func TestSuspendAndResume(t *testing.T) {
	for _, feed := range []bool{true, false} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs")
		wantReason(t, a.call().to(w.node), "")
		before := a.call()
		w.peers.Observe("writer", a.change(suspend))
		wantReason(t, before.to(w.node), denial.Suspended)
		wantReason(t, a.call().to(w.node), denial.Suspended)
		text := a.change(resume)
		reads := w.store.count()
		if feed {
			w.peers.Observe("writer", text)
		}
		wantReason(t, a.call().to(w.node), "")
		if got := w.store.count() - reads; feed && got != 0 || !feed && got != 2 {
			t.Errorf("feed %v: got %d reads", feed, got)
		}
		wantReason(t, before.to(w.node), denial.StaleEpoch)
	}
}

// A revoked name that was given new keys: the new holder is let in, the former
// one's key is worth nothing although its record escaped the revocation.
func TestReplacedName(t *testing.T) {
	w := newWorld(t)
	old := w.enrol("writer", "read:logs")
	wantReason(t, old.call().to(w.node), "")
	former := *old
	w.peers.Observe("writer", old.change(func(r *registry.Agent) { r.Status = registry.Revoked; r.Epoch++ }))
	wantReason(t, old.call().to(w.node), denial.Revoked)
	old.change(func(r *registry.Agent) { r.Status, r.Epoch, r.Since = registry.Active, 5, 5 })
	old.newKey("writer anew")
	wantReason(t, old.call().to(w.node), "")

	former.agent.Epoch = old.agent.Epoch
	wantReason(t, former.call().to(w.node), denial.Revoked)
	// Nor does the former key delegate what the new holder was given.
	helper := w.enrol("helper")
	root := old.grant("read:logs")
	lent := former.delegate(root, helper, "read:logs")
	at := helper.call()
	at.fields.Token = lent.Digest()
	wantReason(t, at.to(w.node), denial.DelegatorCut)
	at.fields.Token = old.delegate(root, helper, "read:logs").Digest()
	wantReason(t, at.to(w.node), "")
}

// A broker that serves an older record, by the feed or as the leader, brings
// nothing back.
func TestOlderRecord(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	agent, member := w.store.records["writer"], w.store.records[a.instanceKey()]
	wantReason(t, a.call().to(w.node), "")
	before := a.call()

	w.peers.Observe("writer", a.change(suspend))
	w.peers.Observe("writer", agent)
	wantReason(t, before.to(w.node), denial.Suspended)
	// Even where the leader serves it and the sender asks for a fresh read.
	w.store.set(func(s *store) { s.records["writer"] = agent })
	wantReason(t, before.to(w.node), denial.Suspended)
	at := a.call()
	at.fields.Epoch.Agent++
	wantReason(t, at.to(w.node), denial.FeedStale)

	// Nor does one of a later revision under a lower epoch: the bucket was set
	// back and went on from there.
	back := a.agent
	a.change(func(r *registry.Agent) { r.Status, r.Epoch = registry.Active, 3 })
	w.peers.Observe("writer", w.store.records["writer"])
	wantReason(t, before.to(w.node), denial.Suspended)
	a.agent.Status, a.agent.Epoch = back.Status, back.Epoch

	// The same of an instance alone.
	a.change(resume)
	w.peers.Observe("writer", w.store.records["writer"])
	w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.State, r.Epoch = registry.InstanceRevoked, 2 }))
	w.peers.Observe(a.instanceKey(), member)
	at = a.call()
	at.fields.Epoch.Instance = 1
	wantReason(t, at.to(w.node), denial.Revoked)
	w.store.set(func(s *store) { s.records[a.instanceKey()] = member })
	wantReason(t, at.to(w.node), denial.Revoked)
	if _, err := w.peers.Refresh(t.Context(), a.id, a.key.PublicKey()); err == nil {
		t.Error("a fresh read brought the revoked instance back")
	}
}

// The feed overtakes a read that is under way: what it brought stays, whether
// the agent was known before or not.
func TestFeedOvertakesRead(t *testing.T) {
	for _, known := range []bool{true, false} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs")
		if known {
			wantReason(t, a.call().to(w.node), "")
			w.peers.Gap()
		}
		at := a.call()
		w.store.during = func(_ context.Context, key string) {
			if key == "writer" {
				w.store.during = nil
				w.peers.Observe("writer", a.change(suspend))
			}
		}
		wantReason(t, at.to(w.node), denial.Suspended)
		reads := w.store.count("writer")
		wantReason(t, at.to(w.node), denial.Suspended)
		if got := w.store.count("writer") - reads; got != 0 {
			t.Errorf("known %v: the record is in doubt and was read %d times", known, got)
		}
	}
}

// A tick's entry counts before the record came, also for an agent that is met
// later, and the refusal ends with the record.
func TestTickListsHigherEpoch(t *testing.T) {
	for _, known := range []bool{true, false} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs")
		old := a.call()
		stale := w.store.records["writer"]
		if known {
			wantReason(t, a.call().to(w.node), "")
		}
		fresh := a.change(func(r *registry.Agent) { r.Epoch++ })
		w.store.set(func(s *store) { s.records["writer"] = stale }) // a leader that is behind
		w.tickTo(w.node, registry.EpochEntry{Agent: a.id, Epoch: a.agent.Epoch})
		reads := w.store.count("writer")
		wantReason(t, old.to(w.node), denial.FeedStale)
		for range 5 {
			wantReason(t, old.to(w.node), denial.FeedStale)
		}
		if got := w.store.count("writer") - reads; got != 1 {
			t.Errorf("known %v: got %d reads, want 1", known, got)
		}
		w.tickTo(w.node) // which lists it no longer
		wantReason(t, old.to(w.node), denial.FeedStale)
		w.store.set(func(s *store) { s.records["writer"] = fresh })
		w.pass(gate.TickInterval)
		wantReason(t, a.call().to(w.node), "")
		wantReason(t, old.to(w.node), denial.StaleEpoch)
	}
}

func TestTicksGoForwardOnly(t *testing.T) {
	w := newWorld(t)
	w.enrol("writer", "read:logs")
	first := w.beat()
	w.peers.Observe(registry.TickKey, first)
	w.clock.advance(10 * time.Second)
	second := w.beat()
	w.peers.Observe(registry.TickKey, second)
	w.clock.advance(10 * time.Second)
	for name, text := range map[string]string{
		"older": first, "same": second, "junk": "junk", "nothing": "",
		"forged": w.forgedTick(), "record": w.store.records["writer"], "cut": second[:len(second)-2],
	} {
		w.peers.Observe(registry.TickKey, text)
		if got := w.peers.Silence(); got != 10*time.Second {
			t.Errorf("%s tick counted: silence is %v", name, got)
		}
	}
	w.tick.Incarnation, w.tick.Revision = 2, 0
	w.peers.Observe(registry.TickKey, w.beat())
	if got := w.peers.Silence(); got != 0 {
		t.Errorf("tick of the next incarnation did not count: silence is %v", got)
	}
	w.clock.advance(time.Second)
	w.tick.Incarnation, w.tick.Revision = 1, 1000
	w.peers.Observe(registry.TickKey, w.beat())
	if got := w.peers.Silence(); got != time.Second {
		t.Error("a tick of the incarnation before counted")
	}
}

// forgedTick is a tick of a far revision, signed by the key for tokens.
func (w *world) forgedTick() string {
	records, tick := w.records, w.tick
	defer func() { w.records, w.tick = records, tick }()
	w.records, w.tick.Revision = w.tokens, 1<<40
	old := w.store.records[registry.TickKey]
	text := w.beat()
	w.store.records[registry.TickKey] = old
	return text
}

// Only signed content counts: a forged record changes nothing, under whatever
// key it comes.
func TestForgedRecordsAreIgnored(t *testing.T) {
	w := newWorld(t)
	a, other := w.enrol("writer", "read:logs"), w.enrol("other")
	wantReason(t, a.call().to(w.node), "")
	genuine := w.records
	w.records = w.tokens
	forged := a.change(suspend)
	w.records = genuine
	a.agent.Status, a.agent.Epoch = registry.Active, 3
	for key, text := range map[string]string{
		"writer": forged, a.instanceKey(): forged, "Writer": forged, "writer.x": forged, "": forged, "writer.": forged,
		"other": w.store.records[a.instanceKey()],
	} {
		w.peers.Observe(key, text)
	}
	w.peers.Observe("writer", w.store.records["other"])
	w.peers.Observe(a.instanceKey(), w.store.records[other.instanceKey()])
	for _, text := range []string{"", "junk", strings.Repeat("a", 40<<10)} {
		w.peers.Observe("writer", text)
	}
	wantReason(t, a.call().to(w.node), "")
	if len(w.changed) != 0 {
		t.Errorf("OnChange heard of %v", w.changed)
	}
}

func TestOnChange(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	w.enrol("stranger")
	wantReason(t, a.call().to(w.node), "")
	text := a.change(func(*registry.Agent) {})
	for range 2 { // the second connection of a rotation brings it again
		w.peers.Observe("writer", text)
	}
	w.peers.Observe(a.instanceKey(), a.changeInstance(func(*registry.Instance) {}))
	w.peers.Observe("stranger", w.store.records["stranger"])
	if want := []agentid.ID{a.id, a.id}; !slices.Equal(w.changed, want) {
		t.Errorf("OnChange: got %v, want %v", w.changed, want)
	}
}

// Keys of a forged ring, of another root or for another purpose, are not used,
// and a broken ring leaves the one that is.
func TestRing(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	before := w.peers.Ring()
	mallory := keyOf(t, nkeys.PrefixByteAccount, "mallory")
	foreign := must[string](t)(capability.CertifyKey(mallory, publicOf(t, w.records), capability.ForTokens, t0.Add(-time.Hour), t0.Add(time.Hour), t0))
	for _, text := range []string{foreign, registry.JoinRing(append(slices.Clone(w.certificates), foreign)), "~", "junk", w.certificates[0] + "~"} {
		w.peers.Observe(registry.RingKey, text)
	}
	w.peers.Observe(registry.RingKey, registry.JoinRing(w.certificates))
	if w.peers.Ring() != before {
		t.Error("the keyring changed")
	}
	wantReason(t, a.call().to(w.node), "")
}

// When a signing key is taken away, what it signed no longer counts, cached or
// not, and the epochs that were seen stay.
func TestRingRotation(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	signed := w.store.records["writer"]
	w.change(t, a)
	wantReason(t, a.call().to(w.node), "")

	// A new tokens key; the old one is gone.
	tokens := keyOf(t, nkeys.PrefixByteAccount, "tokens two")
	w.certificates = []string{w.certify(tokens, capability.ForTokens), w.certificates[1]}
	w.peers.Observe(registry.RingKey, registry.JoinRing(w.certificates))
	// The leader still has the old list, which does not bring the old key back.
	wantReason(t, a.call().to(w.node), denial.UnknownSigner)
	w.clock.advance(6 * time.Second)
	w.tokens, w.ring = tokens, w.keyring(w.certificates...)
	a.grant("read:logs")
	wantReason(t, a.call().to(w.node), "")

	// A new records key, of which the feed did not tell: the first document that
	// it signed makes the keys be read.
	records := keyOf(t, nkeys.PrefixByteAccount, "records two")
	w.certificates = append(w.certificates, w.certify(records, capability.ForRecords))
	w.store.set(func(s *store) { s.records[registry.RingKey] = registry.JoinRing(w.certificates) })
	w.records = records
	a.change(func(r *registry.Agent) { r.Epoch++ })
	wantReason(t, a.call().to(w.node), "")

	// The old records key is taken away: a record that it signed is read again,
	// and an older one does not come back.
	text := a.change(suspend)
	w.peers.Observe("writer", text)
	w.certificates = slices.Delete(w.certificates, 1, 2)
	w.peers.Observe(registry.RingKey, registry.JoinRing(w.certificates))
	a.newKey("writer") // its passport was signed by the old key as well
	w.store.set(func(s *store) { s.records["writer"] = signed })
	wantReason(t, a.call().to(w.node), denial.UnknownSigner)
	w.store.set(func(s *store) { s.records["writer"] = text })
	wantReason(t, a.call().to(w.node), denial.Suspended)
}

// An instance's record and passport count as little once their key is gone.
func TestRingRotationOfInstances(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	w.records = keyOf(t, nkeys.PrefixByteAccount, "records two")
	w.certificates = []string{w.certificates[0], w.certify(w.records, capability.ForRecords)}
	text := registry.JoinRing(w.certificates)
	w.store.set(func(s *store) { s.records[registry.RingKey] = text })
	w.peers.Observe(registry.RingKey, text)
	a.putAgent()
	wantReason(t, a.call().to(w.node), denial.UnknownSigner)
	a.newKey("writer")
	wantReason(t, a.call().to(w.node), "")
}

func (w *world) change(t *testing.T, a *actor) {
	t.Helper()
	w.peers.Observe("writer", a.change(func(r *registry.Agent) { r.Epoch++ }))
}

// A document signed by a key that came while this process was away makes the
// keys be read, without the feed's callback waiting for that.
func TestUnknownSignerOnFeed(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	records := keyOf(t, nkeys.PrefixByteAccount, "records two")
	w.certificates = append(w.certificates, w.certify(records, capability.ForRecords))
	w.store.set(func(s *store) { s.records[registry.RingKey] = registry.JoinRing(w.certificates) })
	w.records = records
	done := make(chan struct{})
	w.onChange = func() { close(done) }
	w.peers.Observe("writer", a.change(suspend))
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the record was never taken over")
	}
	wantReason(t, a.call().to(w.node), denial.Suspended)
}

// An agent or instance that was enrolled a moment after somebody asked is let
// in with its first message.
func TestJustEnrolled(t *testing.T) {
	for _, agentToo := range []bool{true, false} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs")
		agent, member := w.store.records["writer"], w.store.records[a.instanceKey()]
		key := a.instanceKey()
		if agentToo {
			key = "writer"
		}
		w.store.set(func(s *store) { delete(s.records, key) })
		if err := a.call().to(w.node); err == nil {
			t.Fatal("admitted without a record")
		}
		if _, err := w.peers.Sender(t.Context(), a.id, a.key.PublicKey()); err == nil {
			t.Fatal("stands without a record")
		}
		w.store.set(func(s *store) { s.records["writer"], s.records[a.instanceKey()] = agent, member })
		wantReason(t, a.call().to(w.node), "")
	}
}

// The same where the agent is one of a chain: the feed clears the memory of what
// was not there, also when it comes while the question is under way.
func TestJustEnrolledDelegator(t *testing.T) {
	for _, during := range []bool{true, false} {
		w := newWorld(t)
		lender, helper := w.enrol("lender", "read:logs"), w.enrol("helper")
		lent := lender.delegate(w.verify(w.store.chains[lender.chain]), helper, "read:logs")
		at := func() *attempt { at := helper.call(); at.fields.Token = lent.Digest(); return at }
		text := w.store.records["lender"]
		w.store.set(func(s *store) { delete(s.records, "lender") })
		if during {
			// The answer "no such record" is on its way when the record is made.
			w.store.during = func(_ context.Context, key string) {
				if key == "lender" {
					w.store.set(func(s *store) { s.during, s.records["lender"] = nil, text })
					w.peers.Observe("lender", text)
				}
			}
		}
		if during {
			wantReason(t, at().to(w.node), "")
		} else {
			wantReason(t, at().to(w.node), denial.DelegatorCut)
			w.store.set(func(s *store) { s.records["lender"] = text })
			w.peers.Observe("lender", text)
		}
		wantReason(t, at().to(w.node), "")
	}
}

// Feed, ticks, gaps and messages at once; the race detector looks on, and what
// was revoked in the end is refused.
func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	calls := make([]*attempt, 200)
	for i := range calls {
		calls[i] = a.call()
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(calls, 50) {
		wg.Go(func() {
			for _, at := range part {
				_ = at.to(w.node)
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			w.peers.Observe("writer", a.change(func(r *registry.Agent) { r.Revision++ }))
			w.peers.Observe(registry.RingKey, registry.JoinRing(w.certificates))
			if i%5 == 0 {
				w.peers.Gap()
			}
			w.clock.advance(10 * time.Millisecond)
			w.tickTo(w.node, registry.EpochEntry{Agent: a.id, Epoch: 3})
		}
		w.peers.Observe("writer", a.change(func(r *registry.Agent) { r.Status = registry.Revoked; r.Epoch++ }))
	})
	wg.Wait()
	wantReason(t, a.call().to(w.node), denial.Revoked)
}

// An older list of signing keys is refused even by who did not see the newer one
// replace it: its newest certificate says how old it is.
func TestOlderRing(t *testing.T) {
	w := newWorld(t)
	old := registry.JoinRing(w.certificates)
	next := keyOf(t, nkeys.PrefixByteAccount, "records two")
	later := must[string](t)(capability.CertifyKey(w.root, publicOf(t, next), capability.ForRecords, t0.Add(-time.Hour), t0.Add(time.Hour), t0.Add(time.Minute)))
	w.peers.Observe(registry.RingKey, registry.JoinRing(append(slices.Clone(w.certificates), later)))
	ring := w.peers.Ring()
	if len(ring.Certificates()) != len(w.certificates)+1 {
		t.Fatalf("got %d certificates, want one more than %d", len(ring.Certificates()), len(w.certificates))
	}
	w.peers.Observe(registry.RingKey, old)
	if w.peers.Ring() != ring {
		t.Error("an older list was taken")
	}
	// A list that has the newest one and fewer is later, and what it lacks is gone.
	w.peers.Observe(registry.RingKey, registry.JoinRing([]string{w.certificates[0], later}))
	w.peers.Observe(registry.RingKey, registry.JoinRing(append(slices.Clone(w.certificates), later)))
	if got := len(w.peers.Ring().Certificates()); got != 2 {
		t.Errorf("got %d certificates, want 2: one that was taken away is back", got)
	}
}
