package gate

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// topics is what is known of the list of durable topics. The feed brings it to
// everybody, so one that arrives is always kept.
type topics struct {
	doc
	list *registry.Topics // nil: not known, the revision is
}

// Topic returns a durable topic as current as anybody can know it; ok is false
// where the topic is not durable. An error says that this could not be found out.
func (p *Peers) Topic(ctx context.Context, name string) (t registry.Topic, ok bool, err error) {
	list, err := p.durable(ctx)
	if err != nil {
		return registry.Topic{}, false, err
	}
	t, ok = list.Find(name)
	return t, ok, nil
}

func (p *Peers) durable(ctx context.Context) (*registry.Topics, error) {
	list, s := p.knownTopics()
	if list != nil && s.certain {
		return list, nil
	}
	var err error
	if list == nil || !s.wait {
		from := p.begin(agentid.ID{})
		err = p.read(ctx, registry.TopicsKey, agentid.ID{}, query{}, list == nil, func(text string, from origin) error {
			_, err := p.keepTopics(text, from)
			return err
		}, func(now time.Time) { p.topics.tried = now })
		if errors.Is(err, denial.NotFound) {
			err = p.noTopics(from)
		}
		list, s = p.knownTopics()
	}
	switch {
	case list != nil && (s.certain || s.within):
		return list, nil
	case list != nil:
		return nil, stale("durable topics", s, err)
	case err == nil:
		return nil, denial.New(denial.RegistryUnavailable, "list of durable topics changed while it was read")
	default:
		return nil, err
	}
}

func (p *Peers) knownTopics() (*registry.Topics, state) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.topics.list == nil {
		return nil, state{}
	}
	return p.topics.list, p.judge(&p.topics.doc, query{}, agentid.ID{}, 0)
}

func (p *Peers) observeTopics(text string) error {
	_, err := p.keepTopics(text, origin{})
	if err == errOlder {
		return nil // arrived late; the newer one is known
	}
	return err
}

func (p *Peers) keepTopics(text string, from origin) (newer bool, err error) {
	return p.keep(func(ring *capability.Keyring) (func() (bool, error), error) {
		t, err := registry.DecodeTopics(text, ring, p.cfg.Clock())
		if err != nil {
			return nil, err
		}
		return func() (bool, error) {
			newer, err := p.admit(&p.topics.doc, 0, t.Revision, from)
			if err == nil && t.Revision == p.topics.revision {
				p.topics.list = t
			}
			return newer, err
		}, nil
	})
}

// noTopics takes the leader's word that no topic was ever durable. No signature
// stands behind it, so it counts only until any list was seen.
func (p *Peers) noTopics(from origin) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.admit(&p.topics.doc, 0, 0, from)
	if err == nil && p.topics.revision == 0 {
		p.topics.list = &registry.Topics{}
	}
	return err
}
