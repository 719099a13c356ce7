package capability

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const kindToken = "token"

// token is the claims of a root token and of a delegated one, which differ in
// parent and signer only. The reserved members corr and aud are absent on
// purpose: a verifier that ignored a restriction would widen the token, and the
// decoder refuses every member that is not here.
type token struct {
	jws.Head
	ID           string     `json:"jti"`
	Agent        agentid.ID `json:"agent"`
	Parent       string     `json:"parent,omitempty"` // jws.Digest of the parent token
	Capabilities []Scope    `json:"capabilities"`
	Delegatable  []Scope    `json:"delegatable"`
	Depth        int64      `json:"depth"`
	NotBefore    int64      `json:"nbf"`
	Expires      int64      `json:"exp"`
}

var b64 = base64.RawURLEncoding.Strict()

const idBytes = 16

func newID() string {
	var raw [idBytes]byte
	rand.Read(raw[:]) // never fails: it ends the program instead
	return b64.EncodeToString(raw[:])
}

func isID(s string) bool {
	if len(s) != b64.EncodedLen(idBytes) || strings.ContainsAny(s, "\r\n") {
		return false
	}
	_, err := b64.DecodeString(s)
	return err == nil
}

// form checks every rule that one token can break alone.
// (docs/spec/capability.md, section "Tokens".)
func (t *token) form() error {
	switch {
	case !isID(t.ID):
		return denial.New(denial.BadToken, "jti must be 128 bits")
	case t.Agent.IsZero():
		return denial.New(denial.BadToken, "a token must name its holder")
	case t.Parent != "" && !jws.IsDigest(t.Parent):
		return denial.New(denial.BadToken, "parent must be a SHA-256")
	case t.Agent.Reserved():
		return denial.New(denial.ReservedName, "agent %q belongs to the mesh and holds no tokens", t.Agent)
	}
	if err := checkWindow(t.NotBefore, t.Expires); err != nil {
		return err
	}
	switch {
	// A null list would otherwise be one more way to write an empty one.
	case t.Capabilities == nil || t.Delegatable == nil:
		return denial.New(denial.BadToken, "capabilities and delegatable must be lists")
	case len(t.Capabilities) == 0:
		return denial.New(denial.BadToken, "a token without capabilities grants nothing")
	}
	if err := checkSet("capabilities", t.Capabilities); err != nil {
		return err
	}
	if err := checkSet("delegatable", t.Delegatable); err != nil {
		return err
	}
	for _, s := range t.Delegatable {
		if !contains(t.Capabilities, s) {
			return denial.New(denial.BeyondOwn, "%q is delegatable and not among the capabilities", s)
		}
		if !s.MayDelegate() {
			return denial.New(denial.NotDelegatable, "%q can only be given by the authority", s)
		}
	}
	switch {
	case t.Depth < 0:
		return denial.New(denial.BadToken, "depth must not be negative")
	case t.Depth > limits.Depth:
		return denial.New(denial.DepthExceeded, "depth %d is more than %d", t.Depth, limits.Depth)
	case t.Depth == 0 && len(t.Delegatable) > 0:
		return denial.New(denial.DepthExceeded, "delegatable must be empty where no delegations are left")
	}
	return nil
}

// checkSet checks that a list is the one spelling of a set of scopes that may
// stand in a token.
func checkSet(name string, set []Scope) error {
	if len(set) > limits.Scopes {
		return denial.New(denial.TooLarge, "%s has more than %d scopes", name, limits.Scopes)
	}
	for i, s := range set {
		if err := s.Grantable(); err != nil {
			return err
		}
		if i > 0 && compare(set[i-1], s) >= 0 {
			return denial.New(denial.BadToken, "%s must be sorted, each scope once: %q", name, s)
		}
	}
	return nil
}

// follows checks that t is a delegation of parent, whose digest is given, made
// with the passport's key: every rule between two neighbours of a chain.
// (docs/spec/capability.md, section "Chains".)
func (t *token) follows(parent *token, parentDigest string, passport *Passport) error {
	switch {
	case passport.Agent != parent.Agent:
		return denial.New(denial.NotHolder, "%q delegates what belongs to %q", passport.Agent, parent.Agent)
	case t.Issuer != passport.Key:
		return denial.New(denial.BrokenChain, "the delegation to %q is not signed by the key of its passport", t.Agent)
	case t.Parent != parentDigest:
		return denial.New(denial.BrokenChain, "the token of %q derives from another token than the one before it", t.Agent)
	case parent.Depth == 0:
		return denial.New(denial.DepthExceeded, "%q has no delegations left", parent.Agent)
	case t.Depth >= parent.Depth:
		return denial.New(denial.DepthExceeded, "depth %d is not less than the delegator's, %d", t.Depth, parent.Depth)
	}
	for _, s := range t.Capabilities {
		if contains(parent.Delegatable, s) {
			continue
		}
		if contains(parent.Capabilities, s) {
			return denial.New(denial.NotDelegatable, "%q holds %q and may not pass it on", parent.Agent, s)
		}
		return denial.New(denial.BeyondOwn, "%q does not hold %q", parent.Agent, s)
	}
	switch {
	case t.NotBefore < parent.NotBefore:
		return denial.New(denial.BeyondWindow, "the delegation to %q begins before what it derives from", t.Agent)
	case t.Expires > parent.Expires:
		return denial.New(denial.BeyondWindow, "the delegation to %q ends after what it derives from", t.Agent)
	}
	return nil
}

// validAt checks a window at a time.
func validAt(now time.Time, notBefore, expires int64) error {
	switch at := now.Unix(); {
	case at < notBefore:
		return denial.New(denial.TokenNotYet, "valid from %s", rfc3339(notBefore))
	case at >= expires:
		return denial.New(denial.TokenExpired, "expired at %s", rfc3339(expires))
	}
	return nil
}

func rfc3339(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
