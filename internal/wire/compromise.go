package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// Compromise is the answer of since: what an agent, or one instance of it, did
// from a time on that others took, and what of that is still there. Lists are cut;
// the totals are not.
type Compromise struct {
	Schema   string           `json:"schema"` // sealmesh.compromise/v1
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance,omitzero"`
	Since    time.Time        `json:"since"`
	Audit    AuditWindow      `json:"audit"`

	Calls       []AcceptedCall `json:"calls"` // the first of them
	CallsTotal  uint64         `json:"calls_total"`
	Did         Activity       `json:"did"`
	Stored      []StoredCount  `json:"stored"` // events in durable topics; of the whole agent
	Delegations []MadeView     `json:"delegations"`
	Connections []AdmittedView `json:"connections"`
	Admitted    uint64         `json:"connections_total"`
	Hosts       []string       `json:"hosts"` // of all of them
	Cut         *CutResult     `json:"cut,omitempty"`
}

// AcceptedCall is one call that a handler took.
type AcceptedCall struct {
	At          time.Time        `json:"at"`
	Instance    agentid.Instance `json:"instance"`
	By          agentid.ID       `json:"by"` // who took it
	ByInstance  agentid.Instance `json:"by_instance"`
	Scope       string           `json:"scope"`
	Correlation string           `json:"correlation"`
	Chain       string           `json:"chain"` // digest
	Outcome     audit.Verdict    `json:"outcome"`
	Reason      denial.Reason    `json:"reason,omitempty"` // of a failure
}

// StoredCount counts the events that wait in a durable topic. Receivers refuse
// them once their signer is revoked.
type StoredCount struct {
	Topic string `json:"topic"`
	Count uint64 `json:"count"`
}

// MadeView is a delegation that was signed or stored in the time asked for. When it
// was signed is the signer's word.
type MadeView struct {
	To      agentid.ID         `json:"to"`
	Scopes  []capability.Scope `json:"scopes"`
	Signed  time.Time          `json:"signed"`
	Stored  time.Time          `json:"stored,omitzero"` // by the server's clock
	Expires time.Time          `json:"expires"`
	Ended   denial.Reason      `json:"ended,omitempty"`
	Chain   string             `json:"chain"`
	Onward  int                `json:"onward"` // stored delegations below it
	Uses    uint64             `json:"uses"`   // calls and events that rested on it and were accepted
	Last    time.Time          `json:"last,omitzero"`
}

// AdmittedView is one connection that was admitted.
type AdmittedView struct {
	At       time.Time        `json:"at"`
	Instance agentid.Instance `json:"instance"`
	Host     string           `json:"host"`
	Server   string           `json:"server"`
	Epoch    string           `json:"epoch"`
}

// CompromiseSchema is that of Compromise.
const CompromiseSchema = "sealmesh.compromise/v1"
