package controlplane_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// suspects are a mesh in which asker calls reader and publishes news.
type suspects struct {
	*devmesh.Mesh
	t      *testing.T
	ctx    context.Context
	asker  *meshclient.Mesh
	reader *meshclient.Mesh
	dirs   map[string]string
}

func newSuspects(t *testing.T) *suspects {
	t.Helper()
	m, ctx := start(t, devmesh.Options{})
	s := &suspects{Mesh: m, t: t, ctx: ctx, dirs: map[string]string{}}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: "news", MaxAge: 3600}}, nil); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]registry.Rights{
		"asker":  {Call: scopes("read:logs"), Publish: []string{"news"}, MayDelegate: scopes("read:logs")},
		"reader": {Handle: scopes("read:logs"), Subscribe: []string{"news"}},
		"temp":   {},
	} {
		s.dirs[name] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(name), Heartbeat: registry.HeartbeatNone, Rights: r})
	}
	s.asker, s.reader = connect(t, ctx, m, s.dirs["asker"]), connect(t, ctx, m, s.dirs["reader"])
	if err := s.reader.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return []byte("log"), nil }); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *suspects) call(from *meshclient.Mesh) {
	s.t.Helper()
	if _, err := from.Call(s.ctx, "read:logs", []byte("app.log")); err != nil {
		s.t.Fatal(err)
	}
}

func (s *suspects) blast(id string) (v wire.Blast) {
	s.t.Helper()
	if err := s.Operate(s.ctx, wire.AdminRequest{Op: wire.OpBlast, Target: id}, &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *suspects) since(target string, at time.Time) (v wire.Compromise) {
	s.t.Helper()
	if err := s.Operate(s.ctx, wire.AdminRequest{Op: wire.OpSince, Target: target, Since: at}, &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// counted waits until the audit tells of so many calls of asker.
func (s *suspects) counted(n uint64) (v wire.Blast) {
	s.t.Helper()
	eventually(s.t, s.ctx, "the records", func() bool {
		v = s.blast("asker")
		return len(v.Did.Calls) == 1 && v.Did.Calls[0].Count == n
	})
	return v
}

func reach(list []wire.ReachView, scope string) (out []string) {
	for _, r := range list {
		if r.Scope == scope {
			out = append(out, "reached")
			for _, id := range r.Agents {
				out = append(out, id.String())
			}
		}
	}
	return out
}

func TestBlast(t *testing.T) {
	t.Parallel()
	s := newSuspects(t)
	s.call(s.asker)
	s.call(s.asker)
	if err := s.asker.Publish(s.ctx, "news", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.asker.Delegate(s.ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute}); err != nil {
		t.Fatal(err)
	}
	v := s.counted(2)
	if got, want := reach(v.Call, "read:logs"), []string{"reached", "reader"}; !slices.Equal(got, want) {
		t.Errorf("calls: got %q, want %q", got, want)
	}
	if got, want := reach(v.Publish, "news"), []string{"reached", "reader"}; !slices.Equal(got, want) {
		t.Errorf("publishes: got %q, want %q", got, want)
	}
	if len(v.Lent) != 1 || v.Lent[0].To.String() != "temp" || v.Admin || len(v.Sessions) != 1 || v.Sessions[0].Instance != s.asker.Instance() {
		t.Errorf("got %+v", v)
	}
	if c := v.Did.Calls[0]; c.Peer.String() != "reader" || c.Scope != "read:logs" || c.Failed != 0 || c.First.IsZero() || c.Last.Before(c.First) {
		t.Errorf("got %+v", c)
	}
	if !v.Audit.From.After(v.Audit.Since) || v.Audit.Complete || v.Audit.Why != "" || v.Audit.Refused+int(v.Audit.Missing) != 0 {
		t.Errorf("got %+v, want a day of which the first part is not known", v.Audit)
	}
	r := s.blast("reader")
	if got, want := reach(r.Handle, "read:logs"), []string{"reached", "asker", "temp"}; !slices.Equal(got, want) {
		t.Errorf("answers: got %q, want %q", got, want)
	}
	if got, want := reach(r.Subscribe, "news"), []string{"reached", "asker"}; !slices.Equal(got, want) {
		t.Errorf("hears: got %q, want %q", got, want)
	}
	temp := s.blast("temp")
	if len(temp.Call) != 1 || !temp.Call[0].Lent || len(temp.Held) != 1 {
		t.Errorf("got %+v, want one lent right", temp)
	}
	// One that is out is looked at as it would come back.
	if _, err := s.Cut(s.ctx, wire.OpSuspend, "asker", ""); err != nil {
		t.Fatal(err)
	}
	if v := s.blast("asker"); len(v.Call) != 1 || v.Status != registry.Suspended {
		t.Errorf("suspended: got %+v, want its rights", v)
	}
	if !s.blast("admin").Admin {
		t.Error("the administrator is none")
	}
}

// speaker is what signs as an instance, whatever it wants to say.
func (s *suspects) speaker(name string) (*gate.Speaker, *nats.Conn) {
	s.t.Helper()
	d, err := agentdir.Open(s.dirs[name])
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := d.Key()
	if err != nil {
		s.t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := envelope.NewKey(seed)
	if err != nil {
		s.t.Fatal(err)
	}
	nc, err := raw(s.t, s.dirs[name])
	if err != nil {
		s.t.Fatal(err)
	}
	return &gate.Speaker{
		Self: agentid.Require(name), Key: k, TrustDomain: s.Dir.Config.TrustDomain, Space: subject.Default(),
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} }, Clock: time.Now,
	}, nc
}

func batch(t *testing.T, list ...audit.Record) []byte {
	t.Helper()
	b := audit.AppendHead(nil, "forged", 1, 3)
	for _, r := range list {
		r.Time = time.Now()
		var err error
		if b, err = audit.AppendRecord(b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// Nobody speaks for others in the audit, or twice.
func TestAuditTakesNobodysWordForAnother(t *testing.T) {
	t.Parallel()
	s := newSuspects(t)
	s.call(s.asker)
	s.counted(1)
	asker, reader, temp := s.asker.ID(), s.reader.ID(), agentid.Require("temp")
	by, nc := s.speaker("temp")
	inst := agentid.InstanceOf(by.Key.PublicKey())
	publish := func(data []byte, spoil func(*nats.Msg)) *nats.Msg {
		msg, _, _, err := by.Message(subject.Default().Audit(temp, inst), envelope.Fields{}, nil, data, nil)
		if err != nil {
			t.Fatal(err)
		}
		if spoil != nil {
			spoil(msg)
		}
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		return msg
	}
	// Of others: that reader took a call, that the control plane admitted or changed.
	publish(batch(t,
		audit.Record{Kind: audit.Call, Verdict: audit.Accepted, Sender: asker, Instance: s.asker.Instance(), Peer: reader, Scope: "write:all"},
		audit.Record{Kind: audit.Connect, Verdict: audit.Accepted, Sender: asker, Instance: s.asker.Instance(), Host: "6.6.6.6"},
		audit.Record{Kind: audit.Change, Verdict: audit.Accepted, Sender: asker, Peer: temp, Scope: "grant"},
		audit.Record{Kind: audit.Event, Verdict: audit.Sent, Sender: asker, Instance: s.asker.Instance(), Scope: "lies"},
	), nil)
	// Changed on the way, and unsigned.
	publish(batch(t, audit.Record{Kind: audit.Call, Verdict: audit.Refused, Reason: denial.Replayed, Sender: asker, Peer: temp}),
		func(m *nats.Msg) { m.Data = bytes.Replace(m.Data, []byte("replayed"), []byte("expired!"), 1) })
	publish([]byte(`"asker"`), func(m *nats.Msg) { m.Header = nil })
	// No batch.
	publish([]byte(`{"sender":"asker"}`), nil)
	// Of itself, and a copy of that.
	msg := publish(batch(t, audit.Record{Kind: audit.Call, Verdict: audit.Refused, Reason: denial.ScopeNotHeld, Sender: asker, Peer: temp}), nil)
	if err := nc.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var v wire.Blast
	eventually(t, s.ctx, "the last batch", func() bool {
		v = s.blast("asker")
		return len(v.Did.Refused) > 0
	})
	if len(v.Did.Calls) != 1 || v.Did.Calls[0].Scope != "read:logs" || v.Did.Calls[0].Count != 1 {
		t.Errorf("calls: got %+v, want the one that was", v.Did.Calls)
	}
	if len(v.Did.Refused) != 1 || v.Did.Refused[0].Count != 1 || v.Did.Refused[0].Reason != denial.ScopeNotHeld {
		t.Errorf("refused: got %+v, want what temp says of itself, once", v.Did.Refused)
	}
	if slices.ContainsFunc(v.Did.Published, func(c wire.TopicCount) bool { return c.Topic == "lies" }) ||
		slices.ContainsFunc(v.Did.Changes, func(c wire.ReasonCount) bool { return c.Kind == "grant" }) {
		t.Errorf("got %+v and %+v, want nothing that temp says of others", v.Did.Published, v.Did.Changes)
	}
	if v.Audit.Refused != 3 || v.Audit.Missing != 6 {
		t.Errorf("got %d refused and %d missing, want 3 and what two batches say", v.Audit.Refused, v.Audit.Missing)
	}
	if c := s.since("asker", time.Now().Add(-time.Hour)); slices.Contains(c.Hosts, "6.6.6.6") {
		t.Error("a connection was believed that the control plane did not tell of")
	}
	// Who is revoked did what it did, and signed what it signed.
	if _, err := s.Cut(s.ctx, wire.OpRevoke, "reader", ""); err != nil {
		t.Fatal(err)
	}
	if v := s.blast("asker"); len(v.Did.Calls) != 1 || v.Audit.Refused != 3 {
		t.Errorf("after its handler was revoked: got %+v, want the same", v.Did.Calls)
	}
}

// What was done with a key that is lost is found, and what of it still waits is
// refused.
func TestCompromisedSince(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := newSuspects(t)
	heard := make(chan string, 8)
	subscribe := func() error {
		return s.reader.Subscribe("news", func(_ context.Context, e *meshclient.Event) { heard <- string(e.Data) }, meshclient.Durable("inbox"))
	}
	if err := subscribe(); err != nil {
		t.Fatal(err)
	}
	if err := s.asker.Publish(s.ctx, "news", []byte("before")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-s.ctx.Done():
		t.Fatal("the event did not come")
	}
	s.call(s.asker)
	lent, err := s.asker.Delegate(s.ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	temp := connect(t, s.ctx, s.Mesh, s.dirs["temp"])
	s.call(temp)
	// The reader is away; what is published now waits for it.
	if err := s.reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.asker.Publish(s.ctx, "news", []byte("stored by the thief")); err != nil {
		t.Fatal(err)
	}
	var v wire.Compromise
	eventually(t, s.ctx, "all records", func() bool {
		v = s.since("asker", began)
		return v.CallsTotal == 1 && len(v.Did.Published) == 1 && v.Did.Published[0].Published == 2 && len(v.Delegations) == 1 && v.Delegations[0].Uses == 1
	})
	if v.CallsTotal != 1 || len(v.Calls) != 1 || v.Calls[0].By.String() != "reader" || v.Calls[0].Outcome != audit.Accepted ||
		v.Calls[0].Instance != s.asker.Instance() || v.Calls[0].Correlation == "" || v.Calls[0].Chain == "" {
		t.Errorf("calls: got %+v", v.Calls)
	}
	if len(v.Stored) != 1 || v.Stored[0] != (wire.StoredCount{Topic: "news", Count: 2}) {
		t.Errorf("stored: got %+v, want both events", v.Stored)
	}
	if len(v.Did.Published) != 1 || v.Did.Published[0].Published != 2 || v.Did.Published[0].Accepted != 1 {
		t.Errorf("published: got %+v, want two, of which one was taken", v.Did.Published)
	}
	if len(v.Delegations) != 1 || v.Delegations[0].Chain != lent.Chains()[0] || v.Delegations[0].Uses != 1 || v.Delegations[0].Stored.IsZero() {
		t.Errorf("delegations: got %+v, want the one, used once", v.Delegations)
	}
	if v.Admitted == 0 || uint64(len(v.Connections)) != v.Admitted || !slices.Contains(v.Hosts, "127.0.0.1") {
		t.Errorf("connections: got %+v", v.Connections)
	}
	// Nothing of it is of a later time, or another instance's.
	if v := s.since("asker", time.Now()); len(v.Stored)+len(v.Delegations) != 0 || !v.Audit.Complete {
		t.Errorf("of now: got %+v, want nothing, and completely", v)
	}
	dir, err := s.Instance(s.ctx, s.asker.ID())
	if err != nil {
		t.Fatal(err)
	}
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if v := s.since("asker/"+d.Info.Instance.String(), began); v.CallsTotal+v.Admitted != 0 || len(v.Delegations) != 0 {
		t.Errorf("of the other instance: got %+v, want nothing", v)
	}
	if _, err := s.Cut(s.ctx, wire.OpRevoke, "asker", ""); err != nil {
		t.Fatal(err)
	}
	refused := make(chan meshclient.Refusal, 8)
	again, err := s.Connect(s.ctx, s.dirs["reader"], meshclient.OnRefused(func(r meshclient.Refusal) { refused <- r }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	})
	s.reader = again
	if err := subscribe(); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-refused:
		if r.Reason != denial.Revoked && r.Reason != denial.StaleEpoch {
			t.Errorf("got %+v, want the event refused because its signer is revoked", r)
		}
	case got := <-heard:
		t.Errorf("got the event %q of a revoked key", got)
	case <-s.ctx.Done():
		t.Fatal("the event did not come")
	}
	if v := s.since("asker", began); v.CallsTotal != 1 || len(v.Delegations) != 1 || v.Delegations[0].Ended != denial.DelegatorCut {
		t.Errorf("afterwards: got %+v, want the same, and the delegation ended", v)
	}
}
