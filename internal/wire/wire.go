// Package wire holds the documents that agents and the control plane exchange:
// the HTTPS requests of those that cannot connect yet or any more, what every
// agent may ask the control plane about itself, and the admin operations. All
// are JSON inside something signed; nothing here is believed for its own sake.
package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// The kinds of the signed HTTPS requests.
const (
	KindSelf   = "self"
	KindEnroll = "enroll"
	KindRenew  = "renew"
)

// The paths of the control plane's HTTPS endpoint.
const (
	PathSelf   = "/v1/self"
	PathEnroll = "/v1/enroll"
	PathRenew  = "/v1/renew"
	PathHealth = "/healthz"
)

// ProofAge is how old a signed HTTPS request may be.
const ProofAge = time.Minute

// SelfClaims asks for one's own status, signed with one's nkey. The audience is
// the trust domain, so that a request to one mesh is worth nothing in another.
type SelfClaims struct {
	jws.Head
	Agent    agentid.ID `json:"agent"`
	Audience string     `json:"aud"`
}

// SelfStatus is the answer: what the control plane thinks of the key that asked.
type SelfStatus struct {
	Schema   string           `json:"schema"` // sealmesh.self/v1
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Status   string           `json:"status"`
	State    string           `json:"state"`
	Epoch    string           `json:"epoch"`
	Reason   denial.Reason    `json:"reason,omitempty"` // why a connection is or was refused
	Hint     string           `json:"hint,omitempty"`
	Denial   string           `json:"denial,omitempty"` // ID of the last denied connection

	NotBefore *time.Time `json:"not_before,omitempty"` // of the reason flapping: let in from then on
}

// SelfSchema is that of SelfStatus.
const SelfSchema = "sealmesh.self/v1"

// EnrollClaims is the proof in an enrolment: the new instance's nkey signs the
// hash of what lets it in, its other keys and the certificate request together, so
// that none of them can be swapped on the way. It is let in by a join token or by a
// token of its platform, never both.
type EnrollClaims struct {
	jws.Head
	Agent agentid.ID `json:"agent"`
	Join  string     `json:"join,omitempty"` // registry.JoinHash of the secret
	OIDC  string     `json:"oidc,omitempty"` // registry.JoinHash of the platform's token
	Curve string     `json:"curve"`          // public curve key
	CSR   string     `json:"csr"`            // digest of the PEM text
}

// EnrollRequest is the body of an enrolment.
type EnrollRequest struct {
	Proof  string `json:"proof"`            // EnrollClaims, signed
	Secret string `json:"secret,omitempty"` // of the join token
	OIDC   string `json:"oidc,omitempty"`   // the platform's token, a secret as well
	CSR    string `json:"csr"`              // PEM
}

// EnrollResponse is what a new instance needs besides its keys.
type EnrollResponse struct {
	Schema      string     `json:"schema"` // sealmesh.enrolment/v1
	Agent       agentid.ID `json:"agent"`
	TrustDomain string     `json:"trust_domain"`
	Prefix      string     `json:"prefix"`
	NATS        []string   `json:"nats"`
	Roots       []string   `json:"roots"`
	SigningKeys []string   `json:"signing_keys"`
	Passport    string     `json:"passport"`
	Certificate string     `json:"certificate"` // PEM chain, leaf first
	CA          string     `json:"ca"`          // PEM roots for servers
	Trust       string     `json:"trust,omitempty"`
}

// EnrollSchema is that of EnrollResponse.
const EnrollSchema = "sealmesh.enrolment/v1"

// RenewClaims is the proof in a renewal over HTTPS, for an instance that slept
// past the end of its certificate and can no longer connect: its nkey signs the
// certificate request.
type RenewClaims struct {
	jws.Head
	Agent    agentid.ID `json:"agent"`
	Audience string     `json:"aud"` // trust domain
	CSR      string     `json:"csr"` // digest of the PEM text
}

// RenewRequest is the body of a renewal over HTTPS; the answer is Renewed.
type RenewRequest struct {
	Proof string `json:"proof"`           // RenewClaims, signed
	CSR   string `json:"csr"`             // PEM
	Trust uint64 `json:"trust,omitempty"` // version of the trust document that the instance has
}

// Failure is the body of a refused HTTPS request or operation.
type Failure struct {
	Reason denial.Reason `json:"reason"`
	Detail string        `json:"detail,omitempty"`
	Hint   string        `json:"hint,omitempty"`
	Denial string        `json:"denial,omitempty"`
}

// What every active agent may ask the control plane about itself; scopes under
// the verb self, which no token holds.
const (
	SelfSession       = "self:session"
	SelfChainPut      = "self:chain-put"
	SelfDelegationEnd = "self:delegation-end"
	SelfRenew         = "self:renew"
	SelfDurable       = "self:durable"
	SelfDurableEnd    = "self:durable-end"
	SelfInstances     = "self:instances"
	SelfStored        = "self:stored"
)

// SessionRequest names the connection by what its server told the client.
type SessionRequest struct {
	Server string `json:"server"`
	Client uint64 `json:"client"`
}

// SessionResponse tells when the connection's user JWT ends, which delegated
// chains wait for the agent, and how the monitor wants to be told of its life.
type SessionResponse struct {
	Expires     time.Time `json:"expires"`
	Held        []string  `json:"held,omitempty"`
	Chains      []string  `json:"chains,omitempty"`  // digests that the connection's grant rests on
	Footing     string    `json:"footing,omitempty"` // what else it rests on: registry.Agent.Footing when it was made
	HeartbeatMS int64     `json:"heartbeat_ms"`
	Watched     bool      `json:"watched"` // false: send no beats
}

// ChainPut stores a chain that the asking agent delegated.
type ChainPut struct {
	Chain string `json:"chain"`
}

// DelegationEnd takes back the last delegation of a chain.
type DelegationEnd struct {
	Chain string `json:"chain"`          // digest
	Text  string `json:"text,omitempty"` // of the chain, for one that may not be stored
}

// DurableRequest asks for a durable subscription of the agent: under this name it
// wants the events of these topics, also those stored while it is away. The
// topics given before under that name are replaced.
type DurableRequest struct {
	Name   string   `json:"name"`
	Topics []string `json:"topics"`
}

// DurableResponse names the consumer that the agent may pull from, once its
// connection has been replaced.
type DurableResponse struct {
	Consumer string `json:"consumer"`
}

// DurableEnd gives a durable subscription up; what it had not taken is gone.
type DurableEnd struct {
	Name string `json:"name"`
}

// Renew asks for a new certificate for one's own identity.
type Renew struct {
	CSR   string `json:"csr"`             // PEM
	Trust uint64 `json:"trust,omitempty"` // version of the trust document that the instance has
}

// Renewed is the answer to Renew.
type Renewed struct {
	Certificate string `json:"certificate"`     // PEM chain
	Trust       string `json:"trust,omitempty"` // the trust document
}

// The kinds of notes.
const (
	NoteDelegation = "delegation" // from an agent: a chain for the recipient
	NoteCancel     = "cancel"     // from an agent: a call is no longer waited for
	NoteReceived   = "received"   // from an agent: what came of the answer to a call
	NoteRotate     = "rotate"     // from the control plane: open a new connection
)

// DelegationNote hands a chain over.
type DelegationNote struct {
	Chain string `json:"chain"` // text
}

// CancelNote says that its sender no longer waits for the answer to a call of
// its own.
type CancelNote struct {
	Request string `json:"request"` // nonce of the call
}

// ReceivedNote says how much of a streamed answer came to the caller, and how
// much it takes before it says so again.
type ReceivedNote struct {
	Request string `json:"request"` // nonce of the call
	Parts   int    `json:"parts"`   // all up to this number came
	Most    int    `json:"most"`    // no number above this one may be sent yet
}
