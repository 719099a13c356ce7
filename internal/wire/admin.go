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
	OpList    Op = "list"    // After → AgentList, a page of it
	OpShow    Op = "show"    // Target → AgentView
	OpGrant   Op = "grant"   // Target, Rights, Depth → AgentView
	OpUngrant Op = "ungrant" // Target, Rights → CutResult
	OpJoin    Op = "join"    // Target, Join → AddResult
	OpSuspend Op = "suspend" // Target, Reason → CutResult
	OpResume  Op = "resume"  // Target (agent or instance), Reason → AgentView
	OpRevoke  Op = "revoke"  // Target (agent or instance), Reason → CutResult
	OpRemove  Op = "remove"  // Target, Reason → CutResult
	OpStatus  Op = "status"  // → MeshStatus
	OpEnd     Op = "end"     // Chain: takes back any delegation → CutResult

	OpSet         Op = "set"          // Target, Settings → AgentView
	OpDelegated   Op = "delegated"    // Target → DelegationTree
	OpTopics      Op = "topics"       // → TopicList
	OpTopicAdd    Op = "topic-add"    // Topic: adds or changes it → TopicList
	OpTopicRemove Op = "topic-remove" // Topic.Topic → TopicList
	OpLint        Op = "lint"         // → LintReport
	OpMonitor     Op = "monitor"      // Monitor, Reason → MonitorStatus
	OpBlast       Op = "blast"        // Target → Blast
	OpSince       Op = "since"        // Target (agent or instance), Since → Compromise
	OpRotate      Op = "rotate"       // Target (agent or instance; empty: all), Over, After, Reason → Rotation, a page of it
	OpJoins       Op = "joins"        // Target (agent) or none → JoinList
	OpJoinCancel  Op = "join-cancel"  // Target (agent or handle of a join token) → JoinList: those that were out

	OpRecords           Op = "records"            // Records → RecordList
	OpKeys              Op = "keys"               // → KeyList
	OpRoll              Op = "roll"               // Roll, Reason → Roll
	OpServerCertificate Op = "server-certificate" // Server, CSR → ServerCertificate
)

// AdminRequest is one operation; which fields count depends on Op. Unknown
// fields are refused.
type AdminRequest struct {
	Op     Op                 `json:"op"`
	Target string             `json:"target,omitempty"`
	New    *registry.NewAgent `json:"new,omitempty"`
	Join   *JoinSpec          `json:"join,omitempty"`
	NoJoin bool               `json:"no_join,omitempty"` // add: the record alone, no join token
	Rights registry.Rights    `json:"rights"`
	Depth  int                `json:"depth,omitempty"`
	Reason string             `json:"reason,omitempty"`
	Chain  string             `json:"chain,omitempty"` // digest, or the chain itself

	Settings *Settings       `json:"settings,omitempty"`
	Records  *RecordQuery    `json:"records,omitempty"` // records: which of the audit
	Topic    *registry.Topic `json:"topic,omitempty"`
	DryRun   bool            `json:"dry_run,omitempty"` // suspend, revoke, rm, ungrant, end: say what would be cut
	Monitor  string          `json:"monitor,omitempty"` // monitor: status, release or confirm
	Roll     string          `json:"roll,omitempty"`    // roll: start or status
	Server   string          `json:"server,omitempty"`  // server-certificate: name of a nats-server in sealmesh.yaml
	CSR      string          `json:"csr,omitempty"`     // server-certificate: PEM, without any name
	After    agentid.ID      `json:"after,omitzero"`    // list: those behind this one; zero: from the first
	Since    time.Time       `json:"since,omitzero"`    // since: from when on
	Over     time.Duration   `json:"over,omitempty"`    // rotate: over how long it is spread; zero: by how many there are
}

// Settings are what an operator may change of an agent besides its rights; what
// is nil stays.
type Settings = registry.Settings

// TopicList is the answer of the topic operations.
type TopicList struct {
	Schema string      `json:"schema"` // sealmesh.topics/v1
	Topics []TopicView `json:"topics"`
}

// TopicView is one durable topic as operators see it.
type TopicView struct {
	Topic    string   `json:"topic"`
	MaxAgeMS int64    `json:"max_age_ms"`
	Stored   uint64   `json:"stored"`
	Durables []string `json:"durables"` // subscriptions, AGENT/NAME
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

// AgentList is the answer of list: as many agents as one message takes, in order
// of their names. [ListAgents] reads all of them.
type AgentList struct {
	Schema string      `json:"schema"` // sealmesh.agents/v1
	Agents []AgentView `json:"agents"`
	Next   agentid.ID  `json:"next,omitzero"` // the last of these, where more come behind it
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
	Sessions    registry.Sessions  `json:"sessions"`
	Stock       bool               `json:"stock"`
	Depth       int                `json:"depth"` // 0: the default
	Instances   []InstanceView     `json:"instances"`
	Call        []capability.Scope `json:"call"`
	Handle      []capability.Scope `json:"handle"`
	Publish     []string           `json:"publish"`
	Subscribe   []string           `json:"subscribe"`
	MayDelegate []capability.Scope `json:"may_delegate"`
	Plain       PlainView          `json:"plain"`
	Delegated   []DelegatedView    `json:"delegated"` // what others lent to it
	Durables    []registry.Durable `json:"durables"`
	Labels      map[string]string  `json:"labels"`
	Join        registry.JoinRule  `json:"join,omitzero"` // whom it takes without a join token
	Changed     ChangeView         `json:"changed"`

	Cut *CutResult `json:"cut_result,omitempty"` // of set: the connections that it closed
}

// PlainView are the rights of an agent outside the mesh, where nothing is signed.
type PlainView struct {
	Publish   []string `json:"publish"`
	Subscribe []string `json:"subscribe"`
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
	CertificateSerial   string           `json:"certificate_serial,omitempty"`
	CertificateCA       string           `json:"certificate_ca,omitempty"` // hash of the root that it chains to
	Client              string           `json:"client,omitempty"`

	Flaps     int         `json:"flaps,omitempty"`      // readmissions, each within an hour of the one before
	NotBefore *time.Time  `json:"not_before,omitempty"` // not readmitted earlier
	Clones    *ClonesView `json:"clones,omitempty"`     // hosts that use its key at the same time
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
// is left; those of the instance that asked for it count, and are closed behind
// the answer.
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

	Servers []ServerCut `json:"servers"`
	Bound   *time.Time  `json:"bound,omitempty"` // without a system account: by when the last connection ends by itself

	DryRun bool             `json:"dry_run,omitempty"` // nothing was done: all of this would be
	Closes []ConnectionView `json:"closes,omitzero"`   // of a dry run: the connections
	Would  []Loss           `json:"would,omitzero"`    // of a dry run: who would lose what
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
	Replay    *ReplayView             `json:"replay,omitempty"`
	Version   string                  `json:"version"`

	PendingCuts       []PendingCut `json:"pending_cuts"`        // of this replica
	RevocationBoundMS int64        `json:"revocation_bound_ms"` // how long a cut connection may go on at the broker; 0: it is closed
	Unlisted          uint64       `json:"unlisted"`            // connections without a session that this replica cut since its start
	Insecure          []string     `json:"insecure,omitempty"`  // settings that take protection away

	Alarms []AlarmView `json:"alarms"`

	Expires []Ending `json:"expires"` // what ends next, the first first

	OlderRecords []OlderRecord `json:"older_records,omitempty"` // than this replica saw before: refused

	ControlPlanes  []ControlPlane `json:"control_planes"`  // that answered, by host and name
	MissingServers []string       `json:"missing_servers"` // that sealmesh.yaml names and that are not heard of
	Streams        []StreamView   `json:"streams"`         // of the registry, and those that agents need
	FeedLagMS      int64          `json:"feed_lag_ms"`     // the worst of any replica
	Denied         []DenialRate   `json:"denied"`          // by all replicas, the most frequent first
	DeniedWindowMS int64          `json:"denied_window_ms"`
}

// ReplayView is the store of used nonces as operators see it.
type ReplayView struct {
	Nonces uint64 `json:"nonces"` // that it holds
	Bytes  uint64 `json:"bytes"`  // on the disk
	Most   uint64 `json:"most"`   // nonces that it can hold
	Raises uint64 `json:"raises"` // by this replica since its start, because it may have forgotten some
	Reason string `json:"reason,omitempty"`
}

// MonitorView is the heartbeat monitor as operators see it.
type MonitorView struct {
	State     string     `json:"state"` // the worst of any replica
	Watched   int        `json:"watched"`
	Silent    int        `json:"silent"` // who has missed beats
	Held      int        `json:"held"`   // how many the brake keeps from expiring
	HeldSince *time.Time `json:"held_since,omitempty"`
	Replicas  int        `json:"replicas"`          // that answered
	Missing   []string   `json:"missing,omitempty"` // that did not
}

// The schemas of the admin answers.
const (
	JoinSchema   = "sealmesh.join/v1"
	AgentsSchema = "sealmesh.agents/v1"
	AgentSchema  = "sealmesh.agent/v1"
	CutSchema    = "sealmesh.cut/v1"
	StatusSchema = "sealmesh.status/v1"
	TopicsSchema = "sealmesh.topics/v1"
)
