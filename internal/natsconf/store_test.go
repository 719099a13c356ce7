package natsconf_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// events makes the stream of durable topics with one topic and a consumer for
// each of the names.
func (m *mesh) events(t *testing.T, consumers ...string) {
	t.Helper()
	if _, err := m.stored.CreateStream(t.Context(), natsconf.Events(m.Space, []string{"news"}, time.Hour, 1)); err != nil {
		t.Fatal(err)
	}
	for _, name := range consumers {
		if _, err := m.stored.CreateConsumer(t.Context(), natsconf.EventsStream, jetstream.ConsumerConfig{
			Durable: name, AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{m.Space.EventFilter("news")},
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// state is what STORE holds.
func (m *mesh) state(t *testing.T) string {
	t.Helper()
	var lines []string
	list := m.stored.ListStreams(t.Context())
	for s := range list.Info() {
		lines = append(lines, fmt.Sprintf("%s %d", s.Config.Name, s.State.Msgs))
		st, err := m.stored.Stream(t.Context(), s.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		cons := st.ListConsumers(t.Context())
		for c := range cons.Info() {
			lines = append(lines, fmt.Sprintf("%s %s %d %d", s.Config.Name, c.Name, c.Delivered.Consumer, c.AckFloor.Consumer))
		}
		if cons.Err() != nil {
			t.Fatal(cons.Err())
		}
	}
	if list.Err() != nil {
		t.Fatal(list.Err())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// deputies are subjects at which an answer of the server would do harm where it
// is taken for a request.
var deputies = []string{
	"$JS.API.STREAM.DELETE.KV_MESH_REPLAY",
	"$JS.API.STREAM.DELETE.MESH_EVENTS",
	"$JS.API.CONSUMER.DELETE.MESH_EVENTS.bob_inbox",
	"$JS.API.STREAM.PURGE.MESH_EVENTS",
	"STORE.JS.API.STREAM.DELETE.MESH_EVENTS",
	"$KV.MESH_REPLAY.read.logs.bob.n1",
}

// pull asks for one stored message and returns it.
func (m *mesh) pull(t *testing.T, nc *nats.Conn, consumer, inbox string) *nats.Msg {
	t.Helper()
	sub := subscribe(t, nc, inbox)
	if err := nc.PublishRequest(subject.Pull(consumer), inbox, []byte(`{"batch":1}`)); err != nil {
		t.Fatal(err)
	}
	msg := next(t, sub)
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	return msg
}

// Whatever an agent makes the server answer, and wherever it aims the answer,
// nothing in STORE takes it for a request: the acknowledgement of its event, of
// its own acknowledgement, and what its consumer hands out.
func TestAnswersOfTheStoreTriggerNothing(t *testing.T) {
	m := start(t)
	m.events(t, "eve_inbox", "bob_inbox")
	grant := append([]string{"mesh.event.eve.news", subject.Pull("eve_inbox"), subject.KV(natsconf.ReplayBucket, "do.work.*.*")}, subject.Acks("eve_inbox")...)
	nc, a := m.Connect(t, "eve", grant, nil)
	for i, target := range deputies {
		t.Run(target, func(t *testing.T) {
			for range 3 {
				request(t, nc, "mesh.event.eve.news", "")
			}
			msg := m.pull(t, nc, "eve_inbox", a.Inbox()+".pull")
			before := m.state(t)
			send := func(subj, body string) {
				t.Helper()
				if err := nc.PublishRequest(subj, target, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
			// An acknowledgement of one's own, answered with an empty message.
			send(msg.Reply, "+ACK")
			// A pull, answered with a stored message, which may be empty.
			send(subject.Pull("eve_inbox"), `{"batch":1}`)
			// A nonce, used before, and an event.
			send(subject.KV(natsconf.ReplayBucket, fmt.Sprintf("do.work.eve.n%d", i)), "")
			send("mesh.event.eve.news", "")
			// Answered after all of them.
			if got := request(t, nc, "mesh.event.eve.news", "").Data; !strings.Contains(string(got), natsconf.EventsStream) {
				t.Fatalf("got %q", got)
			}
			if got := lacks(before, m.state(t)); got != "" {
				t.Errorf("after answers to %s: %s", target, got)
			}
			replay, err := m.stored.Stream(t.Context(), subject.KVStream(natsconf.ReplayBucket))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := replay.GetLastMsgForSubject(t.Context(), subject.KV(natsconf.ReplayBucket, "read.logs.bob.n1")); !errors.Is(err, jetstream.ErrMsgNotFound) {
				t.Errorf("another's nonce: got %v, want %v", err, jetstream.ErrMsgNotFound)
			}
		})
	}
}

// lacks says which stream or consumer of one state is not in the other, or went
// back, and whether bob's consumer moved.
func lacks(before, after string) string {
	read := func(s string) map[string]string {
		out := map[string]string{}
		for line := range strings.Lines(s) {
			f := strings.Fields(line)
			if len(f) == 2 {
				out[f[0]] = f[1]
			} else {
				out[f[0]+" "+f[1]] = f[2] + " " + f[3]
			}
		}
		return out
	}
	was, is := read(before), read(after)
	for name, v := range was {
		now, ok := is[name]
		switch {
		case !ok:
			return name + " is gone"
		case strings.HasSuffix(name, "bob_inbox") && now != v:
			return name + " moved"
		case !strings.Contains(name, " ") && len(now) <= len(v) && now < v:
			return name + " lost messages"
		}
	}
	return ""
}

// Why STORE is an account of its own: with a stream beside the agents, the
// acknowledgement of one's own message deletes it.
func TestAnAcknowledgementInTheSameAccountDeletesAStream(t *testing.T) {
	m := start(t)
	ctx := t.Context()
	for _, name := range []string{"MINE", "VICTIM"} {
		if _, err := m.ctrl.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, DenyDelete: true, DenyPurge: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.ctrl.CreateConsumer(ctx, "MINE", jetstream.ConsumerConfig{Durable: "c", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	request(t, m.Service, "MINE", "x")
	sub := subscribe(t, m.Service, "pulled")
	if err := m.Service.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.MINE.c", "pulled", []byte(`{"batch":1}`)); err != nil {
		t.Fatal(err)
	}
	msg := next(t, sub)
	deleted := subscribe(t, m.Service, "$JS.EVENT.ADVISORY.STREAM.DELETED.VICTIM")
	if err := m.Service.PublishRequest(msg.Reply, "$JS.API.STREAM.DELETE.VICTIM", []byte("+ACK")); err != nil {
		t.Fatal(err)
	}
	next(t, deleted)
}
