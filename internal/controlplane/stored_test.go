package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
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

// publisher is an instance that stores what it likes.
type publisher struct {
	gate.Speaker
	subj string // on which it stores events of news
	nc   *nats.Conn
	mesh *meshclient.Mesh // by which it asks
}

func publisherOf(t *testing.T, m *devmesh.Mesh, dir string) *publisher {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := d.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(d.Info.NATS[0], nats.Timeout(20*time.Second), nats.Nkey(key.PublicKey(), kp.Sign), nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return &publisher{subj: subject.Default().Event(d.Info.Agent, "news"), nc: nc, mesh: connect(t, t.Context(), m, dir), Speaker: gate.Speaker{
		Self: d.Info.Agent, Key: key, TrustDomain: d.Info.TrustDomain, Space: subject.Default(), Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
	}}
}

// event is one of news under that nonce, or, with change, something like it.
func (p *publisher) event(t *testing.T, nonce string, change func(*nats.Msg)) uint64 {
	t.Helper()
	msg, _, _, err := p.Message(p.subj, envelope.Fields{Nonce: nonce}, nil, []byte("said"), nil)
	if err != nil {
		t.Fatal(err)
	}
	msg.Header[envelope.HeaderMsgID] = []string{nonce}
	if change != nil {
		change(msg)
	}
	answer, err := p.nc.RequestMsg(msg, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := gate.ReadStoreAck(answer.Data)
	if err != nil || !ack.By(subject.EventsStream) || ack.Duplicate {
		t.Fatalf("not stored: %s", answer.Data)
	}
	return ack.Seq
}

func (p *publisher) ask(t *testing.T, body string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	reply, err := p.mesh.Call(ctx, wire.SelfStored, []byte(body), meshclient.To("control"))
	if err != nil {
		return "", err
	}
	return string(reply.Data), nil
}

// An instance is told of an event of its own that it is stored, and of anything else
// under that sequence that it is not that.
func TestOwnStored(t *testing.T) {
	t.Parallel()
	log := &buffer{}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.New(log), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	topic(t, ctx, m, wire.OpTopicAdd, "gossip")
	rights := registry.Rights{Publish: []string{"news", "gossip"}}
	press := publisherOf(t, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("press"), Rights: rights}))
	dir, err := m.Instance(ctx, press.Self)
	if err != nil {
		t.Fatal(err)
	}
	twin := publisherOf(t, m, dir)
	mallory := publisherOf(t, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("mallory"), Rights: rights}))
	// It signs with its own key, for its own subject, under another's name.
	masked := *press
	masked.Self = mallory.Self

	on := func(subj string) func(*nats.Msg) { return func(msg *nats.Msg) { msg.Subject = subj } }
	id := func(id ...string) func(*nats.Msg) {
		return func(msg *nats.Msg) { msg.Header[envelope.HeaderMsgID] = id }
	}
	var last uint64
	for _, c := range []struct {
		name   string
		by     *publisher // who stores an event of news
		change func(*nats.Msg)
		asker  *publisher
		topic  string // that it asks for
		nonce  bool   // it asks for another one
		own    bool
		clash  int // what the control plane logs of it
	}{
		{name: "its own", by: press, asker: press, topic: "news", own: true},
		{name: "its own, for another topic", by: press, asker: press, topic: "gossip", clash: 1},
		{name: "its own, for another nonce", by: press, asker: press, topic: "news", nonce: true},
		{name: "with another payload", by: press, change: func(msg *nats.Msg) { msg.Data = []byte("other") }, asker: press, topic: "news", clash: 1},
		{name: "where it was not signed for", by: press, change: on(press.Space.Event(press.Self, "gossip")), asker: press, topic: "gossip", clash: 1},
		{name: "without an ID", by: press, change: id(), asker: press, topic: "news"},
		{name: "with another ID", by: press, change: id(envelope.NewNonce()), asker: press, topic: "news"},
		{name: "without an envelope", by: press, change: func(msg *nats.Msg) { delete(msg.Header, envelope.HeaderEnvelope) }, asker: press, topic: "news", clash: 1},
		{name: "of another instance", by: twin, asker: press, topic: "news", clash: 1},
		{name: "for another instance", by: press, asker: twin, topic: "news", clash: 1},
		{name: "of another agent", by: mallory, asker: press, topic: "news", clash: 1},
		{name: "for another agent", by: press, asker: mallory, topic: "news", clash: 1},
		{name: "under another name", by: &masked, asker: press, topic: "news", clash: 1},
	} {
		before := strings.Count(log.String(), "two events under one ID")
		nonce := envelope.NewNonce()
		last = c.by.event(t, nonce, c.change)
		if c.nonce {
			nonce = envelope.NewNonce()
		}
		got, err := c.asker.ask(t, fmt.Sprintf(`{"topic":%q,"sequence":%d,"nonce":%q}`, c.topic, last, nonce))
		if want := fmt.Sprintf(`{"own":%v}`, c.own); got != want || err != nil {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, want)
		}
		if n := strings.Count(log.String(), "two events under one ID") - before; n != c.clash {
			t.Errorf("%s: %d lines about it, want %d", c.name, n, c.clash)
		}
	}
	// Of what is not there nobody is told that it is not.
	var failed *meshclient.Error
	if got, err := press.ask(t, fmt.Sprintf(`{"topic":"news","sequence":%d,"nonce":"x"}`, last+1)); !errors.As(err, &failed) {
		t.Errorf("of nothing: got %s, %v, want an error and no refusal", got, err)
	}
	for body, want := range map[string]denial.Reason{
		`{}`: denial.BadInput, `{"topic":"news","nonce":"x"}`: denial.BadInput, `{"topic":"news","sequence":-1,"nonce":"x"}`: denial.BadInput,
		`{"topic":"*","sequence":1,"nonce":"x"}`: denial.WildcardScope, `{"topic":"news","sequence":1,"nonce":"x","all":true}`: denial.BadInput,
	} {
		if got, err := press.ask(t, body); !errors.Is(err, want) {
			t.Errorf("%s: got %s, %v, want %q", body, got, err, want)
		}
	}
}
