package load

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// The topics of the load: one that is gone when it was said, and one that is kept.
const (
	topicTicks = "ticks"
	topicKept  = "kept"
)

// Agents are those that Run enrols. Two handle the same scopes, so that they share
// one queue; the borrower holds nothing of its own, only what the lender lent it.
var Agents = []string{
	"worker1", "worker2", "caller1", "caller2", "caller3",
	"lender", "borrower", "publisher", "listener1", "listener2",
}

// rights says what each of them may do.
func rights(agent string) registry.Rights {
	everything := scopes("do:work", "do:think", "do:story", "do:bulk", "do:secret", "do:relay", "do:deputy")
	switch agent {
	case "worker1", "worker2":
		return registry.Rights{Handle: append(everything, scopes("do:lent", "do:extra")...), Call: scopes("do:deputy")}
	case "lender":
		return registry.Rights{Call: scopes("do:lent", "do:extra"), MayDelegate: scopes("do:lent", "do:extra")}
	case "borrower":
		return registry.Rights{}
	case "publisher":
		return registry.Rights{Publish: []string{topicTicks, topicKept}}
	case "listener1", "listener2":
		return registry.Rights{Subscribe: []string{topicTicks, topicKept}}
	}
	return registry.Rights{Call: everything, Publish: []string{topicTicks}}
}

func scopes(list ...string) []capability.Scope {
	var out []capability.Scope
	for _, s := range list {
		out = append(out, capability.RequireScope(s))
	}
	return out
}

// actor is one agent of the load.
type actor struct {
	*meshclient.Mesh
	dir       string
	rotations atomic.Int64
	warnings  *warnings

	mu      sync.Mutex
	serials map[string]bool
}

// warnings counts what the agents' logs complain of.
type warnings struct {
	mu    sync.Mutex
	count map[string]int
}

func (w *warnings) all() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.count)
}

// Run implements zerolog.Hook: the log is where everybody can see what a client does
// with its connection.
func (a *actor) Run(_ *zerolog.Event, level zerolog.Level, message string) {
	switch {
	case message == "connection rotated":
		a.rotations.Add(1)
	case level >= zerolog.WarnLevel:
		a.warnings.mu.Lock()
		a.warnings.count[message]++
		a.warnings.mu.Unlock()
	}
}

// join enrols and connects the agents.
func join(ctx context.Context, m *devmesh.Mesh, o Options) (all map[string]*actor, w *warnings, err error) {
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: topicKept, MaxAge: 3600}}, nil); err != nil {
		return nil, nil, err
	}
	w = &warnings{count: map[string]int{}}
	all = map[string]*actor{}
	defer func() {
		if err != nil {
			leave(all) //nolint:errcheck // it failed before
		}
	}()
	for i, id := range Agents {
		a := &actor{warnings: w, serials: map[string]bool{}}
		if a.dir, err = m.Add(ctx, registry.NewAgent{Agent: agentid.Require(id), Rights: rights(id)}); err != nil {
			return nil, nil, err
		}
		if o.Nodes > 0 {
			if err = m.Place(a.dir, i%o.Nodes); err != nil {
				return nil, nil, err
			}
		}
		log := zerolog.New(io.Discard).Level(zerolog.InfoLevel).Hook(a)
		if a.Mesh, err = m.Connect(ctx, a.dir, meshclient.Log(log)); err != nil {
			return nil, nil, err
		}
		all[id] = a
		a.look()
	}
	return all, w, nil
}

func leave(all map[string]*actor) error {
	errs := make(chan error, len(all))
	for id, a := range all {
		go func() {
			if err := a.Close(); err != nil {
				errs <- fmt.Errorf("closing %s: %w", id, err)
				return
			}
			errs <- nil
		}()
	}
	var first error
	for range all {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// holds waits until the note of a delegation has come.
func (a *actor) holds(ctx context.Context, scope string) error {
	for {
		held, err := a.Scopes(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(held, capability.RequireScope(scope)) {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// look notes the certificate that the agent has now.
func (a *actor) look() {
	text, err := os.ReadFile(filepath.Join(a.dir, agentdir.TLSCertFile))
	if err != nil {
		return
	}
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serials[cert.SerialNumber.String()] = true
}

// certificates is how many the agent was seen with.
func (a *actor) certificates() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.serials)
}
