package meshclient_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// A right is passed on as often as its root allows and no further, and all of it
// ends with its first delegation.
func TestDelegationToTheLimit(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 90*time.Second)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	handle(t, reader, "read:logs", echo)
	dir, err := m.Add(ctx, registry.NewAgent{Agent: agentid.Require("hop0"), Depth: limits.Depth, Rights: registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}})
	if err != nil {
		t.Fatal(err)
	}
	hops := []*meshclient.Mesh{connected(t, m, dir)}
	var first *meshclient.Delegation
	again := meshclient.Grant{Scopes: []string{"read:logs"}, Delegatable: []string{"read:logs"}, For: time.Hour}
	once := meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour}
	for n := 1; n <= limits.Depth; n++ {
		name := fmt.Sprint("hop", n)
		g := again
		if n == limits.Depth {
			g = once
			_, err := hops[n-1].Delegate(ctx, "nobody", again)
			denied(t, err, denial.DepthExceeded)
		}
		told := make(chan struct{}, 16)
		c := connected(t, m, enrolled(t, m, name, registry.Rights{}), meshclient.OnGrant(func() { told <- struct{}{} }))
		d, err := hops[n-1].Delegate(ctx, name, g)
		if err != nil {
			t.Fatalf("delegation %d: %v", n, err)
		}
		if n == 1 {
			first = d
		}
		<-told
		if _, err := c.Call(ctx, "read:logs", nil); err != nil {
			t.Fatalf("call after delegation %d: %v", n, err)
		}
		hops = append(hops, c)
	}
	last := hops[limits.Depth]
	_, err = last.Delegate(ctx, "nobody", once)
	denied(t, err, denial.NotDelegatable)
	_, err = hops[1].Delegate(ctx, "hop0", once)
	denied(t, err, denial.DelegationCycle)
	if err := first.End(ctx); err != nil {
		t.Fatal(err)
	}
	for n, c := range hops[1:] {
		if _, err := c.Call(ctx, "read:logs", nil); !errors.Is(err, denial.TokenTakenBack) && !errors.Is(err, denial.ScopeNotHeld) {
			t.Errorf("hop %d: got %v after the first delegation ended", n+1, err)
		}
	}
	if _, err := hops[0].Call(ctx, "read:logs", nil); err != nil {
		t.Errorf("the right itself: %v", err)
	}
}

// How often a right may be passed on only shrinks.
func TestDelegationDepthShrinks(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs", "read:more"), MayDelegate: scopes("read:logs")}))
	enrolled(t, m, "mate", registry.Rights{})
	grant := func(depth int, onward ...string) meshclient.Grant {
		return meshclient.Grant{Scopes: []string{"read:logs"}, Delegatable: onward, Depth: depth, For: time.Hour}
	}
	for name, tt := range map[string]struct {
		grant meshclient.Grant
		want  denial.Reason
	}{
		"as deep as the root":        {grant(registry.DefaultDepth, "read:logs"), denial.DepthExceeded},
		"deeper than anything":       {grant(limits.Depth+1, "read:logs"), denial.DepthExceeded},
		"less than nothing":          {grant(-1, "read:logs"), denial.BadInput},
		"a depth of nothing":         {grant(1), denial.BadInput},
		"what may not be passed on":  {meshclient.Grant{Scopes: []string{"read:more"}, For: time.Hour}, denial.NotDelegatable},
		"onward what is not lent":    {grant(1, "read:more"), denial.BeyondOwn},
		"for longer than the parent": {meshclient.Grant{Scopes: []string{"read:logs"}, For: 365 * 24 * time.Hour}, ""},
	} {
		d, err := boss.Delegate(ctx, "mate", tt.grant)
		if tt.want != "" {
			denied(t, err, tt.want)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if left := time.Until(d.Expires); left > registry.DefaultTokenTTL {
			t.Errorf("%s: ends in %s, after the right itself", name, left)
		}
	}
	told := make(chan struct{}, 16)
	temp := connected(t, m, enrolled(t, m, "temp", registry.Rights{}), meshclient.OnGrant(func() { told <- struct{}{} }))
	if _, err := boss.Delegate(ctx, "temp", grant(1, "read:logs")); err != nil {
		t.Fatal(err)
	}
	<-told
	_, err := temp.Delegate(ctx, "mate", grant(1, "read:logs"))
	denied(t, err, denial.DepthExceeded)
	if _, err := temp.Delegate(ctx, "mate", grant(0)); err != nil {
		t.Errorf("passing on what may be passed on once: %v", err)
	}
}

// sign signs, as the agent in dir and with nobody asked, a delegation from its
// first chain.
func sign(t *testing.T, dir string, from *capability.Chain, to string, life time.Duration) string {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	text, err := capability.Delegate(from, key, d.Info.Passport, capability.Delegation{
		To: agentid.Require(to), Scopes: scopes("read:logs"), Expires: now.Add(life),
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A chain that was made offline and carried by hand is worth as much as one that
// was sent, to its holder and to nobody else, and until its delegator ends it.
func TestTakeUp(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	mate := connected(t, l.Mesh, enrolled(t, l.Mesh, "mate", registry.Rights{}))
	other := second(t, l.Mesh, l.temp)
	chains, err := l.boss.Chains(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	text := sign(t, l.bossDir, chains[0], "temp", time.Hour)

	for _, c := range []*meshclient.Mesh{mate, l.boss} {
		_, err = c.TakeUp(l.ctx, text)
		denied(t, err, denial.NotHolder)
	}
	_, err = l.temp.TakeUp(l.ctx, chains[0].Text())
	denied(t, err, denial.NotHolder)
	_, err = l.temp.TakeUp(l.ctx, "junk")
	denied(t, err, denial.BadToken)

	c, err := l.temp.TakeUp(l.ctx, text)
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest() != jws.Digest(text) {
		t.Errorf("got chain %s, want %s", c.Digest(), jws.Digest(text))
	}
	if err := l.call(); err != nil {
		t.Errorf("call by what was taken up: %v", err)
	}
	eventually(t, "the call of the other instance", func() bool {
		_, err := other.Call(l.ctx, "read:logs", nil)
		return err == nil
	})
	if again, err := l.temp.TakeUp(l.ctx, text); err != nil || again.Digest() != c.Digest() {
		t.Errorf("taking it up twice: %v", err)
	}
	if err := l.boss.EndDelegation(l.ctx, c.Digest()); err != nil {
		t.Fatal(err)
	}
	if err := l.call(); !errors.Is(err, denial.TokenTakenBack) && !errors.Is(err, denial.ScopeNotHeld) {
		t.Errorf("got %v after the end", err)
	}
	_, err = l.temp.TakeUp(l.ctx, text)
	denied(t, err, denial.TokenTakenBack)
}

// Nobody is told that a delegation has ended that somebody may still take up.
func TestEndBeforeItIsTakenUp(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	chains, err := l.boss.Chains(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	text := sign(t, l.bossDir, chains[0], "temp", time.Hour)
	denied(t, l.boss.EndDelegation(l.ctx, jws.Digest(text)), denial.UnknownChain)
	denied(t, l.temp.EndDelegation(l.ctx, text), denial.NotHolder)
	if err := l.boss.EndDelegation(l.ctx, text); err != nil {
		t.Fatal(err)
	}
	_, err = l.temp.TakeUp(l.ctx, text)
	denied(t, err, denial.TokenTakenBack)
}

// second is another instance of an agent.
func second(t *testing.T, m *devmesh.Mesh, of *meshclient.Mesh) *meshclient.Mesh {
	t.Helper()
	dir, err := m.Instance(within(t, 20*time.Second), of.ID())
	if err != nil {
		t.Fatal(err)
	}
	return connected(t, m, dir)
}
