package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// widen is what a replica leaves behind that dies between what it wrote and
// looking again.
func widen(t *testing.T, ctx context.Context, js jetstream.JetStream, consumer string, filters ...string) {
	t.Helper()
	c, err := js.Consumer(ctx, natsconf.EventsStream, consumer)
	if err != nil {
		t.Fatal(err)
	}
	cfg := c.CachedInfo().Config
	cfg.FilterSubject, cfg.FilterSubjects = "", filters
	if _, err := js.UpdateConsumer(ctx, natsconf.EventsStream, cfg); err != nil {
		t.Fatal(err)
	}
}

func within(ctx context.Context, t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// readerOf is an agent with a durable subscription of news, which is durable, as
// is alerts.
func readerOf(t *testing.T, ctx context.Context, m *devmesh.Mesh, r registry.NewAgent) *meshclient.Mesh {
	t.Helper()
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	topic(t, ctx, m, wire.OpTopicAdd, "alerts")
	r.Agent, r.Rights = agentid.Require("reader"), registry.Rights{Subscribe: []string{"news"}}
	c := connect(t, ctx, m, add(t, ctx, m, r))
	if err := c.Subscribe("news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("inbox")); err != nil {
		t.Fatal(err)
	}
	return c
}

// Whatever is left too wide, by a try that failed or a replica that died, is set
// right without anybody asking again.
func TestWideConsumersAreFound(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	readerOf(t, ctx, m, registry.NewAgent{})
	reader := agentid.Require("reader")
	for what, f := range map[string]func(){
		"a try that failed": func() {
			over, cancel := context.WithCancel(ctx)
			cancel()
			if err := m.Plane.SyncDurables(over, reader); err == nil {
				t.Error("a try without time succeeded")
			}
		},
		"a look from time to time": func() { m.Plane.LookAtDurables() },
	} {
		widen(t, ctx, js, "reader_inbox", "mesh.event.>")
		f()
		eventually(t, within(ctx, t), what, func() bool { return filters(ctx, js, "reader_inbox") == "mesh.event.*.news" })
	}
	if _, err := js.CreateConsumer(ctx, natsconf.EventsStream, jetstream.ConsumerConfig{Durable: "reader_old"}); err != nil {
		t.Fatal(err)
	}
	m.Plane.LookAtDurables()
	eventually(t, within(ctx, t), "the end of what no record asks for", func() bool { return filters(ctx, js, "reader_old") == "gone" })
}

// A delegator that is cut takes along what another replica gave by its chain: that
// one may not be there any more.
func TestCutOfALenderThatOnlyAnotherReplicaMet(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	boss := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{
		Agent: agentid.Require("boss"), Rights: registry.Rights{Subscribe: []string{"alerts"}, MayDelegate: scopes("subscribe:alerts")},
	}))
	reader := readerOf(t, ctx, m, registry.NewAgent{})
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := boss.Delegate(ctx, "reader", meshclient.Grant{Scopes: []string{"subscribe:alerts"}}); err != nil {
		t.Fatal(err)
	}
	if got := filters(ctx, js, "reader_inbox"); got != "mesh.event.*.news" {
		t.Fatalf("this replica has written %q", got)
	}
	widen(t, ctx, js, "reader_inbox", "mesh.event.*.alerts", "mesh.event.*.news")
	if _, err := m.Cut(ctx, wire.OpSuspend, "boss", "odd"); err != nil {
		t.Fatal(err)
	}
	if got := filters(ctx, js, "reader_inbox"); got != "mesh.event.*.news" {
		t.Errorf("after the cut: got %q", got)
	}
}

// A subscription that is given up while its consumer is being written leaves none
// behind, of which nobody would know when it has to be narrowed.
func TestDurableGivenUpWhileItIsWritten(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	reader := readerOf(t, ctx, m, registry.NewAgent{})
	id := reader.ID()
	for i := range 40 {
		name := fmt.Sprint("inbox-", i)
		if _, err := m.Plane.Store().SetDurable(ctx, id, registry.Durable{Name: name, Topics: []string{"news"}}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := m.Plane.SyncDurables(ctx, id); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Duration(i) * 200 * time.Microsecond)
		if err := m.Plane.EndDurable(ctx, id, name); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		eventually(t, within(ctx, t), "the end of "+name, func() bool { return filters(ctx, js, "reader_"+name) == "gone" })
	}
}

// What an agent that has expired asked for is handed out to nobody: the server
// brings what it pulls to whomever it named.
func TestDurablesOfAnExpiredAgent(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 200 * time.Millisecond})
	js := storage(t, m)
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Subscribe: []string{"news"}}})
	c := connect(t, ctx, m, dir)
	if err := c.Subscribe("news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("inbox")); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the expiry", func() bool { return show(t, ctx, m, "reader").Status == registry.Expired })
	eventually(t, within(ctx, t), "the end of what it is given", func() bool { return filters(ctx, js, "reader_inbox") == nobody })
	connect(t, ctx, m, dir)
	if got := filters(ctx, js, "reader_inbox"); got != "mesh.event.*.news" {
		t.Errorf("after it came back: got %q", got)
	}
}

// The list of topics was written and whoever wrote it died before the stream was
// changed.
func TestTopicOfAReplicaThatDied(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	js := storage(t, m)
	readerOf(t, ctx, m, registry.NewAgent{})
	if _, err := m.Plane.Store().SetTopic(ctx, registry.Topic{Topic: "late", MaxAge: 60}, "admin"); err != nil {
		t.Fatal(err)
	}
	eventually(t, within(ctx, t), "the topic in the stream", func() bool {
		s, err := js.Stream(ctx, natsconf.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		for _, subj := range s.CachedInfo().Config.Subjects {
			if subj == "mesh.event.*.late" {
				return true
			}
		}
		return false
	})
}

// What was published while an agent did not hold the right does not come when the
// right is back, where it went on pulling by another one.
func TestEventsOfATimeWithoutTheRight(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	both := registry.Rights{Subscribe: []string{"news", "alerts"}, Publish: []string{"news", "alerts"}}
	topic(t, ctx, m, wire.OpTopicAdd, "news")
	topic(t, ctx, m, wire.OpTopicAdd, "alerts")
	press := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("press"), Rights: both}))
	reader := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: both}))
	var mu sync.Mutex
	var got []string
	texts := func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprint(got)
	}
	for _, name := range []string{"news", "alerts"} {
		if err := reader.Subscribe(name, func(_ context.Context, e *meshclient.Event) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, string(e.Data))
		}, meshclient.Durable("inbox")); err != nil {
			t.Fatal(err)
		}
	}
	say := func(name, text, want string) {
		t.Helper()
		if err := press.Publish(ctx, name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		eventually(t, within(ctx, t), want, func() bool { return texts() == want })
	}
	change := func(op wire.Op) {
		t.Helper()
		if err := m.Operate(ctx, wire.AdminRequest{Op: op, Target: "reader", Rights: registry.Rights{Subscribe: []string{"alerts"}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	say("alerts", "before", "[before]")
	change(wire.OpUngrant)
	if err := press.Publish(ctx, "alerts", []byte("without")); err != nil {
		t.Fatal(err)
	}
	say("news", "between", "[before between]")
	change(wire.OpGrant)
	js := storage(t, m)
	eventually(t, ctx, "the wider filter", func() bool { return filters(ctx, js, "reader_inbox") == "mesh.event.*.alerts mesh.event.*.news" })
	say("alerts", "after", "[before between after]")
}

// Each request for a durable subscription is told to everybody on the feed.
func TestDurablesInALoop(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	reader := readerOf(t, ctx, m, registry.NewAgent{})
	var err error
	for range 60 {
		if err = reader.EndDurable(ctx, "other"); err != nil {
			break
		}
	}
	if !errors.Is(err, denial.RateLimited) {
		t.Errorf("got %v from a loop, want %q", err, denial.RateLimited)
	}
}
