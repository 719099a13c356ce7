package registry_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func ptr[T any](v T) *T { return &v }

func TestSet(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob, func(n *registry.NewAgent) { n.Labels = map[string]string{"team": "a", "zone": "b"} })
	w.active(s, bob, "bob 1")
	before := w.agent(s, bob)

	a, err := s.Set(ctx, bob, registry.Settings{
		Kind: ptr(registry.Job), Heartbeat: ptr(registry.HeartbeatAlways), Readmit: ptr(registry.ReadmitManual),
		Labels: &map[string]string{"team": "c"},
	}, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if a.AgentKind != registry.Job || a.Heartbeat != registry.HeartbeatAlways || a.Readmit != registry.ReadmitManual || !maps.Equal(a.Labels, map[string]string{"team": "c"}) {
		t.Errorf("got %+v", a)
	}
	if a.Epoch != before.Epoch || a.Revision != before.Revision+1 || !slices.Equal(a.Tokens, before.Tokens) {
		t.Errorf("got epoch %d, revision %d, tokens %v", a.Epoch, a.Revision, a.Tokens)
	}
	if a.Changed.By != "admin" || a.Changed.Reason != "settings changed" {
		t.Errorf("changed: got %+v", a.Changed)
	}
	if got := payload(t, w.agent(s, bob)); got != payload(t, a) {
		t.Errorf("what is read is not what was returned: %s", got)
	}
	same, err := s.Set(ctx, bob, registry.Settings{Kind: ptr(registry.Job), Stock: ptr(false), Depth: ptr(0), Labels: &map[string]string{"team": "c"}}, "admin")
	if err != nil || same.Revision != a.Revision {
		t.Errorf("what it is already: got revision %d, %v, want %d", same.Revision, err, a.Revision)
	}
	if a, err = s.Set(ctx, bob, registry.Settings{Labels: &map[string]string{}}, "admin"); err != nil || a.Labels != nil || a.AgentKind != registry.Job {
		t.Errorf("no labels: got %+v, %v", a, err)
	}

	for name, tt := range map[string]struct {
		set  registry.Settings
		want denial.Reason
	}{
		"nothing":             {registry.Settings{}, denial.BadInput},
		"unknown kind":        {registry.Settings{Kind: ptr(registry.Kind("pet"))}, denial.BadInput},
		"empty kind":          {registry.Settings{Kind: ptr(registry.Kind(""))}, denial.BadInput},
		"unknown heartbeat":   {registry.Settings{Heartbeat: ptr(registry.Heartbeat("daily"))}, denial.BadInput},
		"unknown readmission": {registry.Settings{Readmit: ptr(registry.Readmit("never"))}, denial.BadInput},
		"depth":               {registry.Settings{Depth: ptr(limits.Depth + 1)}, denial.DepthExceeded},
		"negative depth":      {registry.Settings{Depth: ptr(-1)}, denial.DepthExceeded},
		"an empty label":      {registry.Settings{Labels: &map[string]string{"": "x"}}, denial.BadInput},
	} {
		_, err := s.Set(ctx, bob, tt.set, "admin")
		wantReason(t, name, err, tt.want)
	}
	if got := w.agent(s, bob); got.Revision != a.Revision {
		t.Errorf("refused, and yet written: revision %d, want %d", got.Revision, a.Revision)
	}
	_, err = s.Set(ctx, carol, registry.Settings{Kind: ptr(registry.Job)}, "admin")
	wantReason(t, "an unknown agent", err, denial.UnlistedAgent)
	_, err = s.Set(ctx, agentid.Control, registry.Settings{Kind: ptr(registry.Job)}, "admin")
	wantReason(t, "the control plane", err, denial.ReservedName)
	if _, err := s.Revoke(ctx, bob, "admin", "stolen"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Set(ctx, bob, registry.Settings{Kind: ptr(registry.Person)}, "admin")
	wantReason(t, "a revoked agent", err, denial.WrongState)
}

// A client that becomes a stock one sends no beats; one that no longer is one is
// closed, and comes back for a shorter time.
func TestSetStock(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	first := w.add(s, bob)
	for _, tt := range []struct {
		set       registry.Settings
		heartbeat registry.Heartbeat
		rises     uint64
	}{
		{registry.Settings{Stock: ptr(true)}, registry.HeartbeatNone, 0},
		{registry.Settings{Stock: ptr(false)}, registry.HeartbeatNone, 1},
		{registry.Settings{Stock: ptr(true), Heartbeat: ptr(registry.HeartbeatSession)}, registry.HeartbeatSession, 0},
		{registry.Settings{Stock: ptr(true)}, registry.HeartbeatSession, 0},
		{registry.Settings{Stock: ptr(false)}, registry.HeartbeatSession, 1},
	} {
		before := w.agent(s, bob).Epoch
		a, err := s.Set(ctx, bob, tt.set, "admin")
		if err != nil {
			t.Fatal(err)
		}
		if a.Stock != *tt.set.Stock || a.Heartbeat != tt.heartbeat || a.Epoch != before+tt.rises || !slices.Equal(a.Tokens, first.Tokens) {
			t.Errorf("stock %v: got stock %v, heartbeat %s, epoch %d, want %s and %d", *tt.set.Stock, a.Stock, a.Heartbeat, a.Epoch, tt.heartbeat, before+tt.rises)
		}
	}
}

// More depth comes with a further token; less ends those that have more.
func TestSetDepth(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.active(s, bob, "bob 1")
	w.add(s, carol)
	w.active(s, carol, "carol 1")
	first := w.agent(s, bob)
	root := w.chain(s, bob, "write:reports")
	lent, err := s.Upload(ctx, bob, w.delegate(s, bob, "bob 1", carol, time.Hour))
	if err != nil {
		t.Fatal(err)
	}

	a, err := s.Set(ctx, bob, registry.Settings{Depth: ptr(5)}, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if a.Depth != 5 || a.Epoch != first.Epoch || len(a.Tokens) != 2 || a.Tokens[0] != first.Tokens[0] {
		t.Errorf("deeper: got depth %d, epoch %d, tokens %v", a.Depth, a.Epoch, a.Tokens)
	}
	if c, err := s.Chain(ctx, a.Tokens[1]); err != nil || c.Depth() != 5 {
		t.Errorf("the further token: got %+v, %v, want depth 5", c, err)
	}
	if err := lent.Check(start, s.Directory(ctx)); err != nil {
		t.Errorf("what was lent before: %v", err)
	}

	// Back to three: the deeper token alone ends.
	if a, err = s.Set(ctx, bob, registry.Settings{Depth: ptr(3)}, "admin"); err != nil {
		t.Fatal(err)
	}
	if a.Epoch != first.Epoch+1 || len(a.Tokens) != 2 || a.Tokens[0] != first.Tokens[0] {
		t.Errorf("as before: got epoch %d, tokens %v", a.Epoch, a.Tokens)
	}
	if err := lent.Check(start, s.Directory(ctx)); err != nil {
		t.Errorf("what was lent under a token that has no more: %v", err)
	}
	if a, err = s.Set(ctx, bob, registry.Settings{Depth: ptr(1)}, "admin"); err != nil {
		t.Fatal(err)
	}
	if a.Epoch != first.Epoch+2 || len(a.Tokens) != 1 {
		t.Errorf("less: got epoch %d, tokens %v", a.Epoch, a.Tokens)
	}
	wantReason(t, "the deeper token", root.Check(start, s.Directory(ctx)), denial.TokenTakenBack)
	wantReason(t, "what was lent under it", lent.Check(start, s.Directory(ctx)), denial.TokenTakenBack)
	if c := w.chain(s, bob, "write:reports"); c.Depth() != 1 {
		t.Errorf("issued anew: got depth %d, want 1", c.Depth())
	}
	w.checkTokens(s, bob)

	// Where nothing may be passed on, depth is a word in the record.
	w.add(s, agentid.Require("dave"), func(n *registry.NewAgent) { n.Rights.MayDelegate = nil })
	d, err := s.Set(ctx, agentid.Require("dave"), registry.Settings{Depth: ptr(2)}, "admin")
	if err != nil || d.Depth != 2 || d.Epoch != 1 || len(d.Tokens) != 1 {
		t.Errorf("without delegation: got %+v, %v", d, err)
	}
}
