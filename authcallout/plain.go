package authcallout

import "github.com/sealmesh/sealmesh/internal/subject"

// Plain is what an operator lets an agent do outside the mesh: literal subjects
// of services that do not speak it. Nothing that arrives there is signed.
type Plain struct {
	Publish   []string
	Subscribe []string
}

// IsZero reports whether p permits nothing.
func (p Plain) IsZero() bool { return len(p.Publish) == 0 && len(p.Subscribe) == 0 }

// Check returns nil if every subject of p may stand in a grant in this space.
// The registry refuses the same before it stores them.
func (p Plain) Check(space subject.Space) error { return space.CheckPlain(p.Publish, p.Subscribe) }
