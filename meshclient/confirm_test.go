package meshclient_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// keptOut is what a publisher logs of an event that another one kept out.
const keptOut = "event kept out: another one was stored under its ID"

// lines counts the lines that hold all of these.
func (l *logged) lines(texts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
next:
	for line := range strings.Lines(l.buf.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		n++
	}
	return n
}

// reset changes the stream of durable topics until the control plane sets it right,
// which it does when it starts: it has to be away.
func reset(t *testing.T, m *devmesh.Mesh, change func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	js := streams(t, m)
	stream, err := js.Stream(t.Context(), natsconf.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	c := stream.CachedInfo().Config
	change(&c)
	if _, err := js.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return stream
}

// stored returns what the stream has.
func stored(t *testing.T, stream jetstream.Stream) jetstream.StreamState {
	t.Helper()
	info, err := stream.Info(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return info.State
}

// muted is a mesh in which events were stored, while the control plane is away, and
// their publishers wait for answers that do not come.
type muted struct {
	*devmesh.Mesh
	press  *meshclient.Mesh
	log    logged // of press
	got    inbox  // of a durable subscription
	stream jetstream.Stream
	result chan error // of each event
}

func mute(t *testing.T, events int, patience time.Duration) *muted {
	t.Helper()
	m := &muted{Mesh: mesh(t, quiet()), result: make(chan error, events)}
	durableTopic(t, m.Mesh, "news")
	m.press = connected(t, m.Mesh, enrolled(t, m.Mesh, "press", registry.Rights{Publish: []string{"news"}}), meshclient.Log(zerolog.New(&m.log)))
	fan := connected(t, m.Mesh, enrolled(t, m.Mesh, "fan", registry.Rights{Subscribe: []string{"news"}}))
	subscribe(t, fan, "news", m.got.take, meshclient.Durable("inbox"))
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.stream = reset(t, m.Mesh, func(c *jetstream.StreamConfig) { c.NoAck = true })
	ctx := within(t, patience)
	for i := range events {
		go func() { m.result <- m.press.Publish(ctx, "news", []byte(strconv.Itoa(i))) }()
	}
	eventually(t, "the first tries", func() bool { return stored(t, m.stream).Msgs == uint64(events) })
	return m
}

// once checks that the subscription gets each of the events, and one more, once.
func (m *muted) once(t *testing.T) {
	t.Helper()
	n := cap(m.result)
	publish(t, m.press, "news", strconv.Itoa(n))
	eventually(t, "the last event", func() bool { return m.got.len() > n })
	texts := m.got.texts()
	slices.Sort(texts)
	if len(slices.Compact(texts)) != n+1 || len(texts) != n+1 {
		t.Errorf("got %s, want %d events", texts, n+1)
	}
	if n := m.log.lines(keptOut); n != 0 {
		t.Errorf("%d events were kept out, want none", n)
	}
	if got := stored(t, reset(t, m.Mesh, func(*jetstream.StreamConfig) {})).Msgs; got != uint64(n)+1 {
		t.Errorf("%d events are stored, want %d", got, n+1)
	}
}

// The first try was stored and the answer to it got lost. The publisher knows in the
// end, also where the server was started anew meanwhile, and of more events than the
// control plane answers for at once.
func TestStoredAndNotAnswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		events  int
		restart bool
	}{"one": {1, false}, "server that restarts": {1, true}, "many": {150, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := mute(t, c.events, 100*time.Second)
			up := m.UpPlane
			if c.restart {
				m.Server.Close()
				up = m.Up
			}
			if err := up(within(t, 60*time.Second)); err != nil {
				t.Fatal(err)
			}
			for range c.events {
				if err := <-m.result; err != nil {
					t.Error(err)
				}
			}
			if n := m.log.lines(`"self:stored"`, `"verdict":"accepted"`); n != c.events {
				t.Errorf("the control plane answered %d times, want %d", n, c.events)
			}
			m.once(t)
		})
	}
}

// While nobody can say what the stream has under the event's ID, the publisher says
// that it does not know.
func TestStoredAndNobodySaysSo(t *testing.T) {
	t.Parallel()
	m := mute(t, 1, 15*time.Second)
	reset(t, m.Mesh, func(c *jetstream.StreamConfig) { c.NoAck = false })
	err := <-m.result
	if !errors.Is(err, meshclient.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "may be stored or not") {
		t.Errorf("got %v, want ErrUnavailable that says that it is open", err)
	}
	if n := m.log.lines(`"self:stored"`); n == 0 {
		t.Error("the control plane was not asked")
	}
	if err := m.UpPlane(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	m.once(t)
}

// The first try reaches those who listen and not the stream. Whoever listens stores an
// event of its own under its ID, so that the next try is a copy to the stream: another
// agent on the topic itself, or another instance of the publisher on another topic. The
// publisher notices, and its event is stored all the same, once.
func TestEventKeptOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ who, topic string }{
		"by another agent":    {"mallory", "news"},
		"by another instance": {"press", "gossip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := mesh(t, quiet())
			durableTopic(t, m, "news")
			durableTopic(t, m, "gossip")
			ctx := within(t, 100*time.Second)
			var log logged
			var got inbox
			both := registry.Rights{Publish: []string{"news", "gossip"}, Subscribe: []string{"news", "gossip"}}
			pressDir := enrolled(t, m, "press", both)
			press := connected(t, m, pressDir, meshclient.Log(zerolog.New(&log)))
			fan := connected(t, m, enrolled(t, m, "fan", both))
			for _, topic := range both.Subscribe {
				subscribe(t, fan, topic, got.take, meshclient.Durable("inbox"))
			}
			var dir string
			if c.who == "press" {
				var err error
				if dir, err = m.Instance(ctx, press.ID()); err != nil {
					t.Fatal(err)
				}
			} else {
				dir = enrolled(t, m, c.who, both)
			}
			honest := connected(t, m, dir)
			chain, err := honest.ChainFor(ctx, capability.RequireScope("publish:"+c.topic))
			if err := errors.Join(err, honest.Close()); err != nil {
				t.Fatal(err)
			}
			bad := intrude(t, dir)
			heard := make(chan *nats.Msg, 100)
			if _, err := bad.nc.ChanSubscribe(bad.Space.EventFilter("news"), heard); err != nil {
				t.Fatal(err)
			}
			if err := bad.nc.Flush(); err != nil {
				t.Fatal(err)
			}

			if err := m.DownPlane(); err != nil {
				t.Fatal(err)
			}
			subj := bad.Space.Event(bad.Self, c.topic)
			reset(t, m, func(c *jetstream.StreamConfig) { c.Subjects = []string{bad.Space.NoEvent(), subj} })
			result := make(chan error, 1)
			go func() { result <- press.Publish(ctx, "news", []byte("said")) }()
			id := (<-heard).Header.Get(envelope.HeaderMsgID)
			msg, _, _, err := bad.Message(subj, envelope.Fields{Nonce: id, Token: chain.Digest()}, nil, []byte("noise"), nil)
			if err != nil {
				t.Fatal(err)
			}
			msg.Header[envelope.HeaderMsgID] = []string{id}
			answer, err := bad.nc.RequestMsg(msg, 20*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if ack, err := meshclient.ReadStored(answer.Data); err != nil || ack.Duplicate {
				t.Fatalf("the attack: got %s", answer.Data)
			}
			if err := m.UpPlane(within(t, 60*time.Second)); err != nil {
				t.Fatal(err)
			}

			if err := <-result; err != nil {
				t.Fatal(err)
			}
			if n := log.lines(keptOut, `"level":"warn"`, `"reason":"replayed"`, `"nonce":"`+id+`"`, `"topic":"news"`); n != 1 {
				t.Errorf("the publisher logs %d events that were kept out, want 1", n)
			}
			if n := log.lines(`"kind":"event"`, `"verdict":"sent"`, id); n != 0 {
				t.Error("the event is logged as sent under the ID that it did not keep")
			}
			publish(t, press, "news", "end")
			eventually(t, "the end", func() bool { texts := got.texts(); return len(texts) > 0 && texts[len(texts)-1] == "end" })
			if texts := fmt.Sprint(got.texts()); texts != "[noise said end]" {
				t.Errorf("got %s, want [noise said end]", texts)
			}
			if n := stored(t, reset(t, m, func(*jetstream.StreamConfig) {})).Msgs; n != 3 {
				t.Errorf("%d events are stored, want 3", n)
			}
		})
	}
}
