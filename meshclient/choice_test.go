package meshclient_test

import (
	"context"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Of several rights to the same thing an agent uses its own, although what was lent
// ends later, and of what was lent that which ends last.
func TestChoiceOfRight(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 90*time.Second)
	own := connected(t, m, enrolled(t, m, "own", registry.Rights{Call: scopes("read:logs")}))
	owns := chainFor(t, ctx, own)
	// Tokens end at whole seconds.
	enrolledAt := time.Now().Unix()
	eventually(t, "the next second", func() bool { return time.Now().Unix() > enrolledAt })
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	temp := connected(t, m, enrolled(t, m, "temp", registry.Rights{Call: scopes("do:other")}))
	lend := func(to *meshclient.Mesh, d time.Duration) string {
		t.Helper()
		l, err := boss.Delegate(ctx, to.ID().String(), meshclient.Grant{Scopes: []string{"read:logs"}, For: d})
		if err != nil {
			t.Fatal(err)
		}
		return l.Chains()[0]
	}
	rests := func(on *meshclient.Mesh, n int) {
		t.Helper()
		eventually(t, "a connection with what was lent", func() bool { return len(on.Resting()) == n })
	}

	lend(own, time.Until(chainFor(t, ctx, boss).Expires()))
	rests(own, 1)
	all, err := own.Chains(ctx)
	if err != nil || len(all) != 2 || !all[1].Expires().After(owns.Expires()) {
		t.Fatalf("got %d chains, %v; want a lent one that ends after its own", len(all), err)
	}
	if got := chainFor(t, ctx, own); got.Digest() != owns.Digest() {
		t.Errorf("chose what was lent over its own")
	}

	lend(temp, time.Hour)
	longest := lend(temp, 3*time.Hour)
	lend(temp, 2*time.Hour)
	rests(temp, 3)
	if got := chainFor(t, ctx, temp); got.Digest() != longest {
		t.Errorf("chose what ends %s of what was lent, want what ends last", got.Expires())
	}
}

func chainFor(t *testing.T, ctx context.Context, m *meshclient.Mesh) *capability.Chain {
	t.Helper()
	c, err := m.ChainFor(ctx, capability.RequireScope("read:logs"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
