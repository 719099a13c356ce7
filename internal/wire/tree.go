package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// DelegationTree is the answer of delegated: what an agent lent, and what became
// of it, and what it holds of others. What was made offline and never stored is
// known to nobody.
type DelegationTree struct {
	Schema string          `json:"schema"` // sealmesh.delegated/v1
	Agent  agentid.ID      `json:"agent"`
	Status registry.Status `json:"status"`
	Lent   []LentView      `json:"lent"`
	Held   []LentView      `json:"held"`
}

// LentView is one delegation.
type LentView struct {
	From        agentid.ID         `json:"from"`
	To          agentid.ID         `json:"to"`
	Scopes      []capability.Scope `json:"scopes"`
	MayDelegate []capability.Scope `json:"may_delegate"`
	Depth       int                `json:"depth"` // how often that may still be passed on
	Expires     time.Time          `json:"expires"`
	Ended       denial.Reason      `json:"ended,omitempty"` // why it is worth nothing; empty: it stands
	Chain       string             `json:"chain"`           // digest
	Connections int                `json:"connections"`     // of its holder, that rest on it
	Through     []agentid.ID       `json:"through"`         // who passed it on before, the first of them first
	Lent        []LentView         `json:"lent"`            // what its holder passed on of it
}

// Loss is what an agent would hold no more after an operation.
type Loss struct {
	Agent agentid.ID         `json:"agent"`
	Loses []capability.Scope `json:"loses"`
	Keeps []capability.Scope `json:"keeps"` // of what would end, what it keeps by other chains
}

// ConnectionView is one connection.
type ConnectionView struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance,omitzero"` // not known of one that no record tells of
	Server   string           `json:"server"`
	Client   uint64           `json:"client"` // its number at that server
}

// DelegatedSchema is that of DelegationTree.
const DelegatedSchema = "sealmesh.delegated/v1"
