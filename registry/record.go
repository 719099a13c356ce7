package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// The kinds of the registry's signed documents.
const (
	kindAgent    = "agent"
	kindInstance = "instance"
	kindTick     = "tick"
)

// Kind is what sort of thing an agent is; it decides how long it may sleep.
type Kind string

// The kinds of agents.
const (
	Service Kind = "service"
	Person  Kind = "person"
	Job     Kind = "job"
)

// Heartbeat says when the monitor watches an agent.
type Heartbeat string

// The heartbeat policies (§8 of the design).
const (
	HeartbeatSession Heartbeat = "session" // from admission until it leaves
	HeartbeatAlways  Heartbeat = "always"  // must always have a live instance
	HeartbeatNone    Heartbeat = "none"
)

// Readmit says how an expired agent comes back.
type Readmit string

// The ways back from expired.
const (
	ReadmitAttestation Readmit = "attestation"
	ReadmitManual      Readmit = "manual"
)

// Sessions says from how many hosts one instance may be connected at a time.
// SessionsAny is not written into a record.
type Sessions string

// The policies for connections of one instance.
const (
	SessionsAny    Sessions = "any"
	SessionsSingle Sessions = "single" // one host, and two connections while it replaces one by the other
)

// Change says who changed a record last, when and why.
type Change struct {
	At     int64  `json:"at"` // Unix seconds
	By     string `json:"by"`
	Reason string `json:"reason,omitempty"`
}

// Void is a delegation that its issuer took back. It is listed until the token
// would have ended by itself.
type Void struct {
	Token   string `json:"token"`   // digest
	Expires int64  `json:"expires"` // Unix seconds
}

// Agent is the signed record of one agent.
type Agent struct {
	jws.Head
	Agent     agentid.ID        `json:"agent"`
	Status    Status            `json:"status"`
	Epoch     uint64            `json:"epoch"`
	Revision  uint64            `json:"revision"`
	Since     uint64            `json:"since"` // epoch with which the name began, or began anew
	AgentKind Kind              `json:"agent_kind"`
	Heartbeat Heartbeat         `json:"heartbeat"`
	Readmit   Readmit           `json:"readmit"`
	Sessions  Sessions          `json:"sessions,omitempty"` // any where empty
	Stock     bool              `json:"stock,omitempty"`    // a client that cannot rotate by itself
	Rights    Rights            `json:"rights"`
	Depth     int               `json:"depth,omitempty"` // of root tokens; DefaultDepth where zero
	Labels    map[string]string `json:"labels,omitempty"`
	Tokens    []string          `json:"tokens,omitempty"` // digests of the live root tokens
	Voided    []Void            `json:"voided,omitempty"`
	Durables  []Durable         `json:"durables,omitempty"`
	Removed   bool              `json:"removed,omitempty"` // hidden from lists; always revoked
	Join      JoinRule          `json:"join,omitzero"`     // whom it takes without a join token
	Changed   Change            `json:"changed"`
}

// Instance is the signed record of one instance.
type Instance struct {
	jws.Head
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Passport string           `json:"passport"`
	Epoch    uint64           `json:"epoch"`
	Revision uint64           `json:"revision"`
	Since    uint64           `json:"since"` // that of the agent to which it was enrolled
	State    State            `json:"state"`
	Serial   string           `json:"serial,omitempty"`    // of the newest certificate
	NotAfter int64            `json:"not_after,omitempty"` // of that certificate, Unix seconds
	CA       string           `json:"ca,omitempty"`        // pki.RootHash of the root that it chains to
	Trust    uint64           `json:"trust,omitempty"`     // version of the trust document that it had then
	Host     string           `json:"host,omitempty"`
	Reaped   bool             `json:"reaped,omitempty"` // gone by itself and hidden from lists; always revoked
	Changed  Change           `json:"changed"`

	// What coming back from expired again and again costs; see [Instance.Flapping].
	Flaps      int   `json:"flaps,omitempty"`
	Readmitted int64 `json:"readmitted,omitempty"` // Unix seconds, the last time
	NotBefore  int64 `json:"not_before,omitempty"` // Unix seconds: not readmitted earlier
}

// Tick is the signed pulse of the control plane: proof that silence about an
// agent means that nothing happened to it.
type Tick struct {
	jws.Head
	Incarnation uint64       `json:"incarnation"`
	Revision    uint64       `json:"revision"`
	Time        int64        `json:"time"`         // Unix milliseconds
	ReplaySince int64        `json:"replay_since"` // Unix milliseconds: older messages are refused
	Changed     []EpochEntry `json:"changed,omitempty"`
}

// EpochEntry says that an agent's epoch is at least this.
type EpochEntry struct {
	Agent agentid.ID `json:"agent"`
	Epoch uint64     `json:"epoch"`
}

// Keys of the registry bucket that are not agents'. Their first token is a
// reserved ID, so no agent can be registered over them.
const (
	TickKey   = "sealmesh.tick"
	RingKey   = "sealmesh.keys"
	TopicsKey = "sealmesh.topics"
	TrustKey  = "sealmesh.trust"
)

// InstanceKey is the bucket key of an instance's record.
func InstanceKey(agent agentid.ID, instance agentid.Instance) string {
	return agent.String() + "." + instance.String()
}

// DecodeAgent reads and verifies the record of one agent. It refuses a genuine
// record of another agent: the key under which a broker serves a document is a
// hint.
func DecodeAgent(text string, want agentid.ID, ring *capability.Keyring, now time.Time) (*Agent, error) {
	var a Agent
	u, err := jws.Decode(text, kindAgent, &a)
	if err != nil {
		return nil, err
	}
	if err := ring.Check(u, capability.ForRecords, now); err != nil {
		return nil, err
	}
	if want.IsZero() || a.Agent != want {
		return nil, denial.New(denial.BadRecord, "record of agent %q in place of %q", a.Agent, want)
	}
	return &a, nil
}

// DecodeInstance reads and verifies the record of one instance.
func DecodeInstance(text string, agent agentid.ID, want agentid.Instance, ring *capability.Keyring, now time.Time) (*Instance, error) {
	var i Instance
	u, err := jws.Decode(text, kindInstance, &i)
	if err != nil {
		return nil, err
	}
	if err := ring.Check(u, capability.ForRecords, now); err != nil {
		return nil, err
	}
	if agent.IsZero() || want.IsZero() || i.Agent != agent || i.Instance != want {
		return nil, denial.New(denial.BadRecord, "record of instance %s/%s in place of %s/%s", i.Agent, i.Instance, agent, want)
	}
	return &i, nil
}

// Identity returns the verified passport of the instance; a record whose
// passport is another agent's or another key's is refused.
func (i *Instance) Identity(ring *capability.Keyring, now time.Time) (capability.Passport, error) {
	p, err := capability.VerifyPassport(i.Passport, ring, now)
	if err != nil {
		return capability.Passport{}, err
	}
	if p.Agent != i.Agent || p.Instance() != i.Instance {
		return capability.Passport{}, denial.New(denial.BadRecord, "passport of %s/%s in the record of %s/%s", p.Agent, p.Instance(), i.Agent, i.Instance)
	}
	return p, nil
}

// DecodeTick reads and verifies a tick.
func DecodeTick(text string, ring *capability.Keyring, now time.Time) (*Tick, error) {
	var t Tick
	u, err := jws.Decode(text, kindTick, &t)
	if err != nil {
		return nil, err
	}
	if err := ring.Check(u, capability.ForRecords, now); err != nil {
		return nil, err
	}
	return &t, nil
}

// Belongs refuses an instance of a name's former holder: when a revoked name is
// given new keys, one that was enrolled before is worth nothing even if it
// escaped the revocation.
func (i *Instance) Belongs(a *Agent) error {
	if i.Agent != a.Agent || i.Since != a.Since {
		return denial.New(denial.Revoked, "instance %s/%s was enrolled before the name was given new keys", i.Agent, i.Instance)
	}
	return nil
}

// JoinRing and SplitRing give the text form of the signing-key certificates
// under RingKey.
func JoinRing(certificates []string) string { return strings.Join(certificates, "~") }

// SplitRing is the inverse of JoinRing; the certificates are not verified.
func SplitRing(text string) []string {
	if text == "" || len(text) > limits.Chain {
		return nil
	}
	return strings.Split(text, "~")
}

func (a *Agent) clone() *Agent {
	b := *a
	b.Rights = a.Rights.clone()
	b.Tokens = slices.Clone(a.Tokens)
	b.Voided = slices.Clone(a.Voided)
	b.Durables = cloneDurables(a.Durables)
	if a.Labels != nil {
		b.Labels = make(map[string]string, len(a.Labels))
		for k, v := range a.Labels {
			b.Labels[k] = v
		}
	}
	return &b
}

// headroom is what a record must leave free of the longest document in bytes
// whenever it grows by somebody's wish: an agent that fills its record with
// delegations that it ended must not keep an operator from suspending it, nor
// keep its root tokens from being renewed.
const headroom = 6 << 10

func (a *Agent) checkSize() error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("registry: record of %q: %w", a.Agent, err)
	}
	if b64.EncodedLen(len(b)) > limits.Document-headroom {
		return denial.New(denial.QuotaExceeded, "record of %q is full: rights, labels and ended delegations take %d bytes", a.Agent, len(b))
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > limits.Labels {
		return denial.New(denial.BadInput, "more than %d labels", limits.Labels)
	}
	for k, v := range labels {
		if k == "" || len(k) > limits.LabelText || len(v) > limits.LabelText || !utf8.ValidString(k) || !utf8.ValidString(v) ||
			strings.ContainsFunc(k+v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return denial.New(denial.BadInput, "label %q must have a name, at most %d characters and no control characters", fmt.Sprintf("%.40s", k), limits.LabelText)
		}
	}
	return nil
}

// plain makes foreign text fit for a record: bounded, without control characters
// and with one encoding.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > limits.Reason {
		s = strings.ToValidUTF8(s[:limits.Reason], "")
	}
	return s
}
