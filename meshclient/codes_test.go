package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

// What a handler returns chooses the code; what it says besides stays at home.
func TestErrorCodes(t *testing.T) {
	t.Parallel()
	_, writer, reader := pair(t)
	const private = "password=hunter2"
	answers := map[string]error{
		"invalid":     meshclient.ErrInvalid,
		"wrapped":     fmt.Errorf("%s: %w", private, meshclient.ErrInvalid),
		"message":     &meshclient.Error{Code: meshclient.CodeInvalid, Message: "no such colour"},
		"not found":   fmt.Errorf("%s: %w", private, meshclient.ErrNotFound),
		"internal":    errors.New(private),
		"forged":      &meshclient.Error{Code: meshclient.CodeDenied, Message: private},
		"unavailable": fmt.Errorf("%s: %w", private, meshclient.ErrUnavailable),
		"deadline":    fmt.Errorf("%s: %w", private, context.DeadlineExceeded),
		"loop":        fmt.Errorf("%s: %w", private, meshclient.ErrLoop),
		"app":         &meshclient.Error{Code: "app-full", Message: "try tomorrow"},
	}
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		name, streamed := strings.CutSuffix(string(req.Data), "+")
		if streamed {
			if err := req.Send(ctx, []byte("begin")); err != nil {
				return nil, err
			}
		}
		return []byte("never seen"), answers[name]
	})
	sentinels := map[string]error{
		"ErrInvalid": meshclient.ErrInvalid, "ErrNotFound": meshclient.ErrNotFound, "ErrInternal": meshclient.ErrInternal,
		"ErrUnavailable": meshclient.ErrUnavailable, "ErrDeadline": meshclient.ErrDeadline, "ErrLoop": meshclient.ErrLoop,
		"ErrNobody": meshclient.ErrNobody, "ErrDraining": meshclient.ErrDraining, "app-full": &meshclient.Error{Code: "app-full"},
	}
	for name, want := range map[string]string{
		"invalid": "ErrInvalid", "wrapped": "ErrInvalid", "message": "ErrInvalid", "not found": "ErrNotFound",
		"internal": "ErrInternal", "forged": "ErrInternal", "unavailable": "ErrUnavailable",
		"deadline": "ErrUnavailable ErrDeadline", "loop": "ErrLoop", "app": "app-full",
	} {
		for _, suffix := range []string{"", "+"} {
			reply, err := reader.Call(within(t, 20*time.Second), "write:story", []byte(name+suffix))
			if err == nil || reply != nil {
				t.Errorf("%s%s: got %+v, %v; want an error alone", name, suffix, reply, err)
				continue
			}
			for sentinel, e := range sentinels {
				if got, want := errors.Is(err, e), strings.Contains(" "+want+" ", " "+sentinel+" "); got != want {
					t.Errorf("%s%s: errors.Is(%v, %s) is %v", name, suffix, err, sentinel, got)
				}
			}
			if strings.Contains(err.Error(), private) {
				t.Errorf("%s%s: %q left the handler", name, suffix, private)
			}
		}
	}
	_, err := reader.Call(within(t, 20*time.Second), "write:story", []byte("message"))
	var e *meshclient.Error
	if !errors.As(err, &e) || e.Message != "no such colour" {
		t.Errorf("got %v, want the message that was meant for the caller", err)
	}
}

// Nobody, somebody who closes, and lack of time are told apart, and all may be
// tried again.
func TestUnavailableHasCauses(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, _ := story(t)
	if _, err := reader.Call(within(t, 20*time.Second), "write:story", nil); !errors.Is(err, meshclient.ErrNobody) || !errors.Is(err, meshclient.ErrUnavailable) {
		t.Errorf("got %v where nobody handles it, want ErrNobody", err)
	}
	dir, err := m.Instance(within(t, 20*time.Second), writer.ID())
	if err != nil {
		t.Fatal(err)
	}
	other := connected(t, m, dir)
	at := make(chan struct{}, 2)
	wait := func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		at <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	handle(t, other, "write:story", wait)
	failed := make(chan error, 1)
	go func() {
		_, err := reader.Call(within(t, 20*time.Second), "write:story", nil)
		failed <- err
	}()
	<-at
	other.SetCloseTimeout(100 * time.Millisecond)
	other.Close() //nolint:errcheck // it says that a handler was late
	if err := <-failed; !errors.Is(err, meshclient.ErrDraining) || errors.Is(err, meshclient.ErrNobody) {
		t.Errorf("got %v from a handler that closes, want ErrDraining", err)
	}
	handle(t, writer, "write:story", wait)
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := reader.Call(short, "write:story", nil); !errors.Is(err, meshclient.ErrDeadline) || errors.Is(err, meshclient.ErrDraining) {
		t.Errorf("got %v where time is up, want ErrDeadline", err)
	}
}

// A code of a newer peer is an error like any other.
func TestUnknownCode(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	dir := enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	honest := connected(t, m, dir)
	digests := must(honest.ChainDigests(t.Context()))
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	f := &forger{intruder: intrude(t, dir), t: t, token: digests[0]}
	requests := make(chan *nats.Msg, 1)
	if _, err := f.nc.ChanQueueSubscribe(f.Space.CallFilter("write.story"), subject.Queue("write.story"), requests); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	go func() {
		req := <-requests
		fields, digest := f.request(req)
		msg, _, _, err := f.Message(f.Space.Reply(f.Self, fields.From, agentid.InstanceOf(fields.Key), fields.Nonce), envelope.Fields{
			Correlation: fields.Correlation, Parent: fields.Nonce, Hop: fields.Hop, Token: f.token, Err: "quantum-decay",
		}, nil, []byte("\x1b[2Jwhat"), &digest)
		if err := errors.Join(err, f.nc.PublishMsg(msg)); err != nil {
			t.Error(err)
		}
	}()
	_, err := reader.Call(within(t, 20*time.Second), "write:story", nil)
	var e *meshclient.Error
	if !errors.As(err, &e) || e.Code != "quantum-decay" || e.Hint() != "" || denial.Of(err) != "" {
		t.Errorf("got %v, want an opaque error", err)
	}
	if strings.ContainsRune(err.Error(), '\x1b') {
		t.Errorf("%q speaks to the terminal", err)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	type in struct{ Lines int }
	type out struct{ Text string }
	m := meshtest.New(t, options()...)
	writer := m.Agent("writer", meshtest.Handles("write:story", "write:raw"))
	reader := m.Agent("reader", meshtest.Calls("write:story", "write:raw"))
	handle(t, writer, "write:story", meshclient.HandleJSON(func(_ context.Context, _ *meshclient.Request, v in) (out, error) {
		if v.Lines == 0 {
			return out{}, meshclient.ErrNotFound
		}
		return out{strings.Repeat("a", v.Lines)}, nil
	}))
	handle(t, writer, "write:raw", echo)
	ctx := within(t, 30*time.Second)
	if got, err := meshclient.CallJSON[out](ctx, reader, "write:story", in{3}); err != nil || got.Text != "aaa" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := meshclient.CallJSON[out](ctx, reader, "write:story", map[string]int{"Lines": 1, "Later": 2}); err != nil {
		t.Errorf("a member that is not known: %v", err)
	}
	if _, err := meshclient.CallJSON[out](ctx, reader, "write:story", in{}); !errors.Is(err, meshclient.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if _, err := meshclient.CallJSON[out](ctx, reader, "write:story", func() {}); err == nil {
		t.Error("a function was sent")
	}
	if _, err := meshclient.CallJSON[out](ctx, reader, "write:raw", in{1}); err == nil || errors.Is(err, meshclient.ErrInvalid) {
		t.Errorf("got %v from an answer that is not said to be JSON", err)
	}
	for name, c := range map[string]struct{ ct, data string }{
		"no content type": {"", "{}"}, "another one": {"text/plain", "{}"}, "broken": {"application/json", `{"Lines":`},
		"nothing": {"application/json", ""}, "another type": {"application/json", `{"Lines":"x"}`},
		"two values": {"application/json", "{}{}"}, "something after it": {"application/json", `{"Lines":1} x`},
	} {
		_, err := reader.Call(ctx, "write:story", []byte(c.data), meshclient.ContentType(c.ct))
		if !errors.Is(err, meshclient.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}
