package registry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// A chain by which events were published is read for as long as they may wait,
// and no longer counts for anything else.
func TestChainsOfPublishersOutliveThemselves(t *testing.T) {
	w := newWorld(t)
	s, r, ctx := w.store(), w.raw(), w.ctx()
	w.add(s, bob, func(n *registry.NewAgent) {
		n.Rights.Publish = []string{"news"}
		n.Rights.MayDelegate = append(n.Rights.MayDelegate, capability.RequireScope("publish:news"))
	})
	w.add(s, carol)
	w.active(s, bob, "bob 1")
	w.active(s, carol, "carol 1")
	kp := key(t, nkeys.PrefixByteUser, "bob 1")
	i := w.instance(s, bob, agentid.InstanceOf(public(t, kp)))
	lend := func(scope string) *capability.Chain {
		text, err := capability.Delegate(w.chain(s, bob, scope), kp, i.Passport, capability.Delegation{
			To: carol, Scopes: scopes(scope), Expires: w.clock.Now().Add(time.Hour),
		}, w.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Upload(ctx, bob, text)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ttl := func(key string) time.Duration {
		text := r.get(registry.ChainsBucket, key).Header.Get("Nats-TTL")
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("%s lives %q", key, text)
		}
		return d
	}
	early := lend("publish:news")
	if _, err := s.SetTopic(ctx, registry.Topic{Topic: "news", MaxAge: 7200}, "admin"); err != nil {
		t.Fatal(err)
	}
	w.clock.add(time.Second) // else the same delegation would be made again
	events, calls := lend("publish:news"), lend("write:reports")
	const life = time.Hour + time.Second
	for key, want := range map[string]time.Duration{
		events.Digest(): life + 2*time.Hour, "kept.bob." + events.Digest(): life + 2*time.Hour, calls.Digest(): life,
		early.Digest():                  life, // the topic was an ordinary one
		"held.carol." + events.Digest(): life, "by.bob." + events.Digest(): life,
	} {
		if got := ttl(key); got != want {
			t.Errorf("%s lives %v, want %v", key, got, want)
		}
	}
	// Only so many are kept after their end.
	for i := range limits.KeptChains {
		r.put(registry.ChainsBucket, fmt.Sprintf("kept.bob.x%d", i), "x")
	}
	w.clock.add(time.Second)
	text, err := capability.Delegate(w.chain(s, bob, "publish:news"), kp, i.Passport, capability.Delegation{
		To: carol, Scopes: scopes("publish:news"), Expires: w.clock.Now().Add(time.Hour),
	}, w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Upload(ctx, bob, text)
	wantReason(t, "one too many", err, denial.QuotaExceeded)
	lend("write:reports")
	w.clock.add(2 * time.Hour)
	_, err = s.Chain(ctx, events.Digest())
	wantReason(t, "one that has ended", err, denial.TokenExpired)
}
