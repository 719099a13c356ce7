package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

// passing is a row of agents, each of which calls the next on behalf of whoever
// called it: the first asks for step:1, whose handler asks for step:2, and so on.
// Every agent holds every step, but for what is missing.
func passing(t *testing.T, m *meshtest.Mesh, prefix string, agents int, missing map[int]string) (first *meshclient.Mesh, scopes []string, reached func() int) {
	t.Helper()
	for i := range agents - 1 {
		scopes = append(scopes, fmt.Sprintf("step:%s%d", prefix, i+1))
	}
	far := 0
	for i := range agents {
		var calls []string
		for _, s := range scopes {
			if missing[i] != s {
				calls = append(calls, s)
			}
		}
		rights := []meshtest.Right{meshtest.Calls(calls...), meshtest.Right(func(n *registry.NewAgent) { n.Heartbeat = registry.HeartbeatNone })}
		if i > 0 {
			rights = append(rights, meshtest.Handles(scopes[i-1]))
		}
		c := m.Agent(fmt.Sprintf("%s%d", prefix, i), rights...)
		if i == 0 {
			first = c
			continue
		}
		handle(t, c, scopes[i-1], func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
			far = max(far, i)
			if i == agents-1 {
				return []byte("done"), nil
			}
			r, err := c.Call(ctx, scopes[i], nil, meshclient.OnBehalf(req))
			if d := (*meshclient.Denied)(nil); errors.As(err, &d) {
				return nil, &meshclient.Error{Code: "app-" + string(d.Reason), Message: fmt.Sprint(i)}
			}
			if err != nil {
				return nil, err
			}
			return r.Data, nil
		})
	}
	return first, scopes, func() int { return far }
}

// What goes through many hands has no more right than all of them have in common,
// wherever in the row the right is missing.
func TestOnBehalfOverManyHops(t *testing.T) {
	m := meshtest.New(t, options()...)
	ctx := within(t, 50*time.Second)

	first, scopes, reached := passing(t, m, "all", 5, nil)
	r, err := first.Call(ctx, scopes[0], nil)
	if err != nil || string(r.Data) != "done" || reached() != 4 {
		t.Fatalf("got %v after %d hands, want it done where everybody may", err, reached())
	}
	// The last step is refused by the last agent alone, for want of a right that
	// the agent before it, and perhaps the one before that, has.
	for poor := range 3 {
		prefix := fmt.Sprintf("poor%d", poor)
		first, scopes, reached := passing(t, m, prefix, 5, map[int]string{poor: "step:" + prefix + "4"})
		_, err := first.Call(ctx, scopes[0], nil)
		var e *meshclient.Error
		if !errors.As(err, &e) || e.Code != "app-"+string(denial.ScopeNotHeld) || e.Message != "3" {
			t.Errorf("got %v where agent %d lacks the right, want %q of what agent 3 asked", err, poor, denial.ScopeNotHeld)
		}
		if reached() != 3 {
			t.Errorf("the call reached agent %d, want 3", reached())
		}
	}
}

// Nothing is limited by a request that nobody made, so that is refused; so is what
// came through more hands than a message can name.
func TestOnBehalfOfNobody(t *testing.T) {
	m := meshtest.New(t, options()...)
	ctx := within(t, 50*time.Second)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	handle(t, reader, "read:logs", echo)
	for _, req := range []*meshclient.Request{nil, {}} {
		_, err := asker.Call(ctx, "read:logs", nil, meshclient.OnBehalf(req))
		denied(t, err, denial.BadInput)
	}
	first, scopes, reached := passing(t, m, "long", 11, nil)
	_, err := first.Call(ctx, scopes[0], nil)
	var e *meshclient.Error
	if !errors.As(err, &e) || e.Code != "app-"+string(denial.Loop) || reached() != 9 {
		t.Errorf("got %v after %d hands, want %q after 9", err, reached(), denial.Loop)
	}
}
