package registry

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
)

// The methods below return an agent's record as an operation would leave it, by
// the very change that the operation makes, and write nothing. They refuse what
// it would refuse.

// WouldSuspend is the record after Suspend.
func (s *Store) WouldSuspend(ctx context.Context, id agentid.ID) (*Agent, error) {
	return s.would(ctx, id, suspend)
}

// WouldRevoke is the record after Revoke, which takes all instances along.
func (s *Store) WouldRevoke(ctx context.Context, id agentid.ID) (*Agent, error) {
	return s.would(ctx, id, revoke)
}

// WouldUngrant is the record after Ungrant, less the token that would be issued
// over the rights that are left.
func (s *Store) WouldUngrant(ctx context.Context, id agentid.ID, r Rights) (*Agent, error) {
	change, err := s.ungrant(ctx, id, r, func(Rights, int) (string, error) { return "", nil })
	if err != nil {
		return nil, err
	}
	return s.would(ctx, id, change)
}

// WouldEnd is the record after EndDelegation.
func (s *Store) WouldEnd(ctx context.Context, issuer agentid.ID, token string, expires time.Time) (*Agent, error) {
	return s.would(ctx, issuer, s.void(token, expires))
}

func (s *Store) would(ctx context.Context, id agentid.ID, change func(*Agent) error) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	a = a.clone()
	if err := change(a); err != nil && !errors.Is(err, errUnchanged) {
		return nil, err
	}
	return a, nil
}

// Delegations returns the stored delegated chains in which the agent lends
// something or holds it. What does not verify, or has ended by time, is left out.
func (s *Store) Delegations(ctx context.Context, id agentid.ID) ([]*capability.Chain, error) {
	var out []*capability.Chain
	err := s.each(ctx, ChainsBucket, "*", func(_ string, value []byte) error {
		if !strings.Contains(string(value), "~") {
			return nil // a root token alone
		}
		c, err := capability.Verify(string(value), s.Ring(), s.cfg.Clock())
		if err != nil {
			return nil
		}
		for _, h := range c.Hops()[1:] {
			if h.By == id || h.To == id {
				out = append(out, c)
				break
			}
		}
		return nil
	})
	return out, err
}
