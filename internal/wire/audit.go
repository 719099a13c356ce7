package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// AuditWindow says what part of the audit an answer rests on.
type AuditWindow struct {
	Since    time.Time `json:"since"`         // from when on was asked
	From     time.Time `json:"from"`          // from when on there is anything: later than Since where older records are gone
	Until    time.Time `json:"until"`         // how far was read
	Batches  int       `json:"batches"`       // that were read
	Refused  int       `json:"refused"`       // batches that no known key signed, or that do not parse
	Missing  uint64    `json:"missing"`       // records that their writers left out, because too many waited
	Complete bool      `json:"complete"`      // everything that is stored since Since was read, and nothing of that time is gone
	Why      string    `json:"why,omitempty"` // why reading ended early
}

// Activity is what the audit says that an agent did. What receivers say counts:
// the agent itself could keep silent, or lie. Lists are cut, Omitted counts what is
// not in them.
type Activity struct {
	Calls     []CallCount   `json:"calls"`     // that handlers took from it
	Answers   []CallCount   `json:"answers"`   // that callers took from it
	Published []TopicCount  `json:"published"` // events
	Refused   []ReasonCount `json:"refused"`   // messages and connections
	Changes   []ReasonCount `json:"changes"`   // that it made in the registry, of itself or as an administrator
	Omitted   int           `json:"omitted"`
}

// CallCount counts the calls of one scope between an agent and one other.
type CallCount struct {
	Scope  string     `json:"scope"`
	Peer   agentid.ID `json:"peer"`
	Count  uint64     `json:"count"`
	Failed uint64     `json:"failed"` // of these, that ended in an error
	First  time.Time  `json:"first"`
	Last   time.Time  `json:"last"`
}

// TopicCount counts the events of one topic.
type TopicCount struct {
	Topic     string    `json:"topic"`
	Published uint64    `json:"published"` // by the publisher's own word
	Accepted  uint64    `json:"accepted"`  // by subscribers: each counts for itself
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// ReasonCount counts what has one kind and reason.
type ReasonCount struct {
	Kind   string        `json:"kind"`
	Reason denial.Reason `json:"reason"`
	Count  uint64        `json:"count"`
	First  time.Time     `json:"first"`
	Last   time.Time     `json:"last"`
}
