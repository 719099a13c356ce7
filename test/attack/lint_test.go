package attack_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// What somebody changed behind the control plane's back lint finds at the live
// servers, and its exit code says so.
func TestLintFindsWhatWasChanged(t *testing.T) {
	l := start(t)
	cli := build(t)
	l.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: "news", MaxAge: 3600}}, nil)
	reader := l.add("reader", registry.Rights{Subscribe: []string{"news"}})
	l.add("writer", registry.Rights{Publish: []string{"news"}, Plain: registry.Plain{Publish: []string{"legacy"}}})
	ctx := t.Context()
	ctrl, err := jetstream.New(l.ctrl)
	if err != nil {
		t.Fatal(err)
	}
	store, err := jetstream.NewWithAPIPrefix(l.ctrl, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	l.subscribeDurably(store, reader, "news")

	found := func() (codes []string, code int) {
		out, code := cli.run(t, "lint", "--json", "--mesh", l.dev.Dir.Dir)
		var r wire.LintReport
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r.Schema != wire.LintSchema || r.Checked.Agents != 3 || r.Checked.Streams != 8 && code == 0 {
			t.Errorf("got %+v", r.Checked)
		}
		for _, f := range r.Findings {
			codes = append(codes, f.Code)
		}
		slices.Sort(codes)
		return slices.Compact(codes), code
	}
	if codes, code := found(); len(codes) != 0 || code != 0 {
		t.Fatalf("before: got %q, exit code %d", codes, code)
	}
	change := func(js jetstream.JetStream, name string, f func(*jetstream.StreamConfig)) {
		t.Helper()
		s, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		c := s.CachedInfo().Config
		f(&c)
		if _, err := js.UpdateStream(ctx, c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	change(ctrl, natsconf.BeatsStream, func(c *jetstream.StreamConfig) { c.NoAck = false })
	change(store, "KV_MESH_REPLAY", func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	change(store, natsconf.EventsStream, func(c *jetstream.StreamConfig) {
		c.RePublish = &jetstream.RePublish{Source: "mesh.event.>", Destination: "copy.>"}
	})
	if _, err := ctrl.CreateStream(ctx, jetstream.StreamConfig{Name: "EVIL", Subjects: []string{"mesh.ask.*.control.>"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.ConsumerConfig{
		{Durable: "gone_inbox", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "mesh.event.*.news"},
		{Durable: "reader_all", AckPolicy: jetstream.AckNonePolicy},
	} {
		if _, err := store.CreateConsumer(ctx, natsconf.EventsStream, c); err != nil {
			t.Fatal(err)
		}
	}
	// The client library makes no push consumers any more.
	made, err := l.ctrl.Request(natsconf.StoreAPI+".CONSUMER.CREATE.MESH_EVENTS.pushing",
		[]byte(`{"stream_name":"MESH_EVENTS","config":{"durable_name":"pushing","ack_policy":"none","deliver_subject":"_INBOX_writer_abcdefgh.x"}}`), wait)
	if err != nil || strings.Contains(string(made.Data), `"error"`) {
		t.Fatalf("push consumer: %v, %s", err, made.Data)
	}
	want := []string{
		"consumer-ack", "consumer-orphan", "consumer-push", "consumer-wide",
		"stream-acknowledges", "stream-forgets", "stream-reached", "stream-speaks", "stream-unknown",
	}
	if codes, code := found(); !slices.Equal(codes, want) || code != 1 {
		t.Errorf("after: got %q, exit code %d, want %q", codes, code, want)
	}
}
