package heartbeat

import "github.com/sealmesh/sealmesh/denial"

// Policy is what an agent's record says about its heartbeats.
type Policy string

// The policies. The zero Policy is none of them and is refused.
const (
	// PerSession: an instance is watched from its admission until it leaves.
	PerSession Policy = "session"
	// Always: as PerSession, and the agent must have a live instance at all
	// times; without one for a whole timeout the agent itself expires.
	Always Policy = "always"
	// Unwatched: silence means nothing. Leaving is still taken note of.
	Unwatched Policy = "none"
)

// ParsePolicy accepts s only if it is exactly a policy.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case PerSession, Always, Unwatched:
		return p, nil
	}
	return "", denial.New(denial.BadInput, "heartbeat policy %.20q is none of session, always, none", s)
}
