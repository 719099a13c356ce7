package lint

import (
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/registry"
)

// The accounts that a mesh is made of.
const (
	Control = "CTRL"
	Mesh    = "MESH"
	Store   = "STORE"
)

// Snapshot is all that decides who reaches what, at one moment.
type Snapshot struct {
	Prefix    string // first token of the mesh's subjects
	Agents    []Agent
	Accounts  []Account
	Streams   []Stream
	Consumers []Consumer
	Topics    []string // durable ones
	// Unread is what could not be read, and is therefore not proven.
	Unread []Unread
}

// Agent is one agent with what its grants have to rest on.
type Agent struct {
	ID        agentid.ID
	Scopes    []capability.Scope // of all its valid chains
	Plain     authcallout.Plain
	Durables  []registry.Durable
	Instances []Instance
}

// Instance is one instance and the grant that the auth callout would give it.
type Instance struct {
	ID    agentid.Instance
	Grant authcallout.Grant
}

// Account is an account of the servers' configuration.
type Account struct {
	Name      string
	JetStream bool
	Exports   []Export
	Imports   []Import
}

// Export is what an account offers to others.
type Export struct {
	Subject  string
	Service  bool
	Accounts []string // to whom; empty is everybody
}

// Import is what crosses into an account: the messages of a stream, or the
// requests that leave it for a service.
type Import struct {
	From    string // the exporting account
	Subject string // there
	To      string // here, where it has another name
	Service bool
}

// local is the subject by which the importing account knows it.
func (i Import) local() string {
	if i.To != "" {
		return i.To
	}
	return i.Subject
}

// Stream is a JetStream stream.
type Stream struct {
	Account string
	Config  jetstream.StreamConfig
}

// Consumer is a consumer of a stream.
type Consumer struct {
	Account, Stream string
	Config          jetstream.ConsumerConfig
}

// name is the durable name, or that of an ephemeral consumer.
func (c Consumer) name() string {
	if c.Config.Durable != "" {
		return c.Config.Durable
	}
	return c.Config.Name
}

// Unread is something that a snapshot should have and could not get.
type Unread struct {
	Agent     agentid.ID // whose, where it is an agent's
	What, Why string
}
