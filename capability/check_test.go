package capability_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// directory answers from a table of refusals; whatever is not in it stands.
type directory struct{ no map[string]error }

func everybodyStands() directory { return directory{map[string]error{}} }

func (d directory) Standing(a agentid.ID) error { return d.no["agent "+a.String()] }
func (d directory) SignerStanding(a agentid.ID, key string) error {
	return d.no["signer "+a.String()+" "+key]
}
func (d directory) TokenLive(a agentid.ID, token string) error {
	return d.no["token "+a.String()+" "+token]
}
func (d directory) NotVoided(a agentid.ID, token string) error {
	return d.no["void "+a.String()+" "+token]
}

// Whoever in the chain loses its standing ends it for everybody after it, and
// what cannot be known is refused without being called a refusal. (Attack 32.)
func TestCheck(t *testing.T) {
	w := newWorld(t)
	c := w.three()
	hops := c.Hops()
	if err := c.Check(now, everybodyStands()); err != nil {
		t.Fatalf("everybody stands: %v", err)
	}
	no := func(r denial.Reason) error { return denial.New(r, "since the test says so") }
	cases := []struct {
		name  string
		who   string
		err   error
		want  denial.Reason
		cause denial.Reason
	}{
		{"root token taken back", "token orchestrator " + hops[0].Token, no(denial.TokenTakenBack), denial.TokenTakenBack, denial.TokenTakenBack},
		{"root token not listed", "token orchestrator " + hops[0].Token, no(denial.NotFound), denial.TokenTakenBack, denial.NotFound},
		{"first delegation voided", "void orchestrator " + hops[1].Token, no(denial.TokenTakenBack), denial.TokenTakenBack, denial.TokenTakenBack},
		{"last delegation voided", "void reader " + hops[2].Token, no(denial.TokenTakenBack), denial.TokenTakenBack, denial.TokenTakenBack},
		{"root's holder suspended", "agent orchestrator", no(denial.Suspended), denial.DelegatorCut, denial.Suspended},
		{"delegator expired", "agent reader", no(denial.Expired), denial.DelegatorCut, denial.Expired},
		{"delegator revoked", "agent reader", no(denial.Revoked), denial.DelegatorCut, denial.Revoked},
		{"delegator unknown", "agent reader", no(denial.UnlistedAgent), denial.DelegatorCut, denial.UnlistedAgent},
		{"holder suspended", "agent helper", no(denial.Suspended), denial.DelegatorCut, denial.Suspended},
		{"holder pending", "agent helper", no(denial.Pending), denial.DelegatorCut, denial.Pending},
		{"first signer's instance revoked", "signer orchestrator " + hops[1].Key, no(denial.Revoked), denial.DelegatorCut, denial.Revoked},
		{"last signer's instance unknown", "signer reader " + hops[2].Key, no(denial.UnlistedKey), denial.DelegatorCut, denial.UnlistedKey},
		{"registry away", "agent reader", no(denial.RegistryUnavailable), denial.RegistryUnavailable, denial.RegistryUnavailable},
		{"feed stale", "agent reader", no(denial.FeedStale), denial.FeedStale, denial.FeedStale},
		{"unexplained trouble", "token orchestrator " + hops[0].Token, context.DeadlineExceeded, denial.RegistryUnavailable, ""},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			err := c.Check(now, directory{map[string]error{x.who: x.err}})
			wantReason(t, err, x.want)
			if x.cause != "" && !errors.Is(err, x.cause) {
				t.Errorf("got %v, want it to wrap %s", err, x.cause)
			}
			if !errors.Is(err, x.err) {
				t.Errorf("got %v, want it to wrap the directory's error", err)
			}
		})
	}
	// The answers about one key say nothing about another: nothing else is asked.
	other := directory{map[string]error{
		"agent stranger":                     no(denial.Revoked),
		"signer orchestrator " + hops[2].Key: no(denial.Revoked),
		"token reader " + hops[0].Token:      no(denial.TokenTakenBack),
		"void helper " + hops[2].Token:       no(denial.TokenTakenBack),
	}}
	if err := c.Check(now, other); err != nil {
		t.Errorf("refusals about others: %v", err)
	}
}

func TestCheckWindow(t *testing.T) {
	w := newWorld(t)
	c := w.three()
	wantReason(t, c.Check(c.Expires(), everybodyStands()), denial.TokenExpired)
	wantReason(t, c.Check(c.NotBefore().Add(-time.Second), everybodyStands()), denial.TokenNotYet)
	if err := c.Check(c.Expires().Add(-time.Second), everybodyStands()); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	wantReason(t, c.Check(now, nil), denial.RegistryUnavailable)
}

var _ capability.Directory = directory{}

// nobodyAsks is a directory that costs nothing.
type nobodyAsks struct{}

func (nobodyAsks) Standing(agentid.ID) error               { return nil }
func (nobodyAsks) SignerStanding(agentid.ID, string) error { return nil }
func (nobodyAsks) TokenLive(agentid.ID, string) error      { return nil }
func (nobodyAsks) NotVoided(agentid.ID, string) error      { return nil }

// Check runs for each message; what it allocates, everybody who may send one
// makes the receiver collect.
func TestCheckAllocatesNothing(t *testing.T) {
	c := newWorld(t).three()
	if n := testing.AllocsPerRun(100, func() {
		if err := c.Check(now, nobodyAsks{}); err != nil || !c.Has(capability.RequireScope("read:logs")) || c.Holder().IsZero() {
			t.Error("the chain is worth nothing")
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
