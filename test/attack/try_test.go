package attack_test

import (
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// store is the account in which what agents send is stored.
func (x *try) store() jetstream.JetStream {
	if js, ok := x.streams["STORE"]; ok {
		return js
	}
	return x.streams["ALL"]
}

// again takes the state as it is now for what must not change.
func (x *try) again() {
	x.t.Helper()
	var err error
	if x.before, err = x.state(); err != nil {
		x.t.Fatal(err)
	}
}

// nonce says what is stored under a key of the replay store.
func (x *try) nonce(subj string) string {
	x.t.Helper()
	s, err := x.store().Stream(x.t.Context(), subject.KVStream(subject.ReplayBucket))
	if err != nil {
		return "no stream"
	}
	m, err := s.GetLastMsgForSubject(x.t.Context(), subj)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %v %q", m.Sequence, m.Header, m.Data)
}

// stored counts what is stored under a subject.
func (x *try) stored(subj string) uint64 {
	x.t.Helper()
	s, err := x.store().Stream(x.t.Context(), subject.EventsStream)
	if err != nil {
		x.t.Fatal(err)
	}
	info, err := s.Info(x.t.Context(), jetstream.WithSubjectFilter(subj))
	if err != nil {
		x.t.Fatal(err)
	}
	return info.State.Subjects[subj]
}

// allow makes of the stream of events in the control run what an operator makes
// of it who wants such a thing for another purpose.
func (x *try) allow(change func(*jetstream.StreamConfig)) {
	x.t.Helper()
	if x.mesh {
		return
	}
	s, err := x.store().Stream(x.t.Context(), subject.EventsStream)
	if err != nil {
		x.t.Fatal(err)
	}
	c := s.CachedInfo().Config
	change(&c)
	if _, err := x.store().UpdateStream(x.t.Context(), c); err != nil {
		x.t.Fatal(err)
	}
}

// management begins the subjects by which the control plane manages streams.
func (x *try) management() string {
	if x.mesh {
		return "STORE.JS.API."
	}
	return "$JS.API."
}

// The ways to pull one event.
const (
	now  = `{"batch":1,"no_wait":true}`
	soon = `{"batch":1,"expires":2000000000}`
)

// pulled takes one stored event out of a person's consumer; nil where there is
// none.
func (x *try) pulled(nc *nats.Conn, p person, request string) *nats.Msg {
	x.t.Helper()
	inbox := subject.InboxPrefix(p.id, p.inst) + "." + x.arena.mark()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		x.t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends with the attempt
	if err := nc.PublishRequest(subject.Pull(p.consumer()), inbox, []byte(request)); err != nil {
		x.t.Fatal(err)
	}
	m, err := sub.NextMsg(wait)
	if err != nil {
		x.t.Fatalf("pulling as %s: %v", p.id, err)
	}
	if m.Reply == "" {
		return nil
	}
	return m
}

// something makes sure that an event waits for carol.
func (x *try) something() {
	x.t.Helper()
	if x.mesh {
		if err := x.round(x.arena.mark()); err != nil {
			x.t.Fatal(err)
		}
	} else if _, err := x.ctrl.Request("mesh.event.alice.news", []byte("x"), wait); err != nil {
		x.t.Fatal(err)
	}
	x.again()
}

// outFor is an event that was handed out to a person, who has not acknowledged
// it yet.
func (x *try) outFor(p person) subject.Ack {
	x.t.Helper()
	x.something()
	m := x.pulled(x.as(x.t, p.id.String()), p, soon)
	if m == nil {
		x.t.Fatalf("nothing is stored for %s", p.id)
	}
	d, err := subject.ParseAck(m.Reply)
	if err != nil {
		x.t.Fatal(err)
	}
	x.again()
	return d
}

// hers makes sure that an event waits for mallory.
func (x *try) hers() {
	x.t.Helper()
	if _, err := x.ack(x.m); err != nil {
		x.t.Fatal(err)
	}
}

// ack stores an event of hers.
func (x *try) ack(nc *nats.Conn) (*nats.Msg, error) {
	inbox := subject.InboxPrefix(x.self.id, x.self.inst) + "." + x.arena.mark()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends with the attempt
	m := nats.NewMsg(subject.Default().Event(x.self.id, "weather"))
	m.Reply, m.Data = inbox, []byte(x.mark)
	if err := nc.PublishMsg(m); err != nil {
		return nil, err
	}
	return sub.NextMsg(wait)
}

// drained takes everything out that waits for her.
func (x *try) drained() {
	x.t.Helper()
	for {
		m := x.pulled(x.m, x.self, now)
		if m == nil {
			return
		}
		if err := m.Respond([]byte("+ACK")); err != nil {
			x.t.Fatal(err)
		}
	}
}

// delivery is the subject at which she acknowledges an event of hers.
func (x *try) delivery() string {
	x.t.Helper()
	x.hers()
	m := x.pulled(x.m, x.self, soon)
	if m == nil {
		x.t.Fatal("nothing is stored for mallory")
	}
	return m.Reply
}
