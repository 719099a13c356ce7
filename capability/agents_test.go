package capability_test

import (
	"slices"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
)

func TestAgents(t *testing.T) {
	c := newWorld(t).three()
	var want []agentid.ID
	for _, h := range c.Hops() {
		want = append(want, h.To)
	}
	if got := slices.Collect(c.Agents()); !slices.Equal(got, want) || got[len(got)-1] != c.Holder() {
		t.Errorf("got %v, want %v", got, want)
	}
	for range c.Agents() {
		break // it may be left
	}
	if got := slices.Collect((*capability.Chain)(nil).Agents()); got != nil {
		t.Errorf("got %v of no chain", got)
	}
}
