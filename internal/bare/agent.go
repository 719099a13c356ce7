package bare

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// Agent is the identity in an agent's directory.
type Agent struct {
	Dir      *agentdir.Dir
	ID       agentid.ID
	Instance agentid.Instance
	Key      *envelope.Key // signs messages
	Pair     nkeys.KeyPair // the same key: signs nonces and delegations
	Space    subject.Space

	Record  *registry.Agent // as Learn read it
	Speaker gate.Speaker    // signs in the epoch that Learn read
}

// Open reads the directory.
func Open(path string) (*Agent, error) {
	d, err := agentdir.Open(path)
	if err != nil {
		return nil, err
	}
	a := &Agent{Dir: d, ID: d.Info.Agent, Instance: d.Info.Instance}
	seed, err := d.Seed()
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	if a.Key, err = envelope.NewKey(seed); err != nil {
		return nil, err
	}
	if a.Pair, err = d.Key(); err != nil {
		return nil, err
	}
	a.Space, err = subject.New(d.Info.Prefix)
	return a, err
}

// Reader reads the registry over a connection of the agent.
func (a *Agent) Reader(nc *nats.Conn) *gate.NATSReader {
	return &gate.NATSReader{Conn: func() *nats.Conn { return nc }, Leader: gate.AgentLeader(a.Space)}
}

// Learn reads the instance's own records: its epoch and its root tokens.
func (a *Agent) Learn(ctx context.Context, nc *nats.Conn) error {
	ring, err := capability.NewKeyring(a.Dir.Info.Roots, a.Dir.Info.SigningKeys)
	if err != nil {
		return err
	}
	read := a.Reader(nc)
	text, err := read.Record(ctx, a.ID.String())
	if err != nil {
		return err
	}
	if a.Record, err = registry.DecodeAgent(text, a.ID, ring, time.Now()); err != nil {
		return err
	}
	if text, err = read.Record(ctx, registry.InstanceKey(a.ID, a.Instance)); err != nil {
		return err
	}
	i, err := registry.DecodeInstance(text, a.ID, a.Instance, ring, time.Now())
	if err != nil {
		return err
	}
	epoch := envelope.Epoch{Agent: a.Record.Epoch, Instance: i.Epoch}
	a.Speaker = gate.Speaker{
		Self: a.ID, Key: a.Key, TrustDomain: a.Dir.Info.TrustDomain, Space: a.Space,
		Epoch: func() envelope.Epoch { return epoch }, Clock: time.Now,
	}
	return nil
}
