package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Older is a record that is older in the registry than one that was seen, or that
// is not there at all any more.
type Older struct {
	Key   string
	Known Floor
	Found Floor // zero: there is none
}

// Older lists the records that were found older, or gone, and were not set right
// since, by key.
func (s *Store) Older() []Older {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Older, 0, len(s.older))
	for _, key := range slices.Sorted(maps.Keys(s.older)) {
		out = append(out, s.older[key])
	}
	return out
}

func (s *Store) noteOlder(o Older) {
	s.mu.Lock()
	old, noted := s.older[o.Key]
	s.older[o.Key] = o
	s.mu.Unlock()
	if noted && old == o {
		return // it is read again and again by those whom it concerns
	}
	s.cfg.Log.Error().Str("key", o.Key).Str("known_status", o.Known.Status).
		Uint64("known_epoch", o.Known.Epoch).Uint64("known_revision", o.Known.Revision).
		Uint64("epoch", o.Found.Epoch).Uint64("revision", o.Found.Revision).Bool("gone", o.Found == Floor{}).
		Msg("record is older than one that was seen before: it is refused until an operator has looked at it")
}

// WentBack reports whether the registry is older than what is remembered of it: a
// backup was put back, or it lost what it had acknowledged.
func (s *Store) WentBack(ctx context.Context) (bool, error) {
	least := s.floor(TickKey)
	if least.Epoch == 0 {
		return false, nil
	}
	e, err := s.leaderRead(ctx, AgentsBucket, TickKey)
	if errors.Is(err, errNoEntry) {
		return e.seq < least.Revision, s.emptied(e.seq)
	}
	if err != nil {
		return false, err
	}
	t, err := DecodeTick(string(e.value), s.Ring(), s.cfg.Clock())
	if err != nil {
		return false, fmt.Errorf("registry: tick: %w", err)
	}
	return Floor{Epoch: t.Incarnation, Revision: t.Revision}.behind(TickKey, least), nil
}

// emptied is the error of a registry in which no tick was ever written, by the
// tick's sequence, though one is remembered. To found it again would bring the
// first administrator back, whatever became of it.
func (s *Store) emptied(seq uint64) error {
	if seq != 0 || s.floor(TickKey).Epoch == 0 {
		return nil
	}
	return errors.New("registry: it holds nothing and held something before, so it was lost. Put a backup of JetStream's directory back; only to begin anew, with no agent and as if nothing had been revoked, move epochs.log away")
}

// Incarnation is that of the newest tick. It rises where the registry went back.
func (s *Store) Incarnation() uint64 { return s.floor(TickKey).Epoch }

// Reconcile looks at every record of which something is remembered. Those of
// instances that are older are brought up to what is remembered of them, which is
// all that they decide: how many there are of them grows with every connection,
// and the operator who is to look at the rest would be locked out as well. An agent
// keeps its older record, with rights that may have been taken back since, and is
// refused.
func (s *Store) Reconcile(ctx context.Context) error {
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.floors))
	s.mu.Unlock()
	return s.inParallel(keys, func(key string) error {
		id, inst, ok := splitInstanceKey(key)
		if !ok {
			return s.Check(ctx, key)
		}
		_, err := s.reinstate(ctx, id, inst)
		if denial.Of(err) != "" {
			return nil // noted
		}
		return err
	})
}

// Check reads one record again and notes it where it is older than what is
// remembered, or gone. An error means that it could not be read.
func (s *Store) Check(ctx context.Context, key string) error {
	var err error
	if id, inst, ok := splitInstanceKey(key); ok {
		_, _, err = s.readInstance(ctx, id, inst)
	} else if key == TopicsKey {
		_, _, err = s.readTopics(ctx)
	} else if id, e := agentid.Parse(key); e == nil {
		_, _, err = s.readAgent(ctx, id)
	}
	if denial.Of(err) != "" {
		return nil
	}
	return err
}

// reinstate brings an instance's older record up to the newest that was seen of
// it.
func (s *Store) reinstate(ctx context.Context, id agentid.ID, inst agentid.Instance) (*Instance, error) {
	return s.mendInstance(ctx, id, inst, agentid.Control.String(), "older than one that was seen", true, func(*Instance) error { return errUnchanged })
}

// reinstateAll does so for all instances of an agent that an operator sets right.
func (s *Store) reinstateAll(ctx context.Context, id agentid.ID) error {
	s.mu.Lock()
	var keys []string
	for key := range s.older {
		if strings.HasPrefix(key, id.String()+".") {
			keys = append(keys, key)
		}
	}
	s.mu.Unlock()
	defer s.settle(id)
	return s.inParallel(keys, func(key string) error {
		_, inst, _ := splitInstanceKey(key)
		_, err := s.reinstate(ctx, id, inst)
		if errors.Is(err, errDeleted) {
			return nil // it has to be enrolled again
		}
		return err
	})
}

// settle names the instances of an agent no more that are gone: an operator has
// looked at the agent, and they have no record that could be set right.
func (s *Store) settle(id agentid.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.older, func(key string, o Older) bool {
		return strings.HasPrefix(key, id.String()+".") && o.Found == Floor{}
	})
}

// inParallel calls f for every key, some at a time, and returns all errors.
func (s *Store) inParallel(keys []string, f func(key string) error) error {
	errs := make([]error, len(keys))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(listWorkers, len(keys)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(keys); i = int(next.Add(1)) - 1 {
				errs[i] = f(keys[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// liftAgent has an older record say what is known of the agent, as far as it is.
func (s *Store) liftAgent(a *Agent) bool {
	f := s.floor(a.Agent.String())
	if !floorOfAgent(a).behind("", f) {
		return false
	}
	a.Epoch, a.Revision = max(a.Epoch, f.Epoch), max(a.Revision, f.Revision)
	if f.Status != "" {
		a.Status = Status(f.Status)
	}
	return true
}

// liftInstance is liftAgent for an instance.
func (s *Store) liftInstance(i *Instance) bool {
	f := s.floor(InstanceKey(i.Agent, i.Instance))
	if !floorOfInstance(i).behind("", f) {
		return false
	}
	i.Epoch, i.Revision = max(i.Epoch, f.Epoch), max(i.Revision, f.Revision)
	if f.Status != "" {
		i.State = State(f.Status)
	}
	return true
}

func floorOfAgent(a *Agent) Floor { return Floor{a.Epoch, a.Revision, string(a.Status)} }

func floorOfInstance(i *Instance) Floor { return Floor{i.Epoch, i.Revision, string(i.State)} }
