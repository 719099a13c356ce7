package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// issueRoot signs and stores a root token over the rights; it returns the empty
// digest where there are none.
func (s *Store) issueRoot(ctx context.Context, id agentid.ID, r Rights, depth int) (string, error) {
	caps, may, err := r.Scopes()
	if err != nil {
		return "", err
	}
	if len(caps) == 0 {
		return "", nil
	}
	now, k := s.cfg.Clock(), s.signing()
	text, err := capability.IssueRoot(k.Tokens, capability.Root{
		Agent: id, Capabilities: caps, Delegatable: may, Depth: tokenDepth(r, depth),
		NotBefore: now.Add(-limits.Ahead), Expires: now.Add(s.cfg.TokenTTL),
	}, now)
	if err != nil {
		return "", err
	}
	c, err := capability.Verify(text, k.Ring, now)
	if err != nil {
		return "", fmt.Errorf("registry: token just issued does not verify: %w", err)
	}
	return c.Digest(), s.PutChain(ctx, c)
}

// tokenDepth is how often a root token over the rights may be passed on, for the
// depth of the agent's record.
func tokenDepth(r Rights, depth int) int {
	switch {
	case len(r.MayDelegate) == 0:
		return 0
	case depth == 0:
		return DefaultDepth
	}
	return depth
}

// rootIssuer is issueRoot for a change that may be tried again: the same rights
// get the same token.
func (s *Store) rootIssuer(ctx context.Context, id agentid.ID) func(Rights, int) (string, error) {
	type issued struct {
		rights Rights
		depth  int
		token  string
	}
	var last *issued
	return func(r Rights, depth int) (string, error) {
		if last != nil && last.depth == depth && last.rights.equal(r) {
			return last.token, nil
		}
		token, err := s.issueRoot(ctx, id, r, depth)
		if err == nil {
			last = &issued{r.clone(), depth, token}
		}
		return token, err
	}
}

// EndDelegation voids a delegation that the agent itself signed, until it would
// have ended anyway on every clock.
func (s *Store) EndDelegation(ctx context.Context, issuer agentid.ID, token string, expires time.Time) (*Agent, error) {
	if !jws.IsDigest(token) {
		return nil, denial.New(denial.BadInput, "not the digest of a delegation")
	}
	return s.changeAgent(ctx, issuer, issuer.String(), "ended a delegation", s.void(token, expires))
}

func (s *Store) void(token string, expires time.Time) func(*Agent) error {
	return func(a *Agent) error {
		// A receiver may be as far behind as messages may be old.
		over := s.cfg.Clock().Add(-limits.Window).Unix()
		switch {
		case a.Status == Revoked:
			return errUnchanged // all that it delegated is void for ever
		case a.NotVoided(token) != nil, expires.Unix() < over:
			return errUnchanged
		}
		a.Voided = slices.DeleteFunc(a.Voided, func(v Void) bool { return v.Expires < over })
		if len(a.Voided) >= limits.Voided {
			return denial.New(denial.QuotaExceeded, "agent %q has ended %d delegations that still run", a.Agent, len(a.Voided))
		}
		a.Voided = append(a.Voided, Void{Token: token, Expires: expires.Unix()})
		return a.checkSize()
	}
}

// RenewTokens issues the root tokens of agents anew whose life is half over, and
// drops those that ended. The old ones run on to their own end, so that what was
// delegated under them does too. An agent that fails is named in the error; the
// others are renewed.
func (s *Store) RenewTokens(ctx context.Context) error {
	agents, err := s.Agents(ctx, false)
	errs := []error{err}
	for _, a := range agents {
		if a.Status == Revoked || len(a.Tokens) == 0 && !a.Rights.scoped() {
			continue
		}
		_, err := s.RenewTokensOf(ctx, a.Agent)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RenewTokensOf is RenewTokens for one agent, and returns its record.
func (s *Store) RenewTokensOf(ctx context.Context, id agentid.ID) (*Agent, error) {
	issue := s.rootIssuer(ctx, id)
	return s.changeAgent(ctx, id, agentid.Control.String(), "tokens renewed", func(a *Agent) error {
		if a.Status == Revoked || len(a.Tokens) == 0 && !a.Rights.scoped() {
			return errUnchanged
		}
		return s.renewTokens(ctx, a, issue)
	})
}

func (s *Store) renewTokens(ctx context.Context, a *Agent, issue func(Rights, int) (string, error)) error {
	now, k := s.cfg.Clock(), s.signing()
	// Nothing that is issued now would outlive the key that signs it.
	half := s.signingUntil(now).Sub(now) / 2
	var live []*capability.Chain
	fresh := false
	for _, digest := range a.Tokens {
		c, err := s.Chain(ctx, digest)
		switch {
		case denial.Of(err) == denial.UnknownChain, denial.Of(err) == denial.TokenExpired, denial.Of(err) == denial.UnknownSigner:
			continue // ended, or its signing key was taken away
		case err != nil:
			return err
		}
		live = append(live, c)
		fresh = fresh || c.Expires().Sub(now) > half && covers(c, a.Rights) && !slices.Contains(k.Leaving, c.Hops()[0].Key)
	}
	if fresh && len(live) == len(a.Tokens) {
		return errUnchanged
	}
	if !fresh && len(live) >= limits.LiveTokens {
		// The one that ends first makes room: without a new one, all rights would
		// end with the last of them.
		slices.SortStableFunc(live, func(x, y *capability.Chain) int { return x.Expires().Compare(y.Expires()) })
		live = live[len(live)-limits.LiveTokens+1:]
	}
	a.Tokens = nil
	for _, c := range live {
		a.Tokens = append(a.Tokens, c.Digest())
	}
	if !fresh {
		token, err := issue(a.Rights, a.Depth)
		if err != nil {
			return err
		}
		if token != "" {
			a.Tokens = append(a.Tokens, token)
		}
	}
	return nil
}

// covers reports whether the token alone gives all the rights.
func covers(c *capability.Chain, r Rights) bool {
	caps, may, err := r.Scopes()
	if err != nil {
		return false
	}
	for _, s := range caps {
		if !c.Has(s) {
			return false
		}
	}
	return !slices.ContainsFunc(may, func(s capability.Scope) bool { return !slices.Contains(c.Delegatable(), s) })
}
