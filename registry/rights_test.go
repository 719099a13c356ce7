package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func TestAdd(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	a := w.add(s, bob)
	if a.Status != registry.Pending || a.Epoch != 1 || a.Revision != 1 || a.Since != 1 || a.AgentKind != registry.Service ||
		a.Heartbeat != registry.HeartbeatSession || a.Readmit != registry.ReadmitAttestation {
		t.Errorf("got %+v", a)
	}
	if a.Changed != (registry.Change{At: start.Unix(), By: "admin", Reason: "added"}) {
		t.Errorf("changed: got %+v", a.Changed)
	}
	if got := payload(t, w.agent(s, bob)); got != payload(t, a) {
		t.Errorf("what is read is not what was returned: %s", got)
	}
	c := w.chain(s, bob, "handle:read:logs")
	wantReason(t, "the token of an agent that never enrolled", c.Check(start, s.Directory(w.ctx())), denial.DelegatorCut)
	wantReason(t, "its cause", onlyIs(c.Check(start, s.Directory(w.ctx())), denial.Pending), denial.Pending)

	labels := map[string]string{}
	for n := range limits.Labels + 1 {
		labels[fmt.Sprint(n)] = "x"
	}
	for name, tt := range map[string]struct {
		n    registry.NewAgent
		want denial.Reason
	}{
		"no name":                    {registry.NewAgent{}, denial.BadInput},
		"unknown kind":               {registry.NewAgent{Kind: "pet"}, denial.BadInput},
		"unknown heartbeat":          {registry.NewAgent{Heartbeat: "daily"}, denial.BadInput},
		"unknown readmission":        {registry.NewAgent{Readmit: "never"}, denial.BadInput},
		"depth":                      {registry.NewAgent{Depth: limits.Depth + 1}, denial.DepthExceeded},
		"negative depth":             {registry.NewAgent{Depth: -1}, denial.DepthExceeded},
		"labels":                     {registry.NewAgent{Labels: labels}, denial.BadInput},
		"an empty label":             {registry.NewAgent{Labels: map[string]string{"": "x"}}, denial.BadInput},
		"a long label":               {registry.NewAgent{Labels: map[string]string{"x": strings.Repeat("x", limits.LabelText+1)}}, denial.BadInput},
		"a label of two lines":       {registry.NewAgent{Labels: map[string]string{"x": "a\nb"}}, denial.BadInput},
		"a label that is no text":    {registry.NewAgent{Labels: map[string]string{"x": "\xff"}}, denial.BadInput},
		"handle as a call":           {registry.NewAgent{Rights: registry.Rights{Call: scopes("handle:read:logs")}}, denial.BadScope},
		"publish as a call":          {registry.NewAgent{Rights: registry.Rights{Call: scopes("publish:news")}}, denial.BadScope},
		"handle admin":               {registry.NewAgent{Rights: registry.Rights{Handle: scopes("admin:registry")}}, denial.BadScope},
		"a wildcard topic":           {registry.NewAgent{Rights: registry.Rights{Publish: []string{"*"}}}, denial.WildcardScope},
		"an empty topic":             {registry.NewAgent{Rights: registry.Rights{Subscribe: []string{""}}}, denial.WildcardScope},
		"delegating what it has not": {registry.NewAgent{Rights: registry.Rights{Call: scopes("a:b"), MayDelegate: scopes("a:c")}}, denial.BeyondOwn},
		"delegating admin":           {registry.NewAgent{Rights: registry.Rights{Call: scopes("admin:registry"), MayDelegate: scopes("admin:registry")}}, denial.NotDelegatable},
	} {
		if name != "no name" {
			tt.n.Agent = carol
		}
		_, err := s.Add(w.ctx(), tt.n, "admin")
		if denial.Of(err) != tt.want && !(tt.want == denial.WildcardScope && denial.Of(err) == denial.BadScope) {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
		if _, err := s.Agent(w.ctx(), carol); denial.Of(err) != denial.UnlistedAgent {
			t.Fatalf("%s: refused, and yet registered", name)
		}
	}
}

// onlyIs returns the reason if err has it somewhere, and err otherwise.
func onlyIs(err error, r denial.Reason) error {
	if errors.Is(err, r) {
		return r
	}
	return err
}

func TestGrantAndUngrant(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.active(s, bob, "bob 1")
	first := w.agent(s, bob)

	// A grant leaves the older token and what was delegated under it alone.
	_, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("read:mail"), MayDelegate: scopes("read:mail", "read:logs", "handle:read:logs")}, 2, "admin")
	wantReason(t, "delegating what is not held", err, denial.BeyondOwn)
	a, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("read:mail"), MayDelegate: scopes("read:mail", "handle:read:logs", "publish:news")}, 2, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if a.Epoch != first.Epoch || a.Revision != first.Revision+1 || a.Tokens[0] != first.Tokens[0] || len(a.Tokens) != 2 {
		t.Errorf("got epoch %d, revision %d, tokens %v", a.Epoch, a.Revision, a.Tokens)
	}
	second := w.chain(s, bob, "read:mail")
	wantScopes(t, "second token", second.Scopes(), "read:mail", "handle:read:logs", "publish:news")
	wantScopes(t, "second token's delegatable", second.Delegatable(), "read:mail", "handle:read:logs", "publish:news")
	if second.Depth() != 2 || a.Depth != 2 {
		t.Errorf("depth: got %d and %d, want 2", second.Depth(), a.Depth)
	}
	again, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("read:mail")}, 0, "admin")
	if err != nil || again.Revision != a.Revision {
		t.Errorf("granting what is held: got revision %d, %v, want %d", again.Revision, err, a.Revision)
	}

	for name, r := range map[string]registry.Rights{
		"nothing":                {},
		"what is not held":       {Call: scopes("read:sea")},
		"what may not be passed": {MayDelegate: scopes("read:logs")},
	} {
		want := denial.NotFound
		if r.IsZero() {
			want = denial.BadInput
			_, err := s.Grant(ctx, bob, r, 0, "admin")
			wantReason(t, "granting nothing", err, want)
		}
		_, err := s.Ungrant(ctx, bob, r, "admin")
		wantReason(t, "taking back "+name, err, want)
	}
	_, err = s.Grant(ctx, bob, registry.Rights{Call: scopes("x:y")}, -1, "admin")
	wantReason(t, "a negative depth", err, denial.DepthExceeded)

	// Taking one right back ends the tokens that hold it; the rest is issued anew.
	a, err = s.Ungrant(ctx, bob, registry.Rights{Call: scopes("read:mail")}, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if a.Epoch != first.Epoch+1 || contains(a.Tokens, second.Digest()) || !contains(a.Tokens, first.Tokens[0]) {
		t.Errorf("epoch %d, tokens %v", a.Epoch, a.Tokens)
	}
	wantReason(t, "the token of the right taken back", second.Check(start, s.Directory(ctx)), denial.TokenTakenBack)
	wantScopes(t, "rights left", scopesOf(t, a), "write:reports", "handle:read:logs", "publish:news")
	w.checkTokens(s, bob)
	if c := w.chain(s, bob, "publish:news"); c.Check(start, s.Directory(ctx)) != nil {
		t.Errorf("what is left does not stand: %v", c.Check(start, s.Directory(ctx)))
	}

	// The right to pass on alone.
	if a, err = s.Ungrant(ctx, bob, registry.Rights{MayDelegate: scopes("write:reports")}, "admin"); err != nil {
		t.Fatal(err)
	}
	wantScopes(t, "rights left", scopesOf(t, a), "write:reports", "handle:read:logs", "publish:news")
	if contains(a.Tokens, first.Tokens[0]) {
		t.Errorf("the token that may be passed on lives on")
	}
	w.checkTokens(s, bob)

	// All of it.
	if a, err = s.Ungrant(ctx, bob, registry.Rights{Call: scopes("write:reports"), Handle: scopes("read:logs"), Publish: []string{"news"}}, "admin"); err != nil {
		t.Fatal(err)
	}
	if !a.Rights.IsZero() || len(a.Tokens) != 0 {
		t.Errorf("got %+v and %d tokens, want nothing", a.Rights, len(a.Tokens))
	}
}

func TestLiveTokensAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	for n := 1; n < limits.LiveTokens; n++ {
		if _, err := s.Grant(w.ctx(), bob, registry.Rights{Call: scopes(fmt.Sprintf("read:n%d", n))}, 0, "admin"); err != nil {
			t.Fatalf("grant %d: %v", n, err)
		}
	}
	_, err := s.Grant(w.ctx(), bob, registry.Rights{Call: scopes("read:more")}, 0, "admin")
	wantReason(t, "one token more", err, denial.QuotaExceeded)
	// A full list is still renewed, or all rights would end with it.
	w.clock.add(20 * 24 * time.Hour)
	if err := s.RenewTokens(w.ctx()); err != nil {
		t.Fatal(err)
	}
	a := w.agent(s, bob)
	if len(a.Tokens) != limits.LiveTokens {
		t.Errorf("got %d tokens, want %d", len(a.Tokens), limits.LiveTokens)
	}
	c, err := s.Chain(w.ctx(), a.Tokens[len(a.Tokens)-1])
	if err != nil || len(c.Scopes()) != len(scopesOf(t, a)) {
		t.Errorf("the newest token does not cover the rights: %v", err)
	}
}

func TestRenewTokens(t *testing.T) {
	w := newWorld(t)
	w.tokenTTL = 10 * 24 * time.Hour
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	w.add(s, dave, func(n *registry.NewAgent) { n.Rights = registry.Rights{} })
	if _, err := s.Revoke(ctx, carol, "admin", ""); err != nil {
		t.Fatal(err)
	}
	renew := func() *registry.Agent {
		t.Helper()
		if err := s.RenewTokens(ctx); err != nil {
			t.Fatal(err)
		}
		if n := len(w.agent(s, carol).Tokens) + len(w.agent(s, dave).Tokens); n != 0 {
			t.Errorf("a tombstone or an agent without rights got a token")
		}
		w.checkTokens(s, bob)
		return w.agent(s, bob)
	}
	first := w.agent(s, bob)
	if got := renew(); got.Revision != first.Revision {
		t.Errorf("a fresh token was renewed")
	}
	w.clock.add(5*24*time.Hour + time.Minute)
	half := renew()
	if len(half.Tokens) != 2 || half.Tokens[0] != first.Tokens[0] || half.Epoch != first.Epoch {
		t.Errorf("at half life: got tokens %v in epoch %d, want the old one and a new one", half.Tokens, half.Epoch)
	}
	if got := renew(); got.Revision != half.Revision {
		t.Errorf("renewed twice")
	}
	w.clock.add(5 * 24 * time.Hour)
	ended := renew()
	if contains(ended.Tokens, first.Tokens[0]) || !contains(ended.Tokens, half.Tokens[1]) {
		t.Errorf("after the end of the first: got %v", ended.Tokens)
	}
	// A mesh that was off for longer than any token lives comes back with rights.
	w.clock.add(30 * 24 * time.Hour)
	back := renew()
	if len(back.Tokens) != 1 {
		t.Fatalf("after a month off: got %d tokens, want 1", len(back.Tokens))
	}
	wantScopes(t, "after a month off", w.chain(s, bob, "handle:read:logs").Scopes(), "write:reports", "handle:read:logs", "publish:news")
}

// What two stores change at the same time is all there in the end, each change
// on a record of its own, and rights that are taken back while others are given
// do not live on in any token.
func TestConcurrentChanges(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	ctx := w.ctx()
	w.add(stores[0], bob)
	w.active(stores[0], bob, "bob 1")
	before := w.agent(stores[0], bob)

	const each = 12
	var mu sync.Mutex
	seen := map[uint64]*registry.Agent{}
	var wg sync.WaitGroup
	do := func(what string, f func() (*registry.Agent, error)) {
		wg.Go(func() {
			a, err := f()
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if seen[a.Revision] != nil {
				t.Errorf("%s: two changes returned revision %d", what, a.Revision)
			}
			seen[a.Revision] = a
		})
	}
	for n := range each {
		for i, s := range stores {
			do("grant", func() (*registry.Agent, error) {
				return s.Grant(ctx, bob, registry.Rights{Call: scopes(fmt.Sprintf("read:n%d-%d", n, i))}, 0, "admin")
			})
		}
	}
	for i, r := range []registry.Rights{{Call: scopes("write:reports")}, {Handle: scopes("read:logs")}, {Publish: []string{"news"}}} {
		do("ungrant", func() (*registry.Agent, error) { return stores[i%2].Ungrant(ctx, bob, r, "admin") })
	}
	wg.Wait()

	a := w.agent(stores[1], bob)
	const changes = 2*each + 3
	if len(seen) != changes || a.Revision != before.Revision+changes || a.Epoch != before.Epoch+3 {
		t.Errorf("got %d changes, revision %d, epoch %d, want %d, %d, %d", len(seen), a.Revision, a.Epoch, changes, before.Revision+changes, before.Epoch+3)
	}
	var want []string
	for n := range each {
		want = append(want, fmt.Sprintf("read:n%d-0", n), fmt.Sprintf("read:n%d-1", n))
	}
	wantScopes(t, "rights in the end", scopesOf(t, a), want...)
	w.checkTokens(stores[0], bob)
	// In the order of the revisions the epoch never falls, and no right that was
	// taken back returns.
	gone := map[string]bool{}
	last := before
	for r := before.Revision + 1; r <= a.Revision; r++ {
		next := seen[r]
		if next == nil {
			t.Fatalf("nobody made revision %d", r)
		}
		if next.Epoch < last.Epoch {
			t.Errorf("revision %d lowers the epoch", r)
		}
		have := map[string]bool{}
		for _, s := range scopesOf(t, next) {
			have[s.String()] = true
			if gone[s.String()] {
				t.Errorf("revision %d brings %s back", r, s)
			}
		}
		for _, s := range scopesOf(t, last) {
			gone[s.String()] = gone[s.String()] || !have[s.String()]
		}
		last = next
	}
}

// A grant of the right to pass something on, and the end of that something, at
// the same time: whoever comes second must not leave a token with the right.
func TestGrantAgainstUngrant(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	ctx := w.ctx()
	for n := range 20 {
		id := agentid.Require(fmt.Sprintf("a%d", n))
		w.add(stores[0], id, func(a *registry.NewAgent) { a.Rights = registry.Rights{Call: scopes("read:logs", "read:mail")} })
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := stores[0].Grant(ctx, id, registry.Rights{MayDelegate: scopes("read:logs")}, 0, "admin")
			if r := denial.Of(err); err != nil && r != denial.BeyondOwn {
				t.Errorf("grant: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := stores[1].Ungrant(ctx, id, registry.Rights{Call: scopes("read:logs")}, "admin"); err != nil {
				t.Errorf("ungrant: %v", err)
			}
		})
		wg.Go(func() {
			if err := stores[1].RenewTokens(ctx); err != nil {
				t.Errorf("renew: %v", err)
			}
		})
		wg.Wait()
		w.checkTokens(stores[0], id)
		wantScopes(t, "in the end", scopesOf(t, w.agent(stores[0], id)), "read:mail")
	}
}

// An agent that fills its own record must not become one that nobody can
// suspend.
func TestFullRecordCanBeSuspended(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	labels := map[string]string{}
	for n := range limits.Labels {
		labels[fmt.Sprintf("%0*d", limits.LabelText, n)] = strings.Repeat(`"`, limits.LabelText/2)
	}
	w.add(s, bob, func(n *registry.NewAgent) { n.Labels = labels })
	inst := w.active(s, bob, "bob 1")
	full := false
	for n := range limits.Voided + 1 {
		token := fmt.Sprintf("%042dA", n)
		if _, err := s.EndDelegation(ctx, bob, token, start.Add(time.Hour)); err != nil {
			wantReason(t, "a full record", err, denial.QuotaExceeded)
			full = true
			break
		}
	}
	if !full {
		t.Fatal("a record takes any number of ended delegations")
	}
	_, err := s.Grant(ctx, bob, registry.Rights{Call: scopes("read:mail")}, 0, "admin")
	wantReason(t, "a grant into a full record", err, denial.QuotaExceeded)
	w.clock.add(16 * 24 * time.Hour) // so that its token is renewed below
	// The largest reason that anybody may give, in its longest form.
	a, err := s.Suspend(ctx, bob, "admin", strings.Repeat(`"`, limits.Reason))
	if err != nil || a.Status != registry.Suspended {
		t.Fatalf("suspending: %v", err)
	}
	if err := s.RenewTokens(ctx); err != nil {
		t.Errorf("renewing: %v", err)
	}
	if _, err := s.Resume(ctx, bob, "admin", ""); err != nil {
		t.Errorf("resuming: %v", err)
	}
	if err := s.ExpireInstance(ctx, bob, inst, 1, strings.Repeat("x", 1000)); err != nil {
		t.Errorf("expiring: %v", err)
	}
	if b, _ := json.Marshal(w.agent(s, bob).Voided); len(b) < 4000 {
		t.Errorf("the record was not full: %d bytes of ended delegations", len(b))
	}
}

// Text of operators and networks never makes a record that nobody can read.
func TestForeignText(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	w.active(s, bob, "bob 1")
	for _, text := range []string{"\xff\xfe", "a\x00b", "line\nline", "\u2028<&>\"\\", strings.Repeat("ä", limits.Reason)} {
		if _, err := s.Suspend(w.ctx(), bob, text, text); err != nil {
			t.Errorf("reason %q: %v", text, err)
		}
		a := w.agent(s, bob)
		if len(a.Changed.Reason) > limits.Reason || strings.ContainsAny(a.Changed.Reason+a.Changed.By, "\x00\n") {
			t.Errorf("reason %q was kept as %q", text, a.Changed.Reason)
		}
		if _, err := s.Resume(w.ctx(), bob, "admin", ""); err != nil {
			t.Errorf("after reason %q: %v", text, err)
		}
		if _, _, err := s.Attest(w.ctx(), bob, agentid.InstanceOf(public(t, key(t, nkeys.PrefixByteUser, "bob 1"))), text); err != nil {
			t.Errorf("host %q: %v", text, err)
		}
	}
}
