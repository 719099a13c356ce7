package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
)

// Event is one record as it was or became; exactly one of Agent, Instance and
// Topics is set. Current is false for the records that were there when the watch
// began.
type Event struct {
	Agent    *Agent
	Instance *Instance
	Topics   *Topics
	Current  bool
}

// Watch calls f for every record there is and then for every change, until ctx
// ends or f returns an error. Records that do not verify are skipped and
// logged: nobody acts on them.
func (s *Store) Watch(ctx context.Context, f func(Event) error) error {
	w, err := s.agents.Watch(ctx, ">", jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("registry: watching: %w", err)
	}
	defer func() {
		_ = w.Stop() // read only: nothing can be lost
		// Its callback may be blocked on a full channel that nobody reads any
		// more; the channel is closed once it has returned.
		go func() {
			for range w.Updates() { //nolint:revive // drained
			}
		}()
	}()
	current := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				// The subscription ended; without an error the caller would take
				// the silence that follows for calm.
				return errors.Join(ctx.Err(), errWatchEnded)
			}
			if e == nil {
				current = true
				if err := f(Event{Current: true}); err != nil {
					return err
				}
				continue
			}
			ev, ok := s.decodeEvent(e.Key(), string(e.Value()))
			if !ok {
				continue
			}
			ev.Current = current
			if err := f(ev); err != nil {
				return err
			}
		}
	}
}

var errWatchEnded = errors.New("registry: watch ended")

func (s *Store) decodeEvent(key, text string) (Event, bool) {
	now := s.cfg.Clock()
	if agent, inst, ok := splitInstanceKey(key); ok {
		i, err := DecodeInstance(text, agent, inst, s.cfg.Ring, now)
		if err != nil {
			s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
			return Event{}, false
		}
		return Event{Instance: i}, s.raise(key, floor{i.Epoch, i.Revision}, floor{}) == nil
	}
	if key == TopicsKey {
		t, err := DecodeTopics(text, s.cfg.Ring, now)
		if err != nil {
			s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
			return Event{}, false
		}
		return Event{Topics: t}, s.raise(key, floor{revision: t.Revision}, floor{}) == nil
	}
	id, err := agentid.Parse(key)
	if err != nil {
		return Event{}, false // the tick, the ring
	}
	a, err := DecodeAgent(text, id, s.cfg.Ring, now)
	if err != nil {
		s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
		return Event{}, false
	}
	return Event{Agent: a}, s.raise(key, floor{a.Epoch, a.Revision}, floor{}) == nil
}

// splitInstanceKey reads the key of an instance's record; the mesh's own keys
// are not of that form.
func splitInstanceKey(key string) (agentid.ID, agentid.Instance, bool) {
	name, inst, ok := strings.Cut(key, ".")
	if !ok {
		return agentid.ID{}, agentid.Instance{}, false
	}
	id, err := agentid.Parse(name)
	if err != nil {
		return agentid.ID{}, agentid.Instance{}, false
	}
	i, err := agentid.ParseInstance(inst)
	if err != nil {
		return agentid.ID{}, agentid.Instance{}, false
	}
	return id, i, true
}
