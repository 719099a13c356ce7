package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const kindTopics = "topics"

// Topic is a durable topic: its events are stored, and a durable subscription
// gets those of the time when nobody listened.
type Topic struct {
	Topic  string `json:"topic"`
	MaxAge int64  `json:"max_age"` // seconds that an event is kept
}

// Topics is the signed list of the durable topics.
type Topics struct {
	jws.Head
	Revision uint64  `json:"revision"`
	Topics   []Topic `json:"topics,omitempty"` // sorted by name
	Changed  Change  `json:"changed"`
}

// Find returns a topic by its name.
func (t *Topics) Find(name string) (Topic, bool) {
	i, found := t.index(name)
	if !found {
		return Topic{}, false
	}
	return t.Topics[i], true
}

// DecodeTopics reads and verifies the list of durable topics.
func DecodeTopics(text string, ring *capability.Keyring, now time.Time) (*Topics, error) {
	var t Topics
	u, err := jws.Decode(text, kindTopics, &t)
	if err != nil {
		return nil, err
	}
	if err := ring.Check(u, capability.ForRecords, now); err != nil {
		return nil, err
	}
	if !slices.IsSortedFunc(t.Topics, func(a, b Topic) int { return strings.Compare(a.Topic, b.Topic) }) {
		return nil, denial.New(denial.BadRecord, "topics are not in order")
	}
	return &t, nil
}

// Topics reads the list from the leader. Where none was ever written it is
// empty.
func (s *Store) Topics(ctx context.Context) (*Topics, error) {
	t, _, err := s.readTopics(ctx)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// readTopics returns the list with its sequence. With errOlder it returns the list
// as well, for those who set it right.

func (s *Store) readTopics(ctx context.Context) (*Topics, uint64, error) {
	least := s.floor(TopicsKey)
	e, err := s.leaderRead(ctx, AgentsBucket, TopicsKey)
	if errors.Is(err, errNoEntry) && e.seq == 0 && least.Revision == 0 {
		return &Topics{}, 0, nil
	}
	if errors.Is(err, errNoEntry) {
		s.noteOlder(Older{Key: TopicsKey, Known: least})
		return &Topics{}, e.seq, denial.New(denial.OlderRecord, "list of topics: there is none any more: %w", errOlder)
	}
	if err != nil {
		return nil, 0, err
	}
	t, err := DecodeTopics(string(e.value), s.Ring(), s.cfg.Clock())
	if err != nil {
		return nil, 0, fmt.Errorf("registry: list of topics: %w", err)
	}
	if err := s.raise(TopicsKey, Floor{Revision: t.Revision}, least); err != nil {
		return t, e.seq, denial.New(denial.OlderRecord, "list of topics: %w", err)
	}
	return t, e.seq, nil
}

// SetTopic makes a topic durable, or changes how long its events are kept. Like
// RemoveTopic it also sets a list right that is older than one that was seen.
func (s *Store) SetTopic(ctx context.Context, topic Topic, by string) (*Topics, error) {
	if _, err := capability.PublishOf(topic.Topic); err != nil {
		return nil, err
	}
	// Root tokens are issued anew at half of their life, and what was signed under
	// one that is listed no more is refused.
	if most := min(limits.EventAge, s.cfg.TokenTTL/2); topic.MaxAge < 1 || topic.MaxAge > int64(most/time.Second) {
		return nil, denial.New(denial.BadInput, "events can be kept from one second to %s, half of a root token's life", most)
	}
	return s.changeTopics(ctx, by, "topic "+topic.Topic+" set", func(t *Topics) error {
		i, found := t.index(topic.Topic)
		switch {
		case found && t.Topics[i] == topic:
			return errUnchanged
		case found:
			t.Topics[i] = topic
		case len(t.Topics) >= limits.Topics:
			return denial.New(denial.QuotaExceeded, "there are %d durable topics already", len(t.Topics))
		default:
			t.Topics = slices.Insert(t.Topics, i, topic)
		}
		return nil
	})
}

// RemoveTopic makes a topic an ordinary one again. What is stored of it stays
// until it is too old, and nobody gets it any more.
func (s *Store) RemoveTopic(ctx context.Context, name, by string) (*Topics, error) {
	return s.changeTopics(ctx, by, "topic "+name+" removed", func(t *Topics) error {
		i, found := t.index(name)
		if !found {
			return denial.New(denial.NotFound, "%q is no durable topic", name)
		}
		t.Topics = slices.Delete(t.Topics, i, i+1)
		return nil
	})
}

func (t *Topics) index(name string) (int, bool) {
	return slices.BinarySearchFunc(t.Topics, name, func(e Topic, name string) int { return strings.Compare(e.Topic, name) })
}

func (s *Store) changeTopics(ctx context.Context, by, reason string, f func(*Topics) error) (out *Topics, err error) {
	err = s.retry(ctx, TopicsKey, func() error {
		t, seq, err := s.readTopics(ctx)
		mending := errors.Is(err, errOlder)
		if err != nil && !mending {
			return err
		}
		if mending {
			t.Revision = max(t.Revision, s.floor(TopicsKey).Revision)
		}
		out = t
		t.Topics = slices.Clone(t.Topics)
		if err := f(t); errors.Is(err, errUnchanged) && !mending {
			return nil
		} else if err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
		t.Revision++
		s.stamp(&t.Changed, by, reason)
		return s.writeTopics(ctx, t, seq, s.signing())
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// writeTopics signs and writes the list over the one with sequence seq.
func (s *Store) writeTopics(ctx context.Context, t *Topics, seq uint64, k *signing) error {
	t.Head = jws.Head{Kind: kindTopics, IssuedAt: s.cfg.Clock().Unix()}
	text, err := jws.Sign(t, k.Records)
	if err == nil {
		_, err = DecodeTopics(text, k.Ring, s.cfg.Clock())
	}
	if err != nil {
		return fmt.Errorf("registry: list of topics: %w", err)
	}
	if err := s.put(ctx, AgentsBucket, TopicsKey, []byte(text), seq, 0); err != nil {
		return err
	}
	return s.raise(TopicsKey, Floor{Revision: t.Revision}, Floor{})
}
