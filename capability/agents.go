package capability

import (
	"iter"

	"github.com/sealmesh/sealmesh/agentid"
)

// Agents returns the agents on whose standing the chain rests: whoever holds its root
// token first, its holder last, each once.
func (c *Chain) Agents() iter.Seq[agentid.ID] {
	return func(yield func(agentid.ID) bool) {
		if c == nil {
			return
		}
		for i := range c.hops {
			if !yield(c.hops[i].To) {
				return
			}
		}
	}
}
