package subject

import (
	"strings"

	"github.com/sealmesh/sealmesh/agentid"
)

// FeedGone is where the control plane says that the last connection of an instance
// ended and that it did not come back.
func (s Space) FeedGone(agent agentid.ID, instance agentid.Instance) string {
	return s.join(string(Feed), "gone", agent.String(), instance.String())
}

// FeedGoneOf is what those subscribe who wait for an answer of the agent.
func (s Space) FeedGoneOf(agent agentid.ID) string {
	return s.join(string(Feed), "gone", agent.String(), "*")
}

// FeedGoneFilter matches what is said so of all instances.
func (s Space) FeedGoneFilter() string { return s.join(string(Feed), "gone", "*", "*") }

// ParseFeedGone takes a subject apart that FeedGone made.
func (s Space) ParseFeedGone(subj string) (agentid.ID, agentid.Instance, error) {
	rest, ok := strings.CutPrefix(subj, s.join(string(Feed), "gone", ""))
	name, tail, found := strings.Cut(rest, ".")
	if s.prefix == "" || !ok || !found {
		return agentid.ID{}, agentid.Instance{}, errForm
	}
	id, err := agentid.Parse(name)
	if err != nil {
		return agentid.ID{}, agentid.Instance{}, err
	}
	inst, err := agentid.ParseInstance(tail)
	if err != nil {
		return agentid.ID{}, agentid.Instance{}, err
	}
	return id, inst, nil
}
