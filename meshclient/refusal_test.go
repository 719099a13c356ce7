package meshclient_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

// An application that does not take what it is told holds nothing up: what is
// refused is counted meanwhile, and none of it is lost from the count.
func TestOnRefusedNeverBlocks(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	busy, release := make(chan struct{}, 1), make(chan struct{})
	told := make(chan meshclient.Refusal, 4096)
	fan := connected(t, m, enrolled(t, m, "fan", registry.Rights{Subscribe: []string{"news"}}), meshclient.OnRefused(func(r meshclient.Refusal) {
		select {
		case busy <- struct{}{}:
		default:
		}
		<-release
		told <- r
	}))
	press := connected(t, m, enrolled(t, m, "press", registry.Rights{Publish: []string{"news"}}))
	var got inbox
	subscribe(t, fan, "news", got.take)
	bad := intrude(t, enrolled(t, m, "bad", registry.Rights{Publish: []string{"news"}}))
	const many = 1000
	now := bad.Clock
	bad.Clock = func() time.Time { return now().Add(-time.Hour) }
	send := func(msg *nats.Msg, err error) {
		t.Helper()
		if err := errors.Join(err, bad.nc.PublishMsg(msg)); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		msg, _, _, err := bad.Message(bad.Space.Event(bad.Self, "news"), envelope.Fields{}, nil, []byte("old"), nil)
		send(msg, err)
	}
	<-busy
	publish(t, press, "news", "fresh")
	eventually(t, "the good event", func() bool { return got.len() == 1 })
	close(release)
	// A note whose signature is good, and what it says is not.
	bad.Clock = now
	msg, f, _, err := bad.Message(bad.Space.Note(bad.Self, fan.ID(), wire.NoteDelegation), envelope.Fields{}, nil, []byte("\x1b[2J"), nil)
	send(msg, err)
	var all uint64
	for all < many {
		select {
		case r := <-told:
			if all += r.Missed; r.Class == "note" {
				if r.Reason != denial.BadInput || !r.Verified || r.Sender != bad.Self || r.Scope != wire.NoteDelegation || r.Correlation != f.Correlation {
					t.Errorf("got %+v", r)
				}
				continue
			}
			all++
			if r.Class != "event" || r.Reason != denial.Stale || r.Verified || r.Sender != bad.Self || r.Scope != "news" || r.Correlation != "" {
				t.Fatalf("got %+v", r)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("told of %d of %d", all, many)
		}
	}
	if all > many+1 {
		t.Errorf("told of %d of %d", all, many)
	}
}

// Who answered is known of an error where a signature says so, and only there.
func TestAnswered(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, options()...)
	writer := m.Agent("writer", meshtest.Handles("write:story"))
	reader := m.Agent("reader", meshtest.Calls("write:story", "write:poem"))
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		switch string(req.Data) {
		case "begin":
			if err := req.Send(ctx, []byte("begin")); err != nil {
				return nil, err
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return nil, meshclient.ErrNotFound
	})
	for i, tt := range []struct {
		scope, data string
		patience    time.Duration
		want        error
		by          agentid.ID
	}{
		{"write:story", "x", 20 * time.Second, meshclient.ErrNotFound, writer.ID()},
		{"write:story", "begin", 5 * time.Second, meshclient.ErrDeadline, writer.ID()},
		{"write:poem", "x", 20 * time.Second, meshclient.ErrNobody, agentid.ID{}},
		{"write:novel", "x", 20 * time.Second, denial.ScopeNotHeld, agentid.ID{}},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.patience)
			defer cancel()
			_, err := reader.Call(ctx, tt.scope, []byte(tt.data))
			from, instance, ok := meshclient.Answered(err)
			if !errors.Is(err, tt.want) || from != tt.by || ok == tt.by.IsZero() || ok && instance != writer.Instance() {
				t.Errorf("got %v, answered by %s/%s, %v; want %v by %s", err, from, instance, ok, tt.want, tt.by)
			}
		})
	}
	if _, _, ok := meshclient.Answered(nil); ok {
		t.Error("nobody answered nil")
	}
}
