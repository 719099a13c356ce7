package registry_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func plainRights(publish, subscribe []string) registry.Rights {
	return registry.Rights{Plain: registry.Plain{Publish: publish, Subscribe: subscribe}}
}

// Plain rights are in the record alone: they make no token, need no place for
// one, and go without touching one.
func TestPlainRightsNeedNoToken(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.active(s, bob, "bob 1")
	first := w.agent(s, bob)

	a, err := s.Grant(ctx, bob, plainRights([]string{"legacy.b", "legacy.a", "legacy.b"}, []string{"legacy.c"}), 0, "admin")
	if err != nil {
		t.Fatal(err)
	}
	want := registry.Plain{Publish: []string{"legacy.a", "legacy.b"}, Subscribe: []string{"legacy.c"}}
	if !slices.Equal(a.Rights.Plain.Publish, want.Publish) || !slices.Equal(a.Rights.Plain.Subscribe, want.Subscribe) {
		t.Errorf("got %+v, want %+v", a.Rights.Plain, want)
	}
	if a.Epoch != first.Epoch || !slices.Equal(a.Tokens, first.Tokens) {
		t.Errorf("got epoch %d and tokens %v, want %d and %v", a.Epoch, a.Tokens, first.Epoch, first.Tokens)
	}
	again, err := s.Grant(ctx, bob, plainRights([]string{"legacy.a"}, nil), 0, "admin")
	if err != nil || again.Revision != a.Revision {
		t.Errorf("granting what is held: got revision %d, %v, want %d", again.Revision, err, a.Revision)
	}
	// What the tokens say already makes no further one beside a plain right.
	mixed := plainRights([]string{"legacy.d"}, nil)
	mixed.Call = scopes("write:reports")
	if a, err = s.Grant(ctx, bob, mixed, 0, "admin"); err != nil || !slices.Equal(a.Tokens, first.Tokens) {
		t.Errorf("beside a right that is held: got tokens %v, %v, want %v", a.Tokens, err, first.Tokens)
	}
	mixed.Call = scopes("read:mail")
	mixed.Plain.Publish = []string{"legacy.e"}
	if a, err = s.Grant(ctx, bob, mixed, 0, "admin"); err != nil || len(a.Tokens) != 2 {
		t.Errorf("beside a new right: got tokens %v, %v, want two", a.Tokens, err)
	}
	w.checkTokens(s, bob)

	for name, r := range map[string]registry.Rights{
		"another subject": plainRights([]string{"legacy.x"}, nil),
		"the other side":  plainRights(nil, []string{"legacy.a"}),
		"one of two":      plainRights([]string{"legacy.a", "legacy.x"}, nil),
	} {
		_, err := s.Ungrant(ctx, bob, r, "admin")
		wantReason(t, "taking back "+name, err, denial.NotFound)
	}
	before := w.agent(s, bob)
	if a, err = s.Ungrant(ctx, bob, plainRights([]string{"legacy.a"}, []string{"legacy.c"}), "admin"); err != nil {
		t.Fatal(err)
	}
	if a.Epoch != before.Epoch+1 || !slices.Equal(a.Tokens, before.Tokens) {
		t.Errorf("got epoch %d and tokens %v, want %d and %v", a.Epoch, a.Tokens, before.Epoch+1, before.Tokens)
	}
	if got := a.Rights.Plain; !slices.Equal(got.Publish, []string{"legacy.b", "legacy.d", "legacy.e"}) || len(got.Subscribe) != 0 {
		t.Errorf("left: got %+v", got)
	}
	if a, err = s.Ungrant(ctx, bob, plainRights([]string{"legacy.b", "legacy.d", "legacy.e"}, nil), "admin"); err != nil || strings.Contains(payload(t, a), "plain") {
		t.Errorf("without any: got %s, %v", payload(t, a), err)
	}
}

// An agent that has plain rights alone has no token, and no renewal writes its
// record again.
func TestPlainRightsAlone(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	a := w.add(s, bob, func(n *registry.NewAgent) { n.Rights = plainRights(nil, []string{"legacy.status"}) })
	if len(a.Tokens) != 0 {
		t.Errorf("got tokens %v, want none", a.Tokens)
	}
	w.clock.add(20 * 24 * time.Hour)
	if err := s.RenewTokens(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.agent(s, bob); got.Revision != a.Revision {
		t.Errorf("after the renewal: got revision %d, want %d", got.Revision, a.Revision)
	}
	// Where there is no place for a token there is one for a plain right.
	for n := range limits.LiveTokens {
		if _, err := s.Grant(ctx, bob, registry.Rights{Call: scopes(fmt.Sprintf("read:n%d", n))}, 0, "admin"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("read:more")}, 0, "admin")
	wantReason(t, "one token more", err, denial.QuotaExceeded)
	if _, err := s.Grant(ctx, bob, plainRights([]string{"legacy.more"}, nil), 0, "admin"); err != nil {
		t.Errorf("a plain right beside the most tokens: %v", err)
	}
}

// What is not outside the mesh is refused before it is written.
func TestPlainRightsRefused(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	before := w.agent(s, bob)
	var many []string
	for n := range limits.Plain + 1 {
		many = append(many, fmt.Sprintf("legacy.n%d", n))
	}
	long := make([]string, limits.Plain)
	for n := range long {
		long[n] = fmt.Sprintf("n%d.%s", n, strings.Repeat("a", limits.Subject-10))
	}
	for name, tt := range map[string]struct {
		subjects []string
		want     denial.Reason
	}{
		"the mesh's":      {[]string{"mesh.call.carol.read.logs"}, denial.BadPlain},
		"JetStream's":     {[]string{"legacy.a", "$JS.API.STREAM.DELETE.KV_MESH_REPLAY"}, denial.BadPlain},
		"an inbox":        {[]string{"_INBOX_carol_00000000.x"}, denial.BadPlain},
		"a wildcard":      {[]string{"legacy.>"}, denial.BadPlain},
		"two words":       {[]string{"legacy.a q"}, denial.BadPlain},
		"none":            {[]string{""}, denial.BadPlain},
		"too many":        {many, denial.QuotaExceeded},
		"a record's size": {long, denial.QuotaExceeded},
	} {
		for side, r := range map[string]registry.Rights{"publish": plainRights(tt.subjects, nil), "subscribe": plainRights(nil, tt.subjects)} {
			_, err := s.Grant(ctx, bob, r, 0, "admin")
			wantReason(t, "granting "+name+" to "+side, err, tt.want)
			_, err = s.Add(ctx, registry.NewAgent{Agent: carol, Rights: r}, "admin")
			wantReason(t, "adding "+name+" to "+side, err, tt.want)
		}
	}
	if got := w.agent(s, bob); got.Revision != before.Revision {
		t.Errorf("refused, and yet written: revision %d, want %d", got.Revision, before.Revision)
	}
	if _, err := s.Agent(ctx, carol); denial.Of(err) != denial.UnlistedAgent {
		t.Errorf("refused, and yet registered: %v", err)
	}
	// The limit is of what is held, not of what one operation names.
	if _, err := s.Grant(ctx, bob, plainRights(many[:limits.Plain], nil), 0, "admin"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Grant(ctx, bob, plainRights(many[limits.Plain:], nil), 0, "admin")
	wantReason(t, "one more", err, denial.QuotaExceeded)
}

// The footing tells of a change that no chain tells of, and of nothing else.
func TestFooting(t *testing.T) {
	none := &registry.Agent{Agent: bob, Epoch: 3, Tokens: []string{"x"}, Rights: rights(), Labels: map[string]string{"a": "b"}}
	seen := map[string]string{}
	for name, a := range map[string]*registry.Agent{
		"nothing":      none,
		"publish":      {Rights: plainRights([]string{"a"}, nil)},
		"subscribe":    {Rights: plainRights(nil, []string{"a"})},
		"two":          {Rights: plainRights([]string{"a", "b"}, nil)},
		"one of both":  {Rights: plainRights([]string{"a,b"}, nil)},
		"a durable":    {Durables: []registry.Durable{{Name: "a", Topics: []string{"news"}}}},
		"two durables": {Durables: []registry.Durable{{Name: "a"}, {Name: "b"}}},
	} {
		f := a.Footing()
		if other, ok := seen[f]; ok || f == "" {
			t.Errorf("%s has the footing %q, and so has %s", name, f, other)
		}
		seen[f] = name
	}
	if got, want := (&registry.Agent{}).Footing(), none.Footing(); got != want {
		t.Errorf("without either: got %q and %q", got, want)
	}
	if got, want := (&registry.Agent{Durables: []registry.Durable{{Name: "a", Topics: []string{"x", "y"}}}}).Footing(),
		(&registry.Agent{Durables: []registry.Durable{{Name: "a"}}}).Footing(); got != want {
		t.Errorf("other topics: got %q, want %q: the grant is the same", got, want)
	}
}
