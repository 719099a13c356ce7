package meshclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// logged is a client's log that a test looks into.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// refusals counts the messages that were refused for a reason.
func (l *logged) refusals(r denial.Reason) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, `"verdict":"refused"`) && strings.Contains(line, `"reason":"`+string(r)+`"`) {
			n++
		}
	}
	return n
}

func durableTopic(t *testing.T, m *devmesh.Mesh, name string) {
	t.Helper()
	req := wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: name, MaxAge: 3600}}
	if err := m.Operate(within(t, 20*time.Second), req, nil); err != nil {
		t.Fatal(err)
	}
}

// Whoever may pull can aim what it pulls at others: at those who listen live, who
// would take it for fresh, and at the inbox of another's durable subscription.
func TestPulledEventsAimedAtOthers(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	dir := enrolled(t, m, "mallory", registry.Rights{Subscribe: []string{"news"}})
	honest := connected(t, m, dir)
	none := func(context.Context, *meshclient.Event) {}
	subscribe(t, honest, "news", none, meshclient.Durable("loot"))
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	var log logged
	victim := connected(t, m, enrolled(t, m, "victim", registry.Rights{Subscribe: []string{"news"}}), meshclient.Log(zerolog.New(&log)))
	var live, stored inbox
	subscribe(t, victim, "news", stored.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "one")
	publish(t, press, "news", "two")
	eventually(t, "the victim's own copies", func() bool { return stored.len() == 2 })
	// It listens live only now: it has never seen those, and they are fresh.
	subscribe(t, victim, "news", live.take)

	bad := intrude(t, dir)
	pull := func(inbox string) {
		t.Helper()
		if err := bad.nc.PublishRequest(subject.Pull(subject.Consumer(bad.Self, "loot")), inbox, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
	}
	for i, inbox := range []string{bad.Space.Event(bad.Self, "news"), victim.PullInbox("inbox")} {
		if inbox == "" {
			t.Fatal("the victim has no inbox")
		}
		pull(inbox)
		eventually(t, "the refusal at "+inbox, func() bool { return log.refusals(denial.ForeignDelivery) > i })
	}
	publish(t, press, "news", "three")
	eventually(t, "what the press says itself", func() bool { return live.len() == 1 && stored.len() == 3 })
	if a, b := fmt.Sprint(live.texts()), fmt.Sprint(stored.texts()); a != "[three]" || b != "[one two three]" {
		t.Errorf("got %s live and %s stored", a, b)
	}
}

// A publisher that stores copies of its own event, or events that the stream
// cannot tell from copies.
func TestCopiesOfAStoredEvent(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	dir := enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}})
	honest := connected(t, m, dir)
	chains, err := honest.Chains(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	var log logged
	victim := connected(t, m, enrolled(t, m, "victim", registry.Rights{Subscribe: []string{"news"}}), meshclient.Log(zerolog.New(&log)))
	var got inbox
	subscribe(t, victim, "news", got.take, meshclient.Durable("inbox"))

	bad := intrude(t, dir)
	msg, f, _, err := bad.Message(bad.Space.Event(bad.Self, "news"), envelope.Fields{Token: chains[0].Digest()}, nil, []byte("one"), nil)
	if err != nil {
		t.Fatal(err)
	}
	store := func(id ...string) (seq uint64, duplicate bool) {
		t.Helper()
		msg.Header[envelope.HeaderMsgID] = id
		answer, err := bad.nc.RequestMsg(msg, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var ack jetstream.PubAck
		if err := json.Unmarshal(answer.Data, &ack); err != nil {
			t.Fatal(err)
		}
		return ack.Sequence, ack.Duplicate
	}
	first, duplicate := store(f.Nonce)
	if duplicate {
		t.Fatal("the first one is a duplicate")
	}
	if seq, duplicate := store(f.Nonce); !duplicate || seq != first {
		t.Errorf("a copy was stored as %d", seq)
	}
	store()
	store(envelope.NewNonce())
	eventually(t, "the refusals", func() bool { return log.refusals(denial.BadEnvelope) >= 2 })
	f.Nonce = envelope.NewNonce()
	if msg, _, _, err = bad.Message(msg.Subject, envelope.Fields{Token: chains[0].Digest(), Nonce: f.Nonce}, nil, []byte("end"), nil); err != nil {
		t.Fatal(err)
	}
	store(f.Nonce)
	eventually(t, "the end", func() bool { return got.len() >= 2 })
	if texts := fmt.Sprint(got.texts()); texts != "[one end]" {
		t.Errorf("got %s, want [one end]", texts)
	}
}

// The answers of a real stream to an event, and what is made of them.
func TestReadStored(t *testing.T) {
	m := natstest.Start(t)
	js, err := jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	c := natsconf.Events(m.Space, []string{"news"}, time.Hour, 1)
	c.MaxMsgsPerSubject = 2
	if _, err := js.CreateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	press := agentid.Require("press")
	nc, _ := m.Connect(t, "press", []string{m.Space.Event(press, "news"), m.Space.Event(press, "other")}, nil)
	ask := func(topic, id string) (uint64, bool, error) {
		t.Helper()
		answer, err := nc.RequestMsg(&nats.Msg{Subject: m.Space.Event(press, topic), Header: nats.Header{envelope.HeaderMsgID: {id}}}, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		ack, err := meshclient.ReadStored(answer.Data)
		return ack.Seq, ack.Duplicate, err
	}
	for _, c := range []struct {
		id        string
		seq       uint64
		duplicate bool
	}{{"a", 1, false}, {"a", 1, true}, {"b", 2, false}, {"a", 1, true}} {
		if seq, duplicate, err := ask("news", c.id); seq != c.seq || duplicate != c.duplicate || err != nil {
			t.Errorf("%s: got %d, %v, %v, want %d, %v", c.id, seq, duplicate, err, c.seq, c.duplicate)
		}
	}
	if _, _, err := ask("news", "c"); denial.Of(err) != denial.QuotaExceeded {
		t.Errorf("past the quota: got %v, want %q", err, denial.QuotaExceeded)
	}
	for _, text := range []string{
		"", "{}", "[]", "null", `{"stream":"MESH_EVENTS"}`, `{"seq":1}`, `{"stream":"OTHER","seq":1}`, `{"stream":"MESH_EVENTS","seq":0}`,
		`{"stream":"MESH_EVENTS","seq":-1}`, `{"stream":"MESH_EVENTS","seq":1,"error":{}}`, `{"stream":"MESH_EVENTS","seq":1}x`,
		`{"stream":"MESH_EVENTS","duplicate":true}`, `{"stream":"MESH_EVENTS","seq":0,"duplicate":true}`,
		`{"error":{"err_code":10077,"description":"maximum bytes exceeded"}}`, `{"stream":"MESH_EVENTS","seq":1,"x":"` + strings.Repeat("x", 5000) + `"}`,
	} {
		_, err := meshclient.ReadStored([]byte(text))
		if err == nil || denial.Of(err) != "" || !errors.Is(err, meshclient.ErrUnavailable) {
			t.Errorf("%.60s: got %v, want ErrUnavailable", text, err)
		}
	}
}

// streams manages what is stored as the control plane does.
func streams(t *testing.T, m *devmesh.Mesh) jetstream.JetStream {
	t.Helper()
	nc, err := devmesh.AsService(m.Dir, m.Server.URL())
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

// A publisher that has as much stored as it may is told so, each time, and takes
// nobody else's place.
func TestPublisherOverItsQuota(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	js := streams(t, m)
	stream, err := js.Stream(t.Context(), natsconf.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	c.MaxMsgsPerSubject = 3
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	loud := connected(t, m, enrolled(t, m, "loud", registry.Rights{Publish: []string{"news"}}))
	calm := connected(t, m, enrolled(t, m, "calm", registry.Rights{Publish: []string{"news"}}))
	ctx := within(t, 20*time.Second)
	for i := range 6 {
		err := loud.Publish(ctx, "news", []byte("x"))
		if i < 3 && err != nil {
			t.Errorf("event %d: %v", i, err)
		} else if i >= 3 {
			denied(t, err, denial.QuotaExceeded)
		}
		info, err := stream.Info(ctx)
		if err != nil || info.State.Msgs != uint64(min(i+1, 3)) {
			t.Fatalf("after event %d the stream has %d, %v", i, info.State.Msgs, err)
		}
	}
	publish(t, calm, "news", "heard")
}

// The server goes away while events are published and read. What Publish said
// was stored is there, once.
func TestDurableOverARestartOfTheServer(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	fan := connected(t, m, enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}}))
	var got inbox
	subscribe(t, fan, "news", got.take, meshclient.Durable("inbox"))
	run, stop := context.WithCancel(t.Context())
	defer stop()
	var said []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; run.Err() == nil; i++ {
			text := fmt.Sprint(i)
			err := press.Publish(within(t, 30*time.Second), "news", []byte(text))
			if err != nil {
				t.Errorf("event %d: %v", i, err)
				continue
			}
			said = append(said, text)
			time.Sleep(2 * time.Millisecond)
		}
	})
	eventually(t, "some events", func() bool { return got.len() > 20 })
	m.Server.Close()
	if err := m.UpServer(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	before := got.len()
	eventually(t, "more events", func() bool { return got.len() > before+20 })
	stop()
	wg.Wait()
	eventually(t, "the last event", func() bool {
		texts := got.texts()
		return len(texts) > 0 && texts[len(texts)-1] == said[len(said)-1]
	})
	seen := map[string]int{}
	for _, e := range got.events {
		if !e.Redelivered {
			seen[string(e.Data)]++
		}
	}
	for _, text := range said {
		if seen[text] != 1 {
			t.Errorf("event %s came %d times", text, seen[text])
		}
	}
	t.Logf("%d events, %d deliveries", len(said), got.len())
}

// The control plane is away: what is there goes on.
func TestDurableWithoutTheControlPlane(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	fan := connected(t, m, enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}}))
	var got inbox
	subscribe(t, fan, "news", got.take, meshclient.Durable("inbox"))
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	publish(t, press, "news", "one")
	eventually(t, "an event", func() bool { return got.len() == 1 })
	if err := m.UpPlane(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	publish(t, press, "news", "two")
	eventually(t, "another", func() bool { return got.len() == 2 })
}

// A subscriber that is suspended gets nothing, and after it was resumed what came
// meanwhile.
func TestDurableSubscriberSuspended(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	fan := connected(t, m, enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}}))
	var got inbox
	subscribe(t, fan, "news", got.take, meshclient.Durable("inbox"))
	ctx := within(t, 40*time.Second)
	if _, err := m.Cut(ctx, wire.OpSuspend, "fan", "test"); err != nil {
		t.Fatal(err)
	}
	publish(t, press, "news", "one")
	publish(t, press, "news", "two")
	if n := got.len(); n != 0 {
		t.Errorf("got %d events while suspended", n)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "fan"}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the return", func() bool { return fan.Away() == nil })
	eventually(t, "what came meanwhile", func() bool { return got.len() == 2 })
	if texts := fmt.Sprint(got.texts()); texts != "[one two]" {
		t.Errorf("got %s", texts)
	}
}

// A process that ends right after an event takes none with it that comes later:
// the server would wait half a minute for its word.
func TestDurableShortLives(t *testing.T) {
	m := mesh(t, quiet())
	durableTopic(t, m, "news")
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	dir := enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}})
	none := func(context.Context, *meshclient.Event) {}
	first := connected(t, m, dir)
	subscribe(t, first, "news", none, meshclient.Durable("inbox"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		publish(t, press, "news", fmt.Sprint(i))
		fan := connected(t, m, dir)
		took := make(chan string, 1)
		subscribe(t, fan, "news", func(_ context.Context, e *meshclient.Event) {
			select {
			case took <- string(e.Data):
			default:
				e.Retry(0) // another one is for the next life
			}
		}, meshclient.Durable("inbox"))
		select {
		case text := <-took:
			if text != fmt.Sprint(i) {
				t.Fatalf("life %d got event %s", i, text)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("life %d got nothing: the one before took its event with it", i)
		}
		// At different moments of the next pull.
		time.Sleep(time.Duration(i) * 20 * time.Microsecond)
		if err := fan.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever may publish can sign events about which a reader cannot be sure at once.
// They cost their sender, and hold up nobody else's.
func TestDoubtfulEventsHoldUpNobody(t *testing.T) {
	unknown := func() string { return strings.Repeat(envelope.NewNonce(), 2)[:42] + "A" }
	for what, doubtful := range map[string]struct {
		token func() string
		ahead time.Duration
	}{
		"unknown chains": {unknown, 0},
		"times to come":  {func() string { return "" }, time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			m := mesh(t, quiet())
			durableTopic(t, m, "news")
			press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
			dir := enrolled(t, m, "mallory", registry.Rights{Publish: []string{"news"}})
			fan := connected(t, m, enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}}))
			bad := intrude(t, dir)
			var got inbox
			subscribe(t, fan, "news", got.take, meshclient.Durable("inbox"))
			bad.Clock = func() time.Time { return time.Now().Add(doubtful.ahead) }
			for range 400 {
				f := envelope.Fields{Nonce: envelope.NewNonce(), Token: doubtful.token()}
				msg, _, _, err := bad.Message(bad.Space.Event(bad.Self, "news"), f, nil, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				msg.Header[envelope.HeaderMsgID] = []string{f.Nonce}
				if err := bad.nc.PublishMsg(msg); err != nil {
					t.Fatal(err)
				}
			}
			if err := bad.nc.Flush(); err != nil {
				t.Fatal(err)
			}
			publish(t, press, "news", "said")
			ctx := within(t, 10*time.Second)
			for got.len() == 0 && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			if texts := fmt.Sprint(got.texts()); texts != "[said]" {
				t.Errorf("got %s ten seconds later", texts)
			}
		})
	}
}
