//go:build unix

package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

const (
	// interval is that of heartbeats.
	interval = time.Second
	// soon is for what happens at once on an idle machine, ever for what needs an
	// election, a time-out or both.
	soon = 30 * time.Second
	ever = 90 * time.Second
)

// world is a mesh of three nats-servers and two control planes, and agents on it.
type world struct {
	*process.Cluster
	root *testing.T // of the whole test; what is started lives as long
	t    *testing.T // of the case that runs
	ctx  context.Context
	// How long an agent may be silent.
	timeout time.Duration
	nodes   []*process.Process
	planes  []*process.Process
	names   []string
	routes  [][]*proxy // from one server to another
	admin   *meshclient.Mesh
	epochs  map[string]string // of the agents that live, when they were added
	duos    []*duo
	stocks  *foreign
	gone    *ghost
	dead    int
}

// newWorld starts everything. Agents come in duos, a caller on one server and a
// handler on the next.
func newWorld(t *testing.T, timeout time.Duration) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &world{root: t, t: t, ctx: ctx, timeout: timeout, Cluster: process.NewCluster(t, programs, 3), names: []string{"one", "two"}, epochs: map[string]string{}}
	w.Init()
	yaml := filepath.Join(w.Dir(), meshdir.ConfigFile)
	w.Edit(yaml, "interval: 30s", "interval: "+interval.String())
	w.Edit(yaml, "timeout: 1m30s", "timeout: "+timeout.String())
	// Judgements have to be right by themselves: the brake, which would stop most of
	// those that are wrong, is off.
	w.Edit(yaml, "mass_expiry_share: 0.3", "mass_expiry_share: 1")
	w.rewire()
	for i := range w.Clients {
		w.nodes = append(w.nodes, w.Node(i))
	}
	// The first control plane goes to the first server, the second to the last.
	var listens []string
	for i, name := range w.names {
		listens = append(listens, w.Replica(name, i*2))
	}
	newProxy(t, w.Control, listens...) // what stands before control planes
	for _, name := range w.names {
		w.planes = append(w.planes, w.StartReplica(name))
	}
	for _, p := range w.planes {
		p.Await(process.PlaneUp)
	}
	w.admin = w.operator(0)
	for i := range w.nodes {
		w.duos = append(w.duos, w.duo(i, (i+1)%len(w.nodes)))
	}
	w.stocks = w.foreign()
	w.gone = w.ghost("gone", 0)
	w.operate(wire.AdminRequest{Op: wire.OpRevoke, Target: "gone"}, nil)
	w.gone.haunt()
	w.calling()
	return w
}

// run is a case; it reports whether the world is still fit for the next.
func (w *world) run(name string, f func(t *testing.T)) bool {
	return w.root.Run(name, func(t *testing.T) {
		w.t = t
		defer func() { w.t = w.root }()
		began := time.Now()
		f(t)
		w.heard(w.stocks)
		t.Logf("took %s", time.Since(began).Round(time.Second))
	})
}

// rewire has every route go through a proxy of its own, and has no server tell the
// others an address at which there is none.
func (w *world) rewire() {
	w.t.Helper()
	const nowhere = "127.0.0.1:9"
	for i, own := range w.Routes {
		var from []*proxy
		for j, other := range w.Routes {
			if i == j {
				from = append(from, nil)
				continue
			}
			p := newProxy(w.root, "127.0.0.1:0", other)
			w.Edit(filepath.Join(w.Folder(i), "cluster-secret.conf"), "@"+other+`"`, "@"+p.addr()+`"`)
			from = append(from, p)
		}
		w.Edit(filepath.Join(w.Folder(i), "nats-server.conf"), `  advertise: "`+own+`"`, `  advertise: "`+nowhere+`"`)
		w.routes = append(w.routes, from)
	}
}

// part cuts one server off from the others, or lets it back.
func (w *world) part(i int, off bool) {
	for j := range w.routes {
		if j != i {
			w.routes[i][j].stand(off)
			w.routes[j][i].stand(off)
		}
	}
}

func (w *world) connect(dir string) *meshclient.Mesh {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, soon)
	defer cancel()
	m, err := meshclient.Connect(ctx, meshclient.As(dir), meshclient.Log(zerolog.Nop()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.root.Cleanup(func() { _ = m.Close() })
	return m
}

// operator connects as the administrator to one server first.
func (w *world) operator(node int) *meshclient.Mesh {
	w.t.Helper()
	dir := w.Agent(meshdir.AdminAgent)
	w.place(dir, node)
	return w.connect(dir)
}

// place has the agent of a directory connect to one server first.
func (w *world) place(dir string, node int) {
	w.t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	d.Info.NATS = []string{w.URL(node)}
	if err := agentdir.Write(dir, d.Info); err != nil {
		w.t.Fatal(err)
	}
}

// try runs one admin operation. While servers or control planes are away it may
// fail.
func (w *world) try(ctx context.Context, req wire.AdminRequest, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	reply, err := w.admin.Call(ctx, wire.AdminScope, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(reply.Data, out)
}

func (w *world) operate(req wire.AdminRequest, out any) {
	w.t.Helper()
	w.eventually(soon, fmt.Sprintf("%s %s", req.Op, req.Target), func(ctx context.Context) error { return w.try(ctx, req, out) })
}

// eventually repeats f until it succeeds, or fails the test.
func (w *world) eventually(within time.Duration, what string, f func(context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, within)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s: not within %s: %v", what, within, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// add registers and enrols an agent that connects to one server first.
func (w *world) add(id string, node int, rights registry.Rights) (dir string) {
	w.t.Helper()
	dir = w.enrolled(registry.NewAgent{Agent: agentid.Require(id), Rights: rights})
	w.place(dir, node)
	return dir
}

// enrolled registers an agent and makes its first instance.
func (w *world) enrolled(n registry.NewAgent) (dir string) {
	w.t.Helper()
	id := n.Agent.String()
	var added wire.AddResult
	w.operate(wire.AdminRequest{Op: wire.OpAdd, Target: id, New: &n}, &added)
	token, err := registry.ParseJoinToken(added.JoinToken)
	if err != nil {
		w.t.Fatal(err)
	}
	dir = w.Agent(id)
	w.eventually(soon, "enrolling "+id, func(ctx context.Context) error {
		_, err := enrol.Enrol(ctx, token, dir)
		return err
	})
	return dir
}

// show reads an agent's record.
func (w *world) show(id string) (v wire.AgentView) {
	w.t.Helper()
	w.operate(wire.AdminRequest{Op: wire.OpShow, Target: id}, &v)
	return v
}

// epoch says under which epochs an agent and its instances stand: an expiry
// raises them, also where nobody looked before the agent was back.
func (w *world) epoch(v wire.AgentView) string {
	out := fmt.Sprintf("%s %d", v.Status, v.Epoch)
	for _, i := range v.Instances {
		out += fmt.Sprintf(" %s %d", i.State, i.Epoch)
	}
	return out
}

// unharmed fails the test if any of those who live was expired or cut, however
// short.
func (w *world) unharmed(but ...string) {
	w.t.Helper()
	for _, id := range slices.Sorted(maps.Keys(w.epochs)) {
		if slices.Contains(but, id) {
			continue
		}
		if got, want := w.epoch(w.show(id)), w.epochs[id]; got != want {
			w.t.Errorf("%s lives and was harmed: got %q, want %q", id, got, want)
		}
	}
}

// victim starts a program that handles something, on one server, and returns what
// to kill it by.
func (w *world) victim(node int) (id string, p *process.Process) {
	w.t.Helper()
	w.dead++
	id = "victim-" + strconv.Itoa(w.dead)
	scope := "read:" + id
	w.add(id, node, registry.Rights{Handle: []capability.Scope{capability.RequireScope(scope)}})
	p = w.Run("handle", scope, "--as", id, "--", "cat")
	p.AwaitLog(`"message":"handling"`)
	return id, p
}

// expires waits until an agent is expired.
func (w *world) expires(id string) {
	w.t.Helper()
	began := time.Now()
	w.eventually(ever, id+" is dead", func(ctx context.Context) error {
		var v wire.AgentView
		if err := w.try(ctx, wire.AdminRequest{Op: wire.OpShow, Target: id}, &v); err != nil {
			return err
		}
		if v.Status != registry.Expired {
			return errors.New(w.epoch(v))
		}
		return nil
	})
	w.t.Logf("%s expired after %s more", id, time.Since(began).Round(time.Millisecond))
}

// service connects as the control plane does.
func (w *world) service() *nats.Conn {
	w.t.Helper()
	m, err := meshdir.Load(w.Dir())
	if err != nil {
		w.t.Fatal(err)
	}
	nc, err := devmesh.AsService(m, w.URL(0), nats.MaxReconnects(-1))
	if err != nil {
		w.t.Fatal(err)
	}
	w.root.Cleanup(nc.Close)
	return nc
}

// streams returns JetStream of the control plane's account and that of STORE.
func (w *world) streams(nc *nats.Conn) (ctrl, store jetstream.JetStream) {
	w.t.Helper()
	ctrl, err := jetstream.New(nc)
	if err != nil {
		w.t.Fatal(err)
	}
	if store, err = jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI); err != nil {
		w.t.Fatal(err)
	}
	return ctrl, store
}

// lead has one server lead the store of used nonces.
func (w *world) lead(nc *nats.Conn, store jetstream.JetStream, node int) {
	w.t.Helper()
	const stream = "KV_" + natsconf.ReplayBucket
	w.eventually(soon, w.Name(node)+" leads "+stream, func(ctx context.Context) error {
		if w.leader(store, stream) == node {
			return nil
		}
		_, err := nc.RequestWithContext(ctx, natsconf.StoreAPI+".STREAM.LEADER.STEPDOWN."+stream, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, w.Name(node)))
		return errors.Join(err, errors.New("another one does"))
	})
}

// leader is the server that leads a stream.
func (w *world) leader(js jetstream.JetStream, stream string) (node int) {
	w.t.Helper()
	w.eventually(soon, "leader of "+stream, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		c := s.CachedInfo().Cluster
		for i := range w.Clients {
			if c != nil && c.Leader == w.Name(i) {
				node = i
				return nil
			}
		}
		return errors.New("there is none")
	})
	return node
}

// whole waits until every stream has all its replicas and all are current.
func (w *world) whole(stores ...jetstream.JetStream) {
	w.t.Helper()
	w.eventually(ever, "all replicas", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		for _, js := range stores {
			n := 0
			list := js.ListStreams(ctx)
			for s := range list.Info() {
				n++
				if s.Cluster == nil || s.Cluster.Leader == "" || len(s.Cluster.Replicas) != 2 {
					return fmt.Errorf("%s: %+v", s.Config.Name, s.Cluster)
				}
				for _, r := range s.Cluster.Replicas {
					if !r.Current || r.Offline {
						return fmt.Errorf("%s on %s: %+v", s.Config.Name, r.Name, r)
					}
				}
			}
			if list.Err() != nil {
				return list.Err()
			}
			if n == 0 {
				return errors.New("no streams")
			}
		}
		return nil
	})
}

// pause lets the world go on for a while.
func (w *world) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

// refused reports whether an error says that the mesh will not have an agent.
func refused(err error, reasons ...denial.Reason) bool {
	var d *meshclient.Denied
	return errors.As(err, &d) && slices.Contains(reasons, d.Reason)
}
