package registry_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// Nothing brings a revoked agent back: not a restart of the server or of the
// store, not adding it again, not an old join token, not its own attestation,
// and a replacement has none of its keys, tokens and join tokens.
func TestRevokedForEver(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	old, _, err := s.NewJoin(ctx, bob, registry.MaxJoinTTL, 10, "admin")
	if err != nil {
		t.Fatal(err)
	}
	first := w.enrolment(old, bob, "bob 1")
	if _, _, err := s.Enrol(ctx, first); err != nil {
		t.Fatal(err)
	}
	inst := agentid.InstanceOf(first.Key)
	if _, _, err := s.Attest(ctx, bob, inst, ""); err != nil {
		t.Fatal(err)
	}
	token := w.chain(s, bob, "handle:read:logs")
	a, err := s.Revoke(ctx, bob, "admin", "stolen")
	if err != nil {
		t.Fatal(err)
	}

	gone := func(when string, s *registry.Store) {
		t.Helper()
		if got := w.agent(s, bob); got.Status != registry.Revoked || got.Epoch != a.Epoch || len(got.Tokens) != 0 {
			t.Errorf("%s: %s in epoch %d with %d tokens", when, got.Status, got.Epoch, len(got.Tokens))
		}
		if got := w.instance(s, bob, inst); got.State != registry.InstanceRevoked {
			t.Errorf("%s: the instance is %s", when, got.State)
		}
		for name, do := range map[string]func() error{
			"add":           func() error { _, err := s.Add(ctx, registry.NewAgent{Agent: bob}, "admin"); return err },
			"enrol again":   func() error { _, _, err := s.Enrol(ctx, first); return err },
			"enrol another": func() error { _, _, err := s.Enrol(ctx, w.enrolment(old, bob, "bob 2")); return err },
			"attest":        func() error { _, _, err := s.Attest(ctx, bob, inst, ""); return err },
			"resume":        func() error { _, err := s.Resume(ctx, bob, "admin", ""); return err },
			"its token":     func() error { return token.Check(start, s.Directory(ctx)) },
			"its signature": func() error { return s.Directory(ctx).SignerStanding(bob, first.Key) },
		} {
			if err := do(); denial.Of(err) == "" {
				t.Errorf("%s: %s: got %v, want a refusal", when, name, err)
			}
		}
	}
	gone("at once", s)
	w.restart()
	s = w.store()
	gone("after a restart", s)

	// Removed: hidden, and still there.
	if _, err := s.Remove(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	gone("removed", s)
	for removed, want := range map[bool]int{false: 0, true: 1} {
		if list, err := s.Agents(ctx, removed); err != nil || len(list) != want {
			t.Errorf("listing with removed %v: got %d, %v, want %d", removed, len(list), err, want)
		}
	}

	// Replaced: above the old epoch, with nothing of before.
	fresh := w.add(s, bob, func(n *registry.NewAgent) { n.Replace = true })
	if fresh.Epoch != a.Epoch+1 || fresh.Since != fresh.Epoch || fresh.Status != registry.Pending || fresh.Removed || contains(fresh.Tokens, token.Digest()) {
		t.Errorf("replaced: got %+v", fresh)
	}
	for name, do := range map[string]struct {
		f    func() error
		want denial.Reason
	}{
		"the old join token with the old key": {func() error { _, _, err := s.Enrol(ctx, first); return err }, denial.BadJoinToken},
		"the old join token with a new key":   {func() error { _, _, err := s.Enrol(ctx, w.enrolment(old, bob, "thief")); return err }, denial.BadJoinToken},
		"a new join token with the old key":   {func() error { return w.tryEnrol(s, bob, "bob 1") }, denial.Revoked},
		"attestation of the old instance":     {func() error { _, _, err := s.Attest(ctx, bob, inst, ""); return err }, denial.Revoked},
		"the old root token":                  {func() error { return s.Directory(ctx).TokenLive(bob, token.Hops()[0].Token) }, denial.TokenTakenBack},
		"what the old key signs":              {func() error { return s.Directory(ctx).SignerStanding(bob, first.Key) }, denial.Revoked},
		"replacing what is not revoked":       {func() error { _, err := s.Add(ctx, registry.NewAgent{Agent: bob, Replace: true}, "a"); return err }, denial.AlreadyExists},
	} {
		wantReason(t, name, do.f(), do.want)
	}
	if got := w.agent(s, bob).Status; got != registry.Pending {
		t.Errorf("after all that the replacement is %s", got)
	}
	w.active(s, bob, "bob 2")
	if got := w.agent(s, bob).Status; got != registry.Active {
		t.Errorf("the replacement with new keys is %s", got)
	}
}

func (w *world) tryEnrol(s *registry.Store, id agentid.ID, label string) error {
	w.Helper()
	secret, _, err := s.NewJoin(w.ctx(), id, 0, 1, "admin")
	if err != nil {
		w.Fatal(err)
	}
	_, _, err = s.Enrol(w.ctx(), w.enrolment(secret, id, label))
	return err
}

// An instance that slipped past the revocation (its enrolment was under way) is
// still not the replacement's.
func TestInstanceOfAFormerHolder(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	inst := w.reach(s, registry.Active)
	slipped := string(r.get(registry.AgentsBucket, registry.InstanceKey(bob, inst)).Data)
	if _, err := s.Revoke(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	w.add(s, bob, func(n *registry.NewAgent) { n.Replace = true })
	w.active(s, bob, "bob 2")
	r.put(registry.AgentsBucket, registry.InstanceKey(bob, inst), slipped)
	// A store that never saw the revocation takes the record for current.
	s = w.store()
	if got := w.instance(s, bob, inst).State; got != registry.Online {
		t.Fatalf("the test did not bring the instance back: %s", got)
	}
	_, _, err := s.Attest(ctx, bob, inst, "")
	wantReason(t, "attestation", err, denial.Revoked)
	wantReason(t, "signature", s.Directory(ctx).SignerStanding(bob, public(t, key(t, nkeys.PrefixByteUser, "bob 1"))), denial.Revoked)
	// Nor does it keep the agent alive.
	other := w.instance(s, bob, agentid.InstanceOf(public(t, key(t, nkeys.PrefixByteUser, "bob 2"))))
	if err := s.ExpireInstance(ctx, bob, other.Instance, other.Epoch, ""); err != nil {
		t.Fatal(err)
	}
	if got := w.agent(s, bob).Status; got != registry.Expired {
		t.Errorf("its last own instance is gone, and it is %s", got)
	}
	_, _, err = s.Attest(ctx, bob, inst, "")
	wantReason(t, "attestation for an expired agent", err, denial.Revoked)
	if got := w.agent(s, bob).Status; got != registry.Expired {
		t.Errorf("a former holder's instance brought it back: it is %s", got)
	}
}

// Revocation against everything else at the same time: it always wins.
func TestRevokeAgainstTheRest(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	ctx := w.ctx()
	for n := range 15 {
		id := agentid.Require("a" + string(rune('a'+n)))
		w.add(stores[0], id)
		inst := w.active(stores[0], id, id.String())
		secret, _, err := stores[0].NewJoin(ctx, id, 0, 3, "admin")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i, do := range []func(*registry.Store) error{
			func(s *registry.Store) error { _, err := s.Revoke(ctx, id, "admin", ""); return err },
			func(s *registry.Store) error {
				_, _, err := s.Enrol(ctx, w.enrolment(secret, id, id.String()+" 2"))
				return err
			},
			func(s *registry.Store) error { _, err := s.Suspend(ctx, id, "admin", ""); return err },
			func(s *registry.Store) error { _, err := s.Resume(ctx, id, "admin", ""); return err },
			func(s *registry.Store) error { return s.ExpireInstance(ctx, id, inst, 1, "") },
			func(s *registry.Store) error { _, _, err := s.Attest(ctx, id, inst, ""); return err },
			func(s *registry.Store) error {
				_, err := s.Grant(ctx, id, registry.Rights{Call: scopes("x:y")}, 0, "a")
				return err
			},
			func(s *registry.Store) error { return s.RenewTokens(ctx) },
		} {
			wg.Go(func() {
				if err := do(stores[i%2]); err != nil && denial.Of(err) == "" {
					t.Errorf("operation %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		a := w.agent(stores[1], id)
		if a.Status != registry.Revoked || len(a.Tokens) != 0 {
			t.Errorf("%s is %s with %d tokens", id, a.Status, len(a.Tokens))
		}
		list, err := stores[1].Instances(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.State != registry.InstanceRevoked {
				t.Errorf("%s/%s is %s", id, i.Instance, i.State)
			}
		}
	}
}

// An intruder with the control plane's connection can write what was signed once.
// What the registry notices, and what it cannot.
func TestOldRecordWrittenBack(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	inst := w.reach(s, registry.Active)
	key := registry.InstanceKey(bob, inst)
	oldAgent, oldInstance := string(r.get(registry.AgentsBucket, "bob").Data), string(r.get(registry.AgentsBucket, key).Data)
	a, err := s.Revoke(ctx, bob, "admin", "stolen")
	if err != nil {
		t.Fatal(err)
	}
	watching := w.store()
	w.agent(watching, bob)
	w.instance(watching, bob, inst)
	r.put(registry.AgentsBucket, "bob", oldAgent)
	r.put(registry.AgentsBucket, key, oldInstance)

	// Noticed: by every store that has seen a newer state of the record.
	for name, s := range map[string]*registry.Store{"the store that wrote": s, "a store that read": watching} {
		_, err := s.Agent(ctx, bob)
		wantReason(t, name+": agent", err, denial.OlderRecord)
		_, err = s.Instance(ctx, bob, inst)
		wantReason(t, name+": instance", err, denial.OlderRecord)
		_, _, err = s.Attest(ctx, bob, inst, "")
		wantReason(t, name+": attest", err, denial.OlderRecord)
		_, err = s.Resume(ctx, bob, "admin", "")
		wantReason(t, name+": resume", err, denial.OlderRecord)
		_, err = s.Add(ctx, registry.NewAgent{Agent: bob, Replace: true}, "admin")
		wantReason(t, name+": replace", err, denial.OlderRecord)
		wantReason(t, name+": standing", s.Directory(ctx).Standing(bob), denial.OlderRecord)
	}
	// Not noticed: a store that starts afterwards has nothing to compare with.
	// Clients that saw the tombstone keep a floor of their own; beyond that only
	// the account boundary protects the bucket.
	if got := w.agent(w.store(), bob).Status; got != registry.Active {
		t.Errorf("a new store sees %s: if it can tell now, say so in the docs", got)
	}

	// Set right by revoking once more, above everything that was seen.
	mended, err := watching.Revoke(ctx, bob, "admin", "written back")
	if err != nil {
		t.Fatal(err)
	}
	if mended.Epoch <= a.Epoch || mended.Revision <= a.Revision || mended.Status != registry.Revoked {
		t.Errorf("mended: %s in epoch %d, revision %d, after %d, %d", mended.Status, mended.Epoch, mended.Revision, a.Epoch, a.Revision)
	}
	for _, s := range []*registry.Store{s, watching, w.store()} {
		if got := w.agent(s, bob).Status; got != registry.Revoked {
			t.Errorf("after mending: %s", got)
		}
		if _, err := s.RevokeInstance(ctx, bob, inst, "admin", ""); err != nil {
			t.Errorf("after mending: %v", err)
		}
		if got := w.instance(s, bob, inst).State; got != registry.InstanceRevoked {
			t.Errorf("after mending the instance is %s", got)
		}
	}
	// A tombstone that is written back over itself is mended as well.
	tomb := string(r.get(registry.AgentsBucket, "bob").Data)
	if _, err := s.Remove(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	r.put(registry.AgentsBucket, "bob", tomb)
	if _, err := s.Revoke(ctx, bob, "admin", ""); err != nil {
		t.Errorf("mending a tombstone: %v", err)
	}
	if got := w.agent(s, bob).Status; got != registry.Revoked {
		t.Errorf("mended tombstone: %s", got)
	}
}

// Reads and writes of one record at the same time are not mistaken for a record
// written back.
func TestReadsWhileWriting(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	w.active(s, bob, "bob 1")
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := s.Agent(w.ctx(), bob); err != nil {
					t.Errorf("reading: %v", err)
					return
				}
			}
		})
	}
	for range 30 {
		if _, err := s.Suspend(w.ctx(), bob, "admin", ""); err != nil {
			t.Error(err)
		}
		if _, err := s.Resume(w.ctx(), bob, "admin", ""); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

// Deleting a tombstone must not free the name under its old epochs.
func TestDeletedRecord(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	inst := w.reach(s, registry.Active)
	for range 5 {
		if _, err := s.Suspend(ctx, bob, "admin", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resume(ctx, bob, "admin", ""); err != nil {
			t.Fatal(err)
		}
	}
	a, err := s.Revoke(ctx, bob, "admin", "")
	if err != nil {
		t.Fatal(err)
	}
	r.delete(registry.AgentsBucket, "bob")
	r.delete(registry.AgentsBucket, registry.InstanceKey(bob, inst))
	for name, s := range map[string]*registry.Store{"the store that wrote": s, "a new store": w.store()} {
		_, err := s.Agent(ctx, bob)
		wantReason(t, name+": agent", err, denial.BadRecord)
		_, err = s.Instance(ctx, bob, inst)
		wantReason(t, name+": instance", err, denial.BadRecord)
		_, err = s.Add(ctx, registry.NewAgent{Agent: bob}, "admin")
		wantReason(t, name+": add", err, denial.BadRecord)
		_, err = s.Revoke(ctx, bob, "admin", "")
		wantReason(t, name+": revoke", err, denial.BadRecord)
	}
	fresh := w.add(w.store(), bob, func(n *registry.NewAgent) { n.Replace = true })
	if fresh.Epoch <= a.Epoch || fresh.Revision <= a.Revision || fresh.Since != fresh.Epoch {
		t.Errorf("replaced: epoch %d, revision %d after %d, %d", fresh.Epoch, fresh.Revision, a.Epoch, a.Revision)
	}
	wantReason(t, "the old key", w.tryEnrol(s, bob, "bob 1"), denial.BadRecord)
	w.active(s, bob, "bob 2")
}

// A genuine document of somebody else, of another kind or by another signer is
// not a record, wherever it lies.
func TestMisplacedRecords(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, dave)
	inst := w.active(s, bob, "bob 1")
	record := string(r.get(registry.AgentsBucket, "bob").Data)
	instance := string(r.get(registry.AgentsBucket, registry.InstanceKey(bob, inst)).Data)

	r.put(registry.AgentsBucket, "carol", record)
	r.put(registry.AgentsBucket, registry.InstanceKey(carol, inst), instance)
	_, err := s.Agent(ctx, carol)
	wantReason(t, "bob's record as carol's", err, denial.BadRecord)
	_, err = s.Instance(ctx, carol, inst)
	wantReason(t, "bob's instance as carol's", err, denial.BadRecord)
	r.put(registry.AgentsBucket, "carol", instance)
	_, err = s.Agent(ctx, carol)
	wantReason(t, "an instance as an agent", err, denial.WrongKind)
	r.put(registry.AgentsBucket, "carol", "carol")
	_, err = s.Agent(ctx, carol)
	wantReason(t, "a word as an agent", err, denial.BadToken)

	// Lists name what does not verify and return the rest.
	agents, err := s.Agents(ctx, false)
	if err == nil || len(agents) != 2 || agents[0].Agent != bob || agents[1].Agent != dave {
		t.Errorf("agents: got %d, %v, want bob, dave and an error", len(agents), err)
	}
	instances, err := s.Instances(ctx, agentid.ID{})
	if err == nil || len(instances) != 1 {
		t.Errorf("instances: got %d, %v, want 1 and an error", len(instances), err)
	}
	// And one bad record does not keep the others from being renewed or revoked.
	w.clock.add(20 * 24 * time.Hour)
	if err := s.RenewTokens(ctx); err == nil {
		t.Error("renewing says nothing about a record that does not verify")
	}
	if n := len(w.agent(s, bob).Tokens); n != 2 {
		t.Errorf("bob has %d tokens, want 2", n)
	}
	r.put(registry.AgentsBucket, registry.InstanceKey(bob, agentid.InstanceOf("junk")), "junk")
	if _, err := s.Revoke(ctx, bob, "admin", ""); err == nil {
		t.Error("revoking says nothing about an instance that does not verify")
	}
	if got := w.agent(s, bob).Status; got != registry.Revoked {
		t.Errorf("bob is %s", got)
	}
	if got := w.instance(s, bob, inst).State; got != registry.InstanceRevoked {
		t.Errorf("the instance beside a bad record is %s", got)
	}
}
