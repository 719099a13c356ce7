package controlplane_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// More agents than one message takes are listed all the same: each once, in order.
func TestListByPages(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	labels := map[string]string{}
	for i := range limits.Labels {
		labels[fmt.Sprintf("label-%02d", i)] = strings.Repeat("x", limits.LabelText)
	}
	want := []string{"admin"}
	for n := 0; n < natsconf.DefaultPayload*5/4; n += limits.Labels * limits.LabelText {
		id := agentid.Require(fmt.Sprintf("agent-%04d", len(want)))
		if _, err := m.Plane.Store().Add(ctx, registry.NewAgent{Agent: id, Labels: labels}, "test"); err != nil {
			t.Fatal(err)
		}
		want = append(want, id.String())
	}
	pages := 0
	list, err := wire.ListAgents(ctx, func(ctx context.Context, req wire.AdminRequest) (page wire.AgentList, err error) {
		pages++
		return page, m.Operate(ctx, req, &page)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range list.Agents {
		got = append(got, v.Agent.String())
	}
	if !slices.Equal(got, want) || pages < 2 || !list.Next.IsZero() {
		t.Errorf("got %d agents in %d pages, want %d: %v", len(got), pages, len(want), got)
	}
	// A list that does not go on is not asked for again and again.
	if _, err := wire.ListAgents(ctx, func(context.Context, wire.AdminRequest) (wire.AgentList, error) {
		return wire.AgentList{Next: agentid.Require("same")}, nil
	}); err == nil {
		t.Error("a list without an end: got no error")
	}
}
