package meshclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

// pair is a mesh with a writer that handles write:story and a reader that calls it.
func pair(t *testing.T, opts ...meshtest.Option) (m *meshtest.Mesh, writer, reader *meshclient.Mesh) {
	t.Helper()
	m = meshtest.New(t, append(options(), opts...)...)
	return m, m.Agent("writer", meshtest.Handles("write:story")), m.Agent("reader", meshtest.Calls("write:story"))
}

func number(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// tells sends n numbered parts and returns "end".
func tells(n int, between time.Duration, sent *atomic.Int64) meshclient.Handler {
	return func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		for i := range n {
			if err := req.Send(ctx, number(i)); err != nil {
				return nil, err
			}
			sent.Add(1)
			if between > 0 {
				select {
				case <-time.After(between):
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			}
		}
		return []byte("end"), nil
	}
}

// heard reads a whole stream that tells wrote.
func heard(ctx context.Context, m *meshclient.Mesh, opts ...meshclient.CallOption) (n int, err error) {
	ended := false
	for part, err := range m.Stream(ctx, "write:story", nil, opts...) {
		switch {
		case err != nil:
			return n, err
		case ended:
			return n, errors.New("something follows the last part")
		case part.Last:
			ended = string(part.Data) == "end"
		case string(part.Data) != string(number(n)):
			return n, fmt.Errorf("part %d is %x", n, part.Data)
		default:
			n++
		}
	}
	if !ended {
		return n, errors.New("no end came")
	}
	return n, nil
}

func TestStream(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	var sent atomic.Int64
	handle(t, writer, "write:story", tells(500, 0, &sent))
	ctx := within(t, 30*time.Second)
	start := time.Now()
	if n, err := heard(ctx, reader); n != 500 || err != nil {
		t.Fatalf("got %d parts, %v; want 500", n, err)
	}
	t.Logf("500 parts in %s", time.Since(start))
	if n, err := heard(ctx, reader, meshclient.To("writer")); n != 500 || err != nil {
		t.Errorf("asked by name: got %d parts, %v; want 500", n, err)
	}
	// Who asks for no stream gets the end, and only after all parts came.
	reply, err := reader.Call(ctx, "write:story", nil)
	if err != nil || string(reply.Data) != "end" || !reply.Last || reply.From != writer.ID() || reply.Instance != writer.Instance() {
		t.Errorf("got %+v, %v from a call, want the end", reply, err)
	}
	if n := sent.Load(); n != 1500 {
		t.Errorf("the handler sent %d parts, want 1500", n)
	}
}

// A reader that is slow holds the handler back: neither side keeps what the other
// one cannot take.
func TestStreamWaitsForItsReader(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	var sent atomic.Int64
	handle(t, writer, "write:story", tells(1000, 0, &sent))
	n := 0
	for part, err := range reader.Stream(within(t, 60*time.Second), "write:story", nil) {
		if err != nil {
			t.Fatal(err)
		}
		if part.Last {
			break
		}
		if n++; n == 10 {
			time.Sleep(5 * time.Second) // longer than a sign of life takes
			if ahead := sent.Load() - int64(n); ahead > 2*meshclient.StreamParts {
				t.Errorf("the handler is %d parts ahead", ahead)
			}
		}
	}
	if n != 1000 {
		t.Errorf("got %d parts, want 1000", n)
	}
}

// Leaving the loop tells the handler, with a cause that says so.
func TestLeavingAStreamCancels(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	ended := make(chan error, 1)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		for {
			if err := req.Send(ctx, []byte("x")); err != nil {
				ended <- errors.Join(err, context.Cause(ctx))
				return nil, err
			}
		}
	})
	for _, err := range reader.Stream(within(t, 20*time.Second), "write:story", nil) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	select {
	case err := <-ended:
		if !errors.Is(err, meshclient.ErrCancelled) {
			t.Errorf("got %v, want ErrCancelled", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the handler was not told")
	}
}

// Both sides replace their connections while parts flow.
func TestStreamOverRotations(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t, meshtest.Session(8*time.Second))
	var sent atomic.Int64
	const many = 2000
	handle(t, writer, "write:story", tells(many, 6*time.Millisecond, &sent))
	if n, err := heard(within(t, 60*time.Second), reader); n != many || err != nil {
		t.Errorf("got %d parts, %v; want %d", n, err, many)
	}
	if writer.Rotations() < 1 || reader.Rotations() < 1 {
		t.Errorf("got %d and %d rotations: the test proves nothing", writer.Rotations(), reader.Rotations())
	}
}

// story is a mesh whose server a test can stop, with the same two agents.
func story(t *testing.T) (m *devmesh.Mesh, writer, reader *meshclient.Mesh, writerDir, readerDir string) {
	t.Helper()
	m = mesh(t, quiet())
	writerDir = enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	readerDir = enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")})
	return m, connected(t, m, writerDir), connected(t, m, readerDir), writerDir, readerDir
}

// A stream and a handler that thinks go on over a restart of the server and lost
// connections of either side, and with less idle time than the answer takes.
func TestLongAnswersOverRestarts(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, _ := story(t)
	var sent atomic.Int64
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if string(req.Data) == "think" {
			select {
			case <-time.After(15 * time.Second):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			return []byte("thought"), nil
		}
		return tells(1500, 10*time.Millisecond, &sent)(ctx, req)
	})
	type result struct {
		n   int
		err error
	}
	streamed, thought := make(chan result, 1), make(chan error, 1)
	ctx := within(t, 100*time.Second)
	idle := meshclient.IdleTimeout(12 * time.Second)
	go func() {
		n, err := heard(ctx, reader, idle)
		streamed <- result{n, err}
	}()
	go func() {
		reply, err := reader.Call(context.WithoutCancel(ctx), "write:story", []byte("think"), idle)
		if err == nil && (string(reply.Data) != "thought" || reply.From != writer.ID() || reply.Instance != writer.Instance()) {
			err = fmt.Errorf("got %+v", reply)
		}
		thought <- err
	}()
	for i, cut := range []func(){
		func() { lose(t, reader) },
		func() { lose(t, writer) },
		func() {
			if err := m.Plane.Close(); err != nil {
				t.Error(err)
			}
			m.Server.Close()
			if err := m.Up(ctx); err != nil {
				t.Error(err)
			}
		},
	} {
		at := int64(200 * (i + 1))
		eventually(t, "the next parts", func() bool { return sent.Load() > at })
		cut()
	}
	if r := <-streamed; r.n != 1500 || r.err != nil {
		t.Errorf("got %d parts, %v; want 1500", r.n, r.err)
	}
	if err := <-thought; err != nil {
		t.Errorf("thinking: %v", err)
	}
}

// lose breaks an agent's connection; it comes back by itself.
func lose(t *testing.T, m *meshclient.Mesh) {
	t.Helper()
	if err := m.Conn().ForceReconnect(); err != nil {
		t.Error(err)
	}
}

// The last part may be sent while its caller is away.
func TestEndWaitsForItsCaller(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	gone := make(chan struct{})
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if err := req.Send(ctx, number(0)); err != nil {
			return nil, err
		}
		<-gone
		return []byte("end"), nil
	})
	go func() {
		eventually(t, "the call", func() bool { return writer.Works() == 1 })
		lose(t, reader)
		close(gone)
	}()
	if n, err := heard(within(t, 30*time.Second), reader); n != 1 || err != nil {
		t.Errorf("got %d parts, %v; want 1", n, err)
	}
	eventually(t, "the end of the work", func() bool { return writer.Works() == 0 })
}

// A handler that dies in the middle is one that nothing is heard of.
func TestStreamOfADeadHandler(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	forever := make(chan struct{})
	defer close(forever)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if err := req.Send(ctx, number(0)); err != nil {
			return nil, err
		}
		<-forever
		return nil, nil
	})
	n := 0
	for part, err := range reader.Stream(within(t, 30*time.Second), "write:story", nil, meshclient.IdleTimeout(3*time.Second)) {
		if n++; n == 1 && err == nil && string(part.Data) == string(number(0)) {
			writer.Die()
			continue
		}
		if !errors.Is(err, meshclient.ErrDeadline) || !errors.Is(err, meshclient.ErrUnavailable) {
			t.Errorf("got %+v, %v; want ErrDeadline", part, err)
		}
	}
	if n != 2 {
		t.Errorf("got %d yields, want a part and an error", n)
	}
}

// forger answers by its own hand, with a handler's good key.
type forger struct {
	*intruder
	t     *testing.T
	token string
}

func (f *forger) part(req *nats.Msg, nonce string, p envelope.Part, data string) {
	f.t.Helper()
	fields, digest := f.request(req)
	subj := f.Space.Reply(f.Self, fields.From, agentid.InstanceOf(fields.Key), fields.Nonce)
	msg, _, _, err := f.Message(subj, envelope.Fields{
		Nonce: nonce, Correlation: fields.Correlation, Parent: fields.Nonce, Hop: fields.Hop, Token: f.token, Part: p,
	}, nil, []byte(data), &digest)
	if err == nil {
		err = f.nc.PublishMsg(msg)
	}
	if err != nil {
		f.t.Error(err)
	}
}

func (f *forger) request(req *nats.Msg) (envelope.Fields, envelope.Digest) {
	f.t.Helper()
	u, err := envelope.Parse(envelope.Message{Subject: req.Subject, Header: req.Header, Data: req.Data})
	if err != nil {
		f.t.Fatal(err)
	}
	fields := u.UnsafeFields()
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(fields.Key))
	if err != nil {
		f.t.Fatal(err)
	}
	v, err := u.Verify(f.TrustDomain, raw, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return fields, v.Digest()
}

// What does not fit together is an error, never an answer.
func TestBrokenStreams(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	dir := enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	honest := connected(t, m, dir)
	var token string
	for _, c := range must(honest.ChainDigests(t.Context())) {
		token = c
	}
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	f := &forger{intruder: intrude(t, dir), t: t, token: token}
	requests := make(chan *nats.Msg, 8)
	if _, err := f.nc.ChanQueueSubscribe(f.Space.CallFilter("write.story"), subject.Queue("write.story"), requests); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	n := func(i int) envelope.Part { return envelope.Part{Number: i} }
	last := func(i int) envelope.Part { return envelope.Part{Number: i, Last: true} }
	var before *nats.Msg
	for _, c := range []struct {
		name   string
		answer func(req *nats.Msg)
		parts  int
		broken bool
	}{
		{"whole", func(r *nats.Msg) { f.part(r, "", n(1), "a"); f.part(r, "", last(2), "z") }, 1, false},
		{"in any order", func(r *nats.Msg) { f.part(r, "", last(3), "z"); f.part(r, "", n(2), "b"); f.part(r, "", n(1), "a") }, 2, false},
		{"lost", func(r *nats.Msg) { f.part(r, "", n(1), "a"); f.part(r, "", last(3), "z") }, 1, true},
		{"lost at the beginning", func(r *nats.Msg) { f.part(r, "", n(2), "b"); f.part(r, "", last(3), "z") }, 0, true},
		{"doubled", func(r *nats.Msg) { f.part(r, "", n(1), "a"); f.part(r, "", n(1), "b"); f.part(r, "", last(2), "z") }, 1, true},
		{"a whole answer among parts", func(r *nats.Msg) { f.part(r, "", n(1), "a"); f.part(r, "", envelope.Part{}, "z") }, 1, true},
		{"early end", func(r *nats.Msg) { f.part(r, "", n(1), "a"); f.part(r, "", n(2), "b") }, 2, false},
		{"spliced", func(r *nats.Msg) {
			f.part(r, "", n(1), "a")
			other, _ := f.request(before)
			fields, _ := f.request(r)
			_, digest := f.request(before) // a part of another answer, sent as one of this
			msg, _, _, err := f.Message(f.Space.Reply(f.Self, fields.From, agentid.InstanceOf(fields.Key), fields.Nonce),
				envelope.Fields{Correlation: other.Correlation, Parent: fields.Nonce, Hop: fields.Hop, Token: token, Part: last(2)}, nil, []byte("z"), &digest)
			if err == nil {
				err = f.nc.PublishMsg(msg)
			}
			if err != nil {
				t.Error(err)
			}
		}, 1, false},
		{"more than there is room for", func(r *nats.Msg) {
			for i := range 3 * meshclient.StreamParts {
				f.part(r, "", n(i+1), "x")
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
		}, -1, true},
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			req := <-requests
			c.answer(req)
			before = req
		}()
		got, ended := 0, false
		var err error
		for part, e := range reader.Stream(within(t, 20*time.Second), "write:story", nil, meshclient.IdleTimeout(time.Second)) {
			switch {
			case e != nil:
				err = e
			case part.Last:
				ended = true
			default:
				if got++; c.parts < 0 && got == 1 {
					time.Sleep(2 * time.Second)
				}
			}
		}
		<-done
		if c.parts >= 0 && got != c.parts {
			t.Errorf("%s: got %d parts, want %d", c.name, got, c.parts)
		}
		if c.broken != errors.Is(err, denial.BrokenStream) {
			t.Errorf("%s: got %v, want broken-stream: %v", c.name, err, c.broken)
		}
		if whole := c.name == "whole" || c.name == "in any order"; whole != ended || whole != (err == nil) {
			t.Errorf("%s: got an end: %v, %v", c.name, ended, err)
		}
		if c.name == "early end" || c.name == "spliced" {
			if !errors.Is(err, meshclient.ErrDeadline) {
				t.Errorf("%s: got %v, want ErrDeadline", c.name, err)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Only the instance that made a call can cancel it.
func TestCancel(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, _ := story(t)
	other := intrude(t, enrolled(t, m, "other", registry.Rights{}))
	twinDir, err := m.Instance(within(t, 20*time.Second), agentid.Require("reader"))
	if err != nil {
		t.Fatal(err)
	}
	twin := intrude(t, twinDir)
	nonces, ended := make(chan string, 4), make(chan error, 4)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		nonces <- req.Nonce
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(within(t, 60*time.Second))
	failed := make(chan error, 1)
	go func() {
		_, err := reader.Call(ctx, "write:story", nil, meshclient.To("writer"))
		failed <- err
	}()
	nonce := <-nonces
	for _, in := range []*intruder{other, twin} {
		body := fmt.Appendf(nil, `{"request":%q}`, nonce)
		msg, _, _, err := in.Message(in.Space.Note(in.Self, writer.ID(), wire.NoteCancel), envelope.Fields{}, nil, body, nil)
		if err := errors.Join(err, in.nc.PublishMsg(msg), in.nc.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("somebody else ended the call: %v", err)
	case <-time.After(time.Second):
	}
	begin := time.Now()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, meshclient.ErrCancelled) {
			t.Errorf("got %v, want ErrCancelled", err)
		}
		t.Logf("cancelled after %s", time.Since(begin))
	case <-time.After(5 * time.Second):
		t.Fatal("the handler was not told")
	}
	eventually(t, "the end of the work", func() bool { return writer.Works() == 0 })

	// Without a name the handler is known once it gave a sign of life.
	open, cancel := context.WithCancel(within(t, 60*time.Second))
	defer cancel()
	go reader.Call(open, "write:story", nil) //nolint:errcheck // it is cancelled
	<-nonces
	time.AfterFunc(4*time.Second, cancel)
	select {
	case err := <-ended:
		if !errors.Is(err, meshclient.ErrCancelled) {
			t.Errorf("got %v, want ErrCancelled", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the handler was not told of the call to anybody")
	}
}

// Nobody else confirms parts either, nor gives room for more.
func TestCallersHaveNoSayInOthersCalls(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, _ := story(t)
	twinDir, err := m.Instance(within(t, 20*time.Second), reader.ID())
	if err != nil {
		t.Fatal(err)
	}
	intruders := []*intruder{intrude(t, enrolled(t, m, "other", registry.Rights{})), intrude(t, twinDir)}
	var sent atomic.Int64
	nonces := make(chan string, 1)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		nonces <- req.Nonce
		return tells(300, 0, &sent)(ctx, req)
	})
	n := 0
	for part, err := range reader.Stream(within(t, 30*time.Second), "write:story", nil) {
		if err != nil {
			t.Fatal(err)
		}
		if part.Last {
			break
		}
		if n++; n > 1 {
			continue
		}
		nonce := <-nonces
		for _, in := range intruders {
			for _, body := range []string{
				fmt.Sprintf(`{"request":%q,"parts":32,"most":1000}`, nonce), fmt.Sprintf(`{"request":%q,"parts":-1,"most":1000}`, nonce),
				fmt.Sprintf(`{"request":%q,"parts":1000,"most":1000}`, nonce), "{", fmt.Sprintf(`{"request":%q,"pad":"%0300d"}`, nonce, 0),
			} {
				msg, _, _, err := in.Message(in.Space.Note(in.Self, writer.ID(), wire.NoteReceived), envelope.Fields{}, nil, []byte(body), nil)
				if err := errors.Join(err, in.nc.PublishMsg(msg)); err != nil {
					t.Fatal(err)
				}
			}
			if err := in.nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		if ahead := sent.Load(); ahead > 2*meshclient.StreamParts {
			t.Errorf("somebody else had %d parts sent", ahead)
		}
	}
	if n != 300 {
		t.Errorf("got %d parts, want 300", n)
	}
}

// A call that was cancelled while it waited for its turn is not worked on.
func TestCancelOvertakes(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	busy, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	if err := writer.Handle("write:story", func(context.Context, *meshclient.Request) ([]byte, error) {
		if calls.Add(1) == 1 {
			close(busy)
			<-release
		}
		return nil, nil
	}, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 30*time.Second)
	first := make(chan error, 1)
	go func() {
		_, err := reader.Call(ctx, "write:story", nil)
		first <- err
	}()
	<-busy
	short, cancel := context.WithCancel(ctx)
	second := make(chan error, 1)
	go func() {
		_, err := reader.Call(short, "write:story", nil, meshclient.To("writer"))
		second <- err
	}()
	eventually(t, "the second call", func() bool { return reader.Pending() == 2 })
	if err := reader.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	eventually(t, "the note", func() bool { return writer.Cancelled() == 1 })
	close(release)
	if err := <-first; err != nil {
		t.Errorf("the first call: %v", err)
	}
	if _, err := reader.Call(ctx, "write:story", nil); err != nil {
		t.Errorf("the third call: %v", err)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("got %d calls worked on, want 2", n)
	}
	if n := writer.Cancelled(); n != 0 {
		t.Errorf("%d cancelled calls are remembered", n)
	}
}

// What is done past the deadline is no answer, and nothing can be sent any more.
func TestDeadlineOfAStream(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	late := make(chan error, 1)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if err := req.Send(ctx, number(0)); err != nil {
			return nil, err
		}
		<-ctx.Done()
		late <- req.Send(context.WithoutCancel(ctx), number(1))
		return []byte("too late"), nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	n, err := heard(ctx, reader)
	if n != 1 || !errors.Is(err, meshclient.ErrDeadline) {
		t.Errorf("got %d parts, %v; want one, and ErrDeadline", n, err)
	}
	if err := <-late; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, meshclient.ErrCancelled) {
		t.Errorf("got %v from Send past the end, want DeadlineExceeded", err)
	}
}

// Who is cut while a call is under way is told at once.
func TestCutWhileWaiting(t *testing.T) {
	t.Parallel()
	m, writer, reader := pair(t)
	at, ended := make(chan struct{}, 1), make(chan error, 1)
	handle(t, writer, "write:story", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		at <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	failed := make(chan error, 1)
	go func() {
		_, err := reader.Call(context.Background(), "write:story", nil)
		failed <- err
	}()
	<-at
	begin := time.Now()
	m.Revoke("reader")
	select {
	case err := <-failed:
		denied(t, err, denial.Revoked)
		t.Logf("told %s after the revocation", time.Since(begin))
	case <-time.After(15 * time.Second):
		t.Error("the call goes on")
	}
	select {
	case err := <-ended:
		if !errors.Is(err, meshclient.ErrCallerGone) || !errors.Is(err, denial.Revoked) {
			t.Errorf("got %v at the handler, want ErrCallerGone for a revocation", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the handler works on for who was revoked")
	}
}

// A handler that is cut in the middle is not waited for.
func TestHandlerCutWhileItWorks(t *testing.T) {
	t.Parallel()
	m, writer, reader := pair(t)
	forever := make(chan struct{})
	defer close(forever)
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if err := req.Send(ctx, number(0)); err != nil {
			return nil, err
		}
		<-forever
		return nil, nil
	})
	n := 0
	// The idle time only ends the test where nobody looks.
	for _, err := range reader.Stream(context.Background(), "write:story", nil, meshclient.IdleTimeout(30*time.Second)) {
		if n++; n == 1 && err == nil {
			m.Suspend("writer")
			continue
		}
		if !errors.Is(err, meshclient.ErrUnavailable) || errors.Is(err, meshclient.ErrDeadline) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	}
	m.Resume("writer")
}

// What was done past the deadline is refused by the handler itself, also where its
// caller still listens.
func TestLateAnswer(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, readerDir := story(t)
	handle(t, writer, "write:story", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		<-ctx.Done()
		return []byte("too late"), nil
	})
	token := must(reader.ChainDigests(t.Context()))[0]
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	in := intrude(t, readerDir)
	replies, err := in.nc.SubscribeSync(in.Space.ReplyFilter(in.Self, in.dir.Info.Instance))
	if err != nil {
		t.Fatal(err)
	}
	msg, _, _, err := in.Message(in.Space.Call(in.Self, "write.story"), envelope.Fields{Token: token, Deadline: 300 * time.Millisecond}, nil, nil, nil)
	if err := errors.Join(err, in.nc.PublishMsg(msg)); err != nil {
		t.Fatal(err)
	}
	for ended := false; !ended; {
		got, err := replies.NextMsgWithContext(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		u, err := envelope.Parse(envelope.Message{Subject: got.Subject, Header: got.Header, Data: got.Data})
		if err != nil {
			t.Fatal(err)
		}
		f := u.UnsafeFields()
		ended = f.Part.IsZero() || f.Part.Last
		if want := map[bool]string{true: meshclient.CodeDeadline}[ended]; f.Err != want || len(got.Data) != 0 {
			t.Errorf("got %q with code %q in part %q, want signs of life and the code deadline alone", got.Data, f.Err, f.Part)
		}
	}
}
