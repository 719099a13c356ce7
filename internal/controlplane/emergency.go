package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// emergencyConnect bounds the time to reach any nats-server as one of the two
	// configured users, whom no auth callout keeps out.
	emergencyConnect = 10 * time.Second
	// emergencyWrite bounds the time for the record: where JetStream is away, the
	// connections are still to be closed.
	emergencyWrite = 5 * time.Second
	// emergencyAsk bounds the question whether somebody else administers the mesh.
	emergencyAsk = 2 * time.Second
	// emergencyMeet is how long servers are waited for that sealmesh.yaml names and
	// that are not heard of.
	emergencyMeet = 3 * time.Second
	// emergencyReason begins the reason in a record that was changed so.
	emergencyReason = "emergency"
)

// EmergencyCut says whom to take out, by the keys of the mesh alone.
type EmergencyCut struct {
	Agent    agentid.ID
	Instance agentid.Instance // zero: the agent with all of them
	Suspend  bool             // instead of revoking
	Reason   string
	Last     bool // also the last administrator
	DryRun   bool
}

func (e EmergencyCut) check() error {
	switch {
	case e.Agent.IsZero():
		return denial.New(denial.BadInput, "no agent is named")
	case e.Agent.Reserved():
		return denial.New(denial.ReservedName, "%q belongs to the mesh itself", e.Agent)
	case e.Suspend && !e.Instance.IsZero():
		return denial.New(denial.BadInput, "one instance can be revoked, not suspended")
	}
	return nil
}

// Cut takes an agent or one instance out where no control plane need be there, nor
// JetStream: what can be done is done, and the result says what remains. It is safe
// beside control planes that run. An error means that nothing was done.
func Cut(ctx context.Context, cfg Config, e EmergencyCut) (wire.EmergencyResult, error) {
	if err := e.check(); err != nil {
		return wire.EmergencyResult{}, err
	}
	p, err := openEmergency(ctx, cfg)
	if err != nil {
		return wire.EmergencyResult{}, err
	}
	defer p.shutdown()
	return p.take(ctx, e)
}

// emergency is a control plane that serves nothing: two connections, and what is
// needed to change a record and to close connections.
type emergency struct {
	*Plane
	flaws []string // what it could not have
}

func openEmergency(ctx context.Context, cfg Config) (*emergency, error) {
	p := &emergency{Plane: newPlane(cfg, func(r authcallout.Registry) authcallout.Registry { return r })}
	if err := p.open(ctx); err != nil {
		p.shutdown()
		return nil, err
	}
	return p, nil
}

func (p *emergency) open(ctx context.Context) error {
	mesh := p.cfg.Mesh
	service, system, err := p.load()
	if err != nil {
		return err
	}
	if err := p.recall(); err != nil {
		p.flaws = append(p.flaws, fmt.Sprintf("nothing was written into the log of epochs: %v", err))
	}
	reach, cancel := context.WithTimeout(ctx, emergencyConnect)
	defer cancel()
	if p.ctrl, err = p.connect(reach, service, nats.Name("sealmesh emergency")); err != nil {
		return err
	}
	c, err := p.storeConfig()
	if err != nil {
		return err
	}
	if p.store, err = registry.Attach(c); err != nil {
		return err
	}
	p.sessions = newSessions(p.store, p.log)
	p.sessions.unsure = true // nobody follows it: every cut reads the sessions themselves
	if mesh.Config.NATS.NoSystemAccount {
		p.flaws = append(p.flaws, "no connection can be closed in a mesh without a system account")
		return nil
	}
	if p.sys, err = p.connect(reach, system, nats.Name("sealmesh emergency (system)"), nats.CustomInboxPrefix(natsconf.SystemInbox)); err != nil {
		p.flaws = append(p.flaws, fmt.Sprintf("no connection can be closed without the system account: %v", err))
		return nil
	}
	p.meetAll(ctx)
	return nil
}

// meetAll waits for the servers that sealmesh.yaml names. Some may be gone, which
// may be what the emergency is.
func (p *emergency) meetAll(ctx context.Context) {
	for end := time.Now().Add(emergencyMeet); ctx.Err() == nil && time.Now().Before(end); {
		if err := p.meetServers(ctx); err == nil && len(p.missing()) == 0 {
			return
		}
	}
}

// missing lists the servers that sealmesh.yaml names and that were not heard of.
func (p *emergency) missing() (names []string) {
	heard := map[string]bool{}
	for id := range p.servers.all() {
		heard[p.servers.name(id)] = true
	}
	for _, s := range p.cfg.Mesh.Config.NATS.Servers {
		if !heard[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

func (p *emergency) take(ctx context.Context, e EmergencyCut) (wire.EmergencyResult, error) {
	start := time.Now()
	req := wire.AdminRequest{Op: wire.OpRevoke}
	if e.Suspend {
		req.Op = wire.OpSuspend
	}
	if e.DryRun {
		return p.dry(ctx, e, req)
	}
	last, heard, err := p.isLast(ctx, e, req)
	if err != nil {
		return wire.EmergencyResult{}, err
	}
	r := newReport()
	if !heard && e.Instance.IsZero() {
		// The registry may take long to say that it is away.
		p.closeByName(ctx, e.Agent, r) //nolint:errcheck // it is done again below
	}
	a, err := p.write(ctx, e)
	if err != nil && !e.Instance.IsZero() && denial.Of(err) != "" {
		// There is no such instance, or it may not be changed: the others are not to
		// be cut for it.
		return wire.EmergencyResult{}, err
	}
	out := wire.EmergencyResult{Recorded: a != nil}
	if err != nil {
		out.Remains = append(out.Remains, unwritten(e, a, err))
	}
	if a != nil {
		err = p.cutBy(ctx, a, atOnce, r)
	} else {
		a = &registry.Agent{Agent: e.Agent}
		err = p.closeByName(ctx, e.Agent, r)
		r.failed = errors.Join(r.failed, err)
		out.Remains = append(out.Remains, "connections of others that rest on what it lent could not be told without its record")
		if !e.Instance.IsZero() {
			out.Remains = append(out.Remains, "its instances could not be told apart without the registry: all of them were cut")
		}
	}
	if err != nil {
		out.Remains = append(out.Remains, fmt.Sprintf("not everything could be found and closed: %v; run this again", err))
	}
	out.CutResult = p.cutResult(a, r, start)
	for _, name := range p.missing() {
		out.Confirmed = false
		out.Remains = append(out.Remains, fmt.Sprintf("server %s was not heard of: who is connected there stays so, unless it is gone", name))
	}
	if last {
		out.Remains = append(out.Remains, "nobody administers the mesh any more: sealmesh emergency admin ID makes somebody who does")
	}
	out.Remains = append(out.Remains, p.flaws...)
	return out, nil
}

// unwritten says what it means that a record was not written, or not in full.
func unwritten(e EmergencyCut, a *registry.Agent, err error) string {
	switch {
	case a != nil:
		return fmt.Sprintf("not all records of %s could be written: %v; run this again", e.Agent, err)
	case denial.Of(err) == denial.UnlistedAgent:
		return fmt.Sprintf("no agent %s is registered; whoever connected under that name was let in by somebody else", e.Agent)
	}
	return fmt.Sprintf("the record of %s could not be written: %v; it is let in again as soon as a control plane can read it, so run this again by then", e.Agent, err)
}

// isLast reports whether the cut takes the last administrator out, and refuses that
// unless it is asked for. Where the registry is not heard nobody can tell, and that
// must not hold the cut up.
func (p *emergency) isLast(ctx context.Context, e EmergencyCut, req wire.AdminRequest) (last, heard bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, emergencyAsk)
	defer cancel()
	err = p.governable(ctx, e.Agent, e.Agent, e.Instance, req)
	if denial.Of(err) != denial.WrongState {
		return false, err == nil, nil
	}
	if a, e := p.store.Agent(ctx, e.Agent); e == nil && !slices.Contains(a.Rights.Call, adminScope) {
		return false, true, nil // there was none before
	}
	if !e.Last {
		return true, true, err
	}
	return true, true, nil
}

// write changes the record. Where it returns one with an error, instances of it may
// not have been written.
func (p *emergency) write(ctx context.Context, e EmergencyCut) (*registry.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, emergencyWrite)
	defer cancel()
	by, reason := agentid.Control.String(), emergencyReason
	if e.Reason != "" {
		reason += ": " + e.Reason
	}
	var a *registry.Agent
	var err error
	switch {
	case e.Suspend:
		a, err = p.store.Suspend(ctx, e.Agent, by, reason)
	case e.Instance.IsZero():
		a, err = p.store.Revoke(ctx, e.Agent, by, reason)
	default:
		if _, err = p.store.RevokeInstance(ctx, e.Agent, e.Instance, by, reason); err == nil {
			a, err = p.store.Agent(ctx, e.Agent)
		}
	}
	p.change(agentid.Control, e.Agent, e.Instance, "emergency cut", reason, err)
	return a, err
}

// closeByName closes every connection of an agent, by what the servers say alone.
func (p *emergency) closeByName(ctx context.Context, id agentid.ID, r *cutReport) error {
	for round := 1; ; round++ {
		c, err := p.connections(ctx, id)
		if err != nil {
			r.unheard(p.servers.all())
			return err
		}
		left := slices.DeleteFunc(c.found, func(t target) bool { return r.passes(t.connection) })
		r.heard(c, left)
		if len(left) == 0 || round == verifyRounds {
			return nil
		}
		p.closeAll(ctx, left, r)
	}
}

func (p *emergency) dry(ctx context.Context, e EmergencyCut, req wire.AdminRequest) (wire.EmergencyResult, error) {
	out, err := p.dryRun(ctx, e.Agent, e.Instance, req)
	if err != nil {
		return wire.EmergencyResult{}, err
	}
	r, ok := out.(wire.CutResult)
	if !ok {
		return wire.EmergencyResult{}, fmt.Errorf("controlplane: a dry run answered with %T", out)
	}
	return wire.EmergencyResult{CutResult: r, Remains: p.flaws}, nil
}

// Administrator registers an agent that may administer the mesh and makes a join
// token for it, by the keys of the mesh alone, where nobody is left who may. A name
// that was revoked is given new keys where replace is set. It takes a control plane
// to enrol it.
func Administrator(ctx context.Context, cfg Config, id agentid.ID, replace bool, spec wire.JoinSpec) (wire.AddResult, error) {
	if err := registry.CheckJoin(spec.TTL, spec.Uses); err != nil {
		return wire.AddResult{}, err
	}
	p, err := openEmergency(ctx, cfg)
	if err != nil {
		return wire.AddResult{}, err
	}
	defer p.shutdown()
	ctx, cancel := context.WithTimeout(ctx, 2*emergencyWrite)
	defer cancel()
	by := agentid.Control.String()
	_, err = p.store.Add(ctx, registry.NewAgent{
		Agent: id, Kind: registry.Person, Heartbeat: registry.HeartbeatNone, Replace: replace,
		Rights: registry.Rights{Call: []capability.Scope{adminScope}},
	}, by)
	p.change(agentid.Control, id, agentid.Instance{}, "emergency admin", emergencyReason, err)
	if err != nil {
		return wire.AddResult{}, err
	}
	secret, expires, err := p.store.NewJoin(ctx, id, spec.TTL, spec.Uses, by)
	if err != nil {
		return wire.AddResult{}, err
	}
	url := p.cfg.Mesh.Config.Control.URL
	token := registry.JoinToken{URL: url, CA: p.authorities().infra.RootHash(), Agent: id, Secret: secret}
	return wire.AddResult{Schema: wire.JoinSchema, Agent: id, JoinToken: token.Text(), Expires: expires, URL: url}, nil
}
