package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Answers that are lost with the caller's connection come once it is back, also where
// several agents handle the scope and the server brings what is sent again to one that
// knows nothing of it. Of so many calls each would have to be lucky three times.
func TestAnswersOfSeveralLostWithTheConnection(t *testing.T) {
	t.Parallel()
	const many = 64
	m := mesh(t, quiet())
	reader, reads := wired(t, m, "reader", registry.Rights{Call: scopes("write:story")})
	var taken, calls atomic.Int64
	answer := make(chan struct{})
	var writers []*meshclient.Mesh
	for i := range 3 {
		w := connected(t, m, enrolled(t, m, fmt.Sprintf("writer%d", i), registry.Rights{Handle: scopes("write:story")}))
		w.SetFirstSign(time.Hour) // the caller knows none of them by a sign of life
		writers = append(writers, w)
		if err := w.Handle("write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
			if len(req.Data) == 0 {
				return nil, nil
			}
			calls.Add(1)
			taken.Add(1)
			select {
			case <-answer:
			case <-ctx.Done():
			}
			return req.Data, nil
		}, meshclient.MaxInFlight(many)); err != nil {
			t.Fatal(err)
		}
	}
	ctx := within(t, 60*time.Second)
	for len(reader.KnownTakers(capability.RequireScope("write:story"))) < len(writers) {
		if _, err := reader.Call(ctx, "write:story", nil); err != nil {
			t.Fatal(err)
		}
	}
	failed := make(chan error, many)
	for n := range byte(many) {
		go func() {
			reply, err := reader.Call(context.WithoutCancel(ctx), "write:story", []byte{n}, meshclient.IdleTimeout(25*time.Second))
			if err == nil && !slices.Equal(reply.Data, []byte{n}) {
				err = fmt.Errorf("got %v, want %d", reply.Data, n)
			}
			failed <- err
		}()
	}
	eventually(t, "all calls", func() bool { return taken.Load() == many })
	reads.swallow()
	close(answer)
	eventually(t, "all answers", func() bool {
		return !slices.ContainsFunc(writers, func(w *meshclient.Mesh) bool { return w.Works() > 0 })
	})
	for _, w := range writers {
		if err := w.Conn().Flush(); err != nil {
			t.Fatal(err)
		}
	}
	reads.cut()
	for range many {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if n := calls.Load(); n != many {
		t.Errorf("%d calls were worked on, want %d", n, many)
	}
}

// What a connection swallows that was replaced already is asked for over the new one.
// One that ends as it should swallows nothing.
func TestReplacedConnectionBreaks(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	ctx := within(t, 60*time.Second)
	rotate := func() {
		t.Helper()
		before := reader.Rotations()
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRotate, Target: "reader", Over: time.Millisecond}, nil); err != nil {
			t.Fatal(err)
		}
		for reader.Rotations() == before {
			if pause(ctx, time.Millisecond); ctx.Err() != nil {
				t.Fatal("no rotation")
			}
		}
	}
	old := reader.Conn()
	rotate()
	eventually(t, "the end of the old connection", old.IsClosed)
	if n := reader.Returns(); n != 0 {
		t.Fatalf("an old connection that ended was taken for one that broke, %d times", n)
	}
	for broken := false; !broken && ctx.Err() == nil; {
		old = reader.Conn()
		rotate()
		broken = old.ForceReconnect() == nil // else it has ended by now
	}
	eventually(t, "that it is noticed", func() bool { return reader.Returns() > 0 })
	if err := reader.Away(); err != nil {
		t.Errorf("got %v of an agent that is connected", err)
	}
}

// Whoever tends the connection asks about the agent itself while it is not known yet
// that the agent is back, and would wait for itself.
func TestAskedBeforeItIsBack(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	away := func() { reader.SetAway(fmt.Errorf("%w: a test", meshclient.ErrUnavailable)) }
	away()
	asked, done := make(chan struct{}), make(chan struct{})
	defer func() { close(asked); <-done }()
	go func() { // as if the tending goroutine were the one that asks
		defer close(done)
		for {
			select {
			case <-asked:
				return
			case <-time.After(time.Millisecond):
				away()
			}
		}
	}()
	if expires, err := reader.AskSession(within(t, 10*time.Second)); err != nil || expires.IsZero() {
		t.Errorf("got %v, %v", expires, err)
	}
}

// What an agent asked about itself when its connection broke is given up once it is
// back, and can be asked again.
func TestAskedWhenTheConnectionBroke(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader, reads := wired(t, m, "reader", registry.Rights{Call: scopes("write:story")})
	lost := reads.lost.Load()
	reads.swallow()
	failed := make(chan error, 1)
	ctx := within(t, 60*time.Second)
	go func() {
		_, err := reader.AskSession(context.WithoutCancel(ctx))
		failed <- err
	}()
	eventually(t, "the loss", func() bool { return reader.Pending() > 0 && reads.lost.Load() > lost })
	reads.cut()
	select {
	case err := <-failed:
		if !errors.Is(err, meshclient.ErrUnavailable) || errors.Is(err, meshclient.ErrDeadline) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	case <-ctx.Done():
		t.Fatal("the answer that was lost is waited for")
	}
	if _, err := reader.AskSession(ctx); err != nil {
		t.Errorf("asked again: %v", err)
	}
}

// A call that could not be told from a replay is made again, as another one: nobody
// worked on it. One that goes on failing fails.
func TestCalledAgainWhereNoNonceWasUsed(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	var fail, burns, calls atomic.Int64
	unavailable := denial.New(denial.ReplayUnavailable, "a test")
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}), meshclient.Burning(func() error {
		burns.Add(1)
		if fail.Add(-1) >= 0 {
			return unavailable
		}
		return nil
	}))
	handle(t, writer, "write:story", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		calls.Add(1)
		if string(req.Data) == "own" {
			return nil, fmt.Errorf("%w: of a call further down: %w", meshclient.ErrUnavailable, unavailable)
		}
		return req.Data, nil
	})
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	for _, tt := range []struct {
		name         string
		data         string
		fails        int64
		opts         []meshclient.CallOption
		ok           bool
		burns, calls int64
	}{
		{name: "never", data: "a", ok: true, burns: 1, calls: 1},
		{name: "once", data: "a", fails: 1, ok: true, burns: 2, calls: 1},
		{name: "once, by name", data: "a", fails: 1, opts: []meshclient.CallOption{meshclient.To("writer")}, ok: true, burns: 2, calls: 1},
		{name: "four times", data: "a", fails: 4, ok: true, burns: 5, calls: 1},
		{name: "for ever", data: "a", fails: 100, burns: 5},
		{name: "of the handler itself", data: "own", burns: 1, calls: 1},
	} {
		fail.Store(tt.fails)
		burns.Store(0)
		calls.Store(0)
		reply, err := reader.Call(within(t, 20*time.Second), "write:story", []byte(tt.data), tt.opts...)
		switch {
		case tt.ok && (err != nil || string(reply.Data) != tt.data):
			t.Errorf("%s: got %v, %v", tt.name, reply, err)
		case !tt.ok && !errors.Is(err, meshclient.ErrUnavailable):
			t.Errorf("%s: got %v, want ErrUnavailable", tt.name, err)
		case !tt.ok && tt.fails > 0 && !errors.Is(err, denial.ReplayUnavailable):
			t.Errorf("%s: got %v, want %s", tt.name, err, denial.ReplayUnavailable)
		}
		if b, c := burns.Load(), calls.Load(); b != tt.burns || c != tt.calls {
			t.Errorf("%s: %d nonces were to be used and %d calls worked on, want %d and %d", tt.name, b, c, tt.burns, tt.calls)
		}
	}
}

// Those who answer are remembered in order and in bounds.
func TestTakers(t *testing.T) {
	t.Parallel()
	var all meshclient.Takers
	story := capability.RequireScope("write:story")
	if got := all.List(story); len(got) != 0 {
		t.Errorf("got %v of nobody", got)
	}
	var want []agentid.ID
	for i := range meshclient.TakersMost + 3 {
		id := agentid.Require(fmt.Sprintf("writer%d", i))
		all.Note(story, id)
		want = append([]agentid.ID{id}, want...)
	}
	want = want[:meshclient.TakersMost]
	if got := all.List(story); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	last := want[len(want)-1]
	all.Note(story, last)
	all.Note(story, last)
	if got := all.List(story); !slices.Equal(got, append([]agentid.ID{last}, want[:len(want)-1]...)) {
		t.Errorf("got %v, want %q first", got, last)
	}
	for i := range 2 * meshclient.TakenScopesMost {
		all.Note(capability.RequireScope(fmt.Sprintf("write:story%d", i)), last)
	}
	if n := all.Scopes(); n != meshclient.TakenScopesMost {
		t.Errorf("%d scopes are remembered, want %d", n, meshclient.TakenScopesMost)
	}
}

// A call to the mesh itself that the broker does not let through is not waited for
// either.
func TestCallToTheMeshThatTheGrantLacks(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	own := registry.Rights{Call: scopes("write:story")}
	boss := connected(t, m, enrolled(t, m, "boss", own))
	own.Call = append(own.Call, scopes(wire.AdminScope)...)
	for range 5 {
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "boss", Rights: own}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the call", func() bool {
			digests, err := boss.ChainDigests(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range digests {
				boss.Cover(d)
			}
			_, err = boss.Call(ctx, wire.AdminScope, []byte(`{"op":"list"}`), meshclient.IdleTimeout(10*time.Second))
			if errors.Is(err, meshclient.ErrDeadline) {
				t.Fatalf("got %v for a call that the broker did not let through", err)
			}
			return err == nil
		})
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpUngrant, Target: "boss", Rights: registry.Rights{Call: scopes(wire.AdminScope)}}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the right", func() bool {
			_, err := boss.Call(ctx, wire.AdminScope, []byte(`{"op":"list"}`))
			return errors.Is(err, denial.ScopeNotHeld) && boss.Away() == nil
		})
	}
}
