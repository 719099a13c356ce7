package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/registry"
)

// AdminScope is the scope of all registry operations.
const AdminScope = "admin:registry"

// Op names an admin operation.
type Op string

// The admin operations. Target is an agent ("reader") or one of its instances
// ("reader/7f3c2k9q") where the operation takes either.
const (
	OpAdd     Op = "add"     // New, Join → AddResult
	OpList    Op = "list"    // → AgentList
	OpShow    Op = "show"    // Target → AgentView
	OpGrant   Op = "grant"   // Target, Rights, Depth → AgentView
	OpUngrant Op = "ungrant" // Target, Rights → CutResult
	OpJoin    Op = "join"    // Target, Join → AddResult
	OpSuspend Op = "suspend" // Target, Reason → CutResult
	OpResume  Op = "resume"  // Target, Reason → AgentView
	OpRevoke  Op = "revoke"  // Target (agent or instance), Reason → CutResult
	OpRemove  Op = "remove"  // Target, Reason → CutResult
	OpStatus  Op = "status"  // → MeshStatus
	OpEnd     Op = "end"     // Chain: takes back any delegation → CutResult
)

// AdminRequest is one operation; which fields count depends on Op. Unknown
// fields are refused.
type AdminRequest struct {
	Op     Op                 `json:"op"`
	Target string             `json:"target,omitempty"`
	New    *registry.NewAgent `json:"new,omitempty"`
	Join   *JoinSpec          `json:"join,omitempty"`
	Rights registry.Rights    `json:"rights"`
	Depth  int                `json:"depth,omitempty"`
	Reason string             `json:"reason,omitempty"`
	Chain  string             `json:"chain,omitempty"` // digest
}

// JoinSpec says what a join token is worth; zero fields take the defaults.
type JoinSpec struct {
	TTL  time.Duration `json:"ttl,omitempty"`
	Uses int           `json:"uses,omitempty"`
}

// AddResult is the answer of add and join. The join token is a secret.
type AddResult struct {
	Schema    string     `json:"schema"` // sealmesh.join/v1
	Agent     agentid.ID `json:"agent"`
	JoinToken string     `json:"join_token"`
	Expires   time.Time  `json:"expires"`
	URL       string     `json:"url"`
}

// AgentList is the answer of list.
type AgentList struct {
	Schema string      `json:"schema"` // sealmesh.agents/v1
	Agents []AgentView `json:"agents"`
}

// AgentView is an agent as operators see it.
type AgentView struct {
	Schema      string             `json:"schema,omitempty"` // sealmesh.agent/v1
	Agent       agentid.ID         `json:"agent"`
	Status      registry.Status    `json:"status"`
	Epoch       uint64             `json:"epoch"`
	Kind        registry.Kind      `json:"kind"`
	Heartbeat   registry.Heartbeat `json:"heartbeat"`
	Readmit     registry.Readmit   `json:"readmit"`
	Instances   []InstanceView     `json:"instances"`
	Call        []capability.Scope `json:"call"`
	Handle      []capability.Scope `json:"handle"`
	Publish     []string           `json:"publish"`
	Subscribe   []string           `json:"subscribe"`
	MayDelegate []capability.Scope `json:"may_delegate"`
	Delegated   []DelegatedView    `json:"delegated"` // what others lent to it
	Labels      map[string]string  `json:"labels"`
	Changed     ChangeView         `json:"changed"`
}

// InstanceView is one instance as operators see it.
type InstanceView struct {
	Instance            agentid.Instance `json:"instance"`
	State               registry.State   `json:"state"`
	Epoch               uint64           `json:"epoch"`
	NKey                string           `json:"nkey"`
	Server              string           `json:"server,omitempty"`
	Host                string           `json:"host,omitempty"`
	Connections         int              `json:"connections"`
	LastBeat            *time.Time       `json:"last_beat,omitempty"`
	CertificateNotAfter *time.Time       `json:"certificate_not_after,omitempty"`
	Client              string           `json:"client,omitempty"`
}

// DelegatedView is one delegation that an agent holds.
type DelegatedView struct {
	From    agentid.ID         `json:"from"`
	Scopes  []capability.Scope `json:"scopes"`
	Expires time.Time          `json:"expires"`
	Chain   string             `json:"chain"` // digest
}

// ChangeView says who changed a record last.
type ChangeView struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
}

// CutResult is the answer of an operation that takes authority away. Confirmed
// is true when every server was asked and no connection that the cut concerns
// is left.
type CutResult struct {
	Schema      string          `json:"schema"` // sealmesh.cut/v1
	Agent       agentid.ID      `json:"agent"`
	Status      registry.Status `json:"status"`
	Epoch       uint64          `json:"epoch"`
	Cut         int             `json:"cut"`       // connections closed
	Delegates   []agentid.ID    `json:"delegates"` // agents whose sessions rested on it
	Confirmed   bool            `json:"confirmed"`
	Unreachable []string        `json:"unreachable,omitempty"`
	MS          float64         `json:"ms"`
}

// MeshStatus is the answer of status.
type MeshStatus struct {
	Schema    string                  `json:"schema"` // sealmesh.status/v1
	Time      time.Time               `json:"time"`
	Agents    map[registry.Status]int `json:"agents"`
	Instances map[registry.State]int  `json:"instances"`
	Sessions  int                     `json:"sessions"`
	Servers   []string                `json:"servers"`
	Revision  uint64                  `json:"revision"`
	Monitor   MonitorView             `json:"monitor"`
	Denials   uint64                  `json:"denials"` // of this replica since its start
	Version   string                  `json:"version"`
}

// MonitorView is the heartbeat monitor as operators see it.
type MonitorView struct {
	State   string `json:"state"`
	Watched int    `json:"watched"`
	Held    int    `json:"held"`
}

// The schemas of the admin answers.
const (
	JoinSchema   = "sealmesh.join/v1"
	AgentsSchema = "sealmesh.agents/v1"
	AgentSchema  = "sealmesh.agent/v1"
	CutSchema    = "sealmesh.cut/v1"
	StatusSchema = "sealmesh.status/v1"
)
