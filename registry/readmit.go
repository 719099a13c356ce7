package registry

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Admissible returns why no instance of the agent is let in, and nil where it is
// active, or expired and comes back by an attestation.
func (a *Agent) Admissible() error {
	err := a.Status.Standing()
	switch {
	case err == nil, a.Status == Expired && a.Readmit == ReadmitAttestation:
		return nil
	case a.Status == Expired:
		return denial.New(denial.Expired, "agent %q is expired and comes back by an operator only", a.Agent)
	}
	return denial.New(denial.Of(err), "agent %q is %s", a.Agent, a.Status)
}

// Admissible returns why the instance of a is not let in, and nil where its key
// counts, or where it is expired and an attestation brings it back now. The
// policy is the agent's also where that is active because of its other
// instances: what only an operator may bring back is each of them.
func (i *Instance) Admissible(a *Agent, now time.Time) error {
	if err := i.Belongs(a); err != nil {
		return err
	}
	err := i.State.Standing()
	switch {
	case err == nil:
		return nil
	case i.State != InstanceExpired:
		return denial.New(denial.Of(err), "instance %s/%s is %s", i.Agent, i.Instance, i.State)
	case a.Readmit != ReadmitAttestation:
		return denial.New(denial.Expired, "instance %s/%s is expired and comes back by an operator only", i.Agent, i.Instance)
	}
	if flaps, until := i.Flapping(now); !until.IsZero() {
		return denial.New(denial.Flapping, "instance %s/%s came back %d times, each within an hour of the last, and is not let in again before %s",
			i.Agent, i.Instance, flaps, until.UTC().Format(time.RFC3339))
	}
	return nil
}

// Attest records that an instance proved itself in full (key, certificate,
// tokens) and is online; an empty host leaves the recorded one. From expired it
// comes back under a new epoch, unless the agent's readmission is manual or it
// did so too often (denial.Flapping).
func (s *Store) Attest(ctx context.Context, id agentid.ID, inst agentid.Instance, host string) (*Agent, *Instance, error) {
	if err := mayOperate(id); err != nil {
		return nil, nil, err
	}
	by := id.String()
	host = plain(host)
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	i, err := s.Instance(ctx, id, inst)
	if err != nil {
		return nil, nil, err
	}
	// Before the agent comes back: an instance that has to wait brings nobody back.
	if err := i.Admissible(a, s.cfg.Clock()); err != nil {
		return nil, nil, err
	}
	if a.Status == Expired {
		a, err = s.changeAgent(ctx, id, by, "readmitted by attestation", func(a *Agent) error {
			if a.Status != Expired {
				return errUnchanged
			}
			if err := a.Admissible(); err != nil {
				return err
			}
			a.Status = Active
			a.Epoch++
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := a.Status.Standing(); err != nil {
		return nil, nil, denial.New(denial.Of(err), "agent %q is %s", id, a.Status)
	}
	i, err = s.changeInstance(ctx, id, inst, by, "attested", func(i *Instance) error {
		now := s.cfg.Clock()
		if err := i.Admissible(a, now); err != nil {
			return err
		}
		switch {
		case i.State == InstanceExpired:
			i.readmit(now)
		case i.State == Online && (host == "" || i.Host == host):
			return errUnchanged
		}
		i.State = Online
		if host != "" {
			i.Host = host
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return a, i, nil
}

// Resume brings a suspended or expired agent back. From expired it is a
// readmission, under a new epoch: what was signed meanwhile stays void. Its
// expired instances are resumed with it, also where the agent itself is active.
func (s *Store) Resume(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	a, err := s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		switch a.Status {
		case Active:
			return errUnchanged
		case Suspended:
		case Expired:
			a.Epoch++
		default:
			return denial.New(denial.WrongState, "agent %q is %s", id, a.Status)
		}
		a.Status = Active
		return nil
	})
	if err != nil {
		return nil, err
	}
	list, err := s.Instances(ctx, id)
	errs := []error{err}
	for _, i := range list {
		if i.State == InstanceRevoked || i.Belongs(a) != nil {
			continue
		}
		_, err := s.changeInstance(ctx, id, i.Instance, by, reason, resumeInstance(a))
		errs = append(errs, err)
	}
	return a, errors.Join(errs...)
}

// ResumeInstance is Resume for one instance, and leaves the agent and the others
// as they are.
func (s *Store) ResumeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	if a.Status != Active {
		return nil, denial.New(denial.WrongState, "agent %q is %s", id, a.Status)
	}
	_, err = s.changeInstance(ctx, id, inst, by, reason, resumeInstance(a))
	return a, err
}

// resumeInstance is what an operator does for an instance: how often it flapped
// is forgotten, and where nothing else may bring it back, it is. It is as one
// that left, away and with a key that counts, under a new epoch.
func resumeInstance(a *Agent) func(*Instance) error {
	return func(i *Instance) error {
		if err := i.Belongs(a); err != nil {
			return err
		}
		back := i.State == InstanceExpired && a.Readmit != ReadmitAttestation
		switch {
		case i.State == InstanceRevoked:
			return denial.New(denial.WrongState, "instance %s/%s is revoked for ever", i.Agent, i.Instance)
		case !back && i.Flaps == 0 && i.Readmitted == 0 && i.NotBefore == 0:
			return errUnchanged
		}
		i.Flaps, i.Readmitted, i.NotBefore = 0, 0, 0
		if back {
			i.State = Left
			i.Epoch++
		}
		return nil
	}
}
