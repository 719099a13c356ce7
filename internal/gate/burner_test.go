package gate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	yes = `{"stream":"KV_MESH_REPLAY","seq":7}`
	no  = `{"error":{"code":400,"err_code":10077,"description":"maximum messages per subject exceeded"},"stream":"KV_MESH_REPLAY","seq":0}`
)

var stored atomic.Int64

// taken is yes to one more write.
func taken() string { return strings.Replace(yes, "7", fmt.Sprint(7+stored.Add(1)), 1) }

// Many writes at a time share one subscription. Each gets its own answer, also
// where others stop waiting at the same moment.
func TestBurnerKeepsAnswersApart(t *testing.T) {
	_, _, nc := startServer(t)
	b := &gate.NATSBurner{Conn: conn(nc)}
	sender := agentid.Require("writer")
	const each = 300
	var used, fresh []string
	for range each {
		used, fresh = append(used, envelope.NewNonce()), append(fresh, envelope.NewNonce())
	}
	burn := func(nonce string, want denial.Reason, leave bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if leave {
			go cancel()
		}
		got := denial.Of(b.Burn(ctx, "read.logs", sender, nonce))
		if got != want && (!leave || got != denial.ReplayUnavailable) {
			t.Errorf("got %q, want %q (given up: %v)", got, want, leave)
		}
	}
	var wg sync.WaitGroup
	for _, nonce := range used {
		wg.Go(func() { burn(nonce, "", false) })
	}
	wg.Wait()
	for i := range each {
		wg.Go(func() { burn(used[i], denial.Replayed, i%3 == 0) })
		wg.Go(func() { burn(fresh[i], "", i%3 == 1) })
	}
	wg.Wait()
	if writes, lines := b.Waiting(); writes != 0 || lines != 1 {
		t.Errorf("%d writes wait on %d connections, want none on one", writes, lines)
	}
}

// A write may be given up just as its answer comes. Whoever waits next must not be
// given that answer.
func TestBurnerGivenUpAsItsAnswerComes(t *testing.T) {
	store, writes, connect := fakeStore(t)
	b := &gate.NATSBurner{Conn: conn(connect())}
	var leaving sync.Map // how those give up who do, by nonce
	go func() {
		for {
			var w *nats.Msg
			select {
			case w = <-writes:
			case <-t.Context().Done():
				return
			}
			text := no
			if cancel, ok := leaving.Load(w.Subject[strings.LastIndexByte(w.Subject, '.')+1:]); ok {
				text = taken()
				cancel.(context.CancelFunc)()
			}
			store.Publish(w.Reply, []byte(text)) //nolint:errcheck // an answer that is missing fails the test
		}
	}()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 250 {
				ctx, cancel := context.WithCancel(t.Context())
				nonce := envelope.NewNonce()
				leaving.Store(nonce, cancel)
				if got := denial.Of(b.Burn(ctx, "read.logs", agentid.Require("writer"), nonce)); got != "" && got != denial.ReplayUnavailable {
					t.Errorf("given up: got %q", got)
				}
				cancel()
				if got := denial.Of(b.Burn(t.Context(), "read.logs", agentid.Require("writer"), envelope.NewNonce())); got != denial.Replayed {
					t.Errorf("after one that was given up: got %q, want %q", got, denial.Replayed)
				}
			}
		})
	}
	wg.Wait()
	if err := store.LastError(); err != nil {
		t.Fatal(err)
	}
}

// fakeStore is a server without any rules, on which the test itself is the store.
func fakeStore(t *testing.T) (store *nats.Conn, writes chan *nats.Msg, connect func() *nats.Conn) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go srv.Start()
	t.Cleanup(srv.Shutdown)
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("nats-server did not start")
	}
	connect = func() *nats.Conn {
		nc := must[*nats.Conn](t)(nats.Connect(srv.ClientURL()))
		t.Cleanup(nc.Close)
		return nc
	}
	store, writes = connect(), make(chan *nats.Msg, 64)
	must[*nats.Subscription](t)(store.ChanSubscribe("$KV.MESH_REPLAY.>", writes))
	if err := store.Flush(); err != nil {
		t.Fatal(err)
	}
	return store, writes, connect
}

func publish(t *testing.T, nc *nats.Conn, subj, data string) {
	t.Helper()
	if err := nc.Publish(subj, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// background burns a fresh nonce and gives what came of it.
func background(ctx context.Context, b gate.Burner) chan error {
	done := make(chan error, 1)
	go func() { done <- b.Burn(ctx, "read.logs", agentid.Require("writer"), envelope.NewNonce()) }()
	return done
}

// An answer that comes late, twice, or under another number decides nothing.
func TestBurnerTakesItsOwnAnswerOnly(t *testing.T) {
	store, writes, connect := fakeStore(t)
	b := &gate.NATSBurner{Conn: conn(connect())}

	ctx, cancel := context.WithCancel(t.Context())
	first := background(ctx, b)
	late := <-writes
	cancel()
	if err := <-first; denial.Of(err) != denial.ReplayUnavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("given up: got %v, want %q for its context", err, denial.ReplayUnavailable)
	}
	prefix := late.Reply[:strings.LastIndexByte(late.Reply, '.')+1]

	second := background(t.Context(), b)
	w := <-writes
	if len(w.Data) != 0 || len(w.Header) != 0 {
		t.Errorf("a write of %d bytes with headers %v, want an empty one without", len(w.Data), w.Header)
	}
	if !strings.HasPrefix(w.Reply, prefix) || w.Reply == late.Reply {
		t.Fatalf("answers are expected on %q and then on %q", late.Reply, w.Reply)
	}
	for _, subj := range []string{late.Reply, late.Reply, prefix + "0", prefix + "zzzz", prefix + "-1", prefix + "zzzzzzzzzzzzzzzzzzzz", prefix + "?"} {
		publish(t, store, subj, taken())
	}
	publish(t, store, w.Reply, no)
	publish(t, store, w.Reply, taken())
	wantReason(t, <-second, denial.Replayed)

	third := background(t.Context(), b)
	publish(t, store, (<-writes).Reply, taken())
	wantReason(t, <-third, "")

	// Who sets no time waits for a bounded one all the same.
	fourth := background(context.WithoutCancel(t.Context()), b)
	<-writes
	if err := <-fourth; denial.Of(err) != denial.ReplayUnavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: got %v, want %q for the time", err, denial.ReplayUnavailable)
	}
	if writes, _ := b.Waiting(); writes != 0 {
		t.Errorf("%d writes still wait", writes)
	}
	select {
	case w := <-writes:
		t.Errorf("%s was written as well", w.Subject)
	default:
	}
}

// The subject of an answer is nothing that anybody could guess from another one.
func TestBurnerAnswersOnASecretSubject(t *testing.T) {
	store, writes, connect := fakeStore(t)
	seen := map[string]bool{}
	for range 2 {
		done := background(t.Context(), &gate.NATSBurner{Conn: conn(connect())})
		w := <-writes
		publish(t, store, w.Reply, taken())
		wantReason(t, <-done, "")
		tokens := strings.Split(w.Reply, ".")
		secret := tokens[len(tokens)-2]
		if seen[secret] || len(secret) != len(envelope.NewNonce()) {
			t.Errorf("%q: no fresh secret before the number", w.Reply)
		}
		seen[secret] = true
	}
}

// A connection may be replaced while writes wait on the old one, and one that is
// closed keeps nobody waiting.
func TestBurnerOverConnections(t *testing.T) {
	store, writes, connect := fakeStore(t)
	one, two := connect(), connect()
	var current atomic.Pointer[nats.Conn]
	current.Store(one)
	b := &gate.NATSBurner{Conn: current.Load}

	onOne := background(t.Context(), b)
	w1 := <-writes
	current.Store(two)
	onTwo := background(t.Context(), b)
	w2 := <-writes
	publish(t, store, w2.Reply, taken())
	publish(t, store, w1.Reply, taken())
	wantReason(t, <-onOne, "")
	wantReason(t, <-onTwo, "")

	current.Store(one)
	lost := background(t.Context(), b)
	<-writes
	one.Close()
	if err := <-lost; denial.Of(err) != denial.ReplayUnavailable || !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed under it: got %v, want %q for the connection", err, denial.ReplayUnavailable)
	}
	if err := <-background(t.Context(), b); denial.Of(err) != denial.ReplayUnavailable || !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("closed before it: got %v, want %q for the connection", err, denial.ReplayUnavailable)
	}
	current.Store(two)
	again := background(t.Context(), b)
	publish(t, store, (<-writes).Reply, taken())
	wantReason(t, <-again, "")
	if writes, lines := b.Waiting(); writes != 0 || lines != 1 {
		t.Errorf("%d writes wait on %d connections, want none on one", writes, lines)
	}
	current.Store(nil)
	if err := <-background(t.Context(), b); denial.Of(err) != denial.ReplayUnavailable || !errors.Is(err, nats.ErrInvalidConnection) {
		t.Errorf("no connection: got %v, want %q", err, denial.ReplayUnavailable)
	}

	// A server that was away has the subscription again.
	if err := two.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	current.Store(two)
	back := background(t.Context(), b)
	publish(t, store, (<-writes).Reply, no)
	wantReason(t, <-back, denial.Replayed)
}

func TestFirstUse(t *testing.T) {
	for text, want := range map[string]bool{
		yes: true,
		`{"stream":"KV_MESH_REPLAY","seq":999999999999999999}`:  true,
		`{"stream":"KV_MESH_REPLAY","seq":9999999999999999999}`: false, // left to the parser
		`{"stream":"KV_MESH_REPLAY","seq":0}`:                   false,
		`{"stream":"KV_MESH_REPLAY","seq":07}`:                  false,
		`{"stream":"KV_MESH_REPLAY","seq":-7}`:                  false,
		`{"stream":"KV_MESH_REPLAY","seq":}`:                    false,
		`{"stream":"KV_MESH_REPLAY","seq":7`:                    false,
		`{"stream":"KV_MESH_REPLAY","seq":7}}`:                  false,
		`{"stream":"KV_MESH_REPLAY","seq":7,"duplicate":true}`:  false,
		`{"stream":"KV_MESH_REPLAY2","seq":7}`:                  false,
		no:                                                      false,
		"":                                                      false,
	} {
		if got := gate.FirstUse([]byte(text)); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// What is taken for a first use without being parsed is one by the parser as well.
func FuzzFirstUse(f *testing.F) {
	f.Add([]byte(yes))
	f.Add([]byte(no))
	f.Add([]byte(`{"stream":"KV_MESH_REPLAY","seq":7,"duplicate":true}`))
	f.Add(fmt.Appendf(nil, `{"stream":%q,"seq":18446744073709551615}`, subject.KVStream(gate.ReplayBucket)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if gate.FirstUse(data) && gate.ParseBurn(data) != nil {
			t.Fatalf("%q is a first use unparsed, and not to the parser", data)
		}
	})
}
