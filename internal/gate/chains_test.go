package gate_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// A delegation is worth something while everybody in it stands, and ends with
// each of them.
func TestDelegation(t *testing.T) {
	for name, tt := range map[string]struct {
		cut    func(w *world, lender *actor, lent *capability.Chain)
		reason denial.Reason
	}{
		"stands": {func(*world, *actor, *capability.Chain) {}, ""},
		"delegator suspended": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe("lender", l.change(suspend))
		}, denial.DelegatorCut},
		"delegator expired": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe("lender", l.change(func(r *registry.Agent) { r.Status = registry.Expired; r.Epoch++ }))
		}, denial.DelegatorCut},
		"delegator revoked": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe("lender", l.change(func(r *registry.Agent) { r.Status = registry.Revoked; r.Tokens = nil; r.Epoch++ }))
		}, denial.DelegatorCut},
		"delegator's instance revoked": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe(l.instanceKey(), l.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked; r.Epoch++ }))
		}, denial.DelegatorCut},
		"delegator's pod expired": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe(l.instanceKey(), l.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceExpired; r.Epoch++ }))
		}, ""},
		"delegator's pod left": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe(l.instanceKey(), l.changeInstance(func(r *registry.Instance) { r.State = registry.Left }))
		}, ""},
		"root token taken back": {func(w *world, l *actor, _ *capability.Chain) {
			w.peers.Observe("lender", l.change(func(r *registry.Agent) { r.Tokens = nil; r.Epoch++ }))
		}, denial.TokenTakenBack},
		"delegation ended": {func(w *world, l *actor, lent *capability.Chain) {
			hop := lent.Hops()[1]
			w.peers.Observe("lender", l.change(func(r *registry.Agent) {
				r.Voided = append(r.Voided, registry.Void{Token: hop.Token, Expires: hop.Expires.Unix()})
			}))
		}, denial.TokenTakenBack},
		"time is over": {func(w *world, _ *actor, _ *capability.Chain) { w.pass(time.Hour) }, denial.TokenExpired},
		"listed by a tick": {func(w *world, l *actor, _ *capability.Chain) {
			w.tickTo(w.node, registry.EpochEntry{Agent: l.id, Epoch: 9})
		}, denial.FeedStale},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			lender, helper := w.enrol("lender", "read:logs"), w.enrol("helper")
			lent := lender.delegate(w.verify(w.store.chains[lender.chain]), helper, "read:logs")
			call := func() error {
				at := helper.call()
				at.fields.Token = lent.Digest()
				return at.to(w.node)
			}
			wantReason(t, call(), "")
			tt.cut(w, lender, lent)
			wantReason(t, call(), tt.reason)
		})
	}
}

// Who asked for a chain before it was stored waits; nobody else does.
func TestAbsentChain(t *testing.T) {
	w := newWorld(t)
	a, user := w.enrol("writer", "read:logs"), w.enrol("user", "read:logs")
	text := w.store.chains[user.chain]
	delete(w.store.chains, user.chain)
	early := func() error {
		at := a.call()
		at.fields.OnBehalf = user.chain
		return at.to(w.node)
	}
	for range 5 {
		wantReason(t, early(), denial.UnknownChain)
	}
	if got := w.store.count(user.chain); got != 1 {
		t.Errorf("got %d reads, want 1", got)
	}
	w.store.set(func(s *store) { s.chains[user.chain] = text })
	wantReason(t, user.call().to(w.node), "")
	wantReason(t, early(), "")
}

// A chain that is kept is not read again, and not without end.
func TestChainsAreKept(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	for range 10 {
		wantReason(t, a.call().to(w.node), "")
	}
	if got := w.store.count(a.chain); got != 1 {
		t.Errorf("got %d reads, want 1", got)
	}
	c, err := w.gate.Chain(t.Context(), a.chain)
	if err != nil || c.Digest() != a.chain {
		t.Errorf("Chain: got %v", err)
	}
	helper := w.enrol("helper")
	lent := a.delegate(c, helper, "read:logs")
	delete(w.store.chains, lent.Digest())
	w.gate.Keep(lent)
	at := helper.call()
	at.fields.Token = lent.Digest()
	wantReason(t, at.to(w.node), "")
	w.gate.Keep(nil)
	for _, digest := range []string{"", "*", ">", a.chain + "A", "\n" + a.chain[1:]} {
		if _, err := w.gate.Chain(t.Context(), digest); denial.Of(err) != denial.BadInput {
			t.Errorf("Chain(%q): got %v, want %q", digest, err, denial.BadInput)
		}
	}
	w.pass(10 * time.Second)
	w.clock.advance(25 * time.Hour)
	wantReason(t, a.call().to(w.node), denial.TokenExpired)
}

// A flood of chains pushes some others out, not all at once, by number and by
// size.
func TestChainsMakeRoom(t *testing.T) {
	const number = 41
	for _, name := range []string{"number", "bytes"} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs00")
		if name == "number" {
			w.gate.LimitChains(40, 1<<20)
		} else {
			w.gate.LimitChains(1000, 40*len(w.store.chains[a.chain]))
		}
		digests := make([]string, number)
		for i := range digests {
			c := w.verify(must[string](t)(capability.IssueRoot(w.tokens, capability.Root{
				Agent: a.id, Capabilities: scopesOf(fmt.Sprintf("read:logs%02d", i)), Delegatable: scopesOf(fmt.Sprintf("read:logs%02d", i)),
				Depth: 3, Expires: t0.Add(time.Hour),
			}, t0)))
			w.gate.Keep(c)
			digests[i] = c.Digest()
		}
		left := 0
		for _, d := range digests {
			if _, err := w.gate.Chain(t.Context(), d); err == nil {
				left++
			}
		}
		if left < number*2/3 || left >= number {
			t.Errorf("%s: %d of %d chains are left", name, left, number)
		}
		if _, err := w.gate.Chain(t.Context(), digests[number-1]); err != nil {
			t.Errorf("%s: the newest was dropped", name)
		}
	}
}
