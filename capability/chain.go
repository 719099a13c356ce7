package capability

import (
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Chain is a verified chain: a root token and its delegations. It is immutable
// and safe for concurrent use; nil and the zero Chain grant nothing.
type Chain struct {
	text       string
	digest     string
	ring       *Keyring // the one it was verified with
	hops       []Hop
	leaf       *token // its last token
	leafDigest string
	expires    int64 // Unix seconds: the last token's end, or a signing key's before
}

// Hop is one token of a chain.
type Hop struct {
	By      agentid.ID // who gave it; zero: the authority
	Key     string     // public nkey that signed it
	To      agentid.ID // who holds it
	Token   string     // digest of that token
	Scopes  []Scope
	Issued  time.Time // the signer's word
	Expires time.Time
}

// Text returns the chain as it was verified.
func (c *Chain) Text() string {
	if c == nil {
		return ""
	}
	return c.text
}

// Digest returns the name of the chain: the digest of its text.
func (c *Chain) Digest() string {
	if c == nil {
		return ""
	}
	return c.digest
}

// Holder returns the agent that the chain gives something to. The chain is worth
// nothing to anybody else.
func (c *Chain) Holder() agentid.ID {
	if c == nil || c.leaf == nil {
		return agentid.ID{}
	}
	return c.leaf.Agent
}

// Scopes returns what the holder may do, sorted.
func (c *Chain) Scopes() []Scope {
	if c == nil || c.leaf == nil {
		return nil
	}
	return slices.Clone(c.leaf.Capabilities)
}

// Has reports whether the chain grants s.
func (c *Chain) Has(s Scope) bool {
	return c != nil && c.leaf != nil && contains(c.leaf.Capabilities, s)
}

// Delegatable returns what the holder may pass on, sorted.
func (c *Chain) Delegatable() []Scope {
	if c == nil || c.leaf == nil {
		return nil
	}
	return slices.Clone(c.leaf.Delegatable)
}

// Depth returns how many delegations may follow.
func (c *Chain) Depth() int {
	if c == nil || c.leaf == nil {
		return 0
	}
	return int(c.leaf.Depth)
}

// NotBefore returns when the chain begins.
func (c *Chain) NotBefore() time.Time {
	if c == nil || c.leaf == nil {
		return time.Time{}
	}
	return time.Unix(c.leaf.NotBefore, 0).UTC()
}

// Expires returns when the chain ends at the latest: with its last token, or
// before that with the certificate of a signing key in it, unless it is verified
// again with a keyring that has a newer one.
func (c *Chain) Expires() time.Time {
	if c == nil || c.leaf == nil {
		return time.Time{}
	}
	return time.Unix(c.expires, 0).UTC()
}

// Hops returns the tokens of the chain, the root token first.
func (c *Chain) Hops() []Hop {
	if c == nil {
		return nil
	}
	out := slices.Clone(c.hops)
	for i := range out {
		out[i].Scopes = slices.Clone(out[i].Scopes)
	}
	return out
}

// admits refuses to lead a chain back to an agent that is in it. That agent
// holds more already, so nothing is lost; and whoever reads the chain sees every
// agent once.
func (c *Chain) admits(to agentid.ID) error {
	for _, h := range c.hops {
		if h.To == to {
			return denial.New(denial.DelegationCycle, "agent %q is in this chain already", to)
		}
	}
	return nil
}

// Directory is what only the registry knows. Its methods return nil for yes. For
// no they return a denial that says why: UnlistedAgent, UnlistedKey, Pending,
// Suspended, Expired, Revoked, StaleEpoch, TokenTakenBack or NotFound. Every
// other error means that the question could not be answered. Implementations
// MUST be safe for concurrent use.
type Directory interface {
	// Standing: the agent is active now.
	Standing(agent agentid.ID) error
	// SignerStanding: the key is an instance of the agent that is not revoked.
	// One that merely went away still stands.
	SignerStanding(agent agentid.ID, key string) error
	// TokenLive: the root token with this digest is listed in its holder's record.
	TokenLive(holder agentid.ID, token string) error
	// NotVoided: the issuer has not taken back the delegation with this digest.
	NotVoided(issuer agentid.ID, token string) error
}

// Check asks whether the chain is worth something at this moment: its window and
// the standing of everybody in it. It refuses with TokenNotYet, TokenExpired,
// TokenTakenBack or DelegatorCut; the directory's own refusal is wrapped in the
// last two. What the directory cannot answer is refused too, with the reason that
// it gave or RegistryUnavailable, so that a caller knows that trying again may
// help. Check runs for each use; it costs no signature.
func (c *Chain) Check(now time.Time, d Directory) error {
	if c == nil || len(c.hops) == 0 {
		return denial.New(denial.NoToken, "there is no chain")
	}
	if d == nil {
		return denial.New(denial.RegistryUnavailable, "there is no directory to ask")
	}
	if err := validAt(now, c.leaf.NotBefore, c.expires); err != nil {
		return err
	}
	// Standing first: revoking an agent takes its tokens back as well, and that it
	// was cut says more.
	for _, h := range c.hops {
		if err := d.Standing(h.To); err != nil {
			return refused(denial.DelegatorCut, fmt.Sprintf("agent %q", h.To), err)
		}
	}
	root := c.hops[0]
	if err := d.TokenLive(root.To, root.Token); err != nil {
		return refused(denial.TokenTakenBack, fmt.Sprintf("root token of %q", root.To), err)
	}
	for _, h := range c.hops {
		if h.By.IsZero() {
			continue
		}
		if err := d.SignerStanding(h.By, h.Key); err != nil {
			return refused(denial.DelegatorCut, fmt.Sprintf("instance %q/%s", h.By, agentid.InstanceOf(h.Key)), err)
		}
		if err := d.NotVoided(h.By, h.Token); err != nil {
			return refused(denial.TokenTakenBack, fmt.Sprintf("delegation of %q to %q", h.By, h.To), err)
		}
	}
	return nil
}

// refused turns a directory's no into the chain's, and keeps its do-not-know
// apart: the first is final for the caller, the second is worth another try.
func refused(reason denial.Reason, what string, err error) error {
	switch denial.Of(err) {
	case denial.UnlistedAgent, denial.UnlistedKey, denial.Pending, denial.Suspended, denial.Expired,
		denial.Revoked, denial.StaleEpoch, denial.TokenTakenBack, denial.NotFound:
		return denial.New(reason, "%s: %w", what, err)
	case "":
		return denial.New(denial.RegistryUnavailable, "%s: %w", what, err)
	default:
		return fmt.Errorf("capability: %s: %w", what, err)
	}
}
