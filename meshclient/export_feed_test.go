package meshclient

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// Clock has the client go by another clock.
func Clock(now func() time.Time) Option {
	return func(c *config) error { c.clock = now; return nil }
}

// FeedHeard returns what the feed is subscribed to on the connection that is used
// now, and how many documents each subscription brought.
func (m *Mesh) FeedHeard() map[string]int64 {
	f := m.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]int64{}
	for _, s := range f.links[m.link.Load()].all() {
		n, err := s.Delivered()
		if err != nil {
			n = -1
		}
		out[s.Subject] = n
	}
	return out
}

func (h *hearing) all() (subs []*nats.Subscription) {
	if h == nil {
		return nil
	}
	for _, s := range h.of {
		subs = append(subs, s...)
	}
	for _, s := range []*nats.Subscription{h.common, h.whole} {
		if s != nil {
			subs = append(subs, s)
		}
	}
	return subs
}

// FeedMost is of how many agents the changes are subscribed one by one, from here on.
func (m *Mesh) FeedMost(n int) {
	m.feed.mu.Lock()
	defer m.feed.mu.Unlock()
	m.feed.most = n
}

// Forget lets go of agents that are followed.
func (m *Mesh) Forget(ids ...agentid.ID) { m.feed.Unfollow(ids) }

// Deafen ends the feed of the connection that is used now, as a server would that
// delivers none of it.
func (m *Mesh) Deafen() error {
	f := m.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	end(f.links[m.link.Load()].all()...)
	return m.conn().FlushTimeout(10 * time.Second)
}

// Record returns what this client believes of an agent.
func (m *Mesh) Record(ctx context.Context, id agentid.ID) (*registry.Agent, error) {
	return m.peers.Agent(ctx, id)
}

// KeyStanding returns why this client would refuse what a key of an agent signs.
func (m *Mesh) KeyStanding(ctx context.Context, id agentid.ID, nkey string) error {
	_, err := m.peers.Sender(ctx, id, nkey)
	return err
}

// Key is the public key of the instance.
func (m *Mesh) Key() string { return m.key.PublicKey() }

// Hint is what helps against an error, where it knows.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// Silence is how long nothing was heard of the control plane.
func (m *Mesh) Silence() time.Duration { return m.peers.Silence() }
