package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
)

// TraceSchema is that of RecordList.
const TraceSchema = "sealmesh.records/v1"

// RecordQuery says which records are asked for; what is set has to hold of them all.
type RecordQuery struct {
	Correlation string     `json:"correlation,omitempty"`
	Denial      string     `json:"denial,omitempty"`
	Agent       agentid.ID `json:"agent,omitzero"`   // who sent, or was to receive
	Denied      bool       `json:"denied,omitempty"` // refusals alone
	Since       time.Time  `json:"since"`            // from when on
	Own         bool       `json:"own,omitempty"`    // what clients ask the control plane for themselves, too
	Begun       bool       `json:"begun,omitempty"`  // calls and events that began a tree alone
	Newest      int        `json:"newest,omitempty"` // how many of the newest; zero: as many as there is room for
}

// RecordList are records of the audit, in the order in which they were stored.
type RecordList struct {
	Schema  string       `json:"schema"` // sealmesh.records/v1
	Records []RecordView `json:"records"`
	Omitted int          `json:"omitted"` // of which there was no room for, the oldest
	// Rights are the chains of delegations by the digests that records name: the agent
	// whose own right it is, and then to whom it was lent. Who is not in it has
	// the right itself, or its chain is gone.
	Rights map[string][]agentid.ID `json:"rights"`
	Audit  AuditWindow             `json:"audit"`
}

// RecordView is one record and who signed it.
type RecordView struct {
	At          time.Time        `json:"at"`
	By          agentid.ID       `json:"by"`
	ByInstance  agentid.Instance `json:"by_instance"`
	Kind        audit.Kind       `json:"kind"`
	Verdict     audit.Verdict    `json:"verdict"`
	Reason      denial.Reason    `json:"reason,omitempty"`
	Detail      string           `json:"detail,omitempty"`
	Denial      string           `json:"denial,omitempty"`
	Correlation string           `json:"correlation,omitempty"`
	Nonce       string           `json:"nonce,omitempty"`
	Parent      string           `json:"parent,omitempty"`
	Sender      agentid.ID       `json:"sender,omitzero"`
	Instance    agentid.Instance `json:"instance,omitzero"`
	Peer        agentid.ID       `json:"peer,omitzero"`
	Scope       string           `json:"scope,omitempty"`
	Subject     string           `json:"subject,omitempty"`
	Chain       string           `json:"chain,omitempty"`
	Payload     string           `json:"payload,omitempty"`
	Size        int              `json:"size,omitempty"`
	MS          float64          `json:"ms,omitempty"`
	Host        string           `json:"host,omitempty"`
	Key         string           `json:"nkey,omitempty"`
	Server      string           `json:"server,omitempty"`
	Epoch       string           `json:"epoch,omitempty"`
	Suppressed  uint64           `json:"suppressed,omitempty"`
}

// ViewRecord is how an entry of the audit is told.
func ViewRecord(e audit.Entry) RecordView {
	return RecordView{
		At: e.Time.UTC(), By: e.By, ByInstance: e.ByInstance, Kind: e.Kind, Verdict: e.Verdict, Reason: e.Reason, Detail: e.Detail, Denial: e.Denial,
		Correlation: e.Correlation, Nonce: e.Nonce, Parent: e.Parent, Sender: e.Sender, Instance: e.Instance, Peer: e.Peer,
		Scope: e.Scope, Subject: e.Subject, Chain: e.Chain, Payload: e.Payload, Size: e.Size, MS: float64(e.Duration.Microseconds()) / 1000,
		Host: e.Host, Key: e.Key, Server: e.Server, Epoch: e.Epoch, Suppressed: e.Suppressed,
	}
}

// Entry is the entry of the audit that the view tells.
func (v RecordView) Entry() audit.Entry {
	return audit.Entry{By: v.By, ByInstance: v.ByInstance, Record: audit.Record{
		Time: v.At, Kind: v.Kind, Verdict: v.Verdict, Reason: v.Reason, Detail: v.Detail, Denial: v.Denial,
		Correlation: v.Correlation, Nonce: v.Nonce, Parent: v.Parent, Sender: v.Sender, Instance: v.Instance, Peer: v.Peer,
		Scope: v.Scope, Subject: v.Subject, Chain: v.Chain, Payload: v.Payload, Size: v.Size,
		Duration: time.Duration(v.MS*1000) * time.Microsecond,
		Host:     v.Host, Key: v.Key, Server: v.Server, Epoch: v.Epoch, Suppressed: v.Suppressed,
	}}
}
