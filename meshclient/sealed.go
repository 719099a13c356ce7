package meshclient

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// What sealing adds to an answer, and to a request at most. What may be how large is
// said of what an application gives and gets, not of what travels.
var (
	sealRoom = seal.Overhead(1)
	sealMost = seal.Overhead(limits.Instances)
)

// listInstances is the gate.InstancesFunc of a client.
func (m *Mesh) listInstances(ctx context.Context, agent agentid.ID, after agentid.Instance) (map[agentid.Instance]string, agentid.Instance, error) {
	var resp wire.InstancesResponse
	err := m.ask(ctx, wire.SelfInstances, wire.InstancesRequest{Agent: agent, After: after}, &resp)
	return resp.Records, resp.Next, err
}

// sealRequest seals the payload of a request to every instance of the agent that may
// take it. fresh is for a caller who was told that its list is old.
func (m *Mesh) sealRequest(ctx context.Context, to agentid.ID, nonce string, data []byte, fresh bool) ([]byte, error) {
	list := m.peers.Recipients
	if fresh {
		list = m.peers.RefreshRecipients
	}
	recipients, err := list(ctx, to)
	if err != nil {
		return nil, err
	}
	return seal.Seal(recipients, seal.Binding{
		TrustDomain: m.info.TrustDomain, Signer: m.key.PublicKey(), Recipient: to, Nonce: nonce,
	}, data)
}

// openRequest opens what sealRequest made.
func (m *Mesh) openRequest(f envelope.Fields, data []byte) ([]byte, error) {
	return m.curve.Open(seal.Binding{
		TrustDomain: m.info.TrustDomain, Signer: f.Key, Recipient: m.info.Agent, Nonce: f.Nonce,
	}, data)
}

// sealAnswer seals a piece of an answer to the instance that made the request.
func (m *Mesh) sealAnswer(request *envelope.Verified, piece int, data []byte) ([]byte, error) {
	f := request.Fields()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), admitTimeout)
	defer cancel()
	caller, err := m.peers.Sender(ctx, f.From, f.Key)
	if err != nil {
		return nil, err
	}
	to, err := seal.ParseRecipient(caller.Curve)
	if err != nil {
		return nil, err
	}
	return seal.Seal([]seal.Recipient{to}, seal.Binding{
		TrustDomain: m.info.TrustDomain, Reply: true, Signer: m.key.PublicKey(), Recipient: f.From, Nonce: f.Nonce, Piece: piece,
	}, data)
}

// openAnswer opens what sealAnswer made.
func (m *Mesh) openAnswer(f envelope.Fields, piece int, data []byte) ([]byte, error) {
	return m.curve.Open(seal.Binding{
		TrustDomain: m.info.TrustDomain, Reply: true, Signer: f.Key, Recipient: m.info.Agent, Nonce: f.Parent, Piece: piece,
	}, data)
}
