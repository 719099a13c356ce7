package registry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func topicsOf(t *testing.T, s *registry.Store) string {
	t.Helper()
	list, err := s.Topics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list.Topics {
		out = append(out, fmt.Sprintf("%s %d", e.Topic, e.MaxAge))
	}
	return fmt.Sprint(list.Revision, out)
}

func TestTopics(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	want := func(want string) {
		t.Helper()
		if got := topicsOf(t, s); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	set := func(name string, age int64) {
		t.Helper()
		if _, err := s.SetTopic(w.ctx(), registry.Topic{Topic: name, MaxAge: age}, "admin"); err != nil {
			t.Fatal(err)
		}
	}
	want("0 []")
	set("news", 60)
	set("alerts", 3600)
	want("2 [alerts 3600 news 60]")
	set("news", 60) // as it was
	want("2 [alerts 3600 news 60]")
	set("news", 120)
	want("3 [alerts 3600 news 120]")
	_, err := s.RemoveTopic(w.ctx(), "other", "admin")
	wantReason(t, "removing what is not there", err, denial.NotFound)
	if _, err := s.RemoveTopic(w.ctx(), "alerts", "admin"); err != nil {
		t.Fatal(err)
	}
	want("4 [news 120]")
	if list, err := s.Topics(w.ctx()); err != nil || list.Changed.By != "admin" {
		t.Errorf("got %+v, %v, want it changed by admin", list, err)
	}
	for name, topic := range map[string]registry.Topic{
		"no name": {MaxAge: 60}, "a wildcard": {Topic: "news.*", MaxAge: 60}, "no age": {Topic: "x"},
		"a negative age": {Topic: "x", MaxAge: -1}, "too long": {Topic: "x", MaxAge: int64(registry.DefaultTokenTTL/time.Second)/2 + 1},
	} {
		if _, err := s.SetTopic(w.ctx(), topic, "admin"); denial.Of(err) == "" {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	want("4 [news 120]")
	set("limit", int64(registry.DefaultTokenTTL/time.Second)/2)
	want("5 [limit 1296000 news 120]")
}

// Writers at the same time all get their topic in, and nobody's is lost.
func TestTopicsTogether(t *testing.T) {
	w := newWorld(t)
	one, two := w.store(), w.store()
	var wg sync.WaitGroup
	for i := range 10 {
		for j, s := range []*registry.Store{one, two} {
			wg.Go(func() {
				if _, err := s.SetTopic(w.ctx(), registry.Topic{Topic: fmt.Sprintf("t%d-%d", i, j), MaxAge: 60}, "admin"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for _, s := range []*registry.Store{one, two} {
		if list, err := s.Topics(w.ctx()); err != nil || len(list.Topics) != 20 || list.Revision != 20 {
			t.Errorf("got %+v, %v, want 20 topics after 20 changes", list, err)
		}
	}
}

func TestTopicsLimit(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	for i := range limits.Topics {
		if _, err := s.SetTopic(w.ctx(), registry.Topic{Topic: fmt.Sprintf("t%d", i), MaxAge: 60}, "admin"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.SetTopic(w.ctx(), registry.Topic{Topic: "more", MaxAge: 60}, "admin")
	wantReason(t, "one more topic", err, denial.QuotaExceeded)
	if _, err := s.SetTopic(w.ctx(), registry.Topic{Topic: "t1", MaxAge: 61}, "admin"); err != nil {
		t.Errorf("changing one at the limit: got %v", err)
	}
}

// The list says what is stored and how old it may be: an older one, a forged one
// and none at all where there was one are refused.
func TestTopicsAreNotTurnedBack(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	nc := w.conn()
	write := func(text string) {
		t.Helper()
		if _, err := nc.Request(subject.KV(registry.AgentsBucket, registry.TopicsKey), []byte(text), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	read := func() string {
		t.Helper()
		m, err := nc.Request(subject.LeaderGet(registry.AgentsBucket), registry.LeaderReadBody(registry.AgentsBucket, registry.TopicsKey), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		text, err := registry.ParseLeaderRead(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	if _, err := s.SetTopic(w.ctx(), registry.Topic{Topic: "news", MaxAge: 60}, "admin"); err != nil {
		t.Fatal(err)
	}
	older := read()
	if _, err := s.RemoveTopic(w.ctx(), "news", "admin"); err != nil {
		t.Fatal(err)
	}
	newest := read()
	write(older)
	_, err := s.Topics(w.ctx())
	wantReason(t, "an older list", err, denial.OlderRecord)
	if _, err := w.store().Topics(w.ctx()); err != nil {
		t.Errorf("one who never saw the newer: got %v", err)
	}
	for name, doc := range map[string]*registry.Topics{
		"not in order": {Head: jws.Head{Kind: "topics", IssuedAt: start.Unix()}, Revision: 9, Topics: []registry.Topic{{Topic: "b", MaxAge: 1}, {Topic: "a", MaxAge: 1}}},
		"another kind": {Head: jws.Head{Kind: "tick", IssuedAt: start.Unix()}, Revision: 9},
	} {
		text, err := jws.Sign(doc, w.records)
		if err != nil {
			t.Fatal(err)
		}
		write(text)
		if _, err := s.Topics(w.ctx()); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	doc := &registry.Topics{Head: jws.Head{Kind: "topics", IssuedAt: start.Unix()}, Revision: 9}
	forged, err := jws.Sign(doc, w.tokens) // a key that is certified for something else
	if err != nil {
		t.Fatal(err)
	}
	write(forged)
	if _, err := s.Topics(w.ctx()); err == nil {
		t.Error("signed by a key for tokens: got no error")
	}
	write(newest)
	if got := topicsOf(t, s); got != "2 []" {
		t.Errorf("the newest again: got %s", got)
	}
}

func TestDurables(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	set := func(name string, topics ...string) (*registry.Agent, error) {
		return s.SetDurable(w.ctx(), bob, registry.Durable{Name: name, Topics: topics})
	}
	a, err := set("inbox", "news", "alerts", "news")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(a.Durables), "[{inbox [alerts news]}]"; got != want || a.Epoch != 1 || a.Revision != 2 {
		t.Errorf("got %s, epoch %d, revision %d, want %s, 1, 2: no authority changes", got, a.Epoch, a.Revision, want)
	}
	if a, err = set("inbox", "alerts", "news"); err != nil || a.Revision != 2 {
		t.Errorf("the same again: got revision %d, %v, want 2", a.Revision, err)
	}
	if a, err = set("inbox", "news"); err != nil || fmt.Sprint(a.Durables) != "[{inbox [news]}]" {
		t.Errorf("other topics: got %v, %v", a, err)
	}
	for name, topics := range map[string][]string{
		"": {"news"}, "In": {"news"}, "in_box": {"news"}, "a.b": {"news"}, "*": {"news"}, strings.Repeat("a", 64): {"news"},
		"none": nil, "many": make([]string, limits.DurableTopics+1), "wild": {"news.*"}, "empty": {""},
	} {
		if _, err := set(name, topics...); denial.Of(err) == "" {
			t.Errorf("durable %q with %d topics: got %v, want a refusal", name, len(topics), err)
		}
	}
	for i := range limits.Durables - 1 {
		if _, err := set(fmt.Sprintf("d%d", i), "news"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = set("more", "news")
	wantReason(t, "one more", err, denial.QuotaExceeded)
	if a, err = s.EndDurable(w.ctx(), bob, "d3"); err != nil || len(a.Durables) != limits.Durables-1 {
		t.Errorf("ending one: got %d left, %v", len(a.Durables), err)
	}
	if again, err := s.EndDurable(w.ctx(), bob, "d3"); err != nil || again.Revision != a.Revision {
		t.Errorf("ending it again: got %v", err)
	}
	if a, err = s.Revoke(w.ctx(), bob, "admin", "stolen"); err != nil || len(a.Durables) != 0 {
		t.Errorf("revoked: got %v, %v, want none left", a.Durables, err)
	}
	_, err = set("inbox", "news")
	wantReason(t, "a durable of a revoked agent", err, denial.WrongState)
}
