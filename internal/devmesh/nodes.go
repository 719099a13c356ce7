package devmesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
)

// nodesWait bounds how long the servers of a cluster take to find each other.
const nodesWait = time.Minute

// nodes names the servers of a cluster n1, n2, … at addresses that are free now:
// routes have to be known before the first server starts.
func nodes(n int) ([]meshdir.Server, error) {
	addrs, err := freeAddrs(2 * n)
	if err != nil {
		return nil, err
	}
	out := make([]meshdir.Server, n)
	for i := range out {
		out[i] = meshdir.Server{Name: "n" + strconv.Itoa(i+1), Client: addrs[2*i], Route: addrs[2*i+1]}
	}
	return out, nil
}

// freeAddrs returns loopback addresses that nobody listens on. They lie below the
// ports that the system gives to outgoing connections and to listeners that do not
// ask for one: those would take them before the servers do, or while one is
// stopped.
func freeAddrs(n int) ([]string, error) {
	var out []string
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for range 100 * n {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(11000+rand.IntN(20000)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		open = append(open, l) // so that none is given twice
		if out = append(out, addr); len(out) == n {
			return out, nil
		}
	}
	return nil, errors.New("devmesh: no free ports")
}

// upNodes starts all servers of the cluster and returns when JetStream answers on
// each.
func (m *Mesh) upNodes(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, nodesWait)
	defer cancel()
	m.Servers = make([]*natsserver.Server, len(m.Dir.Config.NATS.Servers))
	defer func() {
		if err != nil {
			m.downServers()
		}
	}()
	for i := range m.Servers {
		if err := m.launch(ctx, i); err != nil {
			return err
		}
	}
	for _, s := range m.Servers {
		if err := s.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mesh) launch(ctx context.Context, i int) error {
	srv, err := natsserver.Start(ctx, natsserver.Config{File: m.Dir.ServerConfs()[i], Log: m.opts.Log})
	if err != nil {
		return err
	}
	m.Servers[i] = srv
	m.Server = m.Servers[0]
	return nil
}

func (m *Mesh) downServers() {
	var wg sync.WaitGroup
	for _, s := range m.Servers {
		if s != nil {
			wg.Go(s.Close)
		}
	}
	wg.Wait()
}

// embedded says how each server reads its configuration again.
func (m *Mesh) embedded() map[string]func() error {
	out := map[string]func() error{}
	for i, s := range m.Servers {
		out[s.Name()] = func() error { return m.Servers[i].Reload() }
	}
	return out
}

// StopNode stops one server of a cluster and returns when it is gone. Do not call
// it beside StartNode, nor while Servers is read.
func (m *Mesh) StopNode(i int) { m.Servers[i].Close() }

// StartNode starts a stopped server of a cluster again, at its old addresses and
// with what it had stored, and returns when JetStream answers on it.
func (m *Mesh) StartNode(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, nodesWait)
	defer cancel()
	if err := m.launch(ctx, i); err != nil {
		return err
	}
	return m.Servers[i].Ready(ctx)
}

// AddPlane starts one more control plane, which listens for HTTPS on a port of its
// own. Close closes it, where nobody did before.
func (m *Mesh) AddPlane(ctx context.Context) (*controlplane.Plane, error) {
	d := *m.Dir
	d.Config.Control.Listen, d.Config.Control.URL = "127.0.0.1:0", ""
	p, err := controlplane.Start(ctx, controlplane.Config{Mesh: &d, Log: m.opts.Log, GoneAfter: m.opts.GoneAfter, Clock: m.opts.Clock, Embedded: m.embedded()})
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.planes = append(m.planes, p)
	return p, nil
}

// Place has the instance that lives in a directory connect to one server. When it
// loses that one it goes to another, as servers of a cluster tell their clients of
// each other.
func (m *Mesh) Place(dir string, node int) error {
	d, err := agentdir.Open(dir)
	if err != nil {
		return err
	}
	urls := m.Dir.Config.NATS.URLs
	if node < 0 || node >= len(urls) {
		return fmt.Errorf("devmesh: there is no server %d", node)
	}
	d.Info.NATS = urls[node : node+1]
	return agentdir.Write(dir, d.Info)
}
