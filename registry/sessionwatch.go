package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// SessionEvent is one session as it was or became.
type SessionEvent struct {
	Key     string   // of the connection that it is about
	Seq     uint64   // rises from event to event
	Session *Session // nil where it is not listed any more
}

// SessionsMark says how far the list of sessions has come. Whoever has seen the
// event with the number Last, or a later one, of a list of the same Made, knows
// every session that was written before the mark was asked for.
type SessionsMark struct {
	Made time.Time // when the list was made: its numbers began anew
	Last uint64
}

// SessionsMark asks the leader how far the list of sessions has come.
func (s *Store) SessionsMark(ctx context.Context) (SessionsMark, error) {
	data, err := s.request(ctx, "$JS.API.STREAM.INFO."+subject.KVStream(SessionsBucket), nil)
	if err != nil {
		return SessionsMark{}, fmt.Errorf("registry: state of the sessions: %w", err)
	}
	var r struct {
		Error   *apiError `json:"error"`
		Created time.Time `json:"created"`
		State   *struct {
			Last uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return SessionsMark{}, fmt.Errorf("registry: state of the sessions: %w", err)
	}
	if r.Error != nil {
		return SessionsMark{}, fmt.Errorf("registry: state of the sessions: %q (%d)", r.Error.Text, r.Error.ErrCode)
	}
	if r.State == nil || r.Created.IsZero() {
		return SessionsMark{}, errors.New("registry: state of the sessions: no state in the answer")
	}
	return SessionsMark{r.Created, r.State.Last}, nil
}

// WatchSessions calls f for every session that is listed and then for every
// change, in the order in which they were written, until ctx ends or f returns an
// error. It may be behind: [Store.SessionsMark] says by how much.
func (s *Store) WatchSessions(ctx context.Context, f func(SessionEvent) error) error {
	kv, err := s.js.KeyValue(ctx, SessionsBucket)
	if err != nil {
		return fmt.Errorf("registry: watching the sessions: %w", err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("registry: watching the sessions: %w", err)
	}
	return listen(ctx, w, func(e jetstream.KeyValueEntry) error {
		if e == nil {
			return nil // all that was there has come
		}
		ev := SessionEvent{Key: e.Key(), Seq: e.Revision()}
		if e.Operation() == jetstream.KeyValuePut {
			ev.Session = s.decodeSession(e.Key(), e.Value())
		}
		return f(ev)
	})
}
