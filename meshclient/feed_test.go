package meshclient_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// service connects as the control plane, in the account that owns the registry.
func service(t testing.TB, m *devmesh.Mesh) *nats.Conn {
	t.Helper()
	nc, err := devmesh.AsService(m.Dir, m.Server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// raw reads a document of the registry as it is stored.
func raw(t testing.TB, ctrl *nats.Conn, key string) string {
	t.Helper()
	m, err := ctrl.Request(subject.LeaderGet(subject.AgentsBucket), registry.LeaderReadBody(subject.AgentsBucket, key), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	text, err := registry.ParseLeaderRead(m.Data)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return text
}

// put stores a document of the registry as whoever owns the bucket can, and waits
// until it is stored and on its way to those who hear of it.
func put(t testing.TB, ctrl *nats.Conn, key, text string) {
	t.Helper()
	m, err := ctrl.Request(subject.KV(subject.AgentsBucket, key), []byte(text), 10*time.Second)
	if err != nil || strings.Contains(string(m.Data), "error") {
		t.Fatalf("storing %s: %v, %v", key, err, m)
	}
}

// reconfigured is a mesh whose nats-server was set up otherwise.
func reconfigured(t *testing.T, edit func(conf string) string) *devmesh.Mesh {
	t.Helper()
	m := mesh(t, quiet())
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.Server.Close()
	b, err := os.ReadFile(m.Dir.ServerConf())
	if err != nil {
		t.Fatal(err)
	}
	after := edit(string(b))
	if after == string(b) {
		t.Fatal("nothing changed in the configuration")
	}
	if err := os.WriteFile(m.Dir.ServerConf(), []byte(after), 0o600); err != nil {
		t.Fatal(err)
	}
	// Other tests may have taken its ports meanwhile, for one of their connections.
	m.Dir.Config.Control.Listen, m.Dir.Config.Control.URL = "127.0.0.1:0", ""
	eventually(t, "the return of the mesh", func() bool { return m.Up(within(t, 30*time.Second)) == nil })
	return m
}

const (
	feedAgents = "mesh.feed.agents."
	common     = feedAgents + "sealmesh.*"
	wholeFeed  = feedAgents + ">"
)

// of are the subscriptions by which agents are followed.
func of(ids ...string) []string {
	out := []string{common}
	for _, id := range ids {
		out = append(out, feedAgents+id, feedAgents+id+".*")
	}
	slices.Sort(out)
	return out
}

func wantFeed(t *testing.T, m *meshclient.Mesh, want []string) {
	t.Helper()
	if got := slices.Sorted(maps.Keys(m.FeedHeard())); !slices.Equal(got, want) {
		t.Errorf("%s hears %v, want %v", m.ID(), got, want)
	}
}

// A client hears of those it deals with, however many others there are, and of
// those at once: also of one that it met a moment ago.
func TestFeedOfPeersAlone(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	late := connected(t, m, enrolled(t, m, "late", registry.Rights{Call: scopes("read:logs")}))
	for _, name := range []string{"stranger", "other"} {
		enrolled(t, m, name, registry.Rights{})
	}
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 60*time.Second)
	if _, err := asker.Call(ctx, "read:logs", nil); err != nil {
		t.Fatal(err)
	}
	wantFeed(t, asker, of("asker", "control", "reader"))
	wantFeed(t, reader, of("reader", "asker", "control"))

	// Many strangers change: 2,000 documents, genuine in form. One that hears
	// everything counts them.
	ctrl := service(t, m)
	other := intrude(t, m.AgentDir("other")).nc
	all, err := other.SubscribeSync(wholeFeed)
	if err == nil {
		err = other.FlushTimeout(10 * time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := all.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	const strangers = 2000
	stranger := raw(t, ctrl, "stranger")
	before := asker.FeedHeard()
	for i := range strangers {
		if err := ctrl.Publish(subject.KV(subject.AgentsBucket, fmt.Sprintf("stranger-%d", i)), []byte(stranger)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, ctrl, "reader", raw(t, ctrl, "reader")) // arrives behind them
	eventually(t, "the documents at one that hears all", func() bool { n, _, err := all.Pending(); return err == nil && n > strangers })
	eventually(t, "the document of a peer", func() bool { return asker.FeedHeard()[feedAgents+"reader"] == before[feedAgents+"reader"]+1 })
	got := int64(0)
	for subj, n := range asker.FeedHeard() {
		if subj != common {
			got += n - before[subj]
		}
	}
	t.Logf("%d agents changed, and %d documents of agents came", strangers+1, got)
	if got != 1 {
		t.Errorf("got %d documents of agents, want that of the one peer", got)
	}

	// One that was met a moment ago is heard of before anything else is asked.
	if _, err := late.Call(ctx, "read:logs", nil); err != nil {
		t.Fatal(err)
	}
	m2, err := m.Cut(ctx, wire.OpSuspend, "late", "test")
	if err != nil {
		t.Fatalf("%v, %v", m2, err)
	}
	start := time.Now()
	eventually(t, "the suspension's arrival", func() bool { return reader.FeedHeard()[feedAgents+"late"] > 0 })
	t.Logf("heard of one met a moment ago %v after it was suspended", time.Since(start).Round(time.Millisecond))
	eventually(t, "the suspension's effect", func() bool {
		a, err := reader.Record(ctx, late.ID())
		return err == nil && a.Status == registry.Suspended
	})

	// A rotation brings the same to the new connection.
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "asker", Rights: registry.Rights{Call: scopes("read:more")}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rotation", func() bool { return asker.Rotations() == 1 })
	wantFeed(t, asker, of("asker", "control", "reader"))
	put(t, ctrl, "reader", raw(t, ctrl, "reader"))
	eventually(t, "the feed of the new connection", func() bool { return asker.FeedHeard()[feedAgents+"reader"] > 0 })

	// So does the end of a connection.
	if err := asker.Conn().ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the return", func() bool { _, err := asker.Call(ctx, "read:logs", nil); return err == nil })
	heard := asker.FeedHeard()[feedAgents+"reader"]
	put(t, ctrl, "reader", raw(t, ctrl, "reader"))
	eventually(t, "the feed after the return", func() bool { return asker.FeedHeard()[feedAgents+"reader"] > heard })
}

// Whoever deals with more agents than a connection has room for hears the whole
// feed, by one subscription, until it deals with fewer and its connection is
// replaced anyway.
func TestFeedOfManyPeers(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	var ids []agentid.ID
	for i := range 3 {
		id := fmt.Sprintf("peer%d", i)
		enrolled(t, m, id, registry.Rights{})
		ids = append(ids, agentid.Require(id))
	}
	asker.FeedMost(3)
	ctx := within(t, 60*time.Second)
	know := func(i int) {
		t.Helper()
		if _, err := asker.Record(ctx, ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	know(0)
	wantFeed(t, asker, of("asker", "control", "peer0"))
	know(1)
	know(2)
	wantFeed(t, asker, []string{wholeFeed})
	// It serves as well.
	if _, err := m.Cut(ctx, wire.OpRevoke, "peer2", "test"); err != nil {
		t.Fatal(err)
	}
	revoked := func(i int) func() bool {
		return func() bool {
			a, err := asker.Record(ctx, ids[i])
			return err == nil && a.Status == registry.Revoked
		}
	}
	eventually(t, "the revocation's effect", revoked(2))
	rotate := func(scope string) {
		t.Helper()
		n := asker.Rotations()
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "asker", Rights: registry.Rights{Call: scopes(scope)}}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the rotation", func() bool { return asker.Rotations() == n+1 })
	}
	rotate("read:more")
	wantFeed(t, asker, []string{wholeFeed})
	asker.Forget(ids[1:]...)
	rotate("read:still.more")
	wantFeed(t, asker, of("asker", "control", "peer0"))
	if _, err := m.Cut(ctx, wire.OpRevoke, "peer0", "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the revocation's effect", revoked(0))
}

// A server that gives a connection fewer subscriptions than it needs makes it hear
// the whole feed, and nothing is relied on that may have been missed.
func TestFeedWithoutRoom(t *testing.T) {
	t.Parallel()
	m := reconfigured(t, func(conf string) string {
		return strings.Replace(conf, "max_subscriptions: 2048", "max_subscriptions: 10", 1)
	})
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	wantFeed(t, asker, of("asker", "control"))
	ctx := within(t, 60*time.Second)
	var last agentid.ID
	for i := range 3 {
		id := fmt.Sprintf("peer%d", i)
		enrolled(t, m, id, registry.Rights{})
		last = agentid.Require(id)
		if _, err := asker.Record(ctx, last); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the whole feed", func() bool {
		return slices.Equal(slices.Collect(maps.Keys(asker.FeedHeard())), []string{wholeFeed})
	})
	if _, err := m.Cut(ctx, wire.OpRevoke, last.String(), "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the revocation's effect", func() bool {
		a, err := asker.Record(ctx, last)
		return err == nil && a.Status == registry.Revoked
	})
	eventually(t, "the revocation's arrival", func() bool { return asker.FeedHeard()[wholeFeed] > 0 })
	if _, err := asker.Call(ctx, "read:logs", nil); denial.Of(err) != "" {
		t.Errorf("got %v, want nobody who handles it", err)
	}
}
