package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// neverCertified is how long an instance may be without its first certificate: an
// enrolment that was interrupted is finished sooner or not at all.
const neverCertified = 24 * time.Hour

// Reap ends those instances of an agent that are gone and cannot come back by
// themselves: their certificate ended longer ago than sleep, for which an instance
// may renew it by its key, and they have no session. They are revoked, for ever as
// all that is revoked, and hidden: they are in no list and count against no limit.
// Their records stay. One that could be forgotten could be written back, and its key
// would be good again.
//
// Agents without a join rule are left alone. What was enrolled by hand may come back
// by hand, with a join token and the keys that it has.
func (s *Store) Reap(ctx context.Context, id agentid.ID, sleep time.Duration) (reaped []agentid.Instance, err error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	if !a.reaps() || sleep < 0 {
		return nil, nil
	}
	list, err := s.Instances(ctx, id)
	errs := []error{err}
	busy := map[agentid.Instance]bool{}
	sessions, err := s.Sessions(ctx, id)
	if err != nil {
		return nil, err // without them nobody is known to be gone
	}
	for _, e := range sessions {
		busy[e.Instance] = true
	}
	var gone []string
	for _, i := range list {
		if !busy[i.Instance] && i.lost(sleep, s.cfg.Clock()) {
			gone = append(gone, InstanceKey(id, i.Instance))
		}
	}
	ctx, keep := s.together(ctx)
	var mu sync.Mutex
	errs = append(errs, s.inParallel(gone, func(key string) error {
		_, inst, _ := splitInstanceKey(key)
		done := false
		// Looked at again in the write: it may be renewing at this moment.
		_, err := s.changeInstance(ctx, id, inst, agentid.Control.String(), "reaped", func(i *Instance) error {
			if done = i.lost(sleep, s.cfg.Clock()); !done {
				return errUnchanged
			}
			i.State, i.Reaped = InstanceRevoked, true
			i.Epoch++
			return nil
		})
		if err == nil && done {
			s.noteReaped(key)
			mu.Lock()
			defer mu.Unlock()
			reaped = append(reaped, inst)
		}
		if denial.Of(err) == denial.OlderRecord {
			return nil // named already, and refused
		}
		return err
	}), keep())
	return reaped, errors.Join(errs...)
}

// reaps reports whether instances of the agent come and go by themselves. While it
// is suspended they could not renew if they wanted to, and none is judged by that.
func (a *Agent) reaps() bool {
	return !a.Join.IsZero() && (a.Status == Active || a.Status == Expired || a.Status == Pending)
}

// lost reports whether the instance cannot come back by itself any more.
func (i *Instance) lost(sleep time.Duration, now time.Time) bool {
	if i.State == InstanceRevoked {
		return false
	}
	end := time.Unix(i.NotAfter, 0)
	if i.NotAfter == 0 {
		end = time.Unix(i.Changed.At, 0).Add(neverCertified)
	}
	return now.After(end.Add(sleep))
}

// isReaped reports whether an instance is known to be reaped, which never ends: an
// agent whose instances come and go has many of those, and no list reads them again.
func (s *Store) isReaped(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reaped[key]
}

func (s *Store) noteReaped(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reaped[key] = true
}
