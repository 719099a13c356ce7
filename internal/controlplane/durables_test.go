package controlplane_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// storage is the control plane's own view of what is stored for agents.
func storage(t *testing.T, m *devmesh.Mesh) jetstream.JetStream {
	t.Helper()
	nc, err := devmesh.AsService(m.Dir, m.Dir.Config.NATS.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// filters is what a consumer hands out; "gone" where there is none.
func filters(ctx context.Context, js jetstream.JetStream, consumer string) string {
	c, err := js.Consumer(ctx, natsconf.EventsStream, consumer)
	if err != nil {
		return "gone"
	}
	cfg := c.CachedInfo().Config
	list := cfg.FilterSubjects
	if cfg.FilterSubject != "" {
		list = append(list, cfg.FilterSubject)
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func topic(t *testing.T, ctx context.Context, m *devmesh.Mesh, op wire.Op, name string) wire.TopicList {
	t.Helper()
	var list wire.TopicList
	if err := m.Operate(ctx, wire.AdminRequest{Op: op, Topic: &registry.Topic{Topic: name, MaxAge: 3600}}, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

const nobody = "mesh.event.sealmesh.none"

// What a durable subscription hands out follows what its agent may subscribe: its
// own rights, what was lent to it and by whom, and which topics are durable.
func TestDurablesFollowRights(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	topic(t, ctx, m, wire.OpTopicAdd, "alerts")
	lender := registry.Rights{Subscribe: []string{"alerts"}, MayDelegate: scopes("subscribe:alerts")}
	boss := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("boss"), Rights: lender}))
	reader := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Subscribe: []string{"news"}}}))
	want := func(what, want string) {
		t.Helper()
		got := ""
		eventually(t, ctx, what, func() bool { got = filters(ctx, js, "reader_inbox"); return got == want })
	}
	now := func(what, want string) {
		t.Helper()
		if got := filters(ctx, js, "reader_inbox"); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	nothing := func(context.Context, *meshclient.Event) {}
	if err := reader.Subscribe("news", nothing, meshclient.Durable("inbox")); err != nil {
		t.Fatal(err)
	}
	now("subscribed", "mesh.event.*.news")
	list := topic(t, ctx, m, wire.OpTopicAdd, "news")
	if len(list.Topics) != 2 || list.Topics[1].Topic != "news" || !slices.Equal(list.Topics[1].Durables, []string{"reader/inbox"}) {
		t.Errorf("topics: got %+v, want news with the subscription of reader", list.Topics)
	}
	// A right that is lent for a while, under the same name.
	lent, err := boss.Delegate(ctx, "reader", meshclient.Grant{Scopes: []string{"subscribe:alerts"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the lent topic", func() bool { return reader.Subscribe("alerts", nothing, meshclient.Durable("inbox")) == nil })
	now("lent", "mesh.event.*.alerts mesh.event.*.news")
	if err := lent.End(ctx); err != nil {
		t.Fatal(err)
	}
	now("ended", "mesh.event.*.news")
	// A right that ends by itself.
	if _, err = boss.Delegate(ctx, "reader", meshclient.Grant{Scopes: []string{"subscribe:alerts"}, For: 6 * time.Second}); err != nil {
		t.Fatal(err)
	}
	want("lent for six seconds", "mesh.event.*.alerts mesh.event.*.news")
	want("over", "mesh.event.*.news")
	// A delegator that is cut, and comes back.
	if _, err = boss.Delegate(ctx, "reader", meshclient.Grant{Scopes: []string{"subscribe:alerts"}}); err != nil {
		t.Fatal(err)
	}
	want("lent again", "mesh.event.*.alerts mesh.event.*.news")
	if _, err := m.Cut(ctx, wire.OpSuspend, "boss", "odd"); err != nil {
		t.Fatal(err)
	}
	now("delegator suspended", "mesh.event.*.news")
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "boss"}, nil); err != nil {
		t.Fatal(err)
	}
	want("delegator back", "mesh.event.*.alerts mesh.event.*.news")
	// A topic that is durable no more, and again.
	topic(t, ctx, m, wire.OpTopicRemove, "news")
	want("topic removed", "mesh.event.*.alerts")
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	want("topic back", "mesh.event.*.alerts mesh.event.*.news")
	// Its own right.
	if _, err := m.Cut(ctx, wire.OpRevoke, "boss", "stolen"); err != nil {
		t.Fatal(err)
	}
	now("delegator revoked", "mesh.event.*.news")
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpUngrant, Target: "reader", Rights: registry.Rights{Subscribe: []string{"news"}}}, nil); err != nil {
		t.Fatal(err)
	}
	now("nothing left", nobody)
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "reader", Rights: registry.Rights{Subscribe: []string{"news"}}}, nil); err != nil {
		t.Fatal(err)
	}
	want("granted again", "mesh.event.*.news")
	if _, err := m.Cut(ctx, wire.OpSuspend, "reader", "odd"); err != nil {
		t.Fatal(err)
	}
	now("suspended", nobody)
	if _, err := m.Cut(ctx, wire.OpRevoke, "reader", "stolen"); err != nil {
		t.Fatal(err)
	}
	now("revoked", "gone")
}

// What changed while no control plane ran is set right when one starts.
func TestDurablesAreSetRightAtStart(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	reader := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Subscribe: []string{"news"}}}))
	if err := reader.Subscribe("news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("inbox")); err != nil {
		t.Fatal(err)
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(ctx, natsconf.EventsStream, "reader_inbox")
	if err != nil {
		t.Fatal(err)
	}
	wide := c.CachedInfo().Config
	wide.FilterSubject, wide.FilterSubjects = "", []string{"mesh.event.>"}
	if _, err := js.UpdateConsumer(ctx, natsconf.EventsStream, wide); err != nil {
		t.Fatal(err)
	}
	orphans := []string{"reader_other", "ghost_inbox"}
	for _, name := range orphans {
		if _, err := js.CreateConsumer(ctx, natsconf.EventsStream, jetstream.ConsumerConfig{Durable: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the right filter", func() bool { return filters(ctx, js, "reader_inbox") == "mesh.event.*.news" })
	for _, name := range orphans {
		eventually(t, ctx, "the end of "+name, func() bool { return filters(ctx, js, name) == "gone" })
	}
}

// An agent gets no consumer for what is not durable.
func TestDurableNeedsADurableTopic(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	reader := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Subscribe: []string{"news"}}}))
	err := reader.Subscribe("news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("inbox"))
	if err == nil {
		t.Fatal("a durable subscription of an ordinary topic was made")
	}
	t.Log(err, denial.Of(err))
	if got := filters(ctx, storage(t, m), "reader_inbox"); got != "gone" {
		t.Errorf("consumer: got %q, want none", got)
	}
}
