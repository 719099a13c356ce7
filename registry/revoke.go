package registry

import (
	"context"
	"errors"

	"github.com/sealmesh/sealmesh/agentid"
)

// Revoke ends an agent for ever: its keys, tokens and epochs. Only the
// tombstone stays. It is also how a record is set right that was replaced by an
// older copy of itself.
func (s *Store) Revoke(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	ctx, keep := s.together(ctx)
	a, err := s.mendAgent(ctx, id, by, reason, true, revoke)
	if err != nil {
		return nil, err
	}
	err = s.revokeInstances(ctx, id, by, reason)
	s.settle(id)
	return a, errors.Join(err, keep())
}

func revoke(a *Agent) error {
	if a.Status == Revoked {
		return errUnchanged
	}
	a.Status = Revoked
	a.Tokens, a.Voided, a.Durables = nil, nil, nil
	a.Epoch++
	return nil
}

// Remove revokes an agent and hides it from lists. The tombstone stays: a name
// that could be forgotten could be taken again under an old epoch.
func (s *Store) Remove(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	if _, err := s.Revoke(ctx, id, by, reason); err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		if a.Removed {
			return errUnchanged
		}
		a.Removed = true
		return nil
	})
}

func (s *Store) revokeInstances(ctx context.Context, id agentid.ID, by, reason string) error {
	// One record that cannot be read must not shield the others.
	list, err := s.Instances(ctx, id)
	errs := []error{err}
	for _, i := range list {
		_, err := s.RevokeInstance(ctx, id, i.Instance, by, reason)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RevokeInstance ends one instance's key for ever; the others work on.
func (s *Store) RevokeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string) (*Instance, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	return s.mendInstance(ctx, id, inst, by, reason, true, func(i *Instance) error {
		if i.State == InstanceRevoked {
			return errUnchanged
		}
		i.State = InstanceRevoked
		i.Epoch++
		return nil
	})
}
