package natsconf_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func TestConfigurationLoadsClean(t *testing.T) {
	m := natstest.Prepare(t)
	// As the stock command reads it.
	var out bytes.Buffer
	fs := flag.NewFlagSet("nats-server", flag.ContinueOnError)
	fs.SetOutput(&out)
	never := func() { t.Error("the command printed its help") }
	opts, err := server.ConfigureOptions(fs, []string{"-c", m.File}, never, never, never)
	if err != nil {
		t.Fatalf("the stock command refuses the configuration: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("the stock command says %q", out.String())
	}
	if got, want := opts.AuthTimeout, 10.0; got != want {
		t.Errorf("authorization timeout: got %v, want %v", got, want)
	}
	if opts.HTTPPort != 0 || opts.TLSHandshakeFirst || opts.TLSMap || opts.NoAuthUser != "" {
		t.Errorf("got monitoring port %d, handshake first %v, map %v, no_auth_user %q; want none", opts.HTTPPort, opts.TLSHandshakeFirst, opts.TLSMap, opts.NoAuthUser)
	}
	want := server.AuthCallout{
		Issuer: m.Config.Issuer, Account: natsconf.Control, XKey: m.Config.XKey,
		AuthUsers: []string{m.Config.Service, m.Config.System}, AllowedAccounts: []string{natsconf.Mesh},
	}
	if got := opts.AuthCallout; !reflect.DeepEqual(*got, want) {
		t.Errorf("callout: got %+v, want %+v", *got, want)
	}
	m.Run(t)
	if m.Log.Lines() == 0 {
		t.Fatal("the server logged nothing, so its silence shows nothing")
	}
	if got := m.Log.Complaints(); len(got) > 0 {
		t.Errorf("the server complains: %q", got)
	}
}

func TestFeedReachesAgents(t *testing.T) {
	m := start(t)
	nc, _ := m.Connect(t, "reader", nil, []string{m.Space.FeedFilter()})
	feed := subscribe(t, nc, m.Space.FeedFilter())
	for _, key := range []string{"bob", "bob.7f3c2k9q"} {
		m.put(t, key, "record of "+key)
		msg := next(t, feed)
		if got, want := msg.Subject, m.Space.FeedAgent(key); got != want {
			t.Errorf("subject: got %q, want %q", got, want)
		}
		if got, want := string(msg.Data), "record of "+key; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	silent(t, feed, "each record is republished once")
}

func TestDirectReads(t *testing.T) {
	m := start(t)
	m.put(t, "alice", "record of alice")
	m.put(t, "bob", "record of bob")
	m.put(t, "bob.7f3c2k9q", "instance of bob")
	denied, onError := collect()
	nc, _ := m.Connect(t, "reader", []string{
		subject.DirectGet(natsconf.AgentsBucket, "*"), subject.DirectGet(natsconf.AgentsBucket, "*.*"),
		subject.DirectGet(natsconf.ChainsBucket, "*"),
	}, nil, onError)

	for key, want := range map[string]string{"alice": "record of alice", "bob": "record of bob", "bob.7f3c2k9q": "instance of bob"} {
		msg := request(t, nc, subject.DirectGet(natsconf.AgentsBucket, key), "")
		if got := string(msg.Data); got != want {
			t.Errorf("read of %s: got %q, want %q", key, got, want)
		}
		if got, want := msg.Header.Get("Nats-Subject"), subject.KV(natsconf.AgentsBucket, key); got != want {
			t.Errorf("read of %s: got %q in Nats-Subject, want %q", key, got, want)
		}
	}
	for key, status := range map[string]string{"nobody": "404"} {
		if got := request(t, nc, subject.DirectGet(natsconf.AgentsBucket, key), "").Header.Get("Status"); got != status {
			t.Errorf("read of %s: got status %q, want %q", key, got, status)
		}
	}
	for _, body := range []string{`{"seq":1}`, `{"multi_last":["$KV.MESH_AGENTS.>"]}`, `{"last_by_subj":"$KV.MESH_AGENTS.alice"}`, `{"next_by_subj":">","batch":10}`} {
		if got := request(t, nc, subject.DirectGet(natsconf.AgentsBucket, "bob"), body).Header.Get("Status"); got != "408" {
			t.Errorf("read with body %s: got status %q, want 408", body, got)
		}
	}
	denied.want(t, 0, "granted reads")
	// Other doors of the same bucket, and other buckets.
	for _, subj := range []string{
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS",
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.bob.7f3c2k9q.more",
		"$JS.API.DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.x",
		"$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS",
		"$JS.API.STREAM.INFO.KV_MESH_AGENTS",
	} {
		if msg, err := nc.Request(subj, []byte(`{"seq":1}`), quiet); err == nil {
			t.Errorf("request %s: got %v %q, want nothing", subj, msg.Header, msg.Data)
		}
		denied.want(t, 1, subj)
	}
}

// What the border itself lets through, whatever an agent is granted.
func TestOnlyTheExportedReadsCross(t *testing.T) {
	m := start(t)
	m.put(t, "bob.a.b", "too deep")
	if _, err := m.ctrl.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "MESH_SESSIONS"}); err != nil {
		t.Fatal(err)
	}
	nc, _ := m.Connect(t, "evil", everything, everything)
	for _, subj := range []string{
		subject.DirectGet(natsconf.AgentsBucket, "bob.a.b"), subject.DirectGet(natsconf.ChainsBucket, "a.b"), subject.DirectGet("MESH_SESSIONS", "x"),
		"$JS.API.DIRECT.GET.KV_MESH_AGENTS", "$JS.API.DIRECT.GET.MESH_BEATS", m.Space.LeaderRead("MESH_SESSIONS"), natsconf.StoreAPI + ".INFO",
	} {
		if msg, err := nc.Request(subj, []byte(`{"seq":1}`), wait); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("request %s: got %v, %v, want %v", subj, msg, err, nats.ErrNoResponders)
		}
	}
	// MESH has no JetStream, so that nobody can make the server ask it anything.
	for subj, body := range map[string]string{
		"$JS.API.STREAM.INFO.KV_MESH_AGENTS": "", "$JS.API.STREAM.PURGE.KV_MESH_AGENTS": "", "$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS": `{"seq":1}`,
		"$JS.API.STREAM.DELETE.KV_MESH_REPLAY": "",
	} {
		if got := request(t, nc, subj, body).Data; !bytes.Contains(got, []byte(`"err_code":10039`)) {
			t.Errorf("request %s: got %q, want error 10039, no JetStream", subj, got)
		}
	}
}

// A pattern in place of a key passes a grant that ends in a star, because the
// star matches the token `*` (and the token `>`) as it does any other. What
// comes back is the newest record below it, so a reader must compare what it
// got with what it asked for; nothing outside the bucket is reached.
func TestDirectReadOfPatterns(t *testing.T) {
	m := start(t)
	m.put(t, "alice", "record of alice")
	m.put(t, "bob", "record of bob")
	m.put(t, "bob.7f3c2k9q", "instance of bob")
	nc, _ := m.Connect(t, "reader", []string{
		subject.DirectGet(natsconf.AgentsBucket, "*"), subject.DirectGet(natsconf.AgentsBucket, "*.*"),
	}, nil)
	for key, want := range map[string]string{
		"*":     "$KV.MESH_AGENTS.bob",
		">":     "$KV.MESH_AGENTS.bob.7f3c2k9q",
		"*.*":   "$KV.MESH_AGENTS.bob.7f3c2k9q",
		"bob.*": "$KV.MESH_AGENTS.bob.7f3c2k9q",
		"bob.>": "$KV.MESH_AGENTS.bob.7f3c2k9q",
	} {
		msg := request(t, nc, subject.DirectGet(natsconf.AgentsBucket, key), "")
		if got := msg.Header.Get("Nats-Subject"); got != want {
			t.Errorf("read of %q: got %q (%v), want %q", key, got, msg.Header, want)
		}
	}
	denied, onError := collect()
	bad, _ := m.Connect(t, "writer", []string{subject.DirectGet(natsconf.AgentsBucket, "*")}, nil, onError)
	if msg, err := bad.Request("$JS.API.DIRECT.GET.KV_MESH_AGENTS.>", nil, quiet); err == nil {
		t.Errorf("a pattern in place of the bucket's subject: got %v %q, want nothing", msg.Header, msg.Data)
	}
	denied.want(t, 1, "a pattern in place of the bucket's subject")
}

func TestLeaderReadThroughAlias(t *testing.T) {
	m := start(t)
	m.put(t, "bob", "record of bob")
	nc, a := m.Connect(t, "reader", []string{m.Space.LeaderRead(natsconf.AgentsBucket)}, nil)
	// A bucket of the same name in MESH must not answer.
	_, err := m.stored.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: subject.KVStream(natsconf.AgentsBucket), Subjects: []string{subject.KV(natsconf.AgentsBucket, ">")},
	})
	if err != nil {
		t.Fatal(err)
	}
	inbox := subscribe(t, nc, a.Inbox()+".answers")
	for _, body := range []string{`{"last_by_subj":"$KV.MESH_AGENTS.bob"}`, `{"last_by_subj":"$KV.MESH_AGENTS.nobody"}`} {
		if err := nc.PublishRequest(m.Space.LeaderRead(natsconf.AgentsBucket), inbox.Subject, []byte(body)); err != nil {
			t.Fatal(err)
		}
		var r struct {
			Message *struct {
				Subject string
				Data    []byte
			}
			Error *struct {
				ErrCode int `json:"err_code"`
			}
		}
		msg := next(t, inbox)
		if err := json.Unmarshal(msg.Data, &r); err != nil {
			t.Fatalf("answer %q: %v", msg.Data, err)
		}
		if strings.Contains(body, "nobody") {
			if r.Error == nil || r.Error.ErrCode != 10037 {
				t.Errorf("leader read of nobody: got %q, want error 10037", msg.Data)
			}
		} else if r.Message == nil || string(r.Message.Data) != "record of bob" || r.Message.Subject != "$KV.MESH_AGENTS.bob" {
			t.Errorf("leader read: got %q, want the record of bob", msg.Data)
		}
		silent(t, inbox, "a leader read is answered once")
	}
}

type pubAck struct {
	Stream    string
	Seq       uint64
	Duplicate bool
	Error     *struct {
		ErrCode int `json:"err_code"`
	}
}

func burn(t *testing.T, nc *nats.Conn, key string) pubAck {
	t.Helper()
	var ack pubAck
	msg := request(t, nc, subject.KV(natsconf.ReplayBucket, key), "")
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		t.Fatalf("burning %s: got %v %q", key, msg.Header, msg.Data)
	}
	return ack
}

func TestReplayBucketFirstWriteWins(t *testing.T) {
	m := start(t)
	nc, _ := m.Connect(t, "reader", []string{subject.ReplayGrant(natsconf.ReplayBucket, "read.logs")}, nil)
	if ack := burn(t, nc, "read.logs.writer.n1"); ack.Error != nil || ack.Seq != 1 {
		t.Errorf("first write by an agent: got %+v, want sequence 1", ack)
	}
	if ack := burn(t, nc, "read.logs.writer.n1"); ack.Error == nil || ack.Error.ErrCode != 10077 {
		t.Errorf("second write by an agent: got %+v, want error 10077", ack)
	}
	if ack := burn(t, m.Service, "read.logs.writer.n1"); ack.Error == nil || ack.Error.ErrCode != 10077 {
		t.Errorf("second write by the control plane: got %+v, want error 10077", ack)
	}
	if ack := burn(t, m.Service, "admin.registry.writer.n2"); ack.Error != nil || ack.Seq != 2 {
		t.Errorf("first write by the control plane: got %+v, want sequence 2", ack)
	}
	if ack := burn(t, m.Service, "admin.registry.writer.n2"); ack.Error == nil || ack.Error.ErrCode != 10077 {
		t.Errorf("second write by the control plane: got %+v, want error 10077", ack)
	}
	// None of these takes a nonce back, and none can turn a second write into a
	// success: with a message ID the first writer could have the server answer
	// the second one "duplicate", which is no error.
	for range 2 {
		msg, err := nc.RequestMsg(&nats.Msg{Subject: subject.KV(natsconf.ReplayBucket, "read.logs.writer.n3"), Header: nats.Header{"Nats-Msg-Id": {"n3"}}}, wait)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(msg.Data, []byte(`"err_code":10054`)) {
			t.Errorf("a write with a message ID: got %q, want error 10054", msg.Data)
		}
	}
	for name, set := range map[string]nats.Header{
		"message ID": {"Nats-Msg-Id": {"n1"}},
		"delete":     {"KV-Operation": {"DEL"}},
		"purge":      {"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}},
		"rollup":     {"Nats-Rollup": {"all"}},
		"ttl":        {"Nats-TTL": {"1s"}},
		"count":      {"Nats-Incr": {"1"}},
	} {
		for who, conn := range map[string]*nats.Conn{"an agent": nc, "the control plane": m.Service} {
			msg, err := conn.RequestMsg(&nats.Msg{Subject: subject.KV(natsconf.ReplayBucket, "read.logs.writer.n1"), Header: set}, wait)
			if err != nil {
				t.Fatal(err)
			}
			var ack pubAck
			if err := json.Unmarshal(msg.Data, &ack); err != nil || ack.Error == nil {
				t.Errorf("%s by %s: got %q, want an error", name, who, msg.Data)
			}
		}
	}
	s, err := m.stored.Stream(t.Context(), subject.KVStream(natsconf.ReplayBucket))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("the control plane could delete a burnt nonce")
	}
	if err := s.Purge(t.Context()); err == nil {
		t.Error("the control plane could purge the burnt nonces")
	}
}

// What the API prefix can do for the control plane: streams, consumers and
// reads from the leader, for the bucket behind a stream as well.
func TestManagingStreamsOverTheBorder(t *testing.T) {
	m := start(t)
	ctx := t.Context()
	kv, err := m.stored.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "TOPICS", LimitMarkerTTL: time.Second})
	if err != nil {
		t.Fatalf("creating a bucket: %v", err)
	}
	if st, err := kv.Status(ctx); err != nil || st.Bucket() != "TOPICS" {
		t.Errorf("status of the bucket: got %v, %v", st, err)
	}
	burn(t, m.Service, "read.logs.writer.n1")
	replay, err := m.stored.KeyValue(ctx, natsconf.ReplayBucket)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := replay.Get(ctx, "read.logs.writer.n1"); err != nil || e.Revision() != 1 {
		t.Errorf("reading a burnt nonce: got %v, %v, want revision 1", e, err)
	}
	if _, err := replay.Get(ctx, "read.logs.writer.n2"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("reading a nonce that is not burnt: got %v, want %v", err, jetstream.ErrKeyNotFound)
	}
	events, err := m.stored.CreateStream(ctx, natsconf.Events(m.Space, []string{"a", "b"}, time.Hour, 1))
	if err != nil {
		t.Fatal(err)
	}
	nc, a := m.Connect(t, "reader", []string{
		"mesh.event.reader.a", subject.Pull("reader_x"), subject.Acks("reader_x")[0],
	}, nil)
	const stored = 3
	for range stored {
		request(t, nc, "mesh.event.reader.a", "event")
	}
	cons := jetstream.ConsumerConfig{Durable: "reader_x", AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"mesh.event.*.b"}}
	if _, err := events.CreateConsumer(ctx, cons); err != nil {
		t.Fatalf("creating a consumer: %v", err)
	}
	cons.FilterSubjects = []string{"mesh.event.*.a", "mesh.event.*.b"}
	c, err := events.UpdateConsumer(ctx, cons)
	if err != nil {
		t.Fatalf("widening a consumer: %v", err)
	}
	if n := c.CachedInfo().NumPending; n != stored {
		t.Errorf("pending after widening: got %d, want %d", n, stored)
	}
	inbox := subscribe(t, nc, a.Inbox()+".pull")
	if err := nc.PublishRequest(subject.Pull("reader_x"), inbox.Subject, []byte(`{"batch":3,"expires":2000000000}`)); err != nil {
		t.Fatal(err)
	}
	for range stored {
		if got := string(next(t, inbox).Data); got != "event" {
			t.Errorf("pulled by the agent: got %q, want %q", got, "event")
		}
	}
	if err := events.DeleteConsumer(ctx, "reader_x"); err != nil {
		t.Errorf("deleting a consumer: %v", err)
	}
	if err := events.Purge(ctx); err == nil {
		t.Error("what is stored could be purged")
	}
	if err := m.stored.DeleteStream(ctx, "MESH_EVENTS"); err != nil {
		t.Errorf("deleting a stream: %v", err)
	}
	var names []string
	list := m.stored.StreamNames(ctx)
	for n := range list.Name() {
		names = append(names, n)
	}
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "KV_MESH_REPLAY KV_TOPICS"; got != want || list.Err() != nil {
		t.Errorf("streams in STORE: got %q, %v, want %q", got, list.Err(), want)
	}
}

// What the prefix cannot do, so that nobody builds on it: watching a bucket, and
// more than one message a pull. A watch fails silently: it looks like an empty
// bucket.
func TestLimitsOfManagingOverTheBorder(t *testing.T) {
	m := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*quiet)
	defer cancel()
	burn(t, m.Service, "read.logs.writer.n1")
	burn(t, m.Service, "read.logs.writer.n2")
	kv, err := m.stored.KeyValue(t.Context(), natsconf.ReplayBucket)
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := kv.Keys(ctx); !errors.Is(err, jetstream.ErrNoKeysFound) {
		t.Errorf("listing keys: got %q, %v", keys, err)
	}
	c, err := m.stored.CreateConsumer(t.Context(), subject.KVStream(natsconf.ReplayBucket), jetstream.ConsumerConfig{Durable: "x"})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(2, jetstream.FetchMaxWait(2*quiet))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range batch.Messages() {
		n++
	}
	if n != 1 {
		t.Errorf("pulling two messages: got %d, want 1", n)
	}
}
