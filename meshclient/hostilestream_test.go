package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// caller is a compromised caller of write:story, with nothing between it and the
// wire.
type caller struct {
	*intruder
	t       *testing.T
	token   string
	replies *nats.Subscription
}

// usurp takes over an agent's directory from its honest client, which is closed.
func usurp(t *testing.T, honest *meshclient.Mesh, dir string) *caller {
	t.Helper()
	token := must(honest.ChainDigests(t.Context()))[0]
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	c := &caller{intruder: intrude(t, dir), t: t, token: token}
	var err error
	if c.replies, err = c.nc.SubscribeSync(c.Space.ReplyFilter(c.Self, c.dir.Info.Instance)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *caller) say(msg *nats.Msg, err error) {
	c.t.Helper()
	if err == nil {
		err = errors.Join(c.nc.PublishMsg(msg), c.nc.Flush())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *caller) request(data string) (nonce string) {
	c.t.Helper()
	msg, f, _, err := c.Message(c.Space.Call(c.Self, "write.story"), envelope.Fields{Token: c.token}, nil, []byte(data), nil)
	c.say(msg, err)
	return f.Nonce
}

func (c *caller) received(nonce string, parts, most int) {
	c.t.Helper()
	msg, _, _, err := c.Message(c.Space.Note(c.Self, agentid.Require("writer"), wire.NoteReceived), envelope.Fields{}, nil,
		fmt.Appendf(nil, `{"request":%q,"parts":%d,"most":%d}`, nonce, parts, most), nil)
	c.say(msg, err)
}

// A caller that says nothing to what it is sent is given up, and one that is slow is
// not.
func TestSilentCallerIsGivenUp(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, readerDir := story(t)
	slow := connected(t, m, enrolled(t, m, "slow", registry.Rights{Call: scopes("write:story")}))
	writer.SetCallerLease(2 * time.Second)
	ended := make(chan error, 2)
	var sent atomic.Int64
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		answer, err := tells(100, 0, &sent)(ctx, req)
		if err != nil {
			ended <- errors.Join(err, context.Cause(ctx))
		}
		return answer, err
	})
	c := usurp(t, reader, readerDir)
	c.request("")
	select {
	case err := <-ended:
		if !errors.Is(err, meshclient.ErrCallerGone) {
			t.Errorf("got %v, want ErrCallerGone", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the handler waits for a caller that says nothing")
	}
	if n := sent.Load(); n != meshclient.StreamParts {
		t.Errorf("%d parts were sent to it, want %d", n, meshclient.StreamParts)
	}
	n := 0
	for part, err := range slow.Stream(within(t, 60*time.Second), "write:story", nil) {
		if err != nil {
			t.Fatalf("a slow caller after %d parts: %v", n, err)
		}
		if n++; n == 1 {
			time.Sleep(6 * time.Second) // longer than who says nothing is waited for
		}
		if part.Last && n != 101 {
			t.Errorf("got %d parts, want 101", n)
		}
	}
}

// A caller that never confirms the end of its answer has nobody's room for it, and
// one that gives room without end no more than there is.
func TestUnconfirmedAnswers(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, readerDir := story(t)
	honest := connected(t, m, enrolled(t, m, "honest", registry.Rights{Call: scopes("write:story")}))
	writer.SetCloseTimeout(time.Second) // one handler is at work to the end
	var sent, parts atomic.Int64
	if err := writer.Handle("write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		return tells(int(parts.Load()), 0, &sent)(ctx, req)
	}, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	c := usurp(t, reader, readerDir)
	parts.Store(2)
	for range 3 {
		c.request("")
	}
	if n, err := heard(within(t, 30*time.Second), honest); n != 2 || err != nil {
		t.Errorf("got %d parts, %v", n, err)
	}
	eventually(t, "that no more is kept than the 3 answers that nobody confirmed", func() bool {
		n, _ := writer.Kept()
		return n == 3
	})
	sent.Store(0)
	parts.Store(1000)
	nonce := c.request("")
	eventually(t, "the first parts", func() bool { return sent.Load() >= meshclient.StreamParts })
	c.received(nonce, 0, 1<<30)
	eventually(t, "as many as are kept", func() bool { return sent.Load() >= meshclient.OpenMost })
	c.received(nonce, meshclient.OpenMost+1, 1<<30) // which was not sent
	c.received(nonce, -1, 1<<30)
	if err := writer.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if n := sent.Load(); n != meshclient.OpenMost {
		t.Errorf("%d parts are under way to a caller that confirms none, want %d", n, meshclient.OpenMost)
	}
}

// What was answered is kept within bounds, and said again to the instance that asked,
// a few times.
func TestKeptAnswers(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, readerDir := story(t)
	honest := connected(t, m, enrolled(t, m, "honest", registry.Rights{Call: scopes("write:story")}))
	twinDir, err := m.Instance(within(t, 20*time.Second), reader.ID())
	if err != nil {
		t.Fatal(err)
	}
	handle(t, writer, "write:story", echo)
	c := usurp(t, reader, readerDir)
	twin := &caller{intruder: intrude(t, twinDir), t: t}
	nonce := c.request("once")
	next := func() *nats.Msg {
		t.Helper()
		msg, err := c.replies.NextMsgWithContext(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	first := next()
	for range 5 {
		twin.received(nonce, 0, 32)
	}
	if msg, err := c.replies.NextMsg(500 * time.Millisecond); err == nil {
		t.Errorf("got %q because another instance asked", msg.Data)
	}
	for range 40 {
		c.received(nonce, 0, 32)
	}
	again := next()
	if string(again.Data) != "once" || again.Header.Get(envelope.HeaderSignature) != first.Header.Get(envelope.HeaderSignature) {
		t.Errorf("got %q, not the very message of before", again.Data)
	}
	// The answer to another request comes after whatever else was sent.
	c.request("end")
	for n := 2; ; n++ {
		if string(next().Data) == "end" {
			break
		}
		if n > 8 {
			t.Fatal("an answer was sent again for each time that somebody asked")
		}
	}
	ctx := within(t, 60*time.Second)
	large := make([]byte, 1<<19)
	for range 2 * meshclient.AnswersBytes / len(large) {
		if _, err := honest.Call(ctx, "write:story", large); err != nil {
			t.Fatal(err)
		}
	}
	if _, bytes := writer.Kept(); bytes > meshclient.AnswersBytes || bytes < meshclient.AnswersBytes/2 {
		t.Errorf("%d bytes are kept, want up to %d", bytes, meshclient.AnswersBytes)
	}
	for range meshclient.AnswersMost + 10 {
		if _, err := honest.Call(ctx, "write:story", nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := writer.Kept(); n != meshclient.AnswersMost {
		t.Errorf("%d answers are kept, want %d", n, meshclient.AnswersMost)
	}
}

// A handler that sends what there is no room for, large and before its turn, has its
// caller keep no more than an honest one would.
func TestPartsBeyondTheirRoom(t *testing.T) {
	t.Parallel()
	m, writer, reader, writerDir, _ := story(t)
	token := must(writer.ChainDigests(t.Context()))[0]
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	f := &forger{intruder: intrude(t, writerDir), t: t, token: token}
	twinDir, err := m.Instance(within(t, 20*time.Second), writer.ID())
	if err != nil {
		t.Fatal(err)
	}
	other := &forger{intruder: intrude(t, twinDir), t: t, token: token}
	requests := make(chan *nats.Msg, 8)
	if _, err := f.nc.ChanQueueSubscribe(f.Space.CallFilter("write.story"), subject.Queue("write.story"), requests); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	large := string(make([]byte, 1<<19))
	answer := func(say func(req *nats.Msg), hold func()) (got int, err error) {
		said := make(chan struct{})
		go func() {
			defer close(said)
			say(<-requests)
		}()
		defer func() { <-said }()
		for part, e := range reader.Stream(within(t, 60*time.Second), "write:story", nil, meshclient.IdleTimeout(10*time.Second)) {
			if e != nil {
				return got, e
			}
			if got++; part.Last {
				return got, nil
			}
			if got == 1 && hold != nil {
				hold()
			}
		}
		return got, nil
	}
	n := func(i int) envelope.Part { return envelope.Part{Number: i} }
	got, err := answer(func(req *nats.Msg) {
		for i := range 60 {
			f.part(req, "", n(i+2), large)
		}
		f.part(req, "", n(1), "begin")
	}, nil)
	if got < 2 || got > 32 || !errors.Is(err, meshclient.ErrDeadline) && !errors.Is(err, denial.BrokenStream) {
		t.Errorf("before their turn: got %d parts, %v; want no more than may be kept", got, err)
	}
	got, err = answer(func(req *nats.Msg) {
		for i := range 3 * meshclient.StreamParts {
			f.part(req, "", n(i+1), large)
			if i%16 > 0 {
				continue
			}
			if err := errors.Join(f.nc.Flush(), reader.Conn().Flush()); err != nil {
				t.Error(err)
			}
			for reader.Backlog() > 0 { // what comes too fast is dropped before anybody judges it
				time.Sleep(time.Millisecond)
			}
		}
	}, func() { // the application takes nothing until the call has ended
		eventually(t, "the end of the call", func() bool { return reader.Pending() == 0 })
	})
	if got < 2 || got > meshclient.OpenMost+1 || !errors.Is(err, denial.BrokenStream) {
		t.Errorf("in order: got %d parts, %v; want broken-stream", got, err)
	}
	// Parts of another instance, or that say they are of this one, take up no room
	// once it is known whose answer it is.
	got, err = answer(func(req *nats.Msg) {
		for i := range 64 {
			other.part(req, "", n(i+1000), "other")
		}
		if err := errors.Join(other.nc.Flush(), reader.Conn().Flush()); err != nil {
			t.Error(err)
		}
		for reader.Backlog() > 0 {
			time.Sleep(time.Millisecond)
		}
		f.part(req, "", n(1), "begin")
		for i := range 10 {
			f.part(req, "", n(11-i), "x") // before their turn as well
		}
		f.part(req, "", envelope.Part{Number: 12, Last: true}, "end")
	}, nil)
	if got != 12 || err != nil {
		t.Errorf("among parts of another instance: got %d parts, %v; want 12", got, err)
	}
}

// A reader that is slow to take large parts has few of them waiting for it.
func TestSlowReaderOfLargeParts(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	var sent atomic.Int64
	const many, size = 60, 1 << 19
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		for range many {
			if err := req.Send(ctx, make([]byte, size)); err != nil {
				return nil, err
			}
			sent.Add(1)
		}
		return nil, nil
	})
	n := 0
	for part, err := range reader.Stream(within(t, 100*time.Second), "write:story", nil) {
		if err != nil {
			t.Fatalf("after %d parts: %v", n, err)
		}
		if part.Last {
			break
		}
		if n++; n == 1 {
			time.Sleep(5 * time.Second)
			if ahead := sent.Load() - 1; ahead*size > 3*meshclient.StreamBytes {
				t.Errorf("%d parts of %d bytes wait for their reader", ahead, size)
			}
		}
	}
	if n != many {
		t.Errorf("got %d parts, want %d", n, many)
	}
}
