package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
)

// Event is one record as it was or became; exactly one of Agent, Instance, Topics
// and Older is set. Current is false for the records that were there when the
// watch began.
type Event struct {
	Agent    *Agent
	Instance *Instance
	Topics   *Topics
	// Older is the key of a record that is older than one that was seen. It may have
	// been on its way while a newer one was read; [Store.Check] tells.
	Older   string
	Current bool
}

// Watch calls f for every record there is and then for every change, until ctx
// ends or f returns an error. Records that do not verify are skipped and
// logged: nobody acts on them.
func (s *Store) Watch(ctx context.Context, f func(Event) error) error {
	if s.agents == nil {
		return errors.New("registry: a store that was attached does not watch")
	}
	w, err := s.agents.Watch(ctx, ">", jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("registry: watching: %w", err)
	}
	current := false
	return listen(ctx, w, func(e jetstream.KeyValueEntry) error {
		if e == nil {
			current = true
			return f(Event{Current: true})
		}
		ev, ok := s.decodeEvent(e.Key(), string(e.Value()))
		if !ok {
			return nil
		}
		ev.Current = current
		return f(ev)
	})
}

// listen hands every entry that a watcher brings to f, and nil once all that was
// there has come, until ctx ends or f returns an error. It stops the watcher.
func listen(ctx context.Context, w jetstream.KeyWatcher, f func(jetstream.KeyValueEntry) error) error {
	defer func() {
		_ = w.Stop() // read only: nothing can be lost
		// Its callback may be blocked on a full channel that nobody reads any
		// more; the channel is closed once it has returned.
		go func() {
			for range w.Updates() { //nolint:revive // drained
			}
		}()
	}()
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
			if err := f(e); err != nil {
				return err
			}
		}
	}
}

var errWatchEnded = errors.New("registry: watch ended")

func (s *Store) decodeEvent(key, text string) (Event, bool) {
	now := s.cfg.Clock()
	if agent, inst, ok := splitInstanceKey(key); ok {
		i, err := DecodeInstance(text, agent, inst, s.Ring(), now)
		if err != nil {
			s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
			return Event{}, false
		}
		return s.unlessOlder(key, floorOfInstance(i), Event{Instance: i})
	}
	if key == RingKey {
		if newer, err := s.adopt(text); err != nil || newer {
			s.cfg.Log.Info().Err(err).Msg("another control plane published other signing keys")
		}
		return Event{}, false
	}
	if key == TopicsKey {
		t, err := DecodeTopics(text, s.Ring(), now)
		if err != nil {
			s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
			return Event{}, false
		}
		return s.unlessOlder(key, Floor{Revision: t.Revision}, Event{Topics: t})
	}
	id, err := agentid.Parse(key)
	if err != nil {
		return Event{}, false // the tick, the ring
	}
	a, err := DecodeAgent(text, id, s.Ring(), now)
	if err != nil {
		s.cfg.Log.Error().Err(err).Str("key", key).Msg("record refused")
		return Event{}, false
	}
	return s.unlessOlder(key, floorOfAgent(a), Event{Agent: a})
}

// unlessOlder lifts the floor of a record that the watch brought. Nobody acts on
// one that is below it: the newer one that was seen is on its way, or was replaced.
func (s *Store) unlessOlder(key string, is Floor, e Event) (Event, bool) {
	if is.behind(key, s.floor(key)) {
		return Event{Older: key}, true
	}
	return e, s.raise(key, is, Floor{}) == nil
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
