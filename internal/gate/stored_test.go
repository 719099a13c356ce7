package gate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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

const week = 7 * 24 * time.Hour

var publishNews = capability.RequireScope("publish:news")

// ackOf is what the server writes into the reply field of a delivery.
func ackOf(consumer string, delivered, sequence uint64, stored time.Time) string {
	return fmt.Sprintf("$JS.ACK.%s.%s.%d.%d.%d.%d.0", subject.EventsStream, consumer, delivered, sequence, sequence+delivered, stored.UnixNano())
}

// puller is the reader's durable subscription.
func (w *world) puller() *gate.Stored {
	return &gate.Stored{
		Consumer: subject.Consumer(agentid.Require("reader"), "inbox"), MaxAge: week,
		Seen: must[*envelope.StoredMemory](w.t)(envelope.NewStoredMemory(envelope.StoredMemoryConfig{Window: envelope.DefaultWindow()})),
	}
}

// event is an event of the actor on its durable topic, as the sender signed it.
func (a *actor) event() *attempt {
	at := a.call()
	at.subject, at.fields.Deadline = subject.Default().Event(a.id, "news"), 0
	at.want = gate.Want{Class: subject.Event, Dotted: "news", Scope: publishNews}
	return at
}

// storedAs lets the event go into the stream, as the message with that sequence,
// and be pulled.
func (at *attempt) storedAs(p *gate.Stored, sequence uint64) *attempt {
	at.want.Stored = p
	stored := at.from.w.clock.Now()
	at.spoil = append(at.spoil, func(m *envelope.Message) {
		with(m, envelope.HeaderMsgID, at.fields.Nonce)
		m.Reply = ackOf(p.Consumer, 1, sequence, stored)
	})
	return at
}

// An event that was stored an hour, or a week, before it is read; the window for
// live messages is five minutes.
func TestStoredEventsWaitForTheirReader(t *testing.T) {
	for _, away := range []time.Duration{0, time.Hour, 6 * 24 * time.Hour, week} {
		w := newWorld(t)
		p, a := w.puller(), w.enrol("writer", "publish:news")
		// Enough that the right itself outlives the test.
		a.chain = a.grantUntil(30*24*time.Hour, "publish:news").Digest()
		at := a.event().storedAs(p, 1)
		m := at.message()
		w.clock.advance(away)
		w.tickTo(w.node)
		v, err := w.gate.Admit(t.Context(), m, at.want)
		if err != nil || v.From() != a.id || string(v.Data()) != "tail 20" {
			t.Errorf("read %v later: got %v", away, err)
		}
		if w.seen.Len() != 0 || w.store.burns != 0 {
			t.Error("a stored event used up a nonce of the live ones")
		}
		// Live, the same message is what it looks like.
		m.Reply, at.want.Stored = "", nil
		_, err = w.gate.Admit(t.Context(), m, at.want)
		if want := map[bool]denial.Reason{true: denial.Stale}[away > limits.Window]; denial.Of(err) != want {
			t.Errorf("live %v later: got %v, want %q", away, err, want)
		}
	}
}

// grantUntil issues a root token that ends at a time of the test's choosing.
func (a *actor) grantUntil(life time.Duration, scopes ...string) *capability.Chain {
	a.w.t.Helper()
	text := must[string](a.w.t)(capability.IssueRoot(a.w.tokens, capability.Root{
		Agent: a.id, Capabilities: scopesOf(scopes...), Delegatable: nil, Expires: a.w.clock.Now().Add(life),
	}, a.w.clock.Now()))
	c := a.w.verify(text)
	a.change(func(r *registry.Agent) { r.Tokens = append(r.Tokens, c.Digest()) })
	a.w.putChain(c)
	return c
}

func TestStoredRefusals(t *testing.T) {
	p := func(at *attempt) *gate.Stored { return at.want.Stored }
	reply := func(text func(*attempt) string) func(*world, *attempt) {
		return func(_ *world, at *attempt) {
			at.spoil = append(at.spoil, func(m *envelope.Message) { m.Reply = text(at) })
		}
	}
	for _, tt := range []struct {
		name   string
		spoil  func(*world, *attempt)
		reason denial.Reason
	}{
		{"no Nats-Msg-Id", func(_ *world, at *attempt) {
			at.spoil = append(at.spoil, func(m *envelope.Message) { delete(m.Header, envelope.HeaderMsgID) })
		}, denial.BadEnvelope},
		{"another Nats-Msg-Id", func(_ *world, at *attempt) {
			at.spoil = append(at.spoil, func(m *envelope.Message) { with(m, envelope.HeaderMsgID, envelope.NewNonce()) })
		}, denial.BadEnvelope},
		{"stored long after it was signed", func(w *world, at *attempt) {
			stored := w.clock.Now()
			at.fields.Time = stored.Add(-limits.Window - time.Second)
		}, denial.Stale},
		{"stored long before it was signed", func(w *world, at *attempt) {
			at.fields.Time = w.clock.Now().Add(limits.Ahead + time.Second)
		}, denial.Future},
		{"older than its topic allows", func(w *world, at *attempt) { p(at).MaxAge = time.Hour }, denial.Stale},
		{"of a topic that allows no age", func(w *world, at *attempt) { p(at).MaxAge = 0 }, denial.Stale},
		{"broken", func(_ *world, at *attempt) { at.spoil = append(at.spoil, forge) }, denial.BadSignature},
		{"of another topic", func(_ *world, at *attempt) { at.subject = subject.Default().Event(at.from.id, "other") }, denial.WrongSubject},

		{"another's consumer delivering into this inbox", reply(func(*attempt) string {
			return ackOf(subject.Consumer(agentid.Require("mallory"), "inbox"), 1, 1, t0)
		}), denial.ForeignDelivery},
		{"another consumer of this agent", reply(func(*attempt) string {
			return ackOf(subject.Consumer(agentid.Require("reader"), "other"), 1, 1, t0)
		}), denial.ForeignDelivery},
		{"another stream", reply(func(at *attempt) string { return "$JS.ACK.MESH_BEATS." + p(at).Consumer + ".1.1.1.1.0" }), denial.ForeignDelivery},
		{"no reply field", reply(func(*attempt) string { return "" }), denial.ForeignDelivery},
		{"an inbox as reply field", reply(func(*attempt) string { return "_INBOX_reader_x.y" }), denial.ForeignDelivery},

		{"sender suspended meanwhile", func(_ *world, at *attempt) { at.from.change(suspend) }, denial.Suspended},
		{"suspended and resumed meanwhile", func(_ *world, at *attempt) {
			at.from.change(suspend)
			at.from.change(resume)
		}, denial.StaleEpoch},
		{"sender revoked meanwhile", func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Status = registry.Revoked })
		}, denial.Revoked},
		{"its instance revoked meanwhile", func(_ *world, at *attempt) {
			at.from.changeInstance(func(r *registry.Instance) { r.State = registry.InstanceRevoked })
		}, denial.Revoked},
		{"its epoch raised meanwhile", func(_ *world, at *attempt) { at.from.change(func(r *registry.Agent) { r.Epoch++ }) }, denial.StaleEpoch},
		{"its token taken back meanwhile", func(_ *world, at *attempt) {
			at.from.change(func(r *registry.Agent) { r.Tokens = nil })
		}, denial.TokenTakenBack},
		{"no scope to check", func(_ *world, at *attempt) { at.want.Scope = capability.Scope{} }, denial.Internal},
		{"a call", func(_ *world, at *attempt) { at.want.Class = subject.Call }, denial.Internal},
		{"no consumer", func(_ *world, at *attempt) { p(at).Consumer = "" }, denial.Internal},
		{"no memory", func(_ *world, at *attempt) { p(at).Seen = nil }, denial.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			at := w.enrol("writer", "publish:news").event().storedAs(w.puller(), 1)
			tt.spoil(w, at)
			m := at.message()
			w.clock.advance(2 * time.Hour)
			w.tickTo(w.node)
			_, err := w.gate.Admit(t.Context(), m, at.want)
			wantReason(t, err, tt.reason)
		})
	}
}

// What came out of a stream is refused wherever live messages are expected, on
// every class: whoever may pull can have it delivered there.
func TestLiveRefusesWhatWasStored(t *testing.T) {
	for _, reply := range []string{
		ackOf(subject.Consumer(agentid.Require("mallory"), "inbox"), 1, 1, t0),
		"$JS.ACK.hub.ABCDEFGH.MESH_EVENTS.mallory_inbox.1.1.1.1.0", "$JS.ACK.anything",
	} {
		w := newWorld(t)
		a := w.enrol("writer", "read:logs", "publish:news", "handle:read:logs")
		ask := a.call()
		ask.subject, ask.want.Class = subject.Default().Ask(a.id, agentid.Require("reader"), "read.logs"), subject.Ask
		beat := a.note()
		beat.subject, beat.want = subject.Default().Beat(a.id, a.instance.Instance), gate.Want{Class: subject.Beat}
		answer := a.call()
		answer.fields.Parent = envelope.NewNonce()
		answer.subject = subject.Default().Reply(a.id, agentid.Require("reader"), a.instance.Instance, answer.fields.Parent)
		answer.request = &envelope.Digest{7}
		answer.want = gate.Want{Class: subject.Reply, Request: answer.request, Scope: capability.RequireScope("handle:read:logs")}
		for name, at := range map[string]*attempt{"call": a.call(), "ask": ask, "event": a.event(), "note": a.note(), "beat": beat, "reply": answer} {
			m := at.message()
			m.Reply = reply
			_, err := w.gate.Admit(t.Context(), m, at.want)
			wantReason(t, err, denial.ForeignDelivery)
			if w.seen.Len() != 0 || w.store.burns != 0 {
				t.Errorf("%s: a nonce was used", name)
			}
			m.Reply = "_INBOX_writer_x.y" // the sender's own business
			if _, err := w.gate.Admit(t.Context(), m, at.want); err != nil {
				t.Errorf("%s with an ordinary reply field: %v", name, err)
			}
			w.seen, w.store.burns = w.start(0).seen, 0
		}
	}
}

// The same place in the stream again is a redelivery, whether the first one was
// acknowledged or not; a copy in another place is a replay once it was.
func TestStoredRedeliveryAndReplay(t *testing.T) {
	w := newWorld(t)
	p := w.puller()
	at := w.enrol("writer", "publish:news").event().storedAs(p, 5)
	m := at.message()
	admit := func(delivered, sequence uint64) (*envelope.Verified, error) {
		m.Reply = ackOf(p.Consumer, delivered, sequence, t0)
		return w.gate.Admit(t.Context(), m, at.want)
	}
	var v *envelope.Verified
	for delivered := range uint64(3) {
		got, err := admit(1+delivered, 5)
		if err != nil {
			t.Fatalf("delivery %d: %v", 1+delivered, err)
		}
		v = got
	}
	if err := p.Seen.Use(v, 5, t0); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(4, 5); err != nil {
		t.Errorf("redelivery of what was acknowledged: %v", err)
	}
	_, err := admit(1, 6)
	wantReason(t, err, denial.Replayed)
}

// A right that has ended by itself covers what was published while it ran, and
// nothing later. One that was taken back covers nothing.
func TestStoredUnderARightThatEnded(t *testing.T) {
	w := newWorld(t)
	p := w.puller()
	boss, a := w.enrol("boss", "publish:news"), w.enrol("writer")
	lent := boss.delegate(w.verify(w.store.chains[boss.chain]), a, "publish:news") // for an hour
	a.chain = lent.Digest()
	in := a.event().storedAs(p, 1)
	early := in.message()
	w.clock.advance(lent.Expires().Sub(w.clock.Now()))
	w.tickTo(w.node)
	late := a.event().storedAs(p, 2).message()
	w.clock.advance(time.Hour)
	w.tickTo(w.node)

	// Asked for a live message first: that it has ended now is not held against
	// what was stored.
	live := a.event()
	wantReason(t, live.to(w.node), denial.TokenExpired)
	_, err := w.gate.Admit(t.Context(), early, in.want)
	wantReason(t, err, "")
	_, err = w.gate.Admit(t.Context(), late, in.want)
	wantReason(t, err, denial.TokenExpired)
	wantReason(t, live.to(w.node), denial.TokenExpired)

	fresh := w.start(0)
	_, err = fresh.gate.Admit(t.Context(), early, in.want)
	wantReason(t, err, "")
	for name, cut := range map[string]struct {
		f      func(*registry.Agent)
		reason denial.Reason
	}{
		"delegator suspended":  {suspend, denial.DelegatorCut},
		"delegator revoked":    {func(r *registry.Agent) { r.Status = registry.Revoked }, denial.DelegatorCut},
		"delegation ended":     {func(r *registry.Agent) { r.Voided = []registry.Void{{Token: lent.Hops()[1].Token}} }, denial.TokenTakenBack},
		"root token gone":      {func(r *registry.Agent) { r.Tokens = nil }, denial.TokenTakenBack},
		"nothing of the above": {func(*registry.Agent) {}, ""},
	} {
		before := boss.agent
		boss.change(cut.f)
		_, err := w.start(0).gate.Admit(t.Context(), early, in.want)
		if got := denial.Of(err); got != cut.reason {
			t.Errorf("%s: got %v, want %q", name, err, cut.reason)
		}
		revision := boss.agent.Revision
		boss.agent = before
		boss.agent.Tokens = slices.Clone(before.Tokens)
		boss.agent.Revision = revision + 1
		boss.putAgent()
	}
}

// A live message and a stored one name the same ended chain at the same time: the
// answer to the one is not the answer to the other.
func TestStoredBesideLiveUnderAnEndedRight(t *testing.T) {
	w := newWorld(t)
	p, a := w.puller(), w.enrol("writer", "publish:news")
	in := a.event().storedAs(p, 1)
	m := in.message()
	w.clock.advance(25 * time.Hour)
	w.tickTo(w.node)
	wantReason(t, a.note().to(w.node), "") // its records are at hand
	stored := make(chan error, 1)
	var once sync.Once
	w.store.during = func(_ context.Context, key string) {
		if key != a.chain {
			return
		}
		once.Do(func() {
			go func() {
				_, err := w.gate.Admit(t.Context(), m, in.want)
				stored <- err
			}()
			for end := time.Now().Add(time.Second); w.store.count(a.chain) < 2 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		})
	}
	wantReason(t, a.event().to(w.node), denial.TokenExpired)
	wantReason(t, <-stored, "")
}

// The floor that is raised when the shared store may have forgotten nonces does
// not reach what is told apart by its place in the stream.
func TestStoredAreNotBelowTheReplayFloor(t *testing.T) {
	w := newWorld(t)
	at := w.enrol("writer", "publish:news").event().storedAs(w.puller(), 1)
	m := at.message()
	w.clock.advance(time.Second)
	w.tick.ReplaySince = w.clock.Now().UnixMilli()
	w.tickTo(w.node)
	_, err := w.gate.Admit(t.Context(), m, at.want)
	wantReason(t, err, "")
}

// An ended chain is read once in a while and not with every message that names
// it.
func TestEndedChainIsNotReadEachTime(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("writer", "publish:news")
	w.clock.advance(25 * time.Hour)
	w.tickTo(w.node)
	for range 10 {
		wantReason(t, a.event().to(w.node), denial.TokenExpired)
	}
	if got := w.store.count(a.chain); got != 1 {
		t.Errorf("got %d reads, want 1", got)
	}
	if _, err := w.gate.Chain(t.Context(), a.chain); !errors.Is(err, denial.TokenExpired) {
		t.Errorf("got %v, want %v", err, denial.TokenExpired)
	}
}
