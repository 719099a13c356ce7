package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// reloadTimeout bounds the request that makes a server read its files anew. Its
	// answer goes out before it has cut its clients.
	reloadTimeout = 10 * time.Second
	// settleTimeout is how long a server's clients may take to be connected again,
	// here or elsewhere, and the streams to be current.
	settleTimeout = 45 * time.Second
	settlePause   = 100 * time.Millisecond
	// settleRound bounds one look.
	settleRound = 5 * time.Second
	// awayShare is which part of a server's clients may stay away without the roll
	// being stopped: some end by themselves meanwhile.
	awayShare = 10
	// leftMost is of how many agents that are away it is asked whether they said goodbye.
	leftMost = 16
)

// errNoReload says why nothing can be reloaded from here.
var errNoReload = errors.New("the mesh has no system account, so nats-servers can be reloaded by a signal alone")

// errRestart is that of a server which refuses its files until it is restarted.
var errRestart = errors.New("it has to be restarted")

// roll has the nats-servers read their files anew, one after another: a reload cuts
// the connections of all agents of a server, so the next one waits until these are
// connected again and what is stored is in order. It stops at the first server that
// does not come back; one that has to be restarted it leaves as it is. Only one replica rolls at a time; roll waits for a turn, and
// does nothing where the files are those that were rolled last.
func (p *Plane) roll(ctx context.Context, why string) error {
	return p.rollThose(ctx, why, func(string) bool { return false })
}

// rollThose is roll for the servers that are not to be skipped, by name.
func (p *Plane) rollThose(ctx context.Context, why string, skip func(name string) bool) error {
	r, err := p.beginRoll(ctx, why, true)
	if err != nil || r == nil {
		return err
	}
	return r.run(skip)
}

// operateRoll begins a roll for an operator, or says how far one is.
func (p *Plane) operateRoll(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	switch req.Roll {
	case "status":
		roll, _, err := p.rolled(ctx)
		p.restarted(&roll)
		return roll, err
	case "start":
	default:
		return nil, denial.New(denial.BadInput, "roll takes start or status, not %q", req.Roll)
	}
	why := req.Reason
	if why == "" {
		why = "asked for by " + by.String()
	}
	r, err := p.beginRoll(ctx, why, false)
	if err != nil {
		return nil, err
	}
	r.by = by
	p.change(by, agentid.ID{}, agentid.Instance{}, string(wire.OpRoll), req.Reason, nil)
	view := r.view()
	p.wg.Go(func() {
		_ = r.run(func(string) bool { return false }) // said in the log and in the state
	})
	return view, nil
}

// rollRun is one roll by this replica.
type rollRun struct {
	p      *Plane
	lease  *lease
	ctx    context.Context
	cancel context.CancelCauseFunc
	files  string // digest of the files of the mesh directory
	nodes  []*rollNode
	why    string
	by     agentid.ID // who asked for it; its command ends, and is not waited for
	began  time.Time
}

// rollNode is a server that is to read its files.
type rollNode struct {
	wire.RollServer
	addr   string       // host:port for clients; empty where it is not known
	reload func() error // of a server in this process
}

// rollNote is what the lease says of a roll.
type rollNote struct {
	Roll  wire.Roll `json:"roll"`
	Files string    `json:"files,omitempty"`
}

// rolled reads the last roll, whoever ran it.
func (p *Plane) rolled(ctx context.Context) (wire.Roll, string, error) {
	note := rollNote{Roll: wire.Roll{Schema: wire.RollSchema, State: wire.RollNone, Servers: []wire.RollServer{}}}
	l, _, err := p.store.Lease(ctx, rollLease)
	if err != nil || l == nil || len(l.Note) == 0 {
		return note.Roll, "", err
	}
	if err := json.Unmarshal(l.Note, &note); err != nil {
		return note.Roll, "", fmt.Errorf("controlplane: state of the roll: %w", err)
	}
	return note.Roll, note.Files, nil
}

// beginRoll takes the lease. Where wait is set it waits for it, and returns nil if
// the files as they are now were rolled meanwhile.
func (p *Plane) beginRoll(ctx context.Context, why string, wait bool) (*rollRun, error) {
	if p.sys == nil {
		return nil, denial.New(denial.WrongState, "%w", errNoReload)
	}
	l, err := p.takeLease(ctx, rollLease, wait)
	if err != nil {
		return nil, err
	}
	r := &rollRun{p: p, lease: l, files: p.natsFiles(), why: why, began: p.clock()}
	if wait && r.files != "" {
		last, files, err := p.rolled(ctx)
		if err == nil && last.State == wire.RollDone && files == r.files {
			l.release()
			return nil, nil
		}
	}
	r.ctx, r.cancel = context.WithCancelCause(p.ctx)
	context.AfterFunc(l.ctx, func() { r.cancel(context.Cause(l.ctx)) })
	if err := r.plan(ctx); err != nil {
		r.cancel(err)
		l.release()
		return nil, err
	}
	return r, nil
}

// plan lists the servers, in the order of sealmesh.yaml.
func (r *rollRun) plan(ctx context.Context) error {
	p := r.p
	ids := map[string]string{}
	silent, err := p.pingNamed(ctx, func(id, name string) { ids[name] = id })
	if err != nil {
		return err
	}
	if len(silent) > 0 {
		p.log.Debug().Strs("server_ids", silent).Msg("servers that do not answer are not rolled")
	}
	for _, s := range p.cfg.Mesh.NATSServers() {
		r.nodes = append(r.nodes, &rollNode{RollServer: wire.RollServer{Name: s.Name}, addr: s.Address})
	}
	// A cluster that sealmesh.yaml does not name.
	for _, name := range slices.Sorted(maps.Keys(ids)) {
		if !slices.ContainsFunc(r.nodes, func(n *rollNode) bool { return n.Name == name }) {
			r.nodes = append(r.nodes, &rollNode{RollServer: wire.RollServer{Name: name}})
		}
	}
	for _, n := range r.nodes {
		n.Server, n.State, n.reload = ids[n.Name], wire.ServerWaiting, p.cfg.Embedded[n.Name]
		if n.Server == "" {
			n.State = wire.ServerAway
		}
	}
	return r.say(wire.RollRunning, nil)
}

func (r *rollRun) view() wire.Roll {
	began := r.began.UTC()
	v := wire.Roll{Schema: wire.RollSchema, ID: r.lease.holder, State: wire.RollRunning, Why: r.why, Replica: r.p.brakes.name, Began: &began, Servers: []wire.RollServer{}}
	for _, n := range r.nodes {
		v.Servers = append(v.Servers, n.RollServer)
	}
	return v
}

// say writes how far the roll is, for all replicas.
func (r *rollRun) say(state string, failed error) error {
	note := rollNote{Roll: r.view(), Files: r.files}
	note.Roll.State = state
	if state != wire.RollRunning {
		at := r.p.clock().UTC()
		note.Roll.Ended = &at
	}
	if failed != nil {
		note.Roll.Error = failed.Error()
	}
	return r.lease.note(note)
}

func (r *rollRun) run(skip func(name string) bool) (err error) {
	p := r.p
	defer r.cancel(nil)
	p.log.Info().Str("why", r.why).Int("servers", len(r.nodes)).Msg("nats-servers are reloaded, one after another")
	for _, n := range r.nodes {
		if n.State == wire.ServerAway {
			continue
		}
		if skip(n.Name) {
			n.State, n.Detail = wire.ServerDone, "it has read them already"
			continue
		}
		start := time.Now()
		err = r.node(n)
		if errors.Is(err, errRestart) {
			// It has cut nobody, so the next one need not wait for it.
			n.State, n.Detail = wire.ServerRestart, err.Error()
			err = nil
			continue
		}
		if err != nil {
			n.State, n.Detail = wire.ServerFailed, err.Error()
			err = fmt.Errorf("controlplane: reloading %s: %w", n.Name, err)
			break
		}
		n.State, n.MS = wire.ServerDone, millis(start)
		p.log.Info().Str("server", n.Name).Int("clients", n.Clients).Int("missing", n.Missing).Float64("ms", n.MS).Msg("nats-server has read its files, and its clients are back")
	}
	state := wire.RollDone
	if err != nil {
		state = wire.RollFailed
		p.log.Error().Err(err).Str("why", r.why).Msg("ALARM: nats-servers are not all reloaded: the rest were left alone")
	}
	if restart, _ := r.view().RestartNeeded(); len(restart) > 0 {
		state = wire.RollFailed
		p.log.Error().Strs("restart_needed", restart).Str("why", r.why).Msg("ALARM: nats-servers have to be restarted, one after another: until then they take no change of their files, new certificates included")
		if err == nil {
			err = fmt.Errorf("controlplane: %s: %w", strings.Join(restart, ", "), errRestart)
		}
	}
	if e := r.say(state, err); e != nil {
		p.log.Warn().Err(e).Msg("state of the roll cannot be written")
	}
	r.lease.release()
	return err
}

// node reloads one server and returns when all is as it was.
func (r *rollRun) node(n *rollNode) error {
	p := r.p
	before, err := r.before(n)
	if err != nil {
		return err
	}
	n.State = wire.ServerReloading
	if err := r.say(wire.RollRunning, nil); err != nil {
		return err
	}
	if n.reload != nil {
		if err = n.reload(); err != nil {
			err = cmp.Or(needsRestart(err.Error()), err)
		}
	} else {
		err = p.reload(r.ctx, n.Server)
	}
	if err != nil {
		return err
	}
	n.State = wire.ServerSettling
	if err := r.say(wire.RollRunning, nil); err != nil {
		return err
	}
	if err := r.settle(n, before); err != nil {
		return err
	}
	if n.addr != "" {
		ctx, cancel := context.WithTimeout(r.ctx, connectWait)
		defer cancel()
		if leaf, err := p.shown(ctx, n.addr); err == nil {
			at := leaf.NotAfter.UTC()
			n.NotAfter = &at
		} else {
			n.Detail = "its certificate could not be seen: " + err.Error()
		}
	}
	return nil
}

// crowd counts connections by agent.
type crowd map[agentid.ID]int

func (r *rollRun) before(n *rollNode) (before crowd, err error) {
	// What is not in order already would be taken for the reload's doing.
	if err := r.until(func(ctx context.Context) error { return r.p.streamsCurrent(ctx) }); err != nil {
		return nil, fmt.Errorf("before it was begun: %w", err)
	}
	here := crowd{}
	before = crowd{}
	err = r.until(func(ctx context.Context) error {
		clear(here)
		clear(before)
		c, err := r.p.connections(ctx, agentid.ID{})
		if err != nil {
			return err
		}
		for _, t := range c.found {
			if t.agent == r.by && !r.by.IsZero() {
				continue
			}
			before[t.agent]++
			if t.server == n.Server {
				here[t.agent]++
			}
		}
		return nil
	})
	for agent := range before {
		if here[agent] == 0 {
			delete(before, agent)
		}
	}
	for _, k := range here {
		n.Clients += k
	}
	return before, err
}

// settle waits until the server, the streams and the server's clients are there
// again. Of the clients a few may have ended by themselves.
func (r *rollRun) settle(n *rollNode, before crowd) error {
	asked := false
	err := r.until(func(ctx context.Context) error {
		if !r.p.ctrl.IsConnected() || !r.p.sys.IsConnected() {
			return errors.New("the control plane has not got its connections back")
		}
		if err := r.p.streamsCurrent(ctx); err != nil {
			return err
		}
		c, err := r.p.connections(ctx, agentid.ID{})
		if err != nil {
			return err
		}
		if !c.asked[n.Server] {
			return errors.New("the server does not say who is connected")
		}
		now := crowd{}
		for _, t := range c.found {
			now[t.agent]++
		}
		asked, n.Missing = true, 0
		away := crowd{}
		for agent, k := range before {
			if k > now[agent] {
				away[agent] = k - now[agent]
				n.Missing += away[agent]
			}
		}
		if len(away) <= leftMost {
			for agent, k := range away {
				if r.left(ctx, agent) {
					n.Missing -= k
				}
			}
		}
		if n.Missing > 0 {
			return fmt.Errorf("%d of its %d clients are not back", n.Missing, n.Clients)
		}
		return nil
	})
	if err == nil || r.ctx.Err() != nil || !asked || n.Missing == 0 {
		return err
	}
	if n.Missing <= n.Clients/awayShare {
		return nil
	}
	return err
}

// left reports whether an agent is away because it said goodbye. Commands do, the one
// that began the roll among them.
func (r *rollRun) left(ctx context.Context, agent agentid.ID) bool {
	all, err := r.p.store.Instances(ctx, agent)
	return err == nil && len(all) > 0 && !slices.ContainsFunc(all, func(i *registry.Instance) bool {
		return i.State != registry.Left
	})
}

// until repeats a look until it is content, and returns its last complaint where it
// is not in time.
func (r *rollRun) until(look func(context.Context) error) error {
	late := time.NewTimer(r.p.settleFor)
	defer late.Stop()
	for {
		ctx, cancel := context.WithTimeout(r.ctx, settleRound)
		err := look(ctx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-r.ctx.Done():
			return context.Cause(r.ctx)
		case <-late.C:
			return err
		case <-time.After(settlePause):
		}
	}
}

// noFile is how a nats-server says that it was not started with a file, as one inside
// another program.
const noFile = "can only reload config when a file is provided"

// reload has one server read its files.
func (p *Plane) reload(ctx context.Context, server string) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	m, err := p.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+server+".RELOAD", nil)
	if err != nil {
		return fmt.Errorf("it does not answer to a reload: %w; an nats-server.conf of before lets the control plane ask for none: add %q to the system user's permissions", err, "$SYS.REQ.SERVER.*.RELOAD")
	}
	a, err := parseAnswer(m.Data)
	switch {
	case err != nil:
		return err
	case a.Server.ID != server:
		return errors.New("another server answered")
	case a.Error != nil && strings.Contains(a.Error.Text, noFile):
		return errors.New("it runs inside sealmesh up, whose control plane alone can reload it; it reads its certificates by itself")
	case a.Error != nil:
		return cmp.Or(needsRestart(a.Error.Text), fmt.Errorf("it refused its files: %.300q", a.Error.Text))
	}
	return nil
}

// startOnly is how a nats-server begins to say that a change of its files is one that
// it takes only when it starts, and which.
const startOnly = "config reload not supported for "

// needsRestart is errRestart where a server refused its files for that, else nil. What
// the old and the new value are stays out of it.
func needsRestart(refusal string) error {
	_, what, ok := strings.Cut(refusal, startOnly)
	if !ok {
		return nil
	}
	what, _, _ = strings.Cut(what, ":")
	return fmt.Errorf("%w: nats-server takes a change of %.60q only when it starts, and until then no other change of its files", errRestart, what)
}

// restarted notes in the state of the last roll which servers were restarted since:
// they have read their files.
func (p *Plane) restarted(roll *wire.Roll) {
	open := 0
	for i := range roll.Servers {
		s := &roll.Servers[i]
		if s.State == wire.ServerRestart && p.servers.another(s.Name, s.Server) {
			s.State, s.Detail = wire.ServerDone, "it was restarted since"
		}
		if s.State != wire.ServerDone && s.State != wire.ServerAway {
			open++
		}
	}
	if roll.State == wire.RollFailed && open == 0 {
		roll.State, roll.Error = wire.RollDone, ""
	}
}

// streamsCurrent returns nil where each stream of the mesh has a leader and all of
// its copies are there and up to date.
func (p *Plane) streamsCurrent(ctx context.Context) error {
	own, err := jetstream.New(p.ctrl)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	for _, js := range []jetstream.JetStream{own, p.stored} {
		list := js.ListStreams(ctx)
		n := 0
		for s := range list.Info() {
			n++
			if err := current(s); err != nil {
				return err
			}
		}
		if err := list.Err(); err != nil {
			return fmt.Errorf("the streams cannot be listed: %w", err)
		}
		if n == 0 {
			return errors.New("no stream is there")
		}
	}
	return nil
}

func current(s *jetstream.StreamInfo) error {
	if s.Cluster == nil || s.Cluster.Name == "" {
		return nil
	}
	if s.Cluster.Leader == "" {
		return fmt.Errorf("stream %s has no leader", s.Config.Name)
	}
	if n := len(s.Cluster.Replicas) + 1; n < s.Config.Replicas {
		return fmt.Errorf("stream %s has %d of %d copies", s.Config.Name, n, s.Config.Replicas)
	}
	for _, peer := range s.Cluster.Replicas {
		if peer.Offline || !peer.Current {
			return fmt.Errorf("the copy of stream %s on %s is behind", s.Config.Name, peer.Name)
		}
	}
	return nil
}

// pingNamed asks which servers there are.
func (p *Plane) pingNamed(ctx context.Context, each func(id, name string)) (silent []string, err error) {
	ids := map[string]bool{}
	silent, err = p.ping(ctx, "$SYS.REQ.SERVER.PING.IDZ", nil, func(id string, _ json.RawMessage) error {
		ids[id] = true
		return nil
	})
	for id := range ids {
		each(id, p.servers.name(id))
	}
	return silent, err
}
