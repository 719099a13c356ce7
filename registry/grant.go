package registry

import (
	"context"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Grant adds rights under a further root token, so that what was delegated
// under the older ones lives on; plain rights need no token. A depth other than
// zero is the agent's from now on, also where its tokens are renewed. Granting
// what is held already changes nothing.
func (s *Store) Grant(ctx context.Context, id agentid.ID, r Rights, depth int, by string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	if r.IsZero() {
		return nil, denial.New(denial.BadInput, "no right to grant is named")
	}
	if depth < 0 || depth > limits.Depth {
		return nil, denial.New(denial.DepthExceeded, "depth %d is not 0 to %d", depth, limits.Depth)
	}
	issue := s.rootIssuer(ctx, id)
	return s.changeAgent(ctx, id, by, "granted", func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		union := a.Rights.Union(r)
		if err := s.checkRights(union); err != nil {
			return err
		}
		otherDepth := depth != 0 && depth != a.Depth
		if union.equal(a.Rights) && !otherDepth {
			return errUnchanged
		}
		// What the tokens say already, or cannot say, needs none.
		needsToken := !union.scopes().equal(a.Rights.scopes()) || otherDepth && !r.scopes().IsZero()
		if needsToken && len(a.Tokens) >= limits.LiveTokens {
			return denial.New(denial.QuotaExceeded, "agent %q has %d root tokens; ungrant some first", id, len(a.Tokens))
		}
		// The new token must stand alone: what it may pass on it must itself hold.
		own := r.scopes().Union(Rights{})
		for _, m := range r.MayDelegate {
			own = own.Union(holding(m, a.Rights))
		}
		if depth != 0 {
			a.Depth = depth
		}
		a.Rights = union
		if err := a.checkSize(); err != nil || !needsToken {
			return err
		}
		token, err := issue(own, a.Depth)
		if err != nil {
			return err
		}
		a.Tokens = append(a.Tokens, token)
		return nil
	})
}

// holding returns the part of r that gives the scope.
func holding(s capability.Scope, r Rights) Rights {
	one := Rights{}
	if h, ok := s.Handled(); ok && slices.Contains(r.Handle, h) {
		one.Handle = []capability.Scope{h}
	}
	if slices.Contains(r.Call, s) {
		one.Call = []capability.Scope{s}
	}
	if s.Verb() == "publish" && slices.Contains(r.Publish, s.Dotted()) {
		one.Publish = []string{s.Dotted()}
	}
	if s.Verb() == "subscribe" && slices.Contains(r.Subscribe, s.Dotted()) {
		one.Subscribe = []string{s.Dotted()}
	}
	return one
}

// Ungrant takes rights back: every root token that holds one of them ends, what
// is left of it is issued anew, and the epoch rises, which cuts open sessions.
// Where plain rights alone are taken, tokens and what was delegated stay.
func (s *Store) Ungrant(ctx context.Context, id agentid.ID, r Rights, by string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	change, err := s.ungrant(ctx, id, r, s.rootIssuer(ctx, id))
	if err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, "ungranted", change)
}

// ungrant is the change that Ungrant makes to a record.
func (s *Store) ungrant(ctx context.Context, id agentid.ID, r Rights, issue func(Rights, int) (string, error)) (func(*Agent) error, error) {
	if r.IsZero() {
		return nil, denial.New(denial.BadInput, "no right to take back is named")
	}
	gone, _, err := Rights{Call: r.Call, Handle: r.Handle, Publish: r.Publish, Subscribe: r.Subscribe}.Scopes()
	if err != nil {
		return nil, err
	}
	return func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		held, may, err := a.Rights.Scopes()
		if err != nil {
			return err
		}
		for _, g := range gone {
			if !slices.Contains(held, g) {
				return denial.New(denial.NotFound, "agent %q does not hold %q", id, g)
			}
		}
		for _, m := range r.MayDelegate {
			if !slices.Contains(may, m) {
				return denial.New(denial.NotFound, "agent %q may not delegate %q", id, m)
			}
		}
		if right := a.Rights.Plain.notHeld(r.Plain); right != "" {
			return denial.New(denial.NotFound, "agent %q does not hold the plain right to %q", id, right)
		}
		if a.Rights, err = a.Rights.Without(r); err != nil {
			return err
		}
		a.Epoch++
		if r.scopes().IsZero() {
			return nil
		}
		var keep []string
		for _, digest := range a.Tokens {
			c, err := s.Chain(ctx, digest)
			if err != nil && denial.Of(err) == "" {
				return err // unknown is not ended: another try may read it
			}
			if err == nil && !touches(c, gone, r.MayDelegate) {
				keep = append(keep, digest)
			}
		}
		if len(keep) < len(a.Tokens) {
			token, err := issue(a.Rights, a.Depth)
			if err != nil {
				return err
			}
			if token != "" {
				keep = append(keep, token)
			}
		}
		a.Tokens = keep
		return nil
	}, nil
}

func touches(c *capability.Chain, held, delegatable []capability.Scope) bool {
	for _, s := range held {
		if c.Has(s) {
			return true
		}
	}
	for _, s := range delegatable {
		if slices.Contains(c.Delegatable(), s) {
			return true
		}
	}
	return false
}
