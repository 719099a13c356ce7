package meshclient_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// options shows the logs of a test that is run by hand.
func options() []meshtest.Option {
	if os.Getenv("MESH_LOG") != "" {
		return []meshtest.Option{meshtest.Log(os.Stderr)}
	}
	return nil
}

func handle(t *testing.T, m *meshclient.Mesh, scope string, fn meshclient.Handler) {
	t.Helper()
	if err := m.Handle(scope, fn); err != nil {
		t.Fatal(err)
	}
}

func echo(_ context.Context, req *meshclient.Request) ([]byte, error) { return req.Data, nil }

// eventually waits until ok, which must come by itself.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func denied(t *testing.T, err error, want denial.Reason) *meshclient.Denied {
	t.Helper()
	var d *meshclient.Denied
	if !errors.As(err, &d) {
		t.Fatalf("got error %v, want a denial %q", err, want)
	}
	if d.Reason != want {
		t.Fatalf("got reason %q (%v), want %q", d.Reason, err, want)
	}
	return d
}

func TestCall(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"), meshtest.Calls("write:reports"))
	writer := m.Agent("writer", meshtest.Handles("write:reports"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))

	var nested string
	handle(t, writer, "write:reports", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		if req.Parent == "" {
			t.Error("a nested call has no parent")
		}
		nested = req.Correlation
		return []byte("written"), nil
	})
	handle(t, reader, "read:logs", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if req.From != asker.ID() {
			t.Errorf("got sender %q, want asker", req.From)
		}
		r, err := reader.Call(ctx, "write:reports", req.Data)
		if err != nil {
			return nil, err
		}
		return append([]byte("logs, "), r.Data...), nil
	})
	r, err := asker.Call(within(t, 10*time.Second), "read:logs", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(r.Data); got != "logs, written" || r.From != reader.ID() {
		t.Errorf("got %q from %q, want the reader's answer", got, r.From)
	}
	if r.Correlation != nested {
		t.Errorf("got correlation %q in the nested call, want %q", nested, r.Correlation)
	}
	if _, err = asker.Call(within(t, 10*time.Second), "read:logs", []byte("hello"), meshclient.To("reader")); err != nil {
		t.Errorf("call to one agent: %v", err)
	}
}

func TestCallRefused(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs", "read:nothing"))
	handle(t, reader, "read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		switch string(req.Data) {
		case "app":
			return nil, &meshclient.Error{Code: "app-full", Message: "disk is full"}
		case "panic":
			panic("secret")
		}
		return nil, errors.New("internal secret")
	})
	ctx := within(t, 20*time.Second)

	_, err := asker.Call(ctx, "write:reports", nil)
	if d := denied(t, err, denial.ScopeNotHeld); d.Hint == "" {
		t.Error("the denial has no hint")
	}
	_, err = asker.Call(ctx, "read:*", nil)
	denied(t, err, denial.WildcardScope)

	if _, err = asker.Call(ctx, "read:nothing", nil); !errors.Is(err, meshclient.ErrUnavailable) {
		t.Errorf("got %v where nobody handles, want ErrUnavailable", err)
	}
	for payload, want := range map[string]*meshclient.Error{
		"app":   {Code: "app-full", Message: "disk is full"},
		"panic": {Code: meshclient.CodeInternal},
		"other": {Code: meshclient.CodeInternal},
	} {
		_, err := asker.Call(ctx, "read:logs", []byte(payload))
		var e *meshclient.Error
		if !errors.As(err, &e) || *e != *want {
			t.Errorf("%s: got %v, want %v", payload, err, want)
		}
	}
	if err := asker.Handle("read:logs", echo); !errors.Is(err, denial.ScopeNotHeld) {
		t.Errorf("got %v for a scope that may not be handled, want %q", err, denial.ScopeNotHeld)
	}
}

func TestLoopEnds(t *testing.T) {
	m := meshtest.New(t, options()...)
	ping := m.Agent("ping", meshtest.Handles("play:ping"), meshtest.Calls("play:pong"))
	pong := m.Agent("pong", meshtest.Handles("play:pong"), meshtest.Calls("play:ping"))
	var turns atomic.Int64
	handle(t, ping, "play:ping", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		turns.Add(1)
		_, err := ping.Call(ctx, "play:pong", nil)
		return nil, err
	})
	handle(t, pong, "play:pong", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		turns.Add(1)
		_, err := pong.Call(ctx, "play:ping", nil)
		return nil, err
	})
	_, err := ping.Call(within(t, 20*time.Second), "play:pong", nil)
	denied(t, err, denial.Loop)
	if n := turns.Load(); n != 17 {
		t.Errorf("got %d turns, want 17", n)
	}
}

func TestEvents(t *testing.T) {
	m := meshtest.New(t, options()...)
	news := m.Agent("news", meshtest.Publishes("daily.news"))
	paper := m.Agent("paper", meshtest.Subscribes("daily.news"))
	got := make(chan *meshclient.Event, 10)
	if err := paper.Subscribe("daily.news", func(_ context.Context, e *meshclient.Event) { got <- e }); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := news.Publish(t.Context(), "daily.news", []byte{byte('0' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		select {
		case e := <-got:
			if want := []byte{byte('0' + i)}; !bytes.Equal(e.Data, want) || e.From != news.ID() {
				t.Errorf("got %q from %q, want %q from news", e.Data, e.From, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("event did not come")
		}
	}
	denied(t, paper.Publish(t.Context(), "daily.news", nil), denial.ScopeNotHeld)
	denied(t, news.Subscribe("daily.news", func(context.Context, *meshclient.Event) {}), denial.ScopeNotHeld)
}

func TestDelegate(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	boss := m.Agent("boss", meshtest.Calls("read:logs", "write:reports"), meshtest.MayDelegate("read:logs"))
	temp := m.Agent("temp")
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 30*time.Second)

	_, err := temp.Call(ctx, "read:logs", nil)
	denied(t, err, denial.ScopeNotHeld)
	_, err = boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"write:reports"}})
	denied(t, err, denial.NotDelegatable)
	_, err = boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:secrets"}})
	denied(t, err, denial.BeyondOwn)

	lent, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the delegated call", func() bool {
		r, err := temp.Call(ctx, "read:logs", []byte("lent"))
		return err == nil && string(r.Data) == "lent"
	})
	if err := lent.End(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the delegation", func() bool {
		_, err := temp.Call(ctx, "read:logs", nil)
		return errors.Is(err, denial.ScopeNotHeld) || errors.Is(err, denial.TokenTakenBack)
	})
}

// What a delegator lent ends with it, and comes back with it.
func TestDelegatorSuspended(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	boss := m.Agent("boss", meshtest.Calls("read:logs"), meshtest.MayDelegate("read:logs"))
	temp := m.Agent("temp")
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 30*time.Second)
	if _, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs"}}); err != nil {
		t.Fatal(err)
	}
	works := func() bool { _, err := temp.Call(ctx, "read:logs", nil); return err == nil }
	eventually(t, "the delegated call", works)
	m.Suspend("boss")
	eventually(t, "the refusal", func() bool {
		_, err := temp.Call(ctx, "read:logs", nil)
		return errors.Is(err, denial.DelegatorCut)
	})
	m.Resume("boss")
	eventually(t, "the delegated call after the resume", works)
}

func TestSuspendResume(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 30*time.Second)
	if _, err := asker.Call(ctx, "read:logs", nil); err != nil {
		t.Fatal(err)
	}
	m.Suspend("asker")
	eventually(t, "the denial", func() bool {
		_, err := asker.Call(ctx, "read:logs", nil)
		return errors.Is(err, denial.Suspended)
	})
	m.Resume("asker")
	eventually(t, "the call after the resume", func() bool {
		_, err := asker.Call(ctx, "read:logs", nil)
		return err == nil
	})
	m.Revoke("asker")
	eventually(t, "the final denial", func() bool {
		_, err := asker.Call(ctx, "read:logs", nil)
		return errors.Is(err, denial.Revoked)
	})
}

func TestInstances(t *testing.T) {
	m := meshtest.New(t, options()...)
	one := m.Agent("reader", meshtest.Handles("read:logs"))
	two := m.Instance("reader")
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	handle(t, one, "read:logs", echo)
	handle(t, two, "read:logs", echo)
	ctx := within(t, 30*time.Second)
	m.Revoke("reader/" + one.Instance().String())
	for range 20 {
		r, err := asker.Call(ctx, "read:logs", nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Instance != two.Instance() {
			t.Fatalf("got an answer of the revoked instance %s", r.Instance)
		}
	}
	eventually(t, "the denial of the revoked instance", func() bool { return errors.Is(one.Away(), denial.Revoked) })
}

func TestRunLeaves(t *testing.T) {
	m := meshtest.New(t, options()...)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	started := make(chan struct{})
	var once sync.Once
	handle(t, reader, "read:logs", func(ctx context.Context, _ *meshclient.Request) ([]byte, error) {
		once.Do(func() { close(started) })
		time.Sleep(100 * time.Millisecond)
		return []byte("finished"), ctx.Err()
	})
	run, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- reader.Run(run) }()
	go func() { <-started; stop() }()
	r, err := asker.Call(within(t, 10*time.Second), "read:logs", nil)
	if err != nil || string(r.Data) != "finished" {
		t.Errorf("got %v, %v: work in flight was not finished", r, err)
	}
	if err := <-done; err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
	if _, err := reader.Call(t.Context(), "read:logs", nil); !errors.Is(err, meshclient.ErrClosed) {
		t.Errorf("got %v after Close, want ErrClosed", err)
	}
}
