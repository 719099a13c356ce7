// Package devmesh runs a whole mesh in one process, in a directory of its own:
// an embedded nats-server with TLS and JetStream on disk, the control plane, and
// an operator. The demo, the tests and meshtest stand on it. Everything in it is
// real; only the addresses are picked here. With three nodes it is a cluster, and
// more control planes may be added.
package devmesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Options say how the mesh differs from the defaults.
type Options struct {
	Log       zerolog.Logger // of server and control plane
	ClientLog zerolog.Logger // of the agents that Connect makes
	Heartbeat time.Duration  // interval; the time-out is three of them
	Session   time.Duration
	GoneAfter time.Duration // as in controlplane.Config
	// Certificate is how long the agents' certificates live.
	Certificate time.Duration
	// Clock is that of the mesh directory's making and of the control planes, as in
	// controlplane.Config.
	Clock func() time.Time
	// Nodes is how many nats-servers there are: one where zero, else three or more,
	// which keep three copies of what is stored.
	Nodes int
	// Configure may change anything else before the mesh starts.
	Configure func(*meshdir.InitOptions)
}

// Mesh is a running mesh.
type Mesh struct {
	Dir     *meshdir.Mesh
	Server  *natsserver.Server   // the first
	Servers []*natsserver.Server // all, in the order of Dir.Config.NATS.URLs
	Plane   *controlplane.Plane
	opts    Options
	listen  string

	mu     sync.Mutex
	admin  *meshclient.Mesh
	hosts  int
	planes []*controlplane.Plane // that AddPlane made
}

// Start makes a mesh in an empty directory and starts it.
func Start(ctx context.Context, dir string, o Options) (*Mesh, error) {
	// The real addresses are known once both listen; Up puts them in place.
	init := meshdir.InitOptions{
		NATSListen: "127.0.0.1:4222", NATSURL: "tls://127.0.0.1:4222",
		MetricsListen: meshdir.NoMetrics, ControlListen: "127.0.0.1:0", ControlURL: "https://127.0.0.1:4223",
	}
	if o.Heartbeat > 0 {
		init.Heartbeat.Interval, init.Heartbeat.Timeout = o.Heartbeat, 3*o.Heartbeat
	}
	if o.Session > 0 {
		init.Session.TTL = o.Session
	}
	if o.Certificate > 0 {
		init.Certificate.TTL = o.Certificate
	}
	if o.Clock != nil {
		init.Now = o.Clock()
	}
	if o.Nodes > 1 {
		servers, err := nodes(o.Nodes)
		if err != nil {
			return nil, err
		}
		init.Servers, init.NATSListen, init.NATSURL = servers, "", ""
	}
	if o.Configure != nil {
		o.Configure(&init)
	}
	d, err := meshdir.Init(dir, init)
	if err != nil {
		return nil, err
	}
	d.Config.Control.URL = ""
	m := &Mesh{Dir: d, opts: o, listen: "127.0.0.1:-1"}
	if err := m.Up(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Up starts server and control plane, at the addresses of before if there were
// any.
func (m *Mesh) Up(ctx context.Context) error {
	if err := m.UpServer(ctx); err != nil {
		return err
	}
	return m.UpPlane(ctx)
}

// UpServer starts the nats-servers alone.
func (m *Mesh) UpServer(ctx context.Context) error {
	if len(m.Dir.Config.NATS.Servers) > 0 {
		return m.upNodes(ctx)
	}
	srv, err := natsserver.Start(ctx, natsserver.Config{File: m.Dir.ServerConf(), Listen: m.listen, Log: m.opts.Log})
	if err != nil {
		return err
	}
	if err := srv.Ready(ctx); err != nil {
		srv.Close()
		return err
	}
	m.Server, m.Servers = srv, []*natsserver.Server{srv}
	m.listen = srv.URL()[len("tls://"):]
	m.Dir.Config.NATS.URLs = []string{srv.URL()}
	return nil
}

// UpPlane starts the control plane alone.
func (m *Mesh) UpPlane(ctx context.Context) error {
	dir := *m.Dir // it is written below, while the control plane goes on reading
	config := controlplane.Config{Mesh: &dir, Log: m.opts.Log, GoneAfter: m.opts.GoneAfter, Clock: m.opts.Clock, Embedded: m.embedded()}
	p, err := controlplane.Start(ctx, config)
	// Meanwhile a connection of another program may have got the port of before.
	for i := 0; i < 50 && errors.Is(err, syscall.EADDRINUSE) && ctx.Err() == nil; i++ {
		time.Sleep(200 * time.Millisecond)
		p, err = controlplane.Start(ctx, config)
	}
	if err != nil {
		m.downServers()
		return err
	}
	m.Plane = p
	m.Dir.Config.Control.URL = p.URL()
	m.Dir.Config.Control.Listen = p.URL()[len("https://"):]
	return m.readdress("admin")
}

// readdress tells an agent's directory where the mesh listens.
func (m *Mesh) readdress(agent string) error {
	path := m.AgentDir(agent)
	d, err := agentdir.Open(path)
	if err != nil {
		return err
	}
	d.Info.NATS, d.Info.Control = m.Dir.Config.NATS.URLs, m.Dir.Config.Control.URL
	return agentdir.Write(path, d.Info)
}

// AgentDir is where an agent's first instance lives.
func (m *Mesh) AgentDir(agent string) string { return filepath.Join(m.Dir.Dir, "agents", agent) }

// DownPlane stops the control plane alone.
func (m *Mesh) DownPlane() error { return m.Plane.Close() }

// Close stops everything that Start and Up started.
func (m *Mesh) Close() error {
	m.mu.Lock()
	admin, planes := m.admin, m.planes
	m.admin, m.planes = nil, nil
	m.mu.Unlock()
	if admin != nil {
		if err := admin.Close(); err != nil {
			return err
		}
	}
	var errs []error
	for _, p := range append(planes, m.Plane) {
		errs = append(errs, p.Close())
	}
	m.downServers()
	return errors.Join(errs...)
}

// Admin returns the operator's connection.
func (m *Mesh) Admin(ctx context.Context) (*meshclient.Mesh, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.admin == nil {
		a, err := m.Connect(ctx, m.AgentDir("admin"))
		if err != nil {
			return nil, err
		}
		m.admin = a
	}
	return m.admin, nil
}

// Connect connects as the instance that lives in a directory.
func (m *Mesh) Connect(ctx context.Context, dir string, opts ...meshclient.Option) (*meshclient.Mesh, error) {
	return meshclient.Connect(ctx, append([]meshclient.Option{meshclient.As(dir), meshclient.Log(m.opts.ClientLog)}, opts...)...)
}

// Operate runs one admin operation and decodes its answer into out, which may be
// nil.
func (m *Mesh) Operate(ctx context.Context, req wire.AdminRequest, out any) error {
	admin, err := m.Admin(ctx)
	if err != nil {
		return err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	reply, err := admin.Call(ctx, wire.AdminScope, body)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(reply.Data, out)
}

// Add registers an agent and enrols its first instance in AgentDir.
func (m *Mesh) Add(ctx context.Context, n registry.NewAgent) (dir string, err error) {
	var added wire.AddResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &n}, &added); err != nil {
		return "", err
	}
	dir = m.AgentDir(n.Agent.String())
	return dir, m.enrol(ctx, added.JoinToken, dir)
}

// Instance enrols one more instance of an agent and returns its directory.
func (m *Mesh) Instance(ctx context.Context, agent agentid.ID) (dir string, err error) {
	var joined wire.AddResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpJoin, Target: agent.String()}, &joined); err != nil {
		return "", err
	}
	m.mu.Lock()
	m.hosts++
	host := m.hosts
	m.mu.Unlock()
	dir = filepath.Join(m.Dir.Dir, "hosts", strconv.Itoa(host), agent.String())
	return dir, m.enrol(ctx, joined.JoinToken, dir)
}

func (m *Mesh) enrol(ctx context.Context, text, dir string) error {
	token, err := registry.ParseJoinToken(text)
	if err != nil {
		return err
	}
	if _, err := enrol.Enrol(ctx, token, dir); err != nil {
		return fmt.Errorf("devmesh: enrolling %s: %w", token.Agent, err)
	}
	return nil
}

// Cut suspends, resumes, revokes or ungrants.
func (m *Mesh) Cut(ctx context.Context, op wire.Op, target, reason string) (wire.CutResult, error) {
	var r wire.CutResult
	err := m.Operate(ctx, wire.AdminRequest{Op: op, Target: target, Reason: reason}, &r)
	return r, err
}
