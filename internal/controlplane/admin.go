package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// admin runs one operation for an agent that holds admin:registry.
func (p *Plane) admin(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	if len(req.Reason) > limits.Reason {
		return nil, denial.New(denial.BadInput, "a reason has at most %d characters", limits.Reason)
	}
	if req.DryRun && !dry(req.Op) {
		return nil, denial.New(denial.BadInput, "%s cuts nothing that a dry run could tell of", req.Op)
	}
	switch req.Op {
	case wire.OpList:
		return p.list(ctx, req.After)
	case wire.OpStatus:
		return p.status(ctx)
	case wire.OpAdd:
		return p.add(ctx, by, req)
	case wire.OpTopics, wire.OpTopicAdd, wire.OpTopicRemove:
		return p.topics(ctx, by, req)
	case wire.OpKeys:
		return p.keyList()
	case wire.OpLint:
		return p.lint(ctx)
	case wire.OpMonitor:
		return p.operateMonitor(ctx, by, req)
	case wire.OpRotate:
		return p.rotate(ctx, by, req)
	case wire.OpCA, wire.OpCADrop:
		return p.operateCA(ctx, by, req)
	case wire.OpEnd:
		return p.end(ctx, req)
	case wire.OpRecords:
		return p.records(ctx, req.Records)
	case wire.OpRoll:
		return p.operateRoll(ctx, by, req)
	case wire.OpServerCertificate:
		return p.certifyServer(by, req)
	case wire.OpJoins, wire.OpJoinCancel:
		return p.joins(ctx, by, req)
	}
	id, inst, err := agentid.ParseTarget(req.Target)
	if err != nil {
		return nil, denial.New(denial.BadInput, "%w", err)
	}
	result, err := p.operate(ctx, by, id, inst, req)
	if !looks(req.Op) && !req.DryRun {
		p.change(by, id, inst, string(req.Op), req.Reason, err)
	}
	return result, err
}

// looks reports whether an operation on an agent changes nothing.
func looks(op wire.Op) bool {
	switch op {
	case wire.OpShow, wire.OpDelegated, wire.OpBlast, wire.OpSince:
		return true
	}
	return false
}

func (p *Plane) operate(ctx context.Context, by, id agentid.ID, inst agentid.Instance, req wire.AdminRequest) (any, error) {
	start := time.Now()
	if id.Reserved() && req.Op != wire.OpShow {
		return nil, denial.New(denial.ReservedName, "%q belongs to the mesh itself", id)
	}
	if !inst.IsZero() && req.Op != wire.OpRevoke && req.Op != wire.OpResume && req.Op != wire.OpSince {
		return nil, denial.New(denial.BadInput, "%s works on an agent, not on one instance", req.Op)
	}
	if err := p.governable(ctx, by, id, inst, req); err != nil {
		return nil, err
	}
	if req.DryRun {
		return p.dryRun(ctx, id, inst, req)
	}
	switch req.Op {
	case wire.OpDelegated:
		return p.delegated(ctx, id)
	case wire.OpBlast:
		return p.blast(ctx, id)
	case wire.OpSince:
		return p.since(ctx, id, inst, req.Since)
	case wire.OpShow:
		a, err := p.store.Agent(ctx, id)
		if err != nil {
			return nil, err
		}
		return p.view(ctx, a)
	case wire.OpGrant:
		a, err := p.store.Grant(ctx, id, req.Rights, req.Depth, by.String())
		if err != nil {
			return nil, err
		}
		return p.view(ctx, a)
	case wire.OpSet:
		return p.set(ctx, by, id, req.Settings)
	case wire.OpUngrant:
		return p.cutAfter(ctx, id, start, func() (*registry.Agent, error) { return p.store.Ungrant(ctx, id, req.Rights, by.String()) })
	case wire.OpJoin:
		return p.join(ctx, id, req.Join, by)
	case wire.OpSuspend:
		return p.cutAfter(ctx, id, start, func() (*registry.Agent, error) { return p.store.Suspend(ctx, id, by.String(), req.Reason) })
	case wire.OpResume:
		return p.resume(ctx, by, id, inst, req.Reason)
	case wire.OpRevoke:
		return p.cutAfter(ctx, id, start, func() (*registry.Agent, error) {
			if inst.IsZero() {
				return p.store.Revoke(ctx, id, by.String(), req.Reason)
			}
			if _, err := p.store.RevokeInstance(ctx, id, inst, by.String(), req.Reason); err != nil {
				return nil, err
			}
			return p.store.Agent(ctx, id)
		})
	case wire.OpRemove:
		return p.cutAfter(ctx, id, start, func() (*registry.Agent, error) { return p.store.Remove(ctx, id, by.String(), req.Reason) })
	}
	return nil, denial.New(denial.BadInput, "no operation %q", string(req.Op))
}

// cutAfter makes a change that takes authority away and returns when its effect
// was seen.
func (p *Plane) cutAfter(ctx context.Context, id agentid.ID, start time.Time, change func() (*registry.Agent, error)) (any, error) {
	a, r, err := p.changeAndCut(ctx, id, change)
	if err != nil {
		return nil, err
	}
	return p.cutResult(a, r, start), nil
}

func (p *Plane) add(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	if req.New == nil {
		return nil, denial.New(denial.BadInput, "add needs an agent")
	}
	if req.Join != nil {
		// Before the record is written, which would stay.
		if err := registry.CheckJoin(req.Join.TTL, req.Join.Uses); err != nil {
			return nil, err
		}
	}
	if err := p.listed(req.New.Join); err != nil {
		return nil, err
	}
	_, err := p.store.Add(ctx, *req.New, by.String())
	p.change(by, req.New.Agent, agentid.Instance{}, string(wire.OpAdd), req.Reason, err)
	if err != nil {
		return nil, err
	}
	if req.New.Replace {
		if _, err := p.cut(ctx, req.New.Agent); err != nil {
			p.cutSoon(req.New.Agent)
			return nil, err
		}
	}
	if req.NoJoin {
		return wire.AddResult{Schema: wire.JoinSchema, Agent: req.New.Agent, URL: p.URL()}, nil
	}
	return p.join(ctx, req.New.Agent, req.Join, by)
}

func (p *Plane) join(ctx context.Context, id agentid.ID, spec *wire.JoinSpec, by agentid.ID) (any, error) {
	if spec == nil {
		spec = &wire.JoinSpec{}
	}
	secret, expires, err := p.store.NewJoin(ctx, id, spec.TTL, spec.Uses, by.String())
	if err != nil {
		return nil, err
	}
	token := registry.JoinToken{URL: p.URL(), CA: p.authorities().infra.RootHash(), Agent: id, Secret: secret}
	return wire.AddResult{Schema: wire.JoinSchema, Agent: id, JoinToken: token.Text(), Expires: expires, URL: p.URL()}, nil
}

// end takes back any delegation, whoever made it.
func (p *Plane) end(ctx context.Context, req wire.AdminRequest) (any, error) {
	digest, text := req.Chain, ""
	if !jws.IsDigest(req.Chain) {
		digest, text = jws.Digest(req.Chain), req.Chain
	}
	c, err := p.chainToEnd(ctx, digest, text)
	if err != nil {
		return nil, err
	}
	if len(c.Hops()) < 2 {
		return nil, denial.New(denial.BadInput, "this is a root token; sealmesh agent ungrant takes its rights back")
	}
	if req.DryRun {
		return p.dryEnd(ctx, c)
	}
	return p.endDelegation(ctx, c)
}

// list returns the agents behind one, as many as fit into an answer: half of what
// the server takes in a message, so that a signature and headers do not matter.
func (p *Plane) list(ctx context.Context, after agentid.ID) (any, error) {
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(agents, func(a, b *registry.Agent) int { return cmp.Compare(a.Agent.String(), b.Agent.String()) })
	// All at once: three questions for each of them would take seconds.
	everyInstance, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		return nil, err
	}
	if err := p.sessions.catchUp(ctx); err != nil {
		return nil, err
	}
	held, err := p.store.AllHeld(ctx)
	if err != nil {
		return nil, err
	}
	instances, sessions := map[agentid.ID][]*registry.Instance{}, map[agentid.ID][]registry.Session{}
	for _, i := range everyInstance {
		instances[i.Agent] = append(instances[i.Agent], i)
	}
	for _, s := range p.sessions.all() {
		sessions[s.Agent] = append(sessions[s.Agent], s)
	}
	out := wire.AgentList{Schema: wire.AgentsSchema, Agents: []wire.AgentView{}}
	room := p.ctrl.MaxPayload() / 2
	for _, a := range agents {
		if a.Agent == agentid.Control || a.Agent.String() <= after.String() {
			continue
		}
		v := p.viewOf(ctx, a, instances[a.Agent], sessions[a.Agent], held[a.Agent])
		v.Schema = ""
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if room -= int64(len(text)) + 1; room < 0 && len(out.Agents) > 0 {
			out.Next = out.Agents[len(out.Agents)-1].Agent
			break
		}
		out.Agents = append(out.Agents, v)
	}
	return out, nil
}

// view is one agent as operators see it.
func (p *Plane) view(ctx context.Context, a *registry.Agent) (wire.AgentView, error) {
	instances, err := p.store.Instances(ctx, a.Agent)
	if err != nil {
		return wire.AgentView{}, err
	}
	sessions, err := p.store.Sessions(ctx, a.Agent)
	if err != nil {
		return wire.AgentView{}, err
	}
	held, err := p.store.Held(ctx, a.Agent)
	if err != nil {
		return wire.AgentView{}, err
	}
	return p.viewOf(ctx, a, instances, sessions, held), nil
}

// viewOf is view of what was read: the agent's instances, sessions and the digests
// of the chains that it holds.
func (p *Plane) viewOf(ctx context.Context, a *registry.Agent, instances []*registry.Instance, sessions []registry.Session, held []string) wire.AgentView {
	v := wire.AgentView{
		Schema: wire.AgentSchema, Agent: a.Agent, Status: a.Status, Epoch: a.Epoch, Kind: a.AgentKind,
		Heartbeat: a.Heartbeat, Readmit: a.Readmit, Sessions: cmp.Or(a.Sessions, registry.SessionsAny), Stock: a.Stock, Depth: a.Depth,
		Call: list(a.Rights.Call), Handle: list(a.Rights.Handle), Publish: list(a.Rights.Publish), Subscribe: list(a.Rights.Subscribe),
		MayDelegate: list(a.Rights.MayDelegate), Join: a.Join, Plain: wire.PlainView{Publish: list(a.Rights.Plain.Publish), Subscribe: list(a.Rights.Plain.Subscribe)}, Durables: list(a.Durables), Labels: a.Labels, Instances: []wire.InstanceView{}, Delegated: []wire.DelegatedView{},
		Changed: wire.ChangeView{At: time.Unix(a.Changed.At, 0).UTC(), By: a.Changed.By, Reason: a.Changed.Reason},
	}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	for _, i := range instances {
		iv := wire.InstanceView{Instance: i.Instance, State: i.State, Epoch: i.Epoch}
		if pass, err := i.Identity(p.store.Ring(), p.clock()); err == nil {
			iv.NKey = pass.Key
		}
		if i.NotAfter > 0 {
			t := time.Unix(i.NotAfter, 0).UTC()
			iv.CertificateNotAfter, iv.CertificateSerial, iv.CertificateCA = &t, i.Serial, i.CA
		}
		for _, s := range sessions {
			if s.Instance == i.Instance {
				iv.Connections++
				iv.Server, iv.Host = s.ServerID, s.Host
			}
		}
		if seen, ok := p.lastSeen(a.Agent, i.Instance); ok {
			iv.Client = seen.Client
			if !seen.LastBeat.IsZero() {
				t := seen.LastBeat.UTC()
				iv.LastBeat = &t
			}
		}
		p.addStanding(&iv, i)
		v.Instances = append(v.Instances, iv)
	}
	slices.SortFunc(v.Instances, func(a, b wire.InstanceView) int { return cmp.Compare(a.Instance.String(), b.Instance.String()) })
	dir := p.store.Directory(ctx)
	for _, digest := range held {
		c, err := p.store.Chain(ctx, digest)
		if err != nil || c.Check(p.clock(), dir) != nil {
			continue
		}
		hops := c.Hops()
		v.Delegated = append(v.Delegated, wire.DelegatedView{From: hops[len(hops)-1].By, Scopes: c.Scopes(), Expires: c.Expires().UTC(), Chain: digest})
	}
	return v
}

// list keeps an empty list from becoming null in JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func (p *Plane) status(ctx context.Context) (any, error) {
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return nil, err
	}
	instances, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		return nil, err
	}
	if err := p.sessions.catchUp(ctx); err != nil {
		return nil, err
	}
	s := wire.MeshStatus{
		Schema: wire.StatusSchema, Time: p.clock().UTC(),
		Sessions: len(p.sessions.all()), Denials: p.denials.Load(), Version: version(),
	}
	s.Agents, s.Instances = tally(agents, instances)
	for _, a := range agents {
		s.Revision = max(s.Revision, a.Revision)
	}
	for id := range p.servers.all() {
		s.Servers = append(s.Servers, id)
	}
	slices.Sort(s.Servers)
	s.Alarms = p.cloneAlarms(instances)
	s.Replay = p.replay.view()
	s.PendingCuts, s.Unlisted = p.cutting.pendingCuts(), p.arrivals.unlisted.Load()
	s.RevocationBoundMS, s.Insecure = p.revocationBound().Milliseconds(), p.cfg.Mesh.Config.Insecure()
	s.OlderRecords = p.olderRecords()
	s.Expires = p.ends()
	// Each waits for who does not answer.
	var wg sync.WaitGroup
	wg.Go(func() { s.Monitor = p.monitorSummary(ctx) })
	wg.Go(func() { s.ControlPlanes = p.planes(ctx) })
	wg.Go(func() { s.Streams = p.streamViews(ctx) })
	wg.Wait()
	s.Denied, s.DeniedWindowMS = rates(s.ControlPlanes), wire.DeniedWindow.Milliseconds()
	for _, c := range s.ControlPlanes {
		s.FeedLagMS = max(s.FeedLagMS, c.FeedLagMS)
	}
	s.MissingServers = p.missingServers()
	return s, nil
}
