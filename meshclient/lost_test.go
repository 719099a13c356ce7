package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// cable is the network between one agent and its server. It can swallow what goes
// over it, as one does that breaks, and then be cut; what is dialled after that goes
// through.
type cable struct {
	net.Listener
	lost  atomic.Int64 // bytes
	mu    sync.Mutex
	deaf  *atomic.Bool // of the connections that are there now
	conns []net.Conn
}

// wired enrols an agent behind a cable of its own.
func wired(t *testing.T, m *devmesh.Mesh, id string, r registry.Rights) (*meshclient.Mesh, *cable) {
	t.Helper()
	dir := enrolled(t, m, id, r)
	u, err := url.Parse(m.Server.URL())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{Listener: l, deaf: new(atomic.Bool)}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", u.Host)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			deaf := w.deaf
			w.conns = append(w.conns, in, out)
			w.mu.Unlock()
			go w.carry(out, in, deaf)
			go w.carry(in, out, deaf)
		}
	}()
	t.Cleanup(func() { l.Close(); w.cut() })
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.Info.NATS = []string{"tls://" + l.Addr().String()}
	if err := agentdir.Write(dir, d.Info); err != nil {
		t.Fatal(err)
	}
	return connected(t, m, dir), w
}

func (w *cable) carry(to, from net.Conn, deaf *atomic.Bool) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if deaf.Load() {
			w.lost.Add(int64(n))
		} else if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				from.Close()
			}
			return
		}
	}
}

// swallow loses whatever is sent from now on, in either direction.
func (w *cable) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf.Store(true)
}

// cut breaks the connections.
func (w *cable) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns, w.deaf = nil, new(atomic.Bool)
}

// An answer of one message is lost with the connection, at the caller or at the
// handler, before that breaks or because it does: the caller has it all the same,
// soon after the connection is back, and the work was done once.
func TestAnswerLostWithItsConnection(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer, writes := wired(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	reader, reads := wired(t, m, "reader", registry.Rights{Call: scopes("write:story")})
	twinDir, err := m.Instance(within(t, 20*time.Second), writer.ID())
	if err != nil {
		t.Fatal(err)
	}
	twin := connected(t, m, twinDir)
	var calls atomic.Int64
	lost := make(chan func(), 1)
	handle(t, writer, "write:story", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		calls.Add(1)
		(<-lost)()
		return req.Data, nil
	})
	ctx := within(t, 300*time.Second)
	for _, c := range []struct {
		name    string
		wire    *cable
		swallow bool
		opts    []meshclient.CallOption
		twin    bool // another instance handles it as well, from then on
	}{
		{name: "caller, cut", wire: reads},
		{name: "caller, swallowed", wire: reads, swallow: true},
		{name: "caller, asked by name", wire: reads, swallow: true, opts: []meshclient.CallOption{meshclient.To("writer")}},
		{name: "handler, cut", wire: writes},
		{name: "handler, swallowed", wire: writes, swallow: true},
		{name: "handler, asked by name", wire: writes, swallow: true, opts: []meshclient.CallOption{meshclient.To("writer")}},
		{name: "caller, one of two handles", wire: reads, swallow: true, opts: []meshclient.CallOption{meshclient.To("writer")}, twin: true},
	} {
		for writer.Away() != nil || reader.Away() != nil { // what the loss before swallowed of their own is waited for
			if pause(ctx, 5*time.Millisecond); ctx.Err() != nil {
				t.Fatal("an agent does not come back")
			}
		}
		name, begin := c.name, time.Now()
		before, lostBefore := calls.Load(), c.wire.lost.Load()
		lost <- func() {
			if c.swallow {
				c.wire.swallow()
			} else {
				c.wire.cut()
			}
		}
		type result struct {
			reply *meshclient.Reply
			err   error
		}
		got := make(chan result, 1)
		go func() {
			// No deadline: nothing but the answer ends it in time.
			reply, err := reader.Call(context.WithoutCancel(ctx), "write:story", []byte(name), c.opts...)
			got <- result{reply, err}
		}()
		eventually(t, name+": the answer", func() bool { return calls.Load() > before && writer.Works() == 0 })
		if c.twin {
			handle(t, twin, "write:story", func(context.Context, *meshclient.Request) ([]byte, error) {
				calls.Add(1)
				return nil, errors.New("it was done before")
			})
		}
		if c.swallow {
			eventually(t, name+": the loss", func() bool { return c.wire.lost.Load() > lostBefore+int64(len(name)) })
			c.wire.cut()
		}
		select {
		case r := <-got:
			if r.err != nil || string(r.reply.Data) != name {
				t.Errorf("%s: got %+v, %v", name, r.reply, r.err)
			}
			t.Logf("%s: after %s", name, time.Since(begin))
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the caller waits", name)
		}
		if n := calls.Load() - before; n != 1 {
			t.Errorf("%s: it was worked on %d times", name, n)
		}
	}
}

// A call to anybody that is cancelled before anything came of it is cancelled where
// it is worked on as soon as that is known.
func TestCancelBeforeAnythingCame(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	ended := make(chan error, 1)
	at := make(chan struct{}, 1)
	handle(t, writer, "write:story", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		at <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil, ctx.Err()
	})
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := reader.Call(ctx, "write:story", nil)
			failed <- err
		}()
		<-at
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		select {
		case err := <-ended:
			if !errors.Is(err, meshclient.ErrCancelled) {
				t.Errorf("got %v at the handler, want ErrCancelled", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the handler was not told")
		}
	}
	eventually(t, "that nothing of it is left", func() bool { return reader.Pending() == 0 && writer.Works() == 0 })
}

// Requests that wait for their turn when an instance is out of time are answered.
func TestTurnedAwayByWhoCloses(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	busy := make(chan struct{}, 1)
	var calls atomic.Int64
	if err := writer.Handle("write:story", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		calls.Add(1)
		busy <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	const many = 6
	failed := make(chan error, many)
	call := func() {
		_, err := reader.Call(within(t, 60*time.Second), "write:story", nil)
		failed <- err
	}
	go call()
	<-busy
	for range many - 1 {
		go call()
	}
	eventually(t, "all calls", func() bool { return reader.Pending() == many })
	if err := errors.Join(reader.Conn().Flush(), writer.Conn().Flush()); err != nil {
		t.Fatal(err)
	}
	writer.SetCloseTimeout(500 * time.Millisecond)
	writer.Close() //nolint:errcheck // it says that a handler was late
	for range many {
		if err := <-failed; !errors.Is(err, meshclient.ErrDraining) {
			t.Errorf("got %v, want ErrDraining", err)
		}
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls were worked on, want the one before", n)
	}
}

// A handler that thinks for long answers, at once or in parts, while both sides rotate
// their connections, lose them, and the server is started again.
func TestLongThoughts(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.Session = 8 * time.Second
	m := mesh(t, o)
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}))
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	thought := make(chan struct{})
	var at, calls atomic.Int64
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		calls.Add(1)
		if string(req.Data) == "streamed" {
			if err := req.Send(ctx, number(0)); err != nil {
				return nil, err
			}
		}
		at.Add(1)
		select {
		case <-thought:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if string(req.Data) == "streamed" {
			if err := req.Send(ctx, number(1)); err != nil {
				return nil, err
			}
		}
		return []byte("end"), nil
	})
	ctx := within(t, 150*time.Second)
	start := time.Now()
	done := make(chan error, 3)
	go func() {
		n, err := 0, error(nil)
		for part, e := range reader.Stream(context.WithoutCancel(ctx), "write:story", []byte("streamed")) {
			if err = e; err == nil && !part.Last {
				n++
			}
		}
		if err == nil && n != 2 {
			err = fmt.Errorf("got %d parts, want 2", n)
		}
		done <- err
	}()
	for _, opts := range [][]meshclient.CallOption{nil, {meshclient.To("writer")}} {
		go func() {
			reply, err := reader.Call(context.WithoutCancel(ctx), "write:story", nil, opts...)
			if err == nil && (string(reply.Data) != "end" || reply.Instance != writer.Instance()) {
				err = fmt.Errorf("got %+v", reply)
			}
			done <- err
		}()
	}
	eventually(t, "the calls", func() bool { return at.Load() == 3 })
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
				t.Fatalf("%s did not happen", what)
			}
		}
	}
	until("rotations", func() bool { return writer.Rotations() > 0 && reader.Rotations() > 0 })
	lose(t, writer)
	until("the handler's return", func() bool { return writer.Returns() > 0 && writer.Away() == nil })
	lose(t, reader)
	until("the caller's return", func() bool { return reader.Returns() > 0 && reader.Away() == nil })
	if err := m.Plane.Close(); err != nil {
		t.Error(err)
	}
	m.Server.Close()
	if err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	until("both agents' return", func() bool { return writer.Away() == nil && reader.Away() == nil })
	before := []int64{writer.Rotations(), reader.Rotations()}
	until("more rotations", func() bool { return writer.Rotations() > before[0] && reader.Rotations() > before[1] })
	pause(ctx, 20*time.Second-time.Since(start))
	// And once more at the end of it.
	close(thought)
	lose(t, reader)
	lose(t, writer)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls were worked on, want 3", n)
	}
	t.Logf("thought for %s, over %d and %d rotations", time.Since(start), writer.Rotations(), reader.Rotations())
}
