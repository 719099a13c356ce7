package natsconf_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// What agents send to the audit is stored under their names and acknowledged
// nowhere, and what is stored nobody takes out.
func TestAuditIsKept(t *testing.T) {
	m := start(t)
	ctx := t.Context()
	audit, err := m.ctrl.CreateStream(ctx, natsconf.Audit(m.Space, time.Hour, 1<<20, 1))
	if err != nil {
		t.Fatal(err)
	}
	subj := m.Space.Audit(bob, bobInst)
	nc, a := m.Connect(t, "bob", []string{subj}, nil)
	inbox, inCtrl := subscribe(t, nc, a.Inbox()+".acks"), subscribe(t, m.Service, a.Inbox()+".acks")
	for _, text := range []string{"one", "two"} {
		if err := nc.PublishRequest(subj, inbox.Subject, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := audit.CreateConsumer(ctx, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 2})
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.Next(jetstream.FetchMaxWait(wait))
	if err != nil || string(msg.Data()) != "two" || msg.Subject() != subj {
		t.Fatalf("got %v, %v, want the second batch", msg, err)
	}
	silent(t, inCtrl, "a batch is not acknowledged")
	silent(t, inbox, "a batch is not acknowledged")

	if err := audit.DeleteMsg(ctx, 1); err == nil {
		t.Error("a batch was deleted")
	}
	if err := audit.Purge(ctx); err == nil {
		t.Error("the audit was purged")
	}
	for name, weaken := range map[string]func(*jetstream.StreamConfig){
		"deletes": func(c *jetstream.StreamConfig) { c.DenyDelete = false },
		"purges":  func(c *jetstream.StreamConfig) { c.DenyPurge = false },
	} {
		weak := natsconf.Audit(m.Space, time.Hour, 1<<20, 1)
		weaken(&weak)
		if _, err := m.ctrl.UpdateStream(ctx, weak); err == nil {
			t.Errorf("the stream was changed to allow %s", name)
		}
	}
	// What an operator may change is how much is kept.
	if _, err := m.ctrl.UpdateStream(ctx, natsconf.Audit(m.Space, 2*time.Hour, 2<<20, 1)); err != nil {
		t.Errorf("keeping more: %v", err)
	}
	info, err := audit.Info(ctx)
	if err != nil || info.State.Msgs != 2 {
		t.Errorf("got %+v, %v, want both batches", info, err)
	}
}
