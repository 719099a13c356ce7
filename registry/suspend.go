package registry

import (
	"context"
	"errors"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// mayOperate refuses operations on the names of the mesh itself: a join token
// for control would make its holder the control plane.
func mayOperate(id agentid.ID) error {
	if id.Reserved() {
		return denial.New(denial.ReservedName, "%q belongs to the mesh itself", id)
	}
	return nil
}

// Suspend takes an agent out until Resume. The epoch rises, so that everything
// it holds is cut. It also sets a record right that was replaced by an older copy
// of itself, and those of its instances, so that somebody can look at them.
func (s *Store) Suspend(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	ctx, keep := s.together(ctx)
	a, err := s.mendAgent(ctx, id, by, reason, true, suspend)
	if err != nil {
		return nil, err
	}
	return a, errors.Join(s.reinstateAll(ctx, id), keep())
}

func suspend(a *Agent) error {
	switch a.Status {
	case Suspended:
		return errUnchanged
	case Active, Expired:
	default:
		return denial.New(denial.WrongState, "agent %q is %s", a.Agent, a.Status)
	}
	a.Status = Suspended
	a.Epoch++
	return nil
}
