package meshclient

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
)

const (
	// feedMost is of how many agents the changes are subscribed one by one, two
	// subscriptions each. A connection has 2,048 of them unless configured, and
	// handlers, topics and calls need some. With more agents than that, those of all
	// are heard.
	feedMost = 400
	// feedQueue is how many documents of the feed may wait. What comes in meanwhile
	// is lost, and everything read again.
	feedQueue = 8192
)

// feed is what this client hears of the registry: the ticks, the signing keys and
// the topics, and the changes of the agents that it deals with. It is the same on
// both connections while one replaces the other.
type feed struct {
	mesh *Mesh
	most int // feedMost
	docs chan *nats.Msg
	lost atomic.Bool // documents did not fit into docs

	mu    sync.Mutex
	ids   map[agentid.ID]bool
	links map[*link]*hearing
}

// hearing is what one connection subscribes.
type hearing struct {
	common *nats.Subscription // nil: whole brings that as well
	of     map[agentid.ID][]*nats.Subscription
	whole  *nats.Subscription // nil: of does it
}

func newFeed(m *Mesh) *feed {
	return &feed{mesh: m, most: feedMost, docs: make(chan *nats.Msg, feedQueue), ids: map[agentid.ID]bool{}, links: map[*link]*hearing{}}
}

// attach subscribes a new connection. Whoever deals with few enough agents by then
// gets the changes of those alone, whatever was before.
func (f *feed) attach(l *link) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &hearing{of: map[agentid.ID][]*nats.Subscription{}}
	f.links[l] = h
	if len(f.ids) > f.most {
		return f.hearAll(l, h)
	}
	var err error
	if h.common, err = f.subscribe(l, f.mesh.space.FeedAgent(registryName+".*")); err != nil {
		return err
	}
	for id := range f.ids {
		if err := f.hear(l, h, id); err != nil {
			return err
		}
	}
	return nil
}

// registryName is the agent ID under which the documents stand that are nobody's.
const registryName = "sealmesh"

// detach forgets a connection, with which its subscriptions end.
func (f *feed) detach(l *link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.links, l)
}

// Follow subscribes the changes of one more agent. What is asked over the same
// connection after it returned reaches the server behind the subscription.
func (f *feed) Follow(id agentid.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids[id] = true
	for l, h := range f.links {
		if err := f.hear(l, h, id); err != nil && !l.nc.IsClosed() {
			delete(f.ids, id)
			return err
		}
	}
	return nil
}

// Unfollow ends that.
func (f *feed) Unfollow(ids []agentid.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.ids, id)
		for _, h := range f.links {
			end(h.of[id]...)
			delete(h.of, id)
		}
	}
}

// hear is called with the lock held.
func (f *feed) hear(l *link, h *hearing, id agentid.ID) error {
	if h.whole != nil || h.of[id] != nil {
		return nil
	}
	if len(h.of) >= f.most {
		return f.hearAll(l, h)
	}
	key := id.String()
	for _, subj := range []string{f.mesh.space.FeedAgent(key), f.mesh.space.FeedAgent(key + ".*")} {
		sub, err := f.subscribe(l, subj)
		if err != nil {
			end(h.of[id]...)
			delete(h.of, id)
			return err
		}
		h.of[id] = append(h.of[id], sub)
	}
	return nil
}

// hearAll is called with the lock held. The server has the one subscription before
// it loses the many, so nothing is missed in between.
func (f *feed) hearAll(l *link, h *hearing) (err error) {
	if h.whole, err = f.subscribe(l, f.mesh.space.FeedAgent(">")); err != nil {
		return err
	}
	if h.common != nil {
		end(h.common)
		h.common = nil
	}
	for _, subs := range h.of {
		end(subs...)
	}
	clear(h.of)
	return nil
}

// crowded is told that the server refused a subscription of a connection because it
// has too many, and does not say which. It hears the whole feed by one in place of
// many, and what may have been missed is read again.
func (f *feed) crowded(l *link) {
	f.mu.Lock()
	h := f.links[l]
	var err error
	if h != nil && h.whole == nil {
		// Room first: the one would be refused as well.
		for _, subs := range h.of {
			end(subs...)
		}
		err = f.hearAll(l, h)
	}
	f.mu.Unlock()
	if err != nil {
		f.mesh.log.Error().Err(err).Msg("the registry's changes cannot be followed")
	}
	f.mesh.peers.Gap()
}

// subscribe has documents put into the one queue, without a goroutine each.
func (f *feed) subscribe(l *link, subj string) (*nats.Subscription, error) {
	sub, err := l.nc.ChanSubscribe(subj, f.docs)
	if err != nil {
		return nil, fmt.Errorf("meshclient: subscribing %s: %w", subj, err)
	}
	return sub, nil
}

func end(subs ...*nats.Subscription) {
	for _, s := range subs {
		s.Unsubscribe() //nolint:errcheck // the connection may be gone, and the subscription with it
	}
}

// brings reports whether a subscription is one of the feed's.
func (f *feed) brings(subj string) bool {
	return strings.HasPrefix(subj, f.mesh.space.FeedAgents()+".")
}

// overflowed is told that documents were lost. Of those that are lost while more of
// them are the connection does not tell, so once there is room again everything is
// put in doubt once more.
func (f *feed) overflowed() {
	f.lost.Store(true)
	f.mesh.peers.Gap()
}

// listen passes documents on to the view of peers until the Mesh ends.
func (f *feed) listen() {
	m := f.mesh
	prefix := m.space.FeedAgents() + "."
	for {
		select {
		case <-m.ctx.Done():
			return
		case msg := <-f.docs:
			if key, ok := strings.CutPrefix(msg.Subject, prefix); ok {
				m.peers.Observe(key, string(msg.Data))
			}
		}
		if len(f.docs) == 0 && f.lost.CompareAndSwap(true, false) {
			m.peers.Gap()
		}
	}
}
