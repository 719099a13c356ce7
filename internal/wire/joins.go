package wire

import "github.com/sealmesh/sealmesh/registry"

// JoinsMost is how many join tokens one answer lists.
const JoinsMost = 1000

// JoinList is the answer of joins and of join-cancel: the join tokens that are out,
// or were until now. None of them has its secret, which nobody has but whoever was
// given it.
type JoinList struct {
	Schema string          `json:"schema"` // sealmesh.joins/v1
	Joins  []registry.Join `json:"joins"`
	More   int             `json:"more,omitempty"` // how many there are besides
}

// JoinsSchema is that of JoinList.
const JoinsSchema = "sealmesh.joins/v1"
