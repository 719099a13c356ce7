package gate_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// startServer runs a server with the streams of the control plane, and an agent
// "reader" on it with what a handler of read:logs may do.
func startServer(t *testing.T) (*natstest.Mesh, jetstream.JetStream, *nats.Conn) {
	t.Helper()
	m := natstest.Start(t)
	ctrl := must[jetstream.JetStream](t)(jetstream.New(m.Service))
	inMesh := must[jetstream.JetStream](t)(jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI))
	for _, bucket := range []string{natsconf.AgentsBucket, natsconf.ChainsBucket} {
		must[jetstream.KeyValue](t)(ctrl.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{
			Bucket: bucket, History: 1, LimitMarkerTTL: time.Minute,
			RePublish: &jetstream.RePublish{Source: subject.KV(bucket, ">"), Destination: m.Space.FeedAgents() + ".>"},
		}))
	}
	must[jetstream.Stream](t)(inMesh.CreateStream(t.Context(), natsconf.Replay(5*time.Minute, 1)))
	nc, _ := m.Connect(t, "reader", []string{
		subject.ReplayGrant(natsconf.ReplayBucket, "read.logs"),
		m.Space.LeaderRead(natsconf.AgentsBucket), m.Space.LeaderRead(natsconf.ChainsBucket),
	}, []string{m.Space.FeedFilter()})
	return m, ctrl, nc
}

func conn(nc *nats.Conn) func() *nats.Conn { return func() *nats.Conn { return nc } }

func TestNATSBurner(t *testing.T) {
	m, _, nc := startServer(t)
	b := &gate.NATSBurner{Conn: conn(nc)}
	a, other, nonce := agentid.Require("writer"), agentid.Require("other"), envelope.NewNonce()
	for i, tt := range []struct {
		dotted string
		by     agentid.ID
		nonce  string
		want   denial.Reason
	}{
		{"read.logs", a, nonce, ""},
		{"read.logs", a, nonce, denial.Replayed},
		{"read.logs", other, nonce, ""}, // a nonce counts for its sender
		{"read.logs", a, envelope.NewNonce(), ""},
	} {
		if got := denial.Of(b.Burn(t.Context(), tt.dotted, tt.by, tt.nonce)); got != tt.want {
			t.Errorf("burn %d: got %q, want %q", i, got, tt.want)
		}
	}

	// A replay with a header would be called a success by the server; it is
	// refused, and so is first use with one.
	for i, id := range []string{nonce, envelope.NewNonce()} {
		msg := &nats.Msg{Subject: subject.KV(natsconf.ReplayBucket, subject.ReplayKey("read.logs", a, id)), Header: nats.Header{"Nats-Msg-Id": {id}}}
		answer, err := nc.RequestMsg(msg, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := gate.ParseBurn(answer.Data); err == nil {
			t.Errorf("write %d with a header: the answer %s passes for a first use", i, answer.Data)
		}
	}

	// From the control plane's account, over the border, it is the same store.
	ctrl := &gate.NATSBurner{Conn: conn(m.Service)}
	wantReason(t, ctrl.Burn(t.Context(), "read.logs", a, nonce), denial.Replayed)
	wantReason(t, ctrl.Burn(t.Context(), "self.session", a, nonce), "")
	wantReason(t, ctrl.Burn(t.Context(), "self.session", a, nonce), denial.Replayed)

	// Racing writes of one nonce, here and there.
	nonce = envelope.NewNonce()
	var wg sync.WaitGroup
	results := make(chan error, 40)
	for i := range cap(results) {
		wg.Go(func() {
			by := b
			if i%2 == 0 {
				by = ctrl
			}
			results <- by.Burn(t.Context(), "read.logs", a, nonce)
		})
	}
	wg.Wait()
	close(results)
	first := 0
	for err := range results {
		if err == nil {
			first++
		} else {
			wantReason(t, err, denial.Replayed)
		}
	}
	if first != 1 {
		t.Errorf("got %d first uses, want 1", first)
	}
}

// Whatever is not the store's own plain yes is no.
func TestBurnerWithoutItsStore(t *testing.T) {
	m, _, nc := startServer(t)
	a := agentid.Require("writer")
	b := &gate.NATSBurner{Conn: conn(nc)}

	// A write whose answer does not come: refused, and written once at most.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantReason(t, b.Burn(ctx, "read.logs", a, envelope.NewNonce()), denial.ReplayUnavailable)

	// Not granted: the server drops the write, and nothing answers.
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	wantReason(t, b.Burn(ctx, "write.logs", a, envelope.NewNonce()), denial.ReplayUnavailable)

	// The store is gone, so nobody listens.
	inMesh := must[jetstream.JetStream](t)(jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI))
	if err := inMesh.DeleteStream(t.Context(), subject.KVStream(natsconf.ReplayBucket)); err != nil {
		t.Fatal(err)
	}
	wantReason(t, b.Burn(t.Context(), "read.logs", a, envelope.NewNonce()), denial.ReplayUnavailable)

	// Another stream has its subjects and says yes.
	must[jetstream.Stream](t)(inMesh.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{subject.KV(natsconf.ReplayBucket, ">")}}))
	wantReason(t, b.Burn(t.Context(), "read.logs", a, envelope.NewNonce()), denial.ReplayUnavailable)

	nc.Close()
	wantReason(t, b.Burn(t.Context(), "read.logs", a, envelope.NewNonce()), denial.ReplayUnavailable)
}

func TestParseBurn(t *testing.T) {
	for text, want := range map[string]denial.Reason{
		`{"stream":"KV_MESH_REPLAY","seq":7}`:                  "",
		`{"stream":"KV_MESH_REPLAY","domain":"hub","seq":7}`:   "",
		`{"stream":"KV_MESH_REPLAY","seq":7,"duplicate":true}`: denial.Replayed,
		`{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"KV_MESH_REPLAY","seq":0}`: denial.Replayed,
		`{"error":{"code":400,"err_code":10077,"description":"maximum messages exceeded"},"stream":"KV_MESH_REPLAY","seq":0}`:             denial.ReplayUnavailable,
		`{"error":{"code":400,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"KV_MESH_REPLAY","seq":0}`:                denial.ReplayUnavailable,
		`{"error":{"code":400,"err_code":10077},"stream":"KV_MESH_REPLAY","seq":0,"duplicate":true}`:                                      denial.ReplayUnavailable,
		`{"error":{"code":503,"err_code":10076,"description":"m"},"stream":"KV_MESH_REPLAY","seq":7}`:                                     denial.ReplayUnavailable,
		`{"error":{},"stream":"KV_MESH_REPLAY","seq":7}`:                                                                                  denial.ReplayUnavailable,
		`{"stream":"KV_MESH_REPLAY","seq":0}`:  denial.ReplayUnavailable,
		`{"stream":"KV_MESH_REPLAY","seq":-1}`: denial.ReplayUnavailable,
		`{"stream":"KV_MESH_REPLAY"}`:          denial.ReplayUnavailable,
		`{"stream":"MESH_REPLAY","seq":7}`:     denial.ReplayUnavailable,
		`{"seq":7}`:                            denial.ReplayUnavailable,
		`{}`:                                   denial.ReplayUnavailable,
		`null`:                                 denial.ReplayUnavailable,
		``:                                     denial.ReplayUnavailable,
		`+OK`:                                  denial.ReplayUnavailable,
		`{"stream":"KV_MESH_REPLAY","seq":7}x`: denial.ReplayUnavailable,
	} {
		if got := denial.Of(gate.ParseBurn([]byte(text))); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	long := gate.ParseBurn([]byte(`{"error":{"err_code":1,"description":"` + strings.Repeat("\\n", 5000) + `"}}`))
	if text := long.Error(); len(text) > 400 || strings.Contains(text, "\n") {
		t.Errorf("the server's text gets into the error as it is: %d bytes", len(text))
	}
}

// Only one answer is a first use, whatever the bytes are.
func FuzzParseBurn(f *testing.F) {
	f.Add([]byte(`{"stream":"KV_MESH_REPLAY","seq":7}`))
	f.Add([]byte(`{"error":{"err_code":10077},"stream":"KV_MESH_REPLAY"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := gate.ParseBurn(data)
		switch denial.Of(err) {
		case "":
			if err != nil || !strings.Contains(strings.ToLower(string(data)), "stream") || !strings.Contains(strings.ToLower(string(data)), "seq") {
				t.Fatalf("%q passes for a first use (%v)", data, err)
			}
		case denial.Replayed, denial.ReplayUnavailable:
		default:
			t.Fatalf("%q: got %v", data, err)
		}
	})
}

func TestNATSReader(t *testing.T) {
	m, ctrl, nc := startServer(t)
	agents := must[jetstream.KeyValue](t)(ctrl.KeyValue(t.Context(), natsconf.AgentsBucket))
	chains := must[jetstream.KeyValue](t)(ctrl.KeyValue(t.Context(), natsconf.ChainsBucket))
	put := func(kv jetstream.KeyValue, key, value string) {
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	put(agents, "writer", "record")
	put(agents, "writer.7f3c2k9q", "instance")
	put(agents, "gone", "record")
	put(chains, "digest", "chain")
	if err := agents.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]*gate.NATSReader{
		"agent":         {Conn: conn(nc), Leader: gate.AgentLeader(m.Space)},
		"control plane": {Conn: conn(m.Service), Leader: gate.ControlLeader},
	} {
		for _, tt := range []struct {
			read   func(context.Context, string) (string, error)
			key    string
			want   string
			reason denial.Reason
		}{
			{r.Record, "writer", "record", ""},
			{r.Record, "writer.7f3c2k9q", "instance", ""},
			{r.Chain, "digest", "chain", ""},
			{r.Record, "digest", "", denial.NotFound},
			{r.Record, "nobody", "", denial.NotFound},
			{r.Record, "gone", "", denial.NotFound}, // a marker is no record
			{r.Chain, "writer", "", denial.NotFound},
		} {
			got, err := tt.read(t.Context(), tt.key)
			if got != tt.want || denial.Of(err) != tt.reason {
				t.Errorf("%s reading %s: got %q and %v, want %q and %q", name, tt.key, got, err, tt.want, tt.reason)
			}
		}
	}
	// In the agents' account the leader's own name reaches another JetStream, or
	// none: never silence that is taken for "not there".
	wrong := &gate.NATSReader{Conn: conn(nc), Leader: gate.ControlLeader}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := wrong.Record(ctx, "writer"); denial.Of(err) != denial.RegistryUnavailable {
		t.Errorf("got %v, want %q", err, denial.RegistryUnavailable)
	}
	right := &gate.NATSReader{Conn: conn(nc), Leader: gate.AgentLeader(m.Space)}
	if err := ctrl.DeleteKeyValue(t.Context(), natsconf.ChainsBucket); err != nil {
		t.Fatal(err)
	}
	if _, err := right.Chain(t.Context(), "digest"); denial.Of(err) != denial.RegistryUnavailable {
		t.Errorf("without the bucket: got %v, want %q", err, denial.RegistryUnavailable)
	}
	nc.Close()
	if _, err := right.Record(t.Context(), "writer"); denial.Of(err) != denial.RegistryUnavailable {
		t.Errorf("closed: got %v, want %q", err, denial.RegistryUnavailable)
	}
}

// The whole door over a real server: the feed cuts, the shared store decides.
func TestOverNATS(t *testing.T) {
	m, ctrl, nc := startServer(t)
	w := newWorld(t)
	a := w.enrol("writer", "read:logs")
	agents := must[jetstream.KeyValue](t)(ctrl.KeyValue(t.Context(), natsconf.AgentsBucket))
	put := func(kv jetstream.KeyValue, key string) {
		text, ok := w.store.records[key]
		if !ok {
			text = w.store.chains[key]
		}
		if _, err := kv.PutString(t.Context(), key, text); err != nil {
			t.Fatal(err)
		}
	}
	for key := range w.store.records {
		put(agents, key)
	}
	put(must[jetstream.KeyValue](t)(ctrl.KeyValue(t.Context(), natsconf.ChainsBucket)), a.chain)

	replica := func() (*gate.Gate, chan agentid.ID) {
		heard := make(chan agentid.ID, 8)
		reader := &gate.NATSReader{Conn: conn(nc), Leader: gate.AgentLeader(m.Space)}
		peers := must[*gate.Peers](t)(gate.NewPeers(gate.PeersConfig{
			Roots: []string{publicOf(t, w.root)}, Ring: w.ring, Reader: reader, Clock: w.clock.Now, Log: zerolog.Nop(),
			OnChange: func(id agentid.ID) { heard <- id },
		}))
		prefix := m.Space.FeedAgents() + "."
		must[*nats.Subscription](t)(nc.Subscribe(m.Space.FeedFilter(), func(msg *nats.Msg) {
			peers.Observe(strings.TrimPrefix(msg.Subject, prefix), string(msg.Data))
		}))
		if err := peers.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		g := must[*gate.Gate](t)(gate.New(gate.Config{
			Self: agentid.Require("reader"), TrustDomain: domain, Space: m.Space, Peers: peers, Reader: reader,
			Burner: &gate.NATSBurner{Conn: conn(nc)}, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
			Seen: must[*envelope.Memory](t)(envelope.NewMemory(envelope.MemoryConfig{Window: envelope.DefaultWindow(), Since: w.clock.Now()})),
		}))
		return g, heard
	}
	one, heard := replica()
	two, _ := replica()
	at := a.call()
	msg := at.message()
	if _, err := one.Admit(t.Context(), msg, at.want); err != nil {
		t.Fatal(err)
	}
	_, err := two.Admit(t.Context(), msg, at.want)
	wantReason(t, err, denial.Replayed)

	before := a.call()
	a.change(suspend)
	put(agents, "writer")
	select {
	case <-heard:
	case <-time.After(5 * time.Second):
		t.Fatal("the feed did not bring the record")
	}
	_, err = one.Admit(t.Context(), before.message(), before.want)
	wantReason(t, err, denial.Suspended)
}
