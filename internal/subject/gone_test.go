package subject_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func TestFeedGone(t *testing.T) {
	s := subject.Default()
	inst := agentid.InstanceOf("UALICE")
	text := s.FeedGone(alice, inst)
	if want := "mesh.feed.gone.alice." + inst.String(); text != want {
		t.Errorf("got %s, want %s", text, want)
	}
	id, i, err := s.ParseFeedGone(text)
	if err != nil || id != alice || i != inst {
		t.Errorf("got %s/%s, %v", id, i, err)
	}
	for _, filter := range []string{s.FeedGoneOf(alice), s.FeedGoneFilter(), s.FeedFilter()} {
		if !matches(filter, text) {
			t.Errorf("%s does not match %s", filter, text)
		}
	}
	if matches(s.FeedGoneOf(agentid.Require("bob")), text) || matches(s.FeedAgents()+".>", text) {
		t.Errorf("%s is heard by those whom it does not concern", text)
	}
	if _, err := s.Parse(text); err == nil {
		t.Errorf("%s is a message of an agent", text)
	}
}

// A subject has one reading, and only what FeedGone makes has any.
func FuzzParseFeedGone(f *testing.F) {
	good := subject.Default().FeedGone(alice, agentid.InstanceOf("UALICE"))
	for _, s := range []string{good, good + ".x", good[:len(good)-1], "mesh.feed.gone.alice", "mesh.feed.gone..", "mesh.feed.agents.alice", "other" + good[4:], ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, inst, err := subject.Default().ParseFeedGone(text)
		if err == nil && subject.Default().FeedGone(id, inst) != text {
			t.Fatalf("%q is taken for %s/%s", text, id, inst)
		}
		if err != nil && (!id.IsZero() || !inst.IsZero()) {
			t.Fatalf("%q is refused and gives %s/%s", text, id, inst)
		}
		if _, _, err := (subject.Space{}).ParseFeedGone(text); err == nil {
			t.Fatalf("the zero space takes %q", text)
		}
	})
}
