package capability

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Root is what the authority gives an agent.
type Root struct {
	Agent        agentid.ID // who holds it
	Capabilities []Scope    // at least one; order and repetition do not matter
	Delegatable  []Scope    // what of it may be passed on; none where Depth is 0
	Depth        int        // how many delegations may follow, at most limits.Depth
	NotBefore    time.Time  // zero: at once, also on clocks that are limits.Ahead behind
	Expires      time.Time  // required; whole seconds count
}

// IssueRoot signs a root token with a tokens key and returns the text of the
// chain that consists of it. It refuses what [Verify] would refuse, with the
// same reason.
func IssueRoot(key Signer, r Root, now time.Time) (string, error) {
	if _, err := issuerOf(key); err != nil {
		return "", err
	}
	t := token{
		Head:         jws.Head{Kind: kindToken, IssuedAt: now.Unix()},
		ID:           newID(),
		Agent:        r.Agent,
		Capabilities: inOrder(r.Capabilities),
		Delegatable:  inOrder(r.Delegatable),
		Depth:        int64(r.Depth),
		NotBefore:    startOf(r.NotBefore, now, 0),
		Expires:      r.Expires.Unix(),
	}
	if err := t.issuable(now); err != nil {
		return "", err
	}
	return jws.Sign(&t, key)
}

// Delegation is what one agent lends to another.
type Delegation struct {
	To          agentid.ID
	Scopes      []Scope   // at least one, each delegatable in the parent
	Delegatable []Scope   // what To may pass on; none where Depth is 0
	Depth       int       // how many delegations may follow, fewer than the parent has left
	NotBefore   time.Time // zero: at once, also on clocks that are limits.Ahead behind
	Expires     time.Time // required, no later than the parent's; whole seconds count
}

// Delegate signs, offline, a token under the verified chain parent with the key
// of one of the holder's instances, whose passport is given, and returns the text
// of the longer chain. It refuses what [Verify] would refuse, with the same
// reason: BeyondOwn, NotDelegatable, DepthExceeded, BeyondWindow,
// DelegationCycle, NotHolder, BrokenChain and those of a single document.
// Standing is not asked for: a delegation to an agent that has none is worth
// nothing until it has.
func Delegate(parent *Chain, key Signer, passport string, d Delegation, now time.Time) (string, error) {
	if parent == nil || len(parent.hops) == 0 {
		return "", denial.New(denial.NoToken, "there is no chain to delegate from")
	}
	if err := validAt(now, parent.leaf.NotBefore, parent.expires); err != nil {
		return "", err
	}
	p, err := VerifyPassport(passport, parent.ring, now)
	if err != nil {
		return "", err
	}
	issuer, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	t := token{
		Head:         jws.Head{Kind: kindToken, Issuer: issuer, IssuedAt: now.Unix()},
		ID:           newID(),
		Agent:        d.To,
		Parent:       parent.leafDigest,
		Capabilities: inOrder(d.Scopes),
		Delegatable:  inOrder(d.Delegatable),
		Depth:        int64(d.Depth),
		NotBefore:    startOf(d.NotBefore, now, parent.leaf.NotBefore),
		Expires:      d.Expires.Unix(),
	}
	if err := t.issuable(now); err != nil {
		return "", err
	}
	if err := parent.admits(t.Agent); err != nil {
		return "", err
	}
	if err := t.follows(parent.leaf, parent.leafDigest, &p); err != nil {
		return "", err
	}
	text, err := jws.Sign(&t, key)
	if err != nil {
		return "", err
	}
	if t.Issuer != issuer {
		return "", denial.New(denial.BadInput, "the signer changed its key")
	}
	chain := parent.text + separator + passport + separator + text
	if len(chain) > limits.Chain {
		return "", denial.New(denial.TooLarge, "chain is longer than %d bytes", limits.Chain)
	}
	return chain, nil
}

// issuable is form and a window that is not over.
func (t *token) issuable(now time.Time) error {
	if err := t.form(); err != nil {
		return err
	}
	if t.Expires <= now.Unix() {
		return denial.New(denial.TokenExpired, "expired at %s, before it was issued", rfc3339(t.Expires))
	}
	return nil
}

// startOf returns when a token begins, in Unix seconds. Without a wish it begins
// a little in the past, because it is of use at once and the receiver's clock
// may be behind, yet never before its parent does.
func startOf(wish, now time.Time, parent int64) int64 {
	if !wish.IsZero() {
		return wish.Unix()
	}
	return max(now.Add(-limits.Ahead).Unix(), parent)
}
