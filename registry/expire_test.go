package registry_test

import (
	"sync"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// The last instance that had not left takes the agent with it; no other does.
func TestLastInstanceExpiresTheAgent(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	one, two, three := w.active(s, bob, "1"), w.active(s, bob, "2"), w.active(s, bob, "3")
	w.enrol(s, bob, "never connected")
	if err := s.ExpireInstance(ctx, bob, one, 1, "heartbeat-timeout"); err != nil {
		t.Fatal(err)
	}
	if a, i := w.agent(s, bob), w.instance(s, bob, one); a.Status != registry.Active || a.Epoch != 1 || i.State != registry.InstanceExpired || i.Epoch != 2 || i.Changed.By != "monitor" || i.Changed.Reason != "heartbeat-timeout" {
		t.Errorf("one of three: agent %s in epoch %d, instance %s in epoch %d, %+v", a.Status, a.Epoch, i.State, i.Epoch, i.Changed)
	}
	if err := s.Leave(ctx, bob, two); err != nil {
		t.Fatal(err)
	}
	if err := s.ExpireInstance(ctx, bob, three, 1, "heartbeat-timeout"); err != nil {
		t.Fatal(err)
	}
	if a := w.agent(s, bob); a.Status != registry.Expired || a.Epoch != 2 {
		t.Errorf("the last that had not left: %s in epoch %d", a.Status, a.Epoch)
	}
	if i := w.instance(s, bob, two); i.State != registry.Left || i.Epoch != 1 {
		t.Errorf("the one that left: %s in epoch %d", i.State, i.Epoch)
	}
}

// Two replicas judge the last two instances at the same time: one of them sees
// that nobody is left.
func TestExpireTogether(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	for n := range 15 {
		id := agentid.Require("a" + string(rune('a'+n)))
		w.add(stores[0], id)
		insts := []agentid.Instance{w.active(stores[0], id, id.String()+" 1"), w.active(stores[0], id, id.String()+" 2")}
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				if err := s.ExpireInstance(w.ctx(), id, insts[i], 1, ""); err != nil {
					t.Errorf("expiring: %v", err)
				}
			})
		}
		wg.Wait()
		if a := w.agent(stores[0], id); a.Status != registry.Expired || a.Epoch != 2 {
			t.Errorf("%s is %s in epoch %d, want expired in 2", id, a.Status, a.Epoch)
		}
	}
}

// A replica that was cut off does not know that an instance is back: the agent
// does not expire for its absence, and is judged again.
func TestExpireAgentThatIsBack(t *testing.T) {
	w := newWorld(t)
	s, ctx := w.store(), w.ctx()
	w.add(s, bob)
	inst := w.active(s, bob, "1")
	epoch := w.agent(s, bob).Epoch
	if err := s.ExpireAgent(ctx, bob, epoch, ""); err == nil || denial.Of(err) != "" {
		t.Errorf("with an instance online: got %v, want an error after which it is judged afresh", err)
	}
	if a := w.agent(s, bob); a.Status != registry.Active || a.Epoch != epoch {
		t.Errorf("it is %s in epoch %d", a.Status, a.Epoch)
	}
	if err := s.Leave(ctx, bob, inst); err != nil {
		t.Fatal(err)
	}
	if err := s.ExpireAgent(ctx, bob, epoch, ""); err != nil {
		t.Errorf("with none: %v", err)
	}
}

// A verdict holds for the epoch that was watched, and for one replica.
func TestExpireAgainstReadmission(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	s := stores[0]
	ctx := w.ctx()
	w.add(s, bob)
	inst := w.active(s, bob, "1")
	w.active(s, bob, "2")
	for _, epoch := range []uint64{0, 2, 9} {
		wantReason(t, "another epoch", s.ExpireInstance(ctx, bob, inst, epoch, ""), denial.Conflict)
	}
	if err := s.ExpireInstance(ctx, bob, inst, 1, ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the same verdict of another replica", stores[1].ExpireInstance(ctx, bob, inst, 1, ""), denial.Conflict)
	if _, i, err := s.Attest(ctx, bob, inst, "h"); err != nil || i.State != registry.Online || i.Epoch != 3 {
		t.Fatalf("readmitted: %+v, %v", i, err)
	}
	wantReason(t, "a verdict on the time before the readmission", stores[1].ExpireInstance(ctx, bob, inst, 1, ""), denial.Conflict)
	wantReason(t, "and on the expired epoch", stores[1].ExpireInstance(ctx, bob, inst, 2, ""), denial.Conflict)
	if i := w.instance(s, bob, inst); i.State != registry.Online || i.Epoch != 3 {
		t.Errorf("it is %s in epoch %d", i.State, i.Epoch)
	}
	wantReason(t, "an agent's other epoch", s.ExpireAgent(ctx, bob, 7, ""), denial.Conflict)

	// Many at once: one of them changes the record.
	done := 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			err := stores[n%2].ExpireInstance(ctx, bob, inst, 3, "")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if denial.Of(err) != denial.Conflict {
				t.Errorf("expiring: %v", err)
			}
		})
	}
	wg.Wait()
	if i := w.instance(s, bob, inst); done != 1 || i.Epoch != 4 {
		t.Errorf("%d verdicts, epoch %d, want 1 and 4", done, i.Epoch)
	}
}

// A replica that dies between the instance and the agent leaves an active agent
// without anybody; repeating the verdict finishes it.
func TestExpiryIsFinished(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	inst := w.reach(s, registry.Active)
	half := w.instance(s, bob, inst)
	half.State, half.Epoch, half.Revision = registry.InstanceExpired, half.Epoch+1, half.Revision+1
	r.put(registry.AgentsBucket, registry.InstanceKey(bob, inst), sign(t, &instanceDoc{*half}, "instance", w.records))
	if err := s.ExpireInstance(ctx, bob, inst, 1, ""); err != nil {
		t.Errorf("finishing: %v", err)
	}
	if got := w.agent(s, bob).Status; got != registry.Expired {
		t.Errorf("the agent is %s", got)
	}
	wantReason(t, "once more", s.ExpireInstance(ctx, bob, inst, 1, ""), denial.Conflict)
}

func TestAttest(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	inst := w.reach(s, registry.Expired)
	before, old := w.agent(s, bob), w.instance(s, bob, inst)
	a, i, err := s.Attest(ctx, bob, inst, "10.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != registry.Active || a.Epoch != before.Epoch+1 || i.State != registry.Online || i.Epoch != old.Epoch+1 || i.Host != "10.0.0.2" {
		t.Errorf("got %s in %d, %s in %d at %s", a.Status, a.Epoch, i.State, i.Epoch, i.Host)
	}
	// It is written, and once is enough: the next connect changes nothing.
	if got := payload(t, w.agent(s, bob)) + payload(t, w.instance(s, bob, inst)); got != payload(t, a)+payload(t, i) {
		t.Errorf("what is stored is not what was returned")
	}
	for _, host := range []string{"10.0.0.2", ""} {
		a2, i2, err := s.Attest(ctx, bob, inst, host)
		if err != nil || a2.Revision != a.Revision || i2.Revision != i.Revision || i2.Host != "10.0.0.2" {
			t.Errorf("again from %q: revisions %d, %d, host %s, %v", host, a2.Revision, i2.Revision, i2.Host, err)
		}
	}
	// An instance that left or never came brings no new epoch.
	if err := s.Leave(ctx, bob, inst); err != nil {
		t.Fatal(err)
	}
	if _, back, err := s.Attest(ctx, bob, inst, ""); err != nil || back.State != registry.Online || back.Epoch != i.Epoch {
		t.Errorf("after leaving: %+v, %v", back, err)
	}
	// One that is revoked stays so while the agent lives on.
	other := w.active(s, bob, "bob 2")
	if _, err := s.RevokeInstance(ctx, bob, inst, "admin", "lost"); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Attest(ctx, bob, inst, "")
	wantReason(t, "a revoked instance", err, denial.Revoked)
	if _, _, err := s.Attest(ctx, bob, other, ""); err != nil {
		t.Errorf("its sibling: %v", err)
	}
}

func TestManualReadmission(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob, func(n *registry.NewAgent) { n.Readmit = registry.ReadmitManual })
	inst := w.active(s, bob, "bob 1")
	if err := s.ExpireInstance(ctx, bob, inst, 1, ""); err != nil {
		t.Fatal(err)
	}
	before := payload(t, w.agent(s, bob)) + payload(t, w.instance(s, bob, inst))
	_, _, err := s.Attest(ctx, bob, inst, "")
	wantReason(t, "attestation", err, denial.Expired)
	if got := payload(t, w.agent(s, bob)) + payload(t, w.instance(s, bob, inst)); got != before {
		t.Error("a refused attestation changes a record")
	}
	a, err := s.Resume(ctx, bob, "admin", "looked at it")
	if err != nil || a.Status != registry.Active || a.Epoch != 3 {
		t.Fatalf("resumed: %+v, %v", a, err)
	}
	if _, i, err := s.Attest(ctx, bob, inst, ""); err != nil || i.State != registry.Online || i.Epoch != 3 {
		t.Errorf("after it was resumed: %+v, %v", i, err)
	}
}

// Many connects of one expired instance at once are one readmission.
func TestAttestTogether(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	inst := w.reach(stores[0], registry.Expired)
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			if _, _, err := stores[n%2].Attest(w.ctx(), bob, inst, ""); err != nil {
				t.Errorf("attesting: %v", err)
			}
		})
	}
	wg.Wait()
	if a, i := w.agent(stores[0], bob), w.instance(stores[0], bob, inst); a.Epoch != 3 || i.Epoch != 3 || a.Status != registry.Active || i.State != registry.Online {
		t.Errorf("got %s in %d, %s in %d, want active in 3, online in 3", a.Status, a.Epoch, i.State, i.Epoch)
	}
}

func TestLeave(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	inst := w.reach(s, registry.Active)
	a := w.agent(s, bob)
	for range 2 {
		if err := s.Leave(w.ctx(), bob, inst); err != nil {
			t.Fatal(err)
		}
		if i := w.instance(s, bob, inst); i.State != registry.Left || i.Epoch != 1 || i.Revision != 3 {
			t.Errorf("got %s in epoch %d, revision %d", i.State, i.Epoch, i.Revision)
		}
	}
	if got := w.agent(s, bob); got.Revision != a.Revision || got.Status != registry.Active {
		t.Errorf("leaving changed the agent: %s, revision %d", got.Status, got.Revision)
	}
	// Whoever left cannot be expired, and what it signed stands.
	wantReason(t, "expiring one that left", s.ExpireInstance(w.ctx(), bob, inst, 1, ""), denial.Conflict)
	wantReason(t, "its signature", s.Directory(w.ctx()).SignerStanding(bob, public(t, key(t, nkeys.PrefixByteUser, "bob 1"))), "")
}
