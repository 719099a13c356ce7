package gate_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// putTopics writes the list of durable topics and returns its text.
func (w *world) putTopics(revision uint64, names ...string) string {
	w.t.Helper()
	list := &registry.Topics{Revision: revision}
	for _, n := range names {
		list.Topics = append(list.Topics, registry.Topic{Topic: n, MaxAge: 3600})
	}
	text := w.sign("topics", &list.Head, list)
	w.store.set(func(s *store) { s.records[registry.TopicsKey] = text })
	return text
}

func wantTopic(t *testing.T, n *node, name string, want bool) {
	t.Helper()
	topic, ok, err := n.peers.Topic(t.Context(), name)
	if err != nil || ok != want || ok && (topic.Topic != name || topic.MaxAge != 3600) {
		t.Errorf("Topic(%s) = %+v, %v, %v, want %v", name, topic, ok, err, want)
	}
}

func TestTopic(t *testing.T) {
	w := newWorld(t)
	wantTopic(t, w.node, "news", false) // there is no list at all
	w.peers.Observe(registry.TopicsKey, w.putTopics(1, "news"))
	wantTopic(t, w.node, "news", true)
	wantTopic(t, w.node, "other", false)
	w.peers.Observe(registry.TopicsKey, w.putTopics(2, "news", "other"))
	wantTopic(t, w.node, "other", true)
	for range 20 {
		wantTopic(t, w.node, "news", true)
	}
	if got := w.store.count(registry.TopicsKey); got > 2 {
		t.Errorf("got %d reads while the feed flows, want one or two", got)
	}
	// One that starts later reads what there is.
	wantTopic(t, w.start(0), "other", true)
}

func TestTopicsNeverGoBack(t *testing.T) {
	w := newWorld(t)
	old := w.putTopics(1, "news", "gone")
	w.peers.Observe(registry.TopicsKey, w.putTopics(2, "news"))
	wantTopic(t, w.node, "gone", false)
	w.peers.Observe(registry.TopicsKey, old)
	wantTopic(t, w.node, "gone", false)
	// That there is none any more is not believed: the known list counts on.
	w.putTopics(2, "news")
	wantTopic(t, w.node, "news", true)
	list := w.store.records[registry.TopicsKey]
	w.store.set(func(s *store) { delete(s.records, registry.TopicsKey) })
	w.peers.Gap()
	wantTopic(t, w.node, "news", true)
	w.clock.advance(3 * time.Second)
	wantTopic(t, w.node, "news", true)
	w.store.set(func(s *store) { s.records[registry.TopicsKey] = list })
	// Not from the leader either, nor by there being no list.
	for _, spoil := range []func(*store){
		func(s *store) { s.records[registry.TopicsKey] = old },
		func(s *store) { delete(s.records, registry.TopicsKey) },
	} {
		w.store.set(spoil)
		w.peers.Gap()
		w.clock.advance(gate.DefaultFeedGrace + time.Second)
		w.tickTo(w.node)
		if topic, ok, err := w.peers.Topic(t.Context(), "gone"); err == nil {
			t.Errorf("got %+v, %v, want a refusal", topic, ok)
		}
	}
}

// Only the records key makes the list.
func TestForgedTopicsAreIgnored(t *testing.T) {
	w := newWorld(t)
	w.peers.Observe(registry.TopicsKey, w.putTopics(1, "news"))
	records := w.records
	w.records = w.tokens
	forged := w.putTopics(9, "forged")
	w.records = records
	w.putTopics(1, "news")
	w.peers.Observe(registry.TopicsKey, forged)
	w.peers.Observe(registry.TopicsKey, w.beat()) // a genuine document of another kind
	w.peers.Observe(registry.TopicsKey, "")
	wantTopic(t, w.node, "forged", false)
	wantTopic(t, w.node, "news", true)
}

// While the control plane is silent the list is relied on for its grace.
func TestTopicsWhileTheControlPlaneIsSilent(t *testing.T) {
	w := newWorld(t)
	w.putTopics(1, "news")
	wantTopic(t, w.node, "news", true)
	w.store.set(func(s *store) { s.down = denial.New(denial.RegistryUnavailable, "away") })
	w.clock.advance(gate.DefaultFeedGrace - time.Second)
	wantTopic(t, w.node, "news", true)
	w.clock.advance(2 * time.Second)
	_, _, err := w.peers.Topic(t.Context(), "news")
	wantReason(t, err, denial.FeedStale)
	// One that never could read it does not guess.
	fresh := w.newNode(t)
	_, _, err = fresh.Topic(t.Context(), "news")
	wantReason(t, err, denial.RegistryUnavailable)
}

func (w *world) newNode(t *testing.T) *gate.Peers {
	t.Helper()
	return must[*gate.Peers](t)(gate.NewPeers(gate.PeersConfig{
		Roots: []string{publicOf(t, w.root)}, Ring: w.ring, Reader: w.store, Clock: w.clock.Now,
	}))
}
