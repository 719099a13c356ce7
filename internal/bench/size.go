package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/bare"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Defaults of Size.
const (
	DefaultAgents = 100
	DefaultFor    = 5 * time.Second
)

const (
	// atOnce is how many callers, or connects, are under way together.
	atOnce = 16
	// payload is what calls and events carry, in bytes.
	payload = 256
	// stored is how many events are stored to see what one takes.
	stored = 2000
	// enrolEvery keeps enrolments below what one address may have.
	enrolEvery = 60 * time.Millisecond
	// audited is how long records may be on their way to the audit.
	audited = 3 * time.Second
)

// Plain subjects, on which the same servers carry unsigned messages.
const (
	plainAsk    = "bench.ask"
	plainAnswer = "bench.answer"
)

// SizeOptions say what to measure. Zero fields take the defaults.
type SizeOptions struct {
	Agents int           // agents that are registered and connect, on each mesh
	Nodes  []int         // servers of each mesh: one and three
	For    time.Duration // how long each load is kept up
	Log    zerolog.Logger
	// Progress hears of every part that is over and may be nil.
	Progress func(nodes, done, of int)
}

// Size measures what a mesh of this machine carries and what it stores: calls,
// events and connects a second, each beside the same over plain NATS on the same
// servers and over the same TLS, and the bytes that agents, calls, nonces and stored
// events take in streams. Servers, control plane and agents share the machine.
func Size(ctx context.Context, o SizeOptions) (Report, error) {
	if o.Agents == 0 {
		o.Agents = DefaultAgents
	}
	if o.For == 0 {
		o.For = DefaultFor
	}
	return eachMesh(o.Nodes, func(dir string, nodes int) ([]Row, error) {
		s := &scale{nodes: nodes, o: o}
		defer s.close()
		err := s.measure(ctx, dir)
		return s.rows, err
	})
}

// scale is one mesh that is measured.
type scale struct {
	nodes int
	o     SizeOptions
	mesh  *devmesh.Mesh
	rows  []Row

	ctrl, store jetstream.JetStream
	dirs        []string // of the agents that connect

	handler, caller *meshclient.Mesh
	asking, telling *nats.Conn // on the plain subjects

	closers []func()
}

func (s *scale) close() {
	for _, f := range s.closers {
		f()
	}
	if s.mesh != nil {
		s.mesh.Close() //nolint:errcheck // its directory is temporary
	}
}

func (s *scale) measure(ctx context.Context, dir string) (err error) {
	if s.mesh, err = devmesh.Start(ctx, dir, devmesh.Options{Nodes: s.nodes, Log: s.o.Log, ClientLog: s.o.Log}); err != nil {
		return err
	}
	parts := []func(context.Context) error{s.streams, s.agents, s.connects, s.people, s.latency, s.calls, s.events, s.storedEvents}
	for i, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
		if s.o.Progress != nil {
			s.o.Progress(s.nodes, i+1, len(parts))
		}
	}
	return nil
}

// row adds what was measured, and what of the same kind it compares to.
func (s *scale) row(r Row, base ...Row) Row {
	if len(base) > 0 && base[0].Value > 0 {
		r.Baseline, r.BaselineName, r.Ratio = base[0].Value, base[0].Name, r.Value/base[0].Value
	}
	out := r
	r.Name = fmt.Sprintf("size/%d-node/%s", s.nodes, r.Name)
	s.rows = append(s.rows, r)
	return out
}

// one is what was measured as a whole.
func one(name, unit string, v float64, runs int) Row {
	return Row{Name: name, Unit: unit, Value: v, P50: v, P99: v, Max: v, Runs: runs}
}

func (s *scale) streams(context.Context) error {
	nc, err := devmesh.AsService(s.mesh.Dir, s.mesh.Servers[0].URL())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, nc.Close)
	if s.ctrl, err = jetstream.New(nc); err != nil {
		return err
	}
	s.store, err = jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI)
	return err
}

// bytes is what streams take, in one copy of them.
func (s *scale) bytes(ctx context.Context, js jetstream.JetStream, names ...string) (sum float64, err error) {
	for _, name := range names {
		st, err := js.Stream(ctx, name)
		if err != nil {
			return 0, fmt.Errorf("stream %s: %w", name, err)
		}
		sum += float64(st.CachedInfo().State.Bytes)
	}
	return sum, nil
}

// agents registers and enrols agents, and sees what they take.
func (s *scale) agents(ctx context.Context) error {
	registryStreams := []string{"KV_" + natsconf.AgentsBucket, "KV_" + natsconf.ChainsBucket}
	before, err := s.bytes(ctx, s.ctrl, registryStreams...)
	if err != nil {
		return err
	}
	var took samples
	for n := range s.o.Agents {
		start := time.Now()
		dir, err := s.mesh.Add(ctx, registry.NewAgent{
			Agent: agentid.Require(fmt.Sprintf("a%05d", n)), Heartbeat: registry.HeartbeatNone,
			Rights: registry.Rights{Call: []capability.Scope{capability.RequireScope(workScope)}},
		})
		if err != nil {
			return err
		}
		took.add(time.Since(start))
		s.dirs = append(s.dirs, dir)
		// The control plane takes no more from one address.
		if err := pause(ctx, enrolEvery-time.Since(start)); err != nil {
			return err
		}
	}
	after, err := s.bytes(ctx, s.ctrl, registryStreams...)
	if err != nil {
		return err
	}
	s.row(took.row("add-and-enrol"))
	s.row(one("registry-of-an-agent", "B", (after-before)/float64(s.o.Agents), s.o.Agents))
	return nil
}

// connects has all agents connect, some at once, as after a restart.
func (s *scale) connects(ctx context.Context) error {
	var bareTook, took samples
	plain, err := s.each(ctx, &bareTook, func(_ context.Context, n int) (func(), error) {
		nc, err := devmesh.AsService(s.mesh.Dir, s.mesh.Servers[n%s.nodes].URL())
		if err != nil {
			return nil, err
		}
		return nc.Close, nil
	})
	if err != nil {
		return err
	}
	rate, err := s.each(ctx, &took, func(ctx context.Context, n int) (func(), error) {
		nc, err := bare.Entry{Dir: s.dirs[n]}.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return nc.Close, nil
	})
	if err != nil {
		return err
	}
	base := s.row(one("plain-connects", "/s", plain, s.o.Agents))
	s.row(one("connects", "/s", rate, s.o.Agents), base)
	base = s.row(bareTook.row("plain-connect"))
	s.row(took.row("connect"), base)
	return nil
}
