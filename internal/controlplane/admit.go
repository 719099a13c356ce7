package controlplane

import (
	"context"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/registry"
)

// admitter answers the callout from the registry.
type admitter struct{ p *Plane }

// Admit implements authcallout.Registry. Everything is read from the leader.
func (a *admitter) Admit(ctx context.Context, id agentid.ID, key string, presented []string) (authcallout.Admission, error) {
	p := a.p
	if id.Reserved() {
		return authcallout.Admission{}, denial.New(denial.ReservedName, "%q belongs to the mesh itself", id)
	}
	p.replayVouched(ctx)
	inst := agentid.InstanceOf(key)
	agent, err := p.store.Agent(ctx, id)
	if err != nil {
		return authcallout.Admission{}, err
	}
	if err := agent.Admissible(); err != nil {
		return authcallout.Admission{}, err
	}
	record, err := p.store.Instance(ctx, id, inst)
	if err != nil {
		return authcallout.Admission{}, err
	}
	pass, err := record.Identity(p.store.Ring(), p.clock())
	if err != nil {
		return authcallout.Admission{}, err
	}
	if pass.Key != key {
		return authcallout.Admission{}, denial.New(denial.IdentityMismatch, "%s/%s has another key", id, inst)
	}
	chains, err := a.chains(ctx, agent, presented, p.store.Chain)
	if err != nil {
		return authcallout.Admission{}, err
	}
	if !p.swept.Load() && lapsed(agent, chains) {
		if chains, err = a.relive(ctx, agent, presented, chains); err != nil {
			return authcallout.Admission{}, err
		}
	}
	// Key, certificate and tokens are proven: this is a full attestation, by which
	// an expired instance comes back.
	agent, record, err = p.store.Attest(ctx, id, inst, "")
	if err != nil {
		return authcallout.Admission{}, err
	}
	// Before the connection is there: it must not be able to pull what the agent
	// may no longer have. Not before the agent is back where it had expired:
	// until then nothing is handed out.
	var durables []string
	if len(agent.Durables) > 0 {
		if durables, err = p.syncDurables(ctx, id); err != nil {
			return authcallout.Admission{}, err
		}
	}
	out := authcallout.Admission{
		Instance: inst, Chains: chains, Durables: durables,
		Epoch: envelope.Epoch{Agent: agent.Epoch, Instance: record.Epoch}.String(),
		Plain: authcallout.Plain(agent.Rights.Plain), Footing: agent.Footing(),
	}
	if agent.Stock && p.sys != nil { // where nobody can end it, no session is long
		out.Session = authcallout.SessionStock
	}
	return out, nil
}

// endsSoon is how little is left of a chain that no longer counts at connect: a
// session ends with the first right that its grant rests on, and one that lasts
// a second would be refused altogether.
const endsSoon = 3 * time.Second

// chains returns the agent's valid chains: its live root tokens, and those of
// the presented ones that are its own and stand. A presented chain that is worth
// nothing takes nothing away: it may have ended a moment ago.
func (a *admitter) chains(ctx context.Context, agent *registry.Agent, presented []string, read readChain) ([]*capability.Chain, error) {
	p := a.p
	dir := comingBack{p.store.Directory(ctx), agent.Agent}
	var out []*capability.Chain
	seen := map[string]bool{}
	for _, digest := range slices.Concat(agent.Tokens, presented) {
		if seen[digest] {
			continue
		}
		seen[digest] = true
		c, err := read(ctx, digest)
		if err == nil && c.Holder() != agent.Agent {
			err = denial.New(denial.NotHolder, "chain is held by %q", c.Holder())
		}
		if err == nil {
			err = c.Check(p.clock(), dir)
		}
		if err == nil && c.Expires().Sub(p.clock()) < endsSoon {
			err = denial.New(denial.TokenExpired, "chain ends in a moment")
		}
		switch {
		case err == nil:
			out = append(out, c)
		case denial.Of(err) == "":
			return nil, err // could not be read: refuse now, another try may succeed
		default:
			p.log.Debug().Err(err).Str("agent", agent.Agent.String()).Str("chain", digest).Msg("chain gives nothing")
		}
	}
	return out, nil
}

// comingBack is the directory for an agent that may be expired and is being
// readmitted: its own standing was checked, everybody else's is.
type comingBack struct {
	capability.Directory
	self agentid.ID
}

func (d comingBack) Standing(id agentid.ID) error {
	if id == d.self {
		return nil
	}
	return d.Directory.Standing(id)
}

// Open implements authcallout.Registry: the session is written, and then
// everything that the grant rests on is read again. A cut that raised the epoch
// before this read is seen here; one that comes after it finds the session.
func (a *admitter) Open(ctx context.Context, s authcallout.Session) error {
	p := a.p
	e, err := envelope.ParseEpoch(s.Epoch)
	if err != nil {
		return err
	}
	session := sessionOf(s, e)
	if err := p.store.PutSession(ctx, session); err != nil {
		return err
	}
	p.metServer(s.ServerID, "")
	agent, err := p.store.Agent(ctx, s.Agent)
	if err != nil {
		return err
	}
	record, err := p.store.Instance(ctx, s.Agent, s.Instance)
	if err != nil {
		return err
	}
	now := envelope.Epoch{Agent: agent.Epoch, Instance: record.Epoch}
	if agent.Status != registry.Active || record.State != registry.Online || now != e {
		return denial.New(denial.EpochRaced, "%s/%s is %s and %s in epoch %s, admitted in %s", s.Agent, s.Instance, agent.Status, record.State, now, e)
	}
	if err := a.recheck(ctx, s.Chains); err != nil {
		return err
	}
	if err := p.takePlace(ctx, agent, session); err != nil {
		return err
	}
	p.clones.admitted(nameOf(s.Agent, s.Instance), hostOf(s.Host))
	return nil
}

// sessionOf is what the registry lists of a session.
func sessionOf(s authcallout.Session, e envelope.Epoch) registry.Session {
	return registry.Session{
		Agent: s.Agent, Instance: s.Instance, AgentEpoch: e.Agent, Epoch: e.Instance,
		ServerID: s.ServerID, ClientID: s.ClientID, Host: s.Host, UserKey: s.UserKey,
		Issued: s.Issued, Expires: s.Expires, Chains: s.Chains, Via: s.Via, Footing: s.Footing, Certificate: s.Certificate,
	}
}

// recheck verifies that every chain of a session still stands.
func (a *admitter) recheck(ctx context.Context, digests []string) error {
	dir := a.p.store.Directory(ctx)
	for _, digest := range digests {
		err := a.p.stillStands(ctx, digest, dir)
		if err != nil && denial.Of(err) == "" {
			return err // could not be read
		}
		if err != nil {
			return denial.New(denial.EpochRaced, "chain ended while the connection was answered: %w", err)
		}
	}
	return nil
}

// stillStands reports whether a stored chain is worth something, as the directory
// says.
func (p *Plane) stillStands(ctx context.Context, digest string, dir capability.Directory) error {
	c, err := p.store.Chain(ctx, digest)
	if err != nil {
		return err
	}
	return c.Check(p.clock(), dir)
}

func epochText(agent *registry.Agent, i *registry.Instance) string {
	return envelope.Epoch{Agent: agent.Epoch, Instance: i.Epoch}.String()
}
