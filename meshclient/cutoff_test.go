package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// patience is how long a call of these tests would wait for a word of its handler.
const patience = 10 * time.Minute

// tookOver is a handler that says when it was given a request, and why its context
// ended.
type tookOver struct {
	at    chan *meshclient.Request
	ended chan error
	late  chan error // of what it sends after that
}

func taking() *tookOver {
	return &tookOver{make(chan *meshclient.Request, 16), make(chan error, 16), make(chan error, 16)}
}

func (o *tookOver) handle(ctx context.Context, req *meshclient.Request) ([]byte, error) {
	o.at <- req
	<-ctx.Done()
	o.ended <- context.Cause(ctx)
	o.late <- req.Send(context.WithoutCancel(ctx), []byte("late"))
	return []byte("late"), nil
}

// unpolled is a handler that looks at nothing by itself: what it hears it hears by the
// feed.
func unpolled(t *testing.T, m *devmesh.Mesh, id string, handles string) *meshclient.Mesh {
	t.Helper()
	c := connected(t, m, enrolled(t, m, id, registry.Rights{Handle: scopes(handles)}))
	c.SetFirstSign(time.Hour)
	return c
}

// operate runs an operation of the operator's.
func operate(t *testing.T, m *devmesh.Mesh, op wire.Op, target string) {
	t.Helper()
	if _, err := m.Cut(within(t, 30*time.Second), op, target, "a test"); err != nil {
		t.Fatalf("%s %s: %v", op, target, err)
	}
}

// calling makes a call and returns what becomes of it.
func calling(m *meshclient.Mesh, scope string, opts ...meshclient.CallOption) chan error {
	failed := make(chan error, 1)
	go func() {
		reply, err := m.Call(context.Background(), scope, nil, append(opts, meshclient.IdleTimeout(patience))...)
		if err == nil {
			err = fmt.Errorf("answered %q", reply.Data)
		}
		failed <- err
	}()
	return failed
}

// comes waits for something that has to come by itself.
func comes[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(60 * time.Second):
		t.Fatalf("%s does not come", what)
	}
	return v
}

// What is worked on for a caller that is cut ends with the cut: the handler's context
// says why, nothing more is sent, and the log has the reason.
func TestHalfFinishedForWhoIsCut(t *testing.T) {
	t.Parallel()
	log := &logged{}
	o := quiet()
	o.ClientLog = zerolog.New(log)
	m := mesh(t, o)
	writer := unpolled(t, m, "writer", "write:story")
	took := taking()
	handle(t, writer, "write:story", took.handle)
	for _, tt := range []struct {
		op     wire.Op
		reason denial.Reason
	}{{wire.OpSuspend, denial.Suspended}, {wire.OpRevoke, denial.Revoked}} {
		name := "reader-" + string(tt.op)
		dir := enrolled(t, m, name, registry.Rights{Call: scopes("write:story")})
		reader := connected(t, m, dir)
		failed := calling(reader, "write:story")
		comes(t, "the request", took.at)
		begin := time.Now()
		operate(t, m, tt.op, name)
		cause := comes(t, "the end of the handler's context", took.ended)
		t.Logf("%s: told %s after the operation began", tt.op, time.Since(begin))
		denied(t, cause, tt.reason)
		if !errors.Is(cause, meshclient.ErrCallerGone) {
			t.Errorf("%s: got cause %v, want ErrCallerGone as well", tt.op, cause)
		}
		if err := comes(t, "what Send says", took.late); !errors.Is(err, tt.reason) && err == nil {
			t.Errorf("%s: a part was sent after it", tt.op)
		}
		denied(t, comes(t, "the caller's error", failed), tt.reason)
		eventually(t, "its end", func() bool {
			return writer.Works() == 0 && log.lines(`"audit":"call"`, `"verdict":"failed"`, `"reason":"`+string(tt.reason)+`"`, `"`+name+`"`) == 1
		})
		if n := writer.Answers(); n != 0 {
			t.Errorf("%s: %d answers are kept for it", tt.op, n)
		}
	}
	if n := writer.Watched(); n != 0 {
		t.Errorf("%d agents are still watched", n)
	}
}

// An epoch that rises ends what was sent in the old one. Its sender stands, and is told.
func TestHalfFinishedInAnOldEpoch(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := unpolled(t, m, "writer", "write:story")
	took := taking()
	handle(t, writer, "write:story", took.handle)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story", "read:logs")}))
	failed := calling(reader, "write:story")
	comes(t, "the request", took.at)
	err := m.Operate(within(t, 30*time.Second), wire.AdminRequest{Op: wire.OpUngrant, Target: "reader", Rights: registry.Rights{Call: scopes("read:logs")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cause := comes(t, "the end of the handler's context", took.ended)
	denied(t, cause, denial.StaleEpoch)
	if errors.Is(cause, meshclient.ErrCallerGone) {
		t.Errorf("got cause %v for a caller that stands", cause)
	}
	if err := comes(t, "the caller's error", failed); !errors.Is(err, denial.StaleEpoch) {
		t.Errorf("got %v, want %s", err, denial.StaleEpoch)
	}
	eventually(t, "the caller's return", func() bool { return reader.Away() == nil && reader.Epoch() != "1.1" })
	next := calling(reader, "write:story")
	comes(t, "a request in the new epoch", took.at)
	operate(t, m, wire.OpSuspend, "reader")
	comes(t, "its end", next)
}

// What rests on somebody's rights ends with them: its delegator is cut, or takes back
// what it lent. The caller stands and is told.
func TestHalfFinishedByRightsThatEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		end  func(*lending, *meshclient.Delegation) error
		want denial.Reason
	}{
		"delegator revoked": {func(l *lending, _ *meshclient.Delegation) error {
			_, err := l.Cut(l.ctx, wire.OpRevoke, "boss", "a test")
			return err
		}, denial.DelegatorCut},
		"taken back": {func(l *lending, d *meshclient.Delegation) error { return d.End(l.ctx) }, denial.TokenTakenBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lend(t, quiet())
			worker := unpolled(t, l.Mesh, "worker", "read:logs")
			took := taking()
			d := l.lent(meshclient.Grant{})
			handle(t, worker, "read:logs", took.handle)
			failed := calling(l.temp, "read:logs", meshclient.To("worker"))
			comes(t, "the request", took.at)
			if err := tt.end(l, d); err != nil {
				t.Fatal(err)
			}
			denied(t, comes(t, "the end of the handler's context", took.ended), tt.want)
			denied(t, comes(t, "the caller's error", failed), tt.want)
			eventually(t, "its end", func() bool { return worker.Works() == 0 && worker.Watched() == 0 && l.temp.Watched() == 0 })
		})
	}
}

// What is done on behalf of somebody ends with him, wherever in the row it is done.
func TestHalfFinishedOnBehalfOfWhoIsCut(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := unpolled(t, m, "writer", "write:story")
	took := taking()
	handle(t, writer, "write:story", took.handle)
	deputy := connected(t, m, enrolled(t, m, "deputy", registry.Rights{Handle: scopes("do:task"), Call: scopes("write:story")}))
	inner := make(chan error, 1)
	handle(t, deputy, "do:task", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		_, err := deputy.Call(context.WithoutCancel(ctx), "write:story", nil, meshclient.OnBehalf(req), meshclient.IdleTimeout(patience))
		inner <- err
		return nil, err
	})
	user := connected(t, m, enrolled(t, m, "user", registry.Rights{Call: scopes("do:task", "write:story")}))
	failed := calling(user, "do:task")
	comes(t, "the inner request", took.at)
	operate(t, m, wire.OpSuspend, "user")
	denied(t, comes(t, "the end of the inner handler's context", took.ended), denial.DelegatorCut)
	denied(t, comes(t, "the deputy's error", inner), denial.DelegatorCut)
	denied(t, comes(t, "the user's error", failed), denial.Suspended)
}

// What of a payload came from a caller that is cut is dropped.
func TestHalfAPayloadOfWhoIsCut(t *testing.T) {
	t.Parallel()
	m, writer, reader, writerDir, readerDir := story(t)
	handle(t, writer, "write:story", echo)
	c := usurp(t, reader, readerDir)
	v := c.promised(envelope.Body{Size: 4 * mib, Digest: envelope.BodyOf([]byte("x")).Digest}, keyOf(writerDir))
	part, err := c.Body(v, envelope.Part{Number: 1}, make([]byte, mib/4))
	c.say(part, err)
	eventually(t, "a part of it", func() bool { return writer.Coming() == 1 && writer.Gathering() > 0 })
	operate(t, m, wire.OpSuspend, "reader")
	eventually(t, "that nothing is left of it", func() bool {
		return writer.Coming() == 0 && writer.Gathering() == 0 && writer.Works() == 0 && writer.Answers() == 0
	})
}

// What waits for a caller to confirm it is dropped once that is cut, also while the
// handler goes on in spite of it.
func TestOpenStreamOfWhoIsCut(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, readerDir := story(t)
	on := make(chan struct{})
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		for range 8 {
			if err := req.Send(ctx, make([]byte, 1024)); err != nil {
				return nil, err
			}
		}
		<-on
		return nil, nil
	})
	c := usurp(t, reader, readerDir)
	c.request("a story") // and confirms nothing
	eventually(t, "the parts", func() bool { return writer.OpenParts() >= 8 })
	operate(t, m, wire.OpSuspend, "reader")
	eventually(t, "that they are dropped", func() bool { return writer.OpenParts() == 0 })
	if n := writer.Works(); n != 1 {
		t.Errorf("%d requests are worked on, want the one that goes on", n)
	}
	close(on)
	eventually(t, "its end", func() bool { return writer.Works() == 0 && writer.Answers() == 0 && writer.Watched() == 0 })
}

// Who asked one agent by name does not wait for it once that is cut, whether it had
// taken the call or not; a call to anybody that nobody took goes on.
func TestWaitingForWhoIsCut(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}))
	writer.SetCloseTimeout(time.Second)
	took := taking()
	if err := writer.Handle("write:story", took.handle, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	first := connected(t, m, enrolled(t, m, "first", registry.Rights{Call: scopes("write:story")}))
	taken := calling(first, "write:story")
	comes(t, "the request", took.at)
	eventually(t, "the first sign of life", func() bool { _, n := first.Hearing(); return n == 1 })
	// Has never heard of the writer, and hears nothing of it.
	second := connected(t, m, enrolled(t, m, "second", registry.Rights{Call: scopes("write:story")}))
	asked, waiting := calling(second, "write:story", meshclient.To("writer")), calling(second, "write:story")
	eventually(t, "both calls", func() bool { return second.Pending() == 2 })
	if err := second.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	operate(t, m, wire.OpSuspend, "writer")
	denied(t, comes(t, "the end of the handler's context", took.ended), denial.Suspended)
	for name, failed := range map[string]chan error{"taken": taken, "asked by name": asked} {
		err := comes(t, name+": the caller's error", failed)
		if !errors.Is(err, meshclient.ErrHandlerGone) || !errors.Is(err, meshclient.ErrUnavailable) || !errors.Is(err, denial.Suspended) {
			t.Errorf("%s: got %v, want ErrHandlerGone for a suspension", name, err)
		}
		var d *meshclient.Denied
		if errors.As(err, &d) {
			t.Errorf("%s: got %v, which says that another try is no use", name, err)
		}
	}
	select {
	case err := <-waiting:
		t.Errorf("a call that nobody took: got %v", err)
	default:
	}
	if n := second.Watched(); n != 0 {
		t.Errorf("%d agents are watched for a call to anybody", n)
	}
}

// A handler that may not answer any more is not waited for, and one that may by
// another right is.
func TestWaitingForWhoMayNotAnswer(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story", "write:poem")}))
	on := make(chan struct{})
	at := make(chan struct{}, 2)
	for _, s := range []string{"write:story", "write:poem"} {
		handle(t, writer, s, func(context.Context, *meshclient.Request) ([]byte, error) {
			at <- struct{}{}
			<-on
			return []byte("done"), nil
		})
	}
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story", "write:poem")}))
	story, poem := calling(reader, "write:story"), calling(reader, "write:poem")
	comes(t, "a request", at)
	comes(t, "a request", at)
	eventually(t, "the first signs of life", func() bool { _, n := reader.Hearing(); return n == 2 })
	err := m.Operate(within(t, 30*time.Second), wire.AdminRequest{Op: wire.OpUngrant, Target: "writer", Rights: registry.Rights{Handle: scopes("write:story")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := comes(t, "the caller's error", story); !errors.Is(err, meshclient.ErrHandlerGone) || !errors.Is(err, denial.TokenTakenBack) {
		t.Errorf("got %v, want ErrHandlerGone for a right that was taken back", err)
	}
	close(on)
	if err := comes(t, "the other answer", poem); err.Error() != `answered "done"` {
		t.Errorf("by the right that it kept: got %v", err)
	}
}

// A thousand calls at a time leave nothing behind.
func TestManyInFlightLeaveNothingBehind(t *testing.T) {
	before := goleak.IgnoreCurrent()
	const calls = 1000
	t.Run("calls", func(t *testing.T) {
		m := mesh(t, quiet())
		writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}))
		reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
		on := make(chan struct{})
		if err := writer.Handle("write:story", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
			select {
			case <-on:
			case <-ctx.Done():
			}
			return nil, context.Cause(ctx)
		}, meshclient.MaxInFlight(calls)); err != nil {
			t.Fatal(err)
		}
		all := make(chan error, calls)
		for n := range calls {
			var opts []meshclient.CallOption
			if n%2 == 0 {
				opts = append(opts, meshclient.To("writer"))
			}
			go func() {
				_, err := reader.Call(context.Background(), "write:story", nil, append(opts, meshclient.IdleTimeout(patience))...)
				all <- err
			}()
		}
		ctx := within(t, 120*time.Second)
		for {
			_, hearing := reader.Hearing()
			if writer.Works() == calls && hearing == calls {
				break
			}
			if pause(ctx, 5*time.Millisecond); ctx.Err() != nil {
				t.Fatalf("%d calls are worked on, %d are known to be", writer.Works(), hearing)
			}
		}
		if n, o := reader.Watched(), writer.Watched(); n != 1 || o != 1 {
			t.Errorf("%d and %d agents are watched, want one by each", n, o)
		}
		close(on)
		for range calls {
			if err := comes(t, "an answer", all); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "that nothing is left", func() bool {
			agents, hearing := reader.Hearing()
			return writer.Works() == 0 && reader.Pending() == 0 && reader.Watched() == 0 && writer.Watched() == 0 && agents == 0 && hearing == 0
		})
		if err := errors.Join(reader.Close(), writer.Close()); err != nil {
			t.Error(err)
		}
	})
	goleak.VerifyNone(t, before)
}
