package natsconf_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
)

var (
	bob     = agentid.Require("bob")
	bobInst = func() agentid.Instance {
		i, err := agentid.ParseInstance("7f3c2k9q")
		if err != nil {
			panic(err)
		}
		return i
	}()
)

func (m *mesh) beats(t *testing.T) jetstream.Stream {
	t.Helper()
	s, err := m.ctrl.Stream(t.Context(), natsconf.BeatsStream)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lastBeat waits until the stream holds the message with the sequence.
func (m *mesh) lastBeat(t *testing.T, seq uint64) *jetstream.RawStreamMsg {
	t.Helper()
	s := m.beats(t)
	c, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(jetstream.FetchMaxWait(wait)); err != nil {
		t.Fatalf("waiting for beat %d: %v", seq, err)
	}
	msg, err := s.GetLastMsgForSubject(t.Context(), m.Space.Beat(bob, bobInst))
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestBeatsAreStoredAndNotAcknowledged(t *testing.T) {
	m := start(t)
	beat := m.Space.Beat(bob, bobInst)
	nc, a := m.Connect(t, "bob", []string{beat}, nil)
	// An acknowledgement would be sent in CTRL, where the stream is.
	inbox := subscribe(t, nc, a.Inbox()+".acks")
	inCtrl := subscribe(t, m.Service, a.Inbox()+".acks")
	for range 2 {
		if err := nc.PublishRequest(beat, inbox.Subject, []byte("beat")); err != nil {
			t.Fatal(err)
		}
	}
	msg := m.lastBeat(t, 2)
	if string(msg.Data) != "beat" || msg.Sequence != 2 {
		t.Errorf("stored: got %q with sequence %d, want the second beat", msg.Data, msg.Sequence)
	}
	info, err := m.beats(t).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Msgs != 1 {
		t.Errorf("stored messages: got %d, want the last one of the subject", info.State.Msgs)
	}
	silent(t, inCtrl, "a beat is not acknowledged")
	silent(t, inbox, "a beat is not acknowledged")
}

func TestCallsReachTheControlPlane(t *testing.T) {
	m := start(t)
	const nonce = "n1"
	admin := agentid.Require("admin")
	call, ask := m.Space.Call(admin, "admin.registry"), m.Space.Ask(admin, agentid.Control, "self.session")
	a := m.NewAgent(t, "admin", []string{call, ask}, []string{"mesh.reply.*.admin.>", m.Space.NoteFilter(admin)})
	nc, err := m.Dial(a.Key, a.Cert, nats.CustomInboxPrefix(a.Inbox()))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	replies := subscribe(t, nc, m.Space.Reply(agentid.Control, admin, a.Instance, nonce))
	notes := subscribe(t, nc, m.Space.NoteFilter(admin))

	for _, subj := range []string{call, ask} {
		if _, err := nc.Request(subj, nil, wait); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("request %s without a control plane: got %v, want %v", subj, err, nats.ErrNoResponders)
		}
	}
	for filter, subj := range map[string]string{
		m.Space.CallFilter("admin.registry"):               call,
		m.Space.AskFilter(agentid.Control, "self.session"): ask,
	} {
		sub, err := m.Service.QueueSubscribeSync(filter, "control")
		if err != nil {
			t.Fatal(err)
		}
		flush(t, m.Service)
		inbox := subscribe(t, nc, a.Inbox()+".answers")
		if err := nc.PublishRequest(subj, inbox.Subject, []byte("request")); err != nil {
			t.Fatal(err)
		}
		msg := next(t, sub)
		if msg.Subject != subj || string(msg.Data) != "request" {
			t.Errorf("got %s %q, want %s %q", msg.Subject, msg.Data, subj, "request")
		}
		// The control plane answers in the reply space; the NATS reply subject
		// would lead nowhere.
		if err := msg.Respond([]byte("to the NATS reply")); err != nil {
			t.Fatal(err)
		}
		if err := m.Service.Publish(replies.Subject, []byte("reply")); err != nil {
			t.Fatal(err)
		}
		if got := string(next(t, replies).Data); got != "reply" {
			t.Errorf("reply: got %q, want %q", got, "reply")
		}
		silent(t, inbox, "what the control plane sends to a NATS reply subject stays in CTRL")
		if err := inbox.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Service.Publish(m.Space.Note(agentid.Control, admin, "rotate"), []byte("note")); err != nil {
		t.Fatal(err)
	}
	if got := string(next(t, notes).Data); got != "note" {
		t.Errorf("note: got %q, want %q", got, "note")
	}
}

// Nothing else crosses from CTRL to MESH, or back.
func TestOnlyTheExportsCross(t *testing.T) {
	m := start(t)
	nc, _ := m.Connect(t, "evil", everything, everything)
	inMesh, inCtrl := subscribe(t, nc, ">"), subscribe(t, m.Service, ">")
	for _, subj := range []string{"mesh.reply.reader.bob.7f3c2k9q.n", "mesh.note.reader.bob.rotate", "mesh.event.bob.a", "$KV.MESH_REPLAY", "x"} {
		if err := m.Service.Publish(subj, []byte("from CTRL")); err != nil {
			t.Fatal(err)
		}
		if m := next(t, inCtrl); m.Subject != subj {
			t.Errorf("control: got %s, want %s", m.Subject, subj)
		}
	}
	silent(t, inMesh, "published in CTRL")
	for _, subj := range []string{
		"mesh.feed.agents.bob", "mesh.feed.tick", "mesh.reply.control.bob.7f3c2k9q.n", "mesh.note.control.bob.rotate",
		"mesh.ask.evil.bob.read.logs", "mesh.call.evil.read.logs", "mesh.call.evil.admin.registry.more", "mesh.beat.bob", "mesh.beat.bob.7f3c2k9q.more",
		"$KV.MESH_AGENTS.bob", "$SYS.REQ.USER.AUTH", "STORE.JS.API.STREAM.LIST", "_INBOX.x",
	} {
		if err := nc.Publish(subj, []byte("from MESH")); err != nil {
			t.Fatal(err)
		}
		if m := next(t, inMesh); m.Subject != subj {
			t.Errorf("control: got %s, want %s", m.Subject, subj)
		}
	}
	flush(t, nc)
	silent(t, inCtrl, "published in MESH")
}

// The server answers to any reply subject without asking whether the requester
// may publish there. From MESH no such answer gets into CTRL's records, even
// from an agent that may do everything in MESH.
func TestReplySubjectTricksDoNotReachRecords(t *testing.T) {
	m := start(t)
	m.put(t, "bob", "record of bob")
	m.put(t, "alice", "record of alice")
	nc, _ := m.Connect(t, "evil", everything, everything)
	const target = "$KV.MESH_AGENTS.bob"
	m.trick(t, nc, target)
	m.want(t, "bob", "record of bob")
	s, err := m.ctrl.Stream(t.Context(), "KV_MESH_AGENTS")
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.LastSeq; n != 2 {
		t.Errorf("the bucket of records has seen %d writes, want 2", n)
	}
}

// trick sends everything that the server answers with the reply subject and
// returns when all of it has been answered: what came before shows in MESH
// itself, where nothing keeps these answers away.
func (m *mesh) trick(t *testing.T, nc *nats.Conn, reply string) {
	t.Helper()
	seen := subscribe(t, nc, reply)
	for _, r := range []struct{ subj, body string }{
		{subject.KV(natsconf.ReplayBucket, "read.logs.evil.n1"), ""}, // PubAck
		{subject.KV(natsconf.ReplayBucket, "read.logs.evil.n1"), ""}, // PubAck with an error
		{subject.DirectGet(natsconf.AgentsBucket, "alice"), ""},
		{subject.DirectGet(natsconf.AgentsBucket, "nobody"), ""},
		{m.Space.LeaderRead(natsconf.AgentsBucket), `{"last_by_subj":"$KV.MESH_AGENTS.alice"}`},
		{"$SYS.REQ.USER.INFO", ""},
		{"$JS.API.INFO", ""},
		{"$JS.API.STREAM.LIST", ""},
	} {
		if err := nc.PublishRequest(r.subj, reply, []byte(r.body)); err != nil {
			t.Fatal(err)
		}
		next(t, seen)
	}
	if err := nc.PublishRequest(m.Space.Beat(bob, bobInst), reply, []byte("beat")); err != nil {
		t.Fatal(err)
	}
	if got := m.lastBeat(t, 1); string(got.Data) != "beat" {
		t.Errorf("beat: got %q", got.Data)
	}
	silent(t, seen, "a beat is not acknowledged")
}

// Why Beats has NoAck: without it the same beat overwrites a record.
func TestAcknowledgedImportWouldOverwriteRecords(t *testing.T) {
	m := start(t)
	m.put(t, "bob", "record of bob")
	weak := natsconf.Beats(m.Space, 1)
	if !weak.NoAck {
		t.Fatal("the heartbeat stream acknowledges")
	}
	if err := m.ctrl.DeleteStream(t.Context(), weak.Name); err != nil {
		t.Fatal(err)
	}
	weak.NoAck = false
	if _, err := m.ctrl.CreateStream(t.Context(), weak); err != nil {
		t.Fatal(err)
	}
	nc, _ := m.Connect(t, "bob", []string{m.Space.BeatFilter()}, nil)
	records := subscribe(t, m.Service, "$KV.MESH_AGENTS.>")
	if err := nc.PublishRequest(m.Space.Beat(bob, bobInst), "$KV.MESH_AGENTS.bob", []byte("beat")); err != nil {
		t.Fatal(err)
	}
	if msg := next(t, records); msg.Subject != "$KV.MESH_AGENTS.bob" {
		t.Errorf("got a message on %s, want the acknowledgement on bob's record", msg.Subject)
	}
}

// What the border cannot keep out: inside MESH the server's answers arrive at
// any subject that a requester names, and the acknowledgements of MESH's own
// streams at any subject that CTRL imports. The subject of a feed message, a
// beat or a call is a hint; the signature counts.
func TestServerAsDeputyInsideMesh(t *testing.T) {
	m := start(t)
	m.put(t, "alice", "record of alice")
	read, nonce := subject.DirectGet(natsconf.AgentsBucket, "alice"), subject.KV(natsconf.ReplayBucket, "read.logs.evil.n1")
	evil, _ := m.Connect(t, "evil", []string{read, nonce}, nil)
	reader, _ := m.Connect(t, "reader", nil, []string{m.Space.FeedFilter(), m.Space.BeatFilter()})
	own, _ := m.Connect(t, "bob", []string{m.Space.BeatFilter()}, nil)
	feed := subscribe(t, reader, m.Space.FeedFilter())
	beats := subscribe(t, m.Service, m.Space.BeatFilter())
	send := func(subj, reply string) {
		t.Helper()
		if err := evil.PublishRequest(subj, reply, nil); err != nil {
			t.Fatal(err)
		}
	}
	send(read, m.Space.FeedAgent("bob"))
	if msg := next(t, feed); msg.Subject != "mesh.feed.agents.bob" || string(msg.Data) != "record of alice" {
		t.Errorf("feed: got %s %q, want alice's record at bob's subject", msg.Subject, msg.Data)
	}
	beat := m.Space.Beat(bob, bobInst)
	if err := own.Publish(beat, []byte("beat")); err != nil {
		t.Fatal(err)
	}
	if got := string(next(t, beats).Data); got != "beat" {
		t.Errorf("first beat: got %q, want the genuine one", got)
	}
	// What came through one import does not leave through another.
	send(read, beat)
	silent(t, beats, "an answer from CTRL does not come back to CTRL")
	// Nor does an acknowledgement from STORE: it is MESH's own matter where it is
	// sent to.
	burnt := subscribe(t, reader, m.Space.BeatFilter())
	send(nonce, beat)
	if msg := next(t, burnt); !strings.Contains(string(msg.Data), "KV_MESH_REPLAY") {
		t.Errorf("in MESH: got %q, want the acknowledgement", msg.Data)
	}
	silent(t, beats, "an answer from STORE does not go on to CTRL")
	if got := string(m.lastBeat(t, 1).Data); got != "beat" {
		t.Errorf("last beat in the stream: got %q, want the genuine one", got)
	}
}

func TestFeedCannotBeForgedWithoutTheGrant(t *testing.T) {
	m := start(t)
	denied, onError := collect()
	evil, _ := m.Connect(t, "evil", []string{"mesh.event.evil.a"}, nil, onError)
	reader, _ := m.Connect(t, "reader", nil, []string{m.Space.FeedFilter(), "mesh.event.*.a"})
	feed, events := subscribe(t, reader, m.Space.FeedFilter()), subscribe(t, reader, "mesh.event.*.a")
	for _, subj := range []string{m.Space.FeedAgent("bob"), "mesh.feed.tick", "mesh.event.evil.a"} {
		if err := evil.Publish(subj, []byte("forged")); err != nil {
			t.Fatal(err)
		}
	}
	next(t, events)
	silent(t, feed, "a forged feed message")
	denied.want(t, 2, "forging the feed")
}

// Queue groups over a stream import share the work, each message once.
func TestQueueGroupsOverTheBorder(t *testing.T) {
	m := start(t)
	const replicas, calls = 3, 300
	var got [replicas]atomic.Int32
	all := make(chan string, 2*calls)
	for i := range replicas {
		nc := m.ServiceConn(t)
		if _, err := nc.QueueSubscribe(m.Space.CallFilter("admin.registry"), "control", func(msg *nats.Msg) {
			got[i].Add(1)
			all <- string(msg.Data)
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
	}
	admin, _ := m.Connect(t, "admin", []string{"mesh.call.admin.admin.registry"}, nil)
	checkOnce(t, admin, "mesh.call.admin.admin.registry", calls, all)
	share := []int32{got[0].Load(), got[1].Load(), got[2].Load()}
	t.Logf("shares of %d calls: %d", calls, share)
	if slices.Min(share) < calls/replicas/4 {
		t.Errorf("shares of %d calls: got %d, want none far below a third", calls, share)
	}
}
