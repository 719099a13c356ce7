package meshclient_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// A right that no chain tells of reaches a running agent all the same: its
// connection is replaced by one that has it. What changes in a burst costs one
// more rotation, and what changes nothing costs none.
func TestPlainRightsReachRunningAgent(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	store := connected(t, m, enrolled(t, m, "store", registry.Rights{Call: scopes("read:logs")}))
	shop := intrude(t, enrolled(t, m, "shop", registry.Rights{Plain: registry.Plain{Publish: []string{"legacy.a", "legacy.b", "legacy.c"}}}))
	change := func(op wire.Op, subj string) {
		t.Helper()
		if err := m.Operate(ctx, wire.AdminRequest{Op: op, Target: "store", Rights: registry.Rights{Plain: registry.Plain{Subscribe: []string{subj}}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(subj string, wait time.Duration) bool {
		t.Helper()
		sub, err := store.Conn().SubscribeSync(subj)
		if err == nil {
			err = store.Conn().Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := shop.nc.Publish(subj, nil); err != nil {
			t.Fatal(err)
		}
		_, err = sub.NextMsg(wait)
		return err == nil
	}

	// The connection that it came with has all that its record says.
	for range 20 {
		store.Poke()
		time.Sleep(20 * time.Millisecond)
	}
	if got := store.Rotations(); got != 0 {
		t.Fatalf("got %d rotations before anything changed, want none", got)
	}

	start := time.Now()
	change(wire.OpGrant, "legacy.a")
	eventually(t, "the rotation", func() bool { return store.Rotations() == 1 })
	rotated := time.Now()
	if !hears("legacy.a", 5*time.Second) {
		t.Fatal("the new connection hears nothing")
	}
	t.Logf("a plain right could be used %v after it was granted", time.Since(start).Round(time.Millisecond))

	change(wire.OpGrant, "legacy.b")
	change(wire.OpGrant, "legacy.c")
	if time.Since(rotated) < 4*time.Second { // they came before the next rotation may begin
		eventually(t, "one rotation for two rights", func() bool { return store.Rotations() == 2 })
	} else {
		eventually(t, "the new rights", func() bool { return hears("legacy.b", time.Second) && hears("legacy.c", time.Second) })
	}
	for _, subj := range []string{"legacy.b", "legacy.c"} {
		if !hears(subj, 5*time.Second) {
			t.Fatalf("the newest connection hears nothing of %s", subj)
		}
	}

	// From here on every look would rotate if the new connection did not count.
	rotations := store.Rotations()
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "store", Settings: &wire.Settings{Labels: &map[string]string{"team": "a"}}}, nil); err != nil {
		t.Fatal(err)
	}
	over := time.Now().Add(6 * time.Second) // longer than two rotations are apart at least
	for time.Now().Before(over) {
		store.Poke()
		time.Sleep(100 * time.Millisecond)
	}
	if got := store.Rotations(); got != rotations {
		t.Errorf("got %d rotations, want %d", got, rotations)
	}

	change(wire.OpUngrant, "legacy.a")
	eventually(t, "its return", func() bool { return store.Away() == nil && store.Epoch() == "2.1" && store.Conn().IsConnected() })
	if hears("legacy.a", 500*time.Millisecond) {
		t.Error("the right was taken back, and is heard")
	}
	if !hears("legacy.b", 5*time.Second) {
		t.Error("what was not taken back is gone")
	}
}
