package gate

import (
	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/registry"
)

// Known answers what the check of a chain asks by the records at hand: it reads
// nothing and waits for nobody. A no is one that a signed record says; of what is not
// known it says yes. So it ends what was admitted before, and must never admit
// anything.
type Known struct{ peers *Peers }

// Known returns what is known of others without asking anybody.
func (p *Peers) Known() Known { return Known{p} }

// Sender says why what an instance signed under an epoch counts no longer, in the
// words of [Peers.Sender], or StaleEpoch where the instance stands and its epoch, or a
// tick's word of it, is higher. The zero instance leaves the question to the agent
// alone.
func (k Known) Sender(id agentid.ID, inst agentid.Instance, e envelope.Epoch) error {
	if err := k.Instance(id, inst); err != nil {
		return err
	}
	k.peers.mu.RLock()
	defer k.peers.mu.RUnlock()
	known := k.peers.peers[id]
	if known == nil {
		return nil
	}
	current := envelope.Epoch{Agent: max(known.epoch, known.floor)}
	if i := known.instances[inst]; i != nil {
		current.Instance = i.epoch
	}
	if !e.Covers(current) {
		return denial.New(denial.StaleEpoch, "epoch %s is over, %s is current", e, current)
	}
	return nil
}

// Instance is Sender for whoever may sign under a newer epoch meanwhile.
func (k Known) Instance(id agentid.ID, inst agentid.Instance) error {
	k.peers.mu.RLock()
	defer k.peers.mu.RUnlock()
	known := k.peers.peers[id]
	if known == nil {
		return nil
	}
	if known.agent != nil {
		if err := known.agent.Status.Standing(); err != nil {
			return denial.New(denial.Of(err), "agent %q is %s", id, known.agent.Status)
		}
	}
	i := known.instances[inst]
	if i == nil || i.member == nil {
		return nil
	}
	if err := i.member.record.State.Standing(); err != nil {
		return denial.New(denial.Of(err), "instance %s/%s is %s", id, inst, i.member.record.State)
	}
	if known.agent != nil {
		return i.member.record.Belongs(known.agent)
	}
	return nil
}

// record returns an agent's newest record, or nil.
func (k Known) record(id agentid.ID) *registry.Agent {
	k.peers.mu.RLock()
	defer k.peers.mu.RUnlock()
	if known := k.peers.peers[id]; known != nil {
		return known.agent
	}
	return nil
}

// Standing implements capability.Directory.
func (k Known) Standing(id agentid.ID) error {
	if a := k.record(id); a != nil {
		return a.Status.Standing()
	}
	return nil
}

// SignerStanding implements capability.Directory.
func (k Known) SignerStanding(id agentid.ID, key string) error {
	inst := k.peers.instanceOf(key)
	k.peers.mu.RLock()
	defer k.peers.mu.RUnlock()
	known := k.peers.peers[id]
	if known == nil || known.instances[inst] == nil || known.instances[inst].member == nil {
		return nil
	}
	i := known.instances[inst].member
	switch {
	case i.passport.Key != key:
		return denial.New(denial.UnlistedKey, "%s/%s has another key", id, inst)
	case i.record.State == registry.InstanceRevoked:
		return denial.New(denial.Revoked, "instance %s/%s is revoked", id, inst)
	case known.agent == nil:
		return nil
	}
	return i.record.Belongs(known.agent)
}

// TokenLive implements capability.Directory.
func (k Known) TokenLive(holder agentid.ID, token string) error {
	if a := k.record(holder); a != nil {
		return a.TokenLive(token)
	}
	return nil
}

// NotVoided implements capability.Directory.
func (k Known) NotVoided(issuer agentid.ID, token string) error {
	if a := k.record(issuer); a != nil {
		return a.NotVoided(token)
	}
	return nil
}

// Tokens returns the digests of the root tokens in an agent's record.
func (k Known) Tokens(id agentid.ID) []string {
	if a := k.record(id); a != nil {
		return a.Tokens
	}
	return nil
}
