package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// ServerCut is what a cut did at one nats-server.
type ServerCut struct {
	Server string `json:"server"`         // its ID, which it has until it is started anew
	Name   string `json:"name,omitempty"` // where it was heard of
	Asked  bool   `json:"asked"`          // it said, after the connections were closed, which it has
	Closed int    `json:"closed"`         // connections
	Left   int    `json:"left"`           // connections without entitlement that it had then
}

// PendingCut is a cut that was not confirmed yet. It is tried again until it is.
type PendingCut struct {
	Agent       agentid.ID `json:"agent"`
	Since       time.Time  `json:"since"`
	Unreachable []string   `json:"unreachable"`     // servers that did not answer
	Bound       *time.Time `json:"bound,omitempty"` // as in CutResult
}
