package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// ExpireInstance is the monitor's verdict on an instance whose beats stopped.
// It is a compare-and-set on the epochs that the monitor watched: an instance
// that was readmitted meanwhile is left alone (denial.Conflict). When the last
// instance that had not left is gone, the agent expires with it. A verdict that
// failed between the two is finished by repeating it.
func (s *Store) ExpireInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, epoch uint64, reason string) error {
	const by = "monitor"
	again := false
	_, err := s.changeInstance(ctx, id, inst, by, reason, func(i *Instance) error {
		if again = i.State == InstanceExpired && i.Epoch == epoch+1; again {
			return errUnchanged
		}
		if i.State != Online || i.Epoch != epoch {
			return denial.New(denial.Conflict, "%s/%s is %s in epoch %d", id, inst, i.State, i.Epoch)
		}
		i.expire(s.cfg.Clock())
		return nil
	})
	if err != nil {
		return err
	}
	changed := false
	_, err = s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		changed = false
		if a.Status != Active {
			return errUnchanged
		}
		// Read after the instance was written and from the leader: of two
		// verdicts at once the later one sees both, so the agent does not stay
		// active with nobody left.
		list, err := s.Instances(ctx, id)
		if err != nil {
			return err
		}
		if anyOnline(list, a) {
			return errUnchanged
		}
		a.Status = Expired
		a.Epoch++
		changed = true
		return nil
	})
	if err == nil && again && !changed {
		return denial.New(denial.Conflict, "%s/%s expired already", id, inst)
	}
	return err
}

// errLive keeps an agent alive whose instance this monitor has not heard of yet.
var errLive = errors.New("registry: the agent has an instance that is online")

// ExpireAgent is the monitor's verdict on an agent that must always have a live
// instance and has none. A monitor that was cut off, or is behind, may not know
// of one that has come back: the agent then stays as it is, and the error is no
// refusal, so that it is asked again while none is known.
func (s *Store) ExpireAgent(ctx context.Context, id agentid.ID, epoch uint64, reason string) error {
	_, err := s.changeAgent(ctx, id, "monitor", reason, func(a *Agent) error {
		if a.Status != Active || a.Epoch != epoch {
			return denial.New(denial.Conflict, "%q is %s in epoch %d", id, a.Status, a.Epoch)
		}
		list, err := s.Instances(ctx, id)
		if err != nil {
			return err
		}
		if anyOnline(list, a) {
			return fmt.Errorf("%w: %s", errLive, id)
		}
		a.Status = Expired
		a.Epoch++
		return nil
	})
	return err
}

func anyOnline(list []*Instance, a *Agent) bool {
	return slices.ContainsFunc(list, func(i *Instance) bool { return i.State == Online && i.Belongs(a) == nil })
}

// Leave records a polite exit: no alarm, no epoch.
func (s *Store) Leave(ctx context.Context, id agentid.ID, inst agentid.Instance) error {
	_, err := s.changeInstance(ctx, id, inst, id.String(), "left", func(i *Instance) error {
		if i.State != Online {
			return errUnchanged
		}
		i.State = Left
		return nil
	})
	return err
}
