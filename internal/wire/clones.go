package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// ClonesView says that one instance's key was in use on several hosts at the same
// time: somebody has a copy of it.
type ClonesView struct {
	Hosts []string  `json:"hosts"`
	Since time.Time `json:"since"` // when that was first seen
	Seen  time.Time `json:"seen"`  // and last
}

// AlarmClone is the kind of the alarm about a key that is in use on several hosts.
const AlarmClone = "clone"

// AlarmView is something that an operator has to look at.
type AlarmView struct {
	Kind     string           `json:"kind"`
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Hosts    []string         `json:"hosts"`
	Since    time.Time        `json:"since"`
	Seen     time.Time        `json:"seen"`
}
