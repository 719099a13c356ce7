package natsconf_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const wait = 5 * time.Second

// quiet is how long a test listens for a message that must not come. Such a
// check follows a message that must come on the same path.
const quiet = 100 * time.Millisecond

// mesh is a running server with the streams of the control plane.
type mesh struct {
	*natstest.Mesh
	ctrl   jetstream.JetStream // streams in CTRL
	stored jetstream.JetStream // streams in STORE, over the border
	agents jetstream.KeyValue
}

func start(t *testing.T, edits ...func(*natsconf.Config)) *mesh {
	t.Helper()
	m := &mesh{Mesh: natstest.Start(t, edits...)}
	var err error
	if m.ctrl, err = jetstream.New(m.Service); err != nil {
		t.Fatal(err)
	}
	if m.stored, err = jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	m.agents, err = m.ctrl.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: natsconf.AgentsBucket, History: 1, Storage: jetstream.FileStorage,
		RePublish: &jetstream.RePublish{Source: subject.KV(natsconf.AgentsBucket, ">"), Destination: m.Space.FeedAgents() + ".>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ctrl.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: natsconf.ChainsBucket, History: 1, LimitMarkerTTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ctrl.CreateStream(ctx, natsconf.Beats(m.Space, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.stored.CreateStream(ctx, natsconf.Replay(5*time.Minute, 1)); err != nil {
		t.Fatalf("creating the replay stream over the border: %v", err)
	}
	return m
}

func (m *mesh) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := m.agents.PutString(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func (m *mesh) want(t *testing.T, key, value string) {
	t.Helper()
	e, err := m.agents.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(e.Value()); got != value {
		t.Errorf("record %s: got %q, want %q", key, got, value)
	}
}

func subscribe(t *testing.T, nc *nats.Conn, subj string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subj)
	if err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	return sub
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, sub *nats.Subscription) *nats.Msg {
	t.Helper()
	m, err := sub.NextMsg(wait)
	if err != nil {
		t.Fatalf("waiting on %s: %v", sub.Subject, err)
	}
	return m
}

func silent(t *testing.T, sub *nats.Subscription, why string) {
	t.Helper()
	if m, err := sub.NextMsg(quiet); err == nil {
		t.Errorf("%s: got a message on %s with header %v: %q", why, m.Subject, m.Header, m.Data)
	}
}

func request(t *testing.T, nc *nats.Conn, subj, body string) *nats.Msg {
	t.Helper()
	m, err := nc.Request(subj, []byte(body), wait)
	if err != nil {
		t.Fatalf("request %s: %v", subj, err)
	}
	return m
}

// violations collects what the server tells a connection that it may not do.
type violations chan error

func collect() (violations, nats.Option) {
	v := make(violations, 64)
	return v, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if strings.Contains(strings.ToLower(err.Error()), "permissions violation") {
			v <- err
		}
	})
}

// want checks that exactly n violations came since the last time. The client
// reports them behind its own back, so they are waited for.
func (v violations) want(t *testing.T, n int, what string) {
	t.Helper()
	for i := range n {
		select {
		case <-v:
		case <-time.After(wait):
			t.Errorf("%s: got %d permission violations, want %d", what, i, n)
			return
		}
	}
	if n == 0 {
		select {
		case err := <-v:
			t.Errorf("%s: got %v, want no violation", what, err)
		case <-time.After(quiet):
		}
	}
}

// everything is the permission list of an agent that a test lets do anything
// inside MESH: what stops it is the border alone.
var everything = []string{">"}

// checkOnce publishes numbered messages and checks that each of them comes out
// of the channel exactly once.
func checkOnce(t *testing.T, nc *nats.Conn, subj string, n int, out <-chan string) {
	t.Helper()
	for i := range n {
		if err := nc.Publish(subj, []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, nc)
	seen := map[string]int{}
	for range n {
		select {
		case s := <-out:
			seen[s]++
		case <-time.After(wait):
			t.Fatalf("got %d of %d messages", len(seen), n)
		}
	}
	select {
	case s := <-out:
		seen[s]++
	case <-time.After(quiet):
	}
	for s, times := range seen {
		if times != 1 {
			t.Errorf("message %s came %d times, want once", s, times)
		}
	}
}
