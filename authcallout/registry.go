package authcallout

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
)

// Registry is what the service needs to know and to write. The control plane
// implements it over package registry. Implementations are used by many
// goroutines at once and must honour ctx.
type Registry interface {
	// Admit says what the agent may have on a connection that proved key. It
	// MUST return a refusal (package denial) unless the agent is active and key
	// is an instance of it that is not revoked, and MUST return only chains that
	// it verified and checked, whether presented or stored.
	//
	// agent comes from the certificate and presented are chain digests from the
	// CONNECT line, well-formed and not yet believed.
	Admit(ctx context.Context, agent agentid.ID, key string, presented []string) (Admission, error)

	// Open writes the session and then reads the record again, from the bucket's
	// leader. It MUST return a refusal if authority shrank since Admit, usually
	// denial.EpochRaced.
	Open(ctx context.Context, s Session) error
}

// SessionStock is the [Admission.Session] of clients that cannot rotate their
// user JWT by themselves: it lasts as long as certificate and chains do.
const SessionStock = "stock"

// Admission is what the registry lets an instance have.
type Admission struct {
	Instance agentid.Instance
	Epoch    string // "3.1": the agent's and the instance's
	Chains   []*capability.Chain
	Plain    Plain
	Durables []string // as in [Subject]
	Footing  string   // names Plain and Durables for the session; opaque here
	Session  string   // "" or [SessionStock]
}

// Session is one issued user JWT: what a revoker needs to find the connection
// and to know whether it is touched.
type Session struct {
	Agent       agentid.ID
	Instance    agentid.Instance
	Epoch       string
	ServerID    string // public server key of the nats-server
	ClientID    uint64 // the connection's number at that server
	Host        string // the client's address as that server sees it
	UserKey     string // the server's one-time key for this request
	Issued      time.Time
	Expires     time.Time
	Chains      []string     // digests of the chains that the grant rests on, sorted
	Via         []agentid.ID // agents whose delegation it rests on, sorted
	Footing     string       // of the admission
	Certificate string       // serial number
}
