package replay_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// trick is what somebody who may burn nonces of a scope does to one that is burnt
// already, so that it can be burnt once more.
type trick struct {
	name string
	// before says that it is done in place of the honest burn: by a handler that
	// wants to take a call twice.
	before bool
	header nats.Header
	api    string // a JetStream request in place of a write
	body   string
	pause  time.Duration // until it would have worked
}

// tricks beside those of the attack suite, which writes, deletes, purges and rolls
// up. The sequence of the burnt nonce stands for %d.
var tricks = []trick{
	{name: "to expect what is there", header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"%d"}}},
	{name: "to expect what is there by a pattern", header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"%d"}, "Nats-Expected-Last-Subject-Sequence-Subject": {"$KV.MESH_REPLAY.>"}}},
	{name: "to expect the last of all", header: nats.Header{"Nats-Expected-Last-Sequence": {"%d"}}},
	{name: "a purge that leaves a marker", header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}, "Nats-TTL": {"1s"}}},
	{name: "a short life", before: true, header: nats.Header{"Nats-TTL": {"1s"}}, pause: 1500 * time.Millisecond},
	{name: "a short life, as the server writes it", before: true, header: nats.Header{"Nats-TTL": {"1"}, "Nats-Marker-Reason": {"MaxAge"}}, pause: 1500 * time.Millisecond},
	{name: "a marker", header: nats.Header{"Nats-Marker-Reason": {"Purge"}, "Nats-Rollup": {"sub"}}},
	{name: "the API: purge", api: "STREAM.PURGE.KV_MESH_REPLAY"},
	{name: "the API: purge of one nonce", api: "STREAM.PURGE.KV_MESH_REPLAY", body: `{"filter":"$KV.MESH_REPLAY.>"}`},
	{name: "the API: delete the stream", api: "STREAM.DELETE.KV_MESH_REPLAY"},
}

// try carries a trick out by a connection; burn burns the nonce honestly and
// returns its sequence.
func (x trick) try(t *testing.T, nc *nats.Conn, key string, burn func() uint64) {
	t.Helper()
	var seq uint64
	if !x.before {
		seq = burn()
	}
	fill := func(s string) string { return strings.ReplaceAll(s, "%d", strconv.FormatUint(seq, 10)) }
	m := &nats.Msg{Subject: subject.KV(subject.ReplayBucket, key), Header: nats.Header{}}
	for name, values := range x.header {
		m.Header[name] = []string{fill(values[0])}
	}
	if x.api != "" {
		m = &nats.Msg{Subject: "$JS.API." + x.api, Data: []byte(fill(x.body))}
	}
	m.Reply = nc.NewInbox()
	answers, err := nc.SubscribeSync(m.Reply)
	if err != nil {
		t.Fatal(err)
	}
	defer answers.Unsubscribe() //nolint:errcheck // it ends with the connection at the latest
	if err := nc.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	// What the broker refuses is not answered.
	answers.NextMsg(200 * time.Millisecond) //nolint:errcheck // likewise
	time.Sleep(x.pause)
}

// Nobody who may burn a nonce can have it forgotten.
func TestTricks(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "tricks")
	honest := dial(t, w.reader)
	burner := &gate.NATSBurner{Conn: func() *nats.Conn { return honest.Conn }}
	victim := agentid.Require("writer-" + w.name)
	stream, err := store(t, w.dev).Stream(within(t), replayStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tricks {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			bad := dial(t, w.reader)
			n := envelope.NewNonce()
			burnt := false
			burn := func() uint64 {
				if err := burner.Burn(within(t), scope.Dotted(), victim, n); err != nil {
					t.Fatal(err)
				}
				burnt = true
				m, err := stream.GetLastMsgForSubject(within(t), subject.KV(subject.ReplayBucket, subject.ReplayKey(scope.Dotted(), victim, n)))
				if err != nil {
					t.Fatal(err)
				}
				return m.Sequence
			}
			x.try(t, bad.Conn, subject.ReplayKey(scope.Dotted(), victim, n), burn)
			if !burnt {
				// It may have refused the trick, and then this is the first use, or
				// taken it for one, and then this is refused. Never twice.
				if err := burner.Burn(within(t), scope.Dotted(), victim, n); err != nil && denial.Of(err) != denial.Replayed {
					t.Fatal(err)
				}
			}
			if got := denial.Of(burner.Burn(within(t), scope.Dotted(), victim, n)); got != denial.Replayed {
				t.Errorf("burning it again: got %q, want %q", got, denial.Replayed)
			}
		})
	}
}

// The same tricks where nonces are keys of an ordinary bucket, which a receiver
// creates: each of them makes room for a second first use, or a bare write does.
func TestTricksControl(t *testing.T) {
	t.Parallel()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(srv.Shutdown)
	if !srv.ReadyForConnections(wait) {
		t.Fatal("nats-server did not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tricks {
		t.Run(x.name, func(t *testing.T) {
			make := func() jetstream.KeyValue {
				kv, err := js.CreateOrUpdateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: subject.ReplayBucket, LimitMarkerTTL: time.Second})
				if err != nil {
					t.Fatal(err)
				}
				return kv
			}
			kv := make()
			key := subject.ReplayKey("read.logs", agentid.Require("writer"), envelope.NewNonce())
			var first uint64
			burn := func() uint64 {
				var err error
				if first, err = kv.Create(within(t), key, nil); err != nil {
					t.Fatal(err)
				}
				return first
			}
			x.try(t, nc, key, burn)
			kv = make()
			if _, err := kv.Create(within(t), key, nil); err == nil {
				return // used twice
			}
			// It was not forgotten; the trick's own write went through all the same,
			// which whoever counts writes takes for a first use.
			st, err := js.Stream(within(t), replayStream)
			if err != nil {
				t.Fatal(err)
			}
			m, err := st.GetLastMsgForSubject(within(t), subject.KV(subject.ReplayBucket, key))
			if err != nil || m.Sequence <= first {
				t.Errorf("the trick does nothing in an ordinary bucket either (%v)", err)
			}
		})
	}
}

// A stored event is refused at the door where its ID was there before. Whoever
// hears it live can echo the ID and comes too late: it did not exist before.
func TestIDsCannotBeUsedUpBefore(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	durable(t, s.dev, "news")
	pressDir := add(t, s.dev, "press", publishing("news"))
	malloryDir := add(t, s.dev, "mallory", publishing("news"))
	press, mallory := connected(t, s.dev, pressDir), dial(t, malloryDir)
	// All that mallory may hear is the topic.
	echo := func(m *nats.Msg) {
		id := m.Header.Get(envelope.HeaderMsgID)
		mallory.PublishMsg(&nats.Msg{ //nolint:errcheck // what is not stored suppresses nothing
			Subject: mallory.Space.Event(mallory.Self, "news"), Header: nats.Header{envelope.HeaderMsgID: {id}},
		})
		mallory.Flush() //nolint:errcheck // likewise
	}
	if _, err := mallory.Subscribe(mallory.Space.EventFilter("news"), echo); err != nil {
		t.Fatal(err)
	}
	if err := mallory.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if err := press.Publish(within(t), "news", []byte("one")); err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
	}
	st, err := s.store().Stream(within(t), subject.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(within(t), jetstream.WithSubjectFilter(">"))
	if err != nil {
		t.Fatal(err)
	}
	if n := info.State.Subjects[mallory.Space.Event(press.ID(), "news")]; n != 60 {
		t.Errorf("%d events are stored, want 60", n)
	}

	// Somebody who knew a nonce before could use it up. The answer says so, and a
	// publisher does not take it for success (meshclient.TestEventKeptOut).
	known := envelope.NewNonce()
	mallory.PublishMsg(&nats.Msg{Subject: mallory.Space.Event(mallory.Self, "news"), Header: nats.Header{envelope.HeaderMsgID: {known}}}) //nolint:errcheck // the answer below tells
	if err := mallory.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	other := dial(t, pressDir)
	answer, err := other.RequestMsg(&nats.Msg{Subject: other.Space.Event(other.Self, "news"), Header: nats.Header{envelope.HeaderMsgID: {known}}}, wait)
	if err != nil {
		t.Fatal(err)
	}
	var ack gate.StoreAck
	if err := json.Unmarshal(answer.Data, &ack); err != nil || !ack.Duplicate {
		t.Errorf("a nonce that was known before: got %s (%v), want the answer %q", answer.Data, err, "duplicate")
	}
}
