package gate_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func TestAdmit(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs", "publish:news")
	call := a.call()
	ask := a.call()
	ask.subject, ask.want.Class = subject.Default().Ask(a.id, agentid.Require("reader"), "read.logs"), subject.Ask
	event := a.call()
	event.subject = subject.Default().Event(a.id, "news")
	event.want = gate.Want{Class: subject.Event, Dotted: "news", Scope: capability.RequireScope("publish:news")}
	beat := a.note()
	beat.subject, beat.want = subject.Default().Beat(a.id, a.instance.Instance), gate.Want{Class: subject.Beat}
	for name, at := range map[string]*attempt{"call": call, "ask": ask, "event": event, "note": a.note(), "beat": beat} {
		v, err := w.gate.Admit(t.Context(), at.message(), at.want)
		if err != nil || v.From() != a.id || string(v.Data()) != "tail 20" {
			t.Errorf("%s: got %v, want it admitted", name, err)
		}
	}
	if got := w.store.burns; got != 2 {
		t.Errorf("shared store was asked %d times, want for the call and the ask alone", got)
	}
	if got := w.store.count(); got != 3 {
		t.Errorf("got %d reads, want one each for agent, instance and chain", got)
	}
}

// A fault of every step of the order, in the order of docs/spec/envelope.md.
type fault struct {
	name   string
	reason denial.Reason
	make   func(w *world, at *attempt)
}

var faults = []fault{
	{"limits", denial.TooLarge, func(_ *world, at *attempt) {
		at.spoil = append(at.spoil, func(m *envelope.Message) { with(m, envelope.HeaderEnvelope, strings.Repeat("v", limits.Envelope+1)) })
	}},
	{"syntax", denial.BadEnvelope, func(_ *world, at *attempt) {
		at.spoil = append(at.spoil, func(m *envelope.Message) {
			with(m, envelope.HeaderSignature, m.Header[envelope.HeaderSignature][0], "ed25519:twice")
		})
	}},
	{"sender token", denial.SenderMismatch, func(_ *world, at *attempt) {
		at.spoil = append(at.spoil, func(m *envelope.Message) { m.Subject = strings.Replace(m.Subject, "writer", "victim", 1) })
	}},
	{"subscription", denial.WrongSubject, func(_ *world, at *attempt) {
		at.spoil = append(at.spoil, func(m *envelope.Message) { m.Subject = strings.Replace(m.Subject, "read.logs", "write.logs", 1) })
	}},
	{"time", denial.Stale, func(w *world, at *attempt) { at.fields.Time = w.clock.Now().Add(-limits.Window - time.Second) }},
	{"deadline", denial.DeadlinePassed, func(w *world, at *attempt) { at.fields.Time = w.clock.Now().Add(-40 * time.Second) }},
	{"standing", denial.Suspended, func(_ *world, at *attempt) { at.from.change(suspend) }},
	{"epoch", denial.StaleEpoch, func(_ *world, at *attempt) { at.fields.Epoch.Agent = 1 }},
	{"replay floor", denial.Stale, func(w *world, at *attempt) {
		w.tick.ReplaySince = w.clock.Now().UnixMilli() + 1
		w.tickTo(w.node)
	}},
	{"signature", denial.BadSignature, func(_ *world, at *attempt) { at.spoil = append(at.spoil, forge) }},
	{"authority", denial.ScopeNotHeld, func(_ *world, at *attempt) { at.fields.Token = at.from.grant("write:logs").Digest() }},
	{"shared store", denial.Replayed, func(w *world, at *attempt) {
		w.store.burnt[subject.ReplayKey("read.logs", at.from.id, at.fields.Nonce)] = true
	}},
}

// The first failure decides, and nothing of the later steps happened: nothing was
// read before the sender, no chain before the signature, no nonce used before
// everything else was right.
func TestOrder(t *testing.T) {
	step := func(name string) int { return slices.IndexFunc(faults, func(f fault) bool { return f.name == name }) }
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for _, alone := range []bool{true, false} {
				w := newWorld(t)
				a := w.enrol("writer", "read:logs")
				at := a.call()
				later := faults[i+1:]
				if alone {
					later = nil
				}
				for j := len(later) - 1; j >= 0; j-- {
					later[j].make(w, at)
				}
				f.make(w, at)
				w.store.set(func(s *store) { clear(s.reads) })
				v, err := w.gate.Admit(t.Context(), at.message(), at.want)
				wantReason(t, err, f.reason)
				if signed := i > step("signature"); (v != nil) != signed {
					t.Errorf("got verified message %v, want %v", v != nil, signed)
				}
				if i < step("standing") && w.store.count() != 0 {
					t.Errorf("%d documents were read", w.store.count())
				}
				if i < step("authority") && w.store.count(at.fields.Token) != 0 {
					t.Error("the chain was read")
				}
				if i < step("shared store") && (w.seen.Len() != 0 || w.store.burns != 0) {
					t.Errorf("got %d nonces used, %d burnt, want none", w.seen.Len(), w.store.burns)
				}
			}
		})
	}
}

// Everything else for which a single message can be refused.
func TestRefusals(t *testing.T) {
	call, note := (*actor).call, (*actor).note
	for _, tt := range []struct {
		name   string
		make   func(*actor) *attempt
		spoil  func(*world, *attempt)
		reason denial.Reason
	}{
		{"future", call, func(w *world, at *attempt) { at.fields.Time = w.clock.Now().Add(limits.Ahead + time.Second) }, denial.Future},
		{"version", call, func(_ *world, at *attempt) {
			at.spoil = append(at.spoil, func(m *envelope.Message) { with(m, envelope.HeaderSignature, "batch:0/1::x") })
		}, denial.BadVersion},
		{"other prefix", call, func(_ *world, at *attempt) { at.subject = strings.Replace(at.subject, "mesh.", "mash.", 1) }, denial.WrongSubject},
		{"ask on the subscription for calls", call, func(_ *world, at *attempt) {
			at.subject = subject.Default().Ask(at.from.id, agentid.Require("reader"), "read.logs")
		}, denial.WrongSubject},
		{"note for another agent", note, func(_ *world, at *attempt) {
			at.subject = subject.Default().Note(at.from.id, agentid.Require("other"), "cancel")
		}, denial.WrongSubject},
		{"note of another than was asked", note, func(_ *world, at *attempt) { at.want.From = agentid.Control }, denial.WrongResponder},
		{"reply without its request", note, func(_ *world, at *attempt) {
			at.subject = subject.Default().Reply(at.from.id, agentid.Require("reader"), at.from.instance.Instance, at.fields.Nonce)
			at.fields.Parent = at.fields.Nonce
			at.request, at.want = &envelope.Digest{1}, gate.Want{Class: subject.Reply}
		}, denial.UnmatchedReply},
		{"reply to another request", note, func(_ *world, at *attempt) {
			at.subject = subject.Default().Reply(at.from.id, agentid.Require("reader"), at.from.instance.Instance, at.fields.Nonce)
			at.fields.Parent = at.fields.Nonce
			at.request, at.want = &envelope.Digest{1}, gate.Want{Class: subject.Reply, Request: &envelope.Digest{2}}
		}, denial.BadSignature},

		{"unlisted agent", call, func(w *world, at *attempt) { delete(w.store.records, "writer") }, denial.UnlistedAgent},
		{"unlisted key", call, func(w *world, at *attempt) { delete(w.store.records, at.from.instanceKey()) }, denial.UnlistedKey},
		{"pending", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Status = registry.Pending })
		}, denial.Pending},
		{"expired", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Status = registry.Expired })
		}, denial.Expired},
		{"revoked", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Status = registry.Revoked })
		}, denial.Revoked},
		{"unknown status", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Status = "fine" })
		}, denial.Revoked},
		{"expired instance", call, func(_ *world, at *attempt) {
			at.from.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceExpired })
		}, denial.Expired},
		{"revoked instance", call, func(_ *world, at *attempt) {
			at.from.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked })
		}, denial.Revoked},
		{"instance of the name's former holder", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Since = r.Epoch })
		}, denial.Revoked},
		{"lower epoch of the instance", call, func(_ *world, at *attempt) { at.fields.Epoch.Instance = 0 }, denial.StaleEpoch},
		{"higher epoch than the leader has", call, func(_ *world, at *attempt) { at.fields.Epoch.Agent = 9 }, denial.StaleEpoch},
		{"one part higher, one lower", call, func(_ *world, at *attempt) { at.fields.Epoch = envelope.Epoch{Agent: 9} }, denial.StaleEpoch},
		{"record of another agent", call, func(w *world, at *attempt) {
			w.enrol("admin")
			w.store.records["writer"] = w.store.records["admin"]
		}, denial.BadRecord},
		{"record signed by a tokens key", call, func(w *world, at *attempt) {
			w.records = w.tokens
			at.from.putAgent()
		}, denial.UnknownSigner},
		{"record that is an instance's", call, func(w *world, at *attempt) {
			w.store.records["writer"] = w.store.records[at.from.instanceKey()]
		}, denial.WrongKind},
		{"registry away", call, func(w *world, _ *attempt) { w.store.down = denial.New(denial.RegistryUnavailable, "away") }, denial.RegistryUnavailable},

		{"no token", call, func(_ *world, at *attempt) { at.fields.Token = "" }, denial.NoToken},
		{"unknown chain", call, func(_ *world, at *attempt) { at.fields.Token = envelope.Digest{1}.String() }, denial.UnknownChain},
		{"another chain under the digest", call, func(w *world, at *attempt) {
			digest := envelope.Digest{1}.String()
			w.store.chains[digest] = w.store.chains[at.fields.Token]
			at.fields.Token = digest
		}, denial.BrokenChain},
		{"somebody else's chain", call, func(w *world, at *attempt) { at.fields.Token = w.enrol("other", "read:logs").chain }, denial.NotHolder},
		{"chain of a key that is no tokens key", call, func(w *world, at *attempt) {
			w.store.chains[at.fields.Token] = forgedRoot(w, at.from)
		}, denial.UnknownSigner},
		{"token taken back", call, func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Tokens = nil })
		}, denial.TokenTakenBack},
		{"on behalf of a chain without the scope", call, func(w *world, at *attempt) {
			at.fields.OnBehalf = w.enrol("user", "write:logs").chain
		}, denial.ScopeNotHeld},
		{"on behalf of somebody suspended", call, func(w *world, at *attempt) {
			user := w.enrol("user", "read:logs")
			user.change(suspend)
			at.fields.OnBehalf = user.chain
		}, denial.DelegatorCut},
		{"on behalf of nobody", call, func(_ *world, at *attempt) { at.fields.OnBehalf = envelope.Digest{1}.String() }, denial.UnknownChain},
		{"replay store away", call, func(w *world, _ *attempt) { w.store.lost = true }, denial.ReplayUnavailable},

		{"call that asks for no scope", call, func(_ *world, at *attempt) { at.want.Scope = capability.Scope{} }, denial.Internal},
		{"scope of another subscription", call, func(_ *world, at *attempt) { at.want.Scope = capability.RequireScope("write:logs") }, denial.Internal},
		{"nothing wanted", call, func(_ *world, at *attempt) { at.want = gate.Want{} }, denial.WrongSubject},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			at := tt.make(w.enrol("writer", "read:logs"))
			tt.spoil(w, at)
			wantReason(t, at.to(w.node), tt.reason)
			if tt.reason != denial.ReplayUnavailable && (w.seen.Len() != 0 || w.store.burns != 0) {
				t.Errorf("got %d nonces used, %d burnt, want none", w.seen.Len(), w.store.burns)
			}
		})
	}
}

// forgedRoot is the root chain of the actor as its own key would write it.
func forgedRoot(w *world, a *actor) string {
	return must[string](w.t)(capability.IssueRoot(w.records, capability.Root{
		Agent: a.id, Capabilities: scopesOf("read:logs"), Expires: w.clock.Now().Add(time.Hour),
	}, w.clock.Now()))
}

// Both the sender's own right and the one on whose behalf it calls.
func TestOnBehalf(t *testing.T) {
	w := newWorld(t)
	a, user := w.enrol("writer", "read:logs"), w.enrol("user", "read:logs")
	at := a.call()
	at.fields.OnBehalf = user.chain
	wantReason(t, at.to(w.node), "")
	at = a.call()
	at.fields.Token, at.fields.OnBehalf = user.chain, a.chain
	wantReason(t, at.to(w.node), denial.NotHolder)
}

// A reply is bound to its request and needs the right to handle.
func TestReply(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "handle:read:logs")
	reply := func() *attempt {
		at := a.call()
		at.fields.Parent = envelope.NewNonce()
		at.subject = subject.Default().Reply(a.id, agentid.Require("reader"), a.instance.Instance, at.fields.Parent)
		at.request = &envelope.Digest{7}
		at.want = gate.Want{Class: subject.Reply, Request: at.request, From: a.id, Scope: capability.RequireScope("handle:read:logs")}
		return at
	}
	wantReason(t, reply().to(w.node), "")
	at := reply()
	at.want.Scope = capability.RequireScope("handle:write:logs")
	wantReason(t, at.to(w.node), denial.ScopeNotHeld)
	if w.store.burns != 0 {
		t.Error("the shared store was asked about a reply")
	}
}

// A zero or half-made gate lets nothing through because there is none.
func TestNew(t *testing.T) {
	w := newWorld(t)
	whole := gate.Config{
		Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: w.peers, Reader: w.store,
		Burner: w.store, Seen: w.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
	}
	if _, err := gate.New(whole); err != nil {
		t.Fatal(err)
	}
	for i, spoil := range []func(*gate.Config){
		func(c *gate.Config) { c.Self = agentid.ID{} }, func(c *gate.Config) { c.TrustDomain = "" },
		func(c *gate.Config) { c.Space = subject.Space{} }, func(c *gate.Config) { c.Peers = nil },
		func(c *gate.Config) { c.Reader = nil }, func(c *gate.Config) { c.Burner = nil },
		func(c *gate.Config) { c.Seen = nil }, func(c *gate.Config) { c.Clock = nil },
		func(c *gate.Config) { c.Window = envelope.Window{} },
	} {
		c := whole
		spoil(&c)
		if _, err := gate.New(c); err == nil {
			t.Errorf("configuration %d is not whole and was taken", i)
		}
	}
	for i, c := range []gate.PeersConfig{
		{Ring: w.ring, Reader: w.store, Clock: w.clock.Now},
		{Roots: []string{"A"}, Reader: w.store, Clock: w.clock.Now},
		{Roots: []string{"A"}, Ring: w.ring, Clock: w.clock.Now},
		{Roots: []string{"A"}, Ring: w.ring, Reader: w.store},
		{Roots: []string{"A"}, Ring: w.ring, Reader: w.store, Clock: w.clock.Now, FeedGrace: -1},
	} {
		if _, err := gate.NewPeers(c); err == nil {
			t.Errorf("configuration %d of peers is not whole and was taken", i)
		}
	}
}

// A right that was given, or an agent that was resumed, a moment ago: the record
// known here is old, the leader has the new one.
func TestAuthorityIsReadAfreshOnce(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	wantReason(t, a.call().to(w.node), "")
	a.grant("read:logs") // a further token, of which the feed did not tell
	wantReason(t, a.call().to(w.node), "")

	lender, helper := w.enrol("lender", "read:logs"), w.enrol("helper")
	lent := lender.delegate(w.verify(w.store.chains[lender.chain]), helper, "read:logs")
	at := func() *attempt { at := helper.call(); at.fields.Token = lent.Digest(); return at }
	wantReason(t, at().to(w.node), "")
	w.peers.Observe("lender", lender.change(suspend))
	wantReason(t, at().to(w.node), denial.DelegatorCut)
	lender.change(resume)
	wantReason(t, at().to(w.node), "")

	// What is final is not asked for again.
	w.peers.Observe("lender", lender.change(func(r *registry.Agent) { r.Status = registry.Revoked; r.Epoch++ }))
	before := w.store.count()
	err := at().to(w.node)
	wantReason(t, err, denial.DelegatorCut)
	if !errors.Is(err, denial.Revoked) || w.store.count() != before {
		t.Errorf("got %v after %d reads, want revoked after none", err, w.store.count()-before)
	}
}

// Whoever is cut while a slow step of its message is under way does not get in.
func TestCutWhileJudged(t *testing.T) {
	for name, cut := range map[string]func(*world, *actor){
		"record": func(w *world, a *actor) { w.peers.Observe("writer", a.change(suspend)) },
		"tick": func(w *world, a *actor) {
			w.tickTo(w.node, registry.EpochEntry{Agent: a.id, Epoch: a.agent.Epoch + 1})
		},
		"instance": func(w *world, a *actor) {
			w.peers.Observe(a.instanceKey(), a.changeInstance(func(r *registry.Instance) { r.Epoch++; r.State = registry.InstanceRevoked }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.enrol("writer", "read:logs")
			at := a.call()
			w.gate = must[*gate.Gate](t)(gate.New(gate.Config{
				Self: agentid.Require("reader"), TrustDomain: domain, Space: subject.Default(), Peers: w.peers, Reader: w.store,
				Burner: burner(func() error { cut(w, a); return nil }), Seen: w.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
			}))
			if err := at.to(w.node); err == nil {
				t.Error("admitted after the cut")
			}
		})
	}
}

// A signature by a key that is not the record's is nobody's, whatever key the
// message names.
func TestForeignKey(t *testing.T) {
	w := newWorld(t)
	a, mallory := w.enrol("writer", "read:logs"), w.enrol("mallory")
	at := a.call()
	at.from = mallory // signs, and names its own key
	wantReason(t, at.to(w.node), denial.UnlistedKey)
	at.spoil = append(at.spoil, func(m *envelope.Message) {
		text := strings.Replace(m.Header[envelope.HeaderEnvelope][0], mallory.key.PublicKey(), a.key.PublicKey(), 1)
		with(m, envelope.HeaderEnvelope, text)
	})
	wantReason(t, at.to(w.node), denial.BadSignature)
	if w.seen.Len() != 0 {
		t.Error("a nonce was used")
	}
}
