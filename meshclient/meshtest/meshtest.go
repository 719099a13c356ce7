// Package meshtest gives tests a real mesh in one line: an embedded nats-server
// with TLS and JetStream, the control plane, and agents with keys, certificates
// and capabilities of their own. Nothing in it is faked; a test that passes here
// has been through every check of the mesh.
//
//	m := meshtest.New(t)
//	reader := m.Agent("reader", meshtest.Handles("read:logs"))
//	asker := m.Agent("asker", meshtest.Calls("read:logs"))
//
// Everything is closed and removed when the test ends. A Mesh is safe for
// concurrent use; like *testing.T, it must not be used after the test.
package meshtest

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// timeout bounds each step of setting up; a mesh on a busy machine is slow.
const timeout = 30 * time.Second

// Mesh is a running mesh for one test.
type Mesh struct {
	t   testing.TB
	dev *devmesh.Mesh
}

type config struct{ devmesh.Options }

// Option configures New.
type Option func(*config)

// Heartbeat makes agents beat that often; after three missed beats they expire.
// The default is that of a real mesh, longer than most tests.
func Heartbeat(interval time.Duration) Option { return func(c *config) { c.Heartbeat = interval } }

// Session is how long a connection's user JWT lives before the client must have
// replaced the connection; at least a few seconds.
func Session(ttl time.Duration) Option { return func(c *config) { c.Options.Session = ttl } }

// Certificates is how long the agents' certificates live; a few seconds at least. The
// default is a day. Clients renew them at half of that.
func Certificates(ttl time.Duration) Option {
	return func(c *config) { c.Certificate = ttl }
}

// Log shows what nats-server, control plane and agents log. The default is
// silence.
func Log(w io.Writer) Option {
	return func(c *config) {
		c.Log = zerolog.New(w).With().Timestamp().Logger()
		c.ClientLog = c.Log
	}
}

// New starts a mesh that ends with the test.
func New(t testing.TB, opts ...Option) *Mesh {
	t.Helper()
	c := config{devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop()}}
	for _, o := range opts {
		o(&c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dev, err := devmesh.Start(ctx, t.TempDir()+"/mesh", c.Options)
	if err != nil {
		t.Fatalf("meshtest: %v", err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("meshtest: closing: %v", err)
		}
	})
	return &Mesh{t: t, dev: dev}
}

// Right is what an agent may do.
type Right func(*registry.NewAgent)

// Calls lets the agent call scopes.
func Calls(scopes ...string) Right {
	return func(n *registry.NewAgent) { n.Rights.Call = append(n.Rights.Call, require(scopes)...) }
}

// Handles lets the agent answer calls of scopes.
func Handles(scopes ...string) Right {
	return func(n *registry.NewAgent) { n.Rights.Handle = append(n.Rights.Handle, require(scopes)...) }
}

// Publishes lets the agent publish topics.
func Publishes(topics ...string) Right {
	return func(n *registry.NewAgent) { n.Rights.Publish = append(n.Rights.Publish, topics...) }
}

// Subscribes lets the agent subscribe topics.
func Subscribes(topics ...string) Right {
	return func(n *registry.NewAgent) { n.Rights.Subscribe = append(n.Rights.Subscribe, topics...) }
}

// MayDelegate lets the agent pass on scopes that it holds.
func MayDelegate(scopes ...string) Right {
	return func(n *registry.NewAgent) { n.Rights.MayDelegate = append(n.Rights.MayDelegate, require(scopes)...) }
}

func require(scopes []string) []capability.Scope {
	out := make([]capability.Scope, 0, len(scopes))
	for _, s := range scopes {
		out = append(out, capability.RequireScope(s))
	}
	return out
}

// Agent registers and enrols an agent and returns it connected. It is closed
// with the test at the latest.
func (m *Mesh) Agent(id string, rights ...Right) *meshclient.Mesh {
	m.t.Helper()
	n := registry.NewAgent{Agent: agentid.Require(id)}
	for _, r := range rights {
		r(&n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dir, err := m.dev.Add(ctx, n)
	if err != nil {
		m.t.Fatalf("meshtest: adding %s: %v", id, err)
	}
	return m.connect(ctx, dir)
}

// Instance enrols one more instance of an agent and returns it connected.
func (m *Mesh) Instance(id string) *meshclient.Mesh {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dir, err := m.dev.Instance(ctx, agentid.Require(id))
	if err != nil {
		m.t.Fatalf("meshtest: enrolling %s: %v", id, err)
	}
	return m.connect(ctx, dir)
}

func (m *Mesh) connect(ctx context.Context, dir string) *meshclient.Mesh {
	m.t.Helper()
	a, err := m.dev.Connect(ctx, dir)
	if err != nil {
		m.t.Fatalf("meshtest: connecting: %v", err)
	}
	m.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			m.t.Errorf("meshtest: closing %s: %v", a.ID(), err)
		}
	})
	return a
}

// Suspend takes an agent out and returns when its connections are cut.
func (m *Mesh) Suspend(id string) { m.t.Helper(); m.cut(wire.OpSuspend, id) }

// Revoke ends an agent ("reader") or one instance ("reader/7f3c2k9q") for ever
// and returns when its connections are cut.
func (m *Mesh) Revoke(target string) { m.t.Helper(); m.cut(wire.OpRevoke, target) }

// Resume brings a suspended agent back.
func (m *Mesh) Resume(id string) {
	m.t.Helper()
	m.operate(wire.AdminRequest{Op: wire.OpResume, Target: id})
}

// Topic makes a topic durable: what is published on it is kept for that long.
func (m *Mesh) Topic(name string, keep time.Duration) {
	m.t.Helper()
	m.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: name, MaxAge: int64(keep / time.Second)}})
}

func (m *Mesh) cut(op wire.Op, target string) {
	m.t.Helper()
	m.operate(wire.AdminRequest{Op: op, Target: target, Reason: m.t.Name()})
}

func (m *Mesh) operate(req wire.AdminRequest) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := m.dev.Operate(ctx, req, nil); err != nil {
		m.t.Fatalf("meshtest: %s %s: %v", req.Op, req.Target, err)
	}
}
