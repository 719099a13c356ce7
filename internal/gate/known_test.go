package gate_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/registry"
)

// What is known says no where a signed record does, and by the same reasons as what is
// read; it reads nothing, and of what is not known it says yes.
func TestKnown(t *testing.T) {
	for name, tt := range map[string]struct {
		change   func(*world, *actor)
		sender   denial.Reason // of what was signed before
		instance denial.Reason // of whoever may sign now
		signer   denial.Reason // of what it delegated
	}{
		"nothing": {func(*world, *actor) {}, "", "", ""},
		"more rights": {func(w *world, a *actor) {
			w.peers.Observe(a.recordKey(), a.change(func(*registry.Agent) {}))
		}, "", "", ""},
		"a higher epoch": {func(w *world, a *actor) {
			w.peers.Observe(a.recordKey(), a.change(func(r *registry.Agent) { r.Epoch++ }))
		}, denial.StaleEpoch, "", ""},
		"a tick's word of one": {func(w *world, a *actor) {
			w.tickTo(w.node, registry.EpochEntry{Agent: a.id, Epoch: a.agent.Epoch + 1})
		}, denial.StaleEpoch, "", ""},
		"a higher epoch of the instance": {func(w *world, a *actor) {
			w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.Epoch++ }))
		}, denial.StaleEpoch, "", ""},
		"suspended": {func(w *world, a *actor) {
			w.peers.Observe(a.recordKey(), a.change(suspend))
		}, denial.Suspended, denial.Suspended, ""},
		"expired": {func(w *world, a *actor) {
			w.peers.Observe(a.recordKey(), a.change(func(r *registry.Agent) { r.Status = registry.Expired; r.Epoch++ }))
		}, denial.Expired, denial.Expired, ""},
		"left": {func(w *world, a *actor) {
			w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.State = registry.Left }))
		}, "", "", ""},
		"instance expired": {func(w *world, a *actor) {
			w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceExpired; r.Epoch++ }))
		}, denial.Expired, denial.Expired, ""},
		"instance revoked": {func(w *world, a *actor) {
			w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked; r.Epoch++ }))
		}, denial.Revoked, denial.Revoked, denial.Revoked},
		"the name has new keys": {func(w *world, a *actor) {
			w.peers.Observe(a.recordKey(), a.change(func(r *registry.Agent) { r.Epoch++; r.Since = r.Epoch }))
		}, denial.Revoked, denial.Revoked, denial.Revoked},
		"a forged record": {func(w *world, a *actor) {
			text := a.change(suspend)
			w.peers.Observe(a.recordKey(), text[:len(text)-4]+"AAAA")
		}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.enrol("writer", "read:logs")
			wantReason(t, a.call().to(w.node), "")
			inst, epoch := a.instance.Instance, a.epoch()
			tt.change(w, a)
			w.store.set(func(s *store) { clear(s.reads) })
			known := w.peers.Known()
			wantReason(t, known.Sender(a.id, inst, epoch), tt.sender)
			wantReason(t, known.Instance(a.id, inst), tt.instance)
			wantReason(t, known.SignerStanding(a.id, a.key.PublicKey()), tt.signer)
			if n := w.store.count(); n != 0 {
				t.Errorf("%d records were read", n)
			}
		})
	}
	w := newWorld(t)
	known, nobody := w.peers.Known(), agentid.Require("nobody")
	for _, err := range []error{
		known.Sender(nobody, agentid.InstanceOf("x"), envelope.Epoch{}), known.Instance(nobody, agentid.Instance{}), known.Standing(nobody),
		known.SignerStanding(nobody, "x"), known.TokenLive(nobody, "x"), known.NotVoided(nobody, "x"),
	} {
		wantReason(t, err, "")
	}
	if got := known.Tokens(nobody); got != nil {
		t.Errorf("got tokens %v", got)
	}
}

// A chain is checked by what is known as it is by what is read.
func TestKnownChain(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(w *world, boss, temp *actor, token string)
		want   denial.Reason
	}{
		"nothing": {func(*world, *actor, *actor, string) {}, ""},
		"delegator suspended": {func(w *world, boss, _ *actor, _ string) {
			w.peers.Observe(boss.recordKey(), boss.change(suspend))
		}, denial.DelegatorCut},
		"its instance revoked": {func(w *world, boss, _ *actor, _ string) {
			w.peers.Observe(boss.instanceKey(), boss.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked; r.Epoch++ }))
		}, denial.DelegatorCut},
		"root token taken back": {func(w *world, boss, _ *actor, _ string) {
			w.peers.Observe(boss.recordKey(), boss.change(func(r *registry.Agent) { r.Tokens = nil; r.Epoch++ }))
		}, denial.TokenTakenBack},
		"delegation taken back": {func(w *world, boss, _ *actor, token string) {
			w.peers.Observe(boss.recordKey(), boss.change(func(r *registry.Agent) {
				r.Voided = append(r.Voided, registry.Void{Token: token, Expires: t0.Unix() + 3600})
			}))
		}, denial.TokenTakenBack},
		"holder suspended": {func(w *world, _, temp *actor, _ string) {
			w.peers.Observe(temp.recordKey(), temp.change(suspend))
		}, denial.DelegatorCut},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			boss, temp := w.enrol("boss"), w.enrol("temp")
			c := boss.delegate(boss.grant("read:logs"), temp, "read:logs")
			if err := c.Check(w.clock.Now(), w.peers.Directory(t.Context())); err != nil {
				t.Fatal(err)
			}
			hops := c.Hops()
			tt.change(w, boss, temp, hops[len(hops)-1].Token)
			wantReason(t, c.Check(w.clock.Now(), w.peers.Known()), tt.want)
		})
	}
}
