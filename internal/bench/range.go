package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/bare"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// What is said on the range.
const (
	floodTopic  = "flood"
	storedTopic = "ledger"
	workScope   = "do:work"
	workDotted  = "do.work"
)

// slowly is what a stored event takes its reader: less than they come in, so that
// some always wait in the stream when their sender is revoked.
const slowly = 3 * time.Millisecond

// firingRange is a mesh with a receiver that takes whatever is right.
type firingRange struct {
	mesh  *devmesh.Mesh
	nodes int
	rate  int
	watch *watch
	sys   *nats.Conn
	spare string // directory of an agent that is there to be kicked

	closers []func()
}

func newRange(ctx context.Context, dir string, nodes int, o RevokeOptions) (r *firingRange, err error) {
	r = &firingRange{nodes: nodes, rate: o.Rate}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	r.mesh, err = devmesh.Start(ctx, dir, devmesh.Options{Nodes: nodes, Log: o.Log, ClientLog: o.Log})
	if err != nil {
		return nil, err
	}
	if err := r.mesh.Operate(ctx, wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: storedTopic, MaxAge: 3600}}, nil); err != nil {
		return nil, err
	}
	if r.spare, err = r.add(ctx, "spare", 0, registry.Rights{}); err != nil {
		return nil, err
	}
	receiver, err := r.add(ctx, "watch", nodes-1, registry.Rights{
		Handle: []capability.Scope{capability.RequireScope(workScope)}, Subscribe: []string{floodTopic, storedTopic},
	})
	if err != nil {
		return nil, err
	}
	if r.watch, err = newWatch(ctx, r.mesh, receiver); err != nil {
		return nil, err
	}
	r.closers = append(r.closers, func() { r.watch.mesh.Close() }) //nolint:errcheck // the mesh goes with it
	return r, r.system()
}

// add registers and enrols an agent that connects to one of the servers.
func (r *firingRange) add(ctx context.Context, id string, node int, rights registry.Rights) (dir string, err error) {
	if dir, err = r.mesh.Add(ctx, registry.NewAgent{Agent: agentid.Require(id), Rights: rights, Heartbeat: registry.HeartbeatNone}); err != nil {
		return "", err
	}
	d, err := agentdir.Open(dir)
	if err != nil {
		return "", err
	}
	d.Info.NATS = []string{r.mesh.Servers[node%len(r.mesh.Servers)].URL()}
	return dir, agentdir.Write(dir, d.Info)
}

// target makes an agent and one to which it lends a right, on different servers
// where there are several.
func (r *firingRange) target(ctx context.Context, n int) (*target, error) {
	scope := capability.RequireScope(workScope)
	name, other := fmt.Sprintf("v%04d", n), fmt.Sprintf("d%04d", n)
	dir, err := r.add(ctx, name, n, registry.Rights{
		Publish: []string{floodTopic, storedTopic}, Call: []capability.Scope{scope}, MayDelegate: []capability.Scope{scope},
	})
	if err != nil {
		return nil, err
	}
	delegateDir, err := r.add(ctx, other, n+1, registry.Rights{})
	if err != nil {
		return nil, err
	}
	lender, err := r.mesh.Connect(ctx, dir)
	if err != nil {
		return nil, err
	}
	lent, err := lender.Delegate(ctx, other, meshclient.Grant{Scopes: []string{workScope}, For: time.Hour})
	if err := errors.Join(err, lender.Close()); err != nil {
		return nil, err
	}
	return newTarget(ctx, dir, delegateDir, lent.Chains()[0])
}

// system opens the connection that closes others without asking the mesh.
func (r *firingRange) system() (err error) {
	if r.sys, err = devmesh.AsSystem(r.mesh.Dir, r.mesh.Servers[0].URL()); err != nil {
		return err
	}
	r.closers = append(r.closers, r.sys.Close)
	return nil
}

// bareKick measures from the request to a server to the end of the connection that
// it names.
func (r *firingRange) bareKick(ctx context.Context) (time.Duration, error) {
	over := make(chan time.Time, 1)
	nc, err := bare.Entry{Dir: r.spare}.Dial(ctx, nats.ClosedHandler(func(*nats.Conn) { over <- time.Now() }))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	client, err := nc.GetClientID()
	if err != nil {
		return 0, err
	}
	body, err := json.Marshal(map[string]uint64{"cid": client})
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := r.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+nc.ConnectedServerId()+".KICK", body); err != nil {
		return 0, err
	}
	select {
	case at := <-over:
		return at.Sub(start), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (r *firingRange) close() {
	for _, f := range r.closers {
		f()
	}
	if r.mesh != nil {
		r.mesh.Close() //nolint:errcheck // its directory is temporary
	}
}

// watch is the receiver. It notes when it took something last, by sender.
type watch struct {
	mesh *meshclient.Mesh
	mu   sync.Mutex
	seen map[agentid.ID]*sightings
}

// sightings are when the last of each kind came from one agent.
type sightings struct{ message, stored, delegated time.Time }

func newWatch(ctx context.Context, m *devmesh.Mesh, dir string) (*watch, error) {
	w := &watch{seen: map[agentid.ID]*sightings{}}
	var err error
	if w.mesh, err = m.Connect(ctx, dir); err != nil {
		return nil, err
	}
	err = errors.Join(
		w.mesh.Subscribe(floodTopic, func(_ context.Context, e *meshclient.Event) {
			w.note(e.From, func(s *sightings, now time.Time) { s.message = now })
		}),
		w.mesh.Subscribe(storedTopic, func(ctx context.Context, e *meshclient.Event) {
			w.note(e.From, func(s *sightings, now time.Time) { s.stored = now })
			pause(ctx, slowly) //nolint:errcheck // the end of the mesh ends it as well
		}, meshclient.Durable("all")),
		w.mesh.Handle(workScope, func(_ context.Context, req *meshclient.Request) ([]byte, error) {
			w.note(req.From, func(s *sightings, now time.Time) { s.delegated = now })
			return nil, nil
		}),
	)
	if err != nil {
		return nil, errors.Join(err, w.mesh.Close())
	}
	return w, nil
}

func (w *watch) note(from agentid.ID, what func(*sightings, time.Time)) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.seen[from]
	if s == nil {
		s = &sightings{}
		w.seen[from] = s
	}
	what(s, now)
}

// last returns the last of everything that rests on a target.
func (w *watch) last(t *target) (s sightings) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if own := w.seen[t.agent.ID]; own != nil {
		s = *own
	}
	if lent := w.seen[t.delegate.ID]; lent != nil {
		s.delegated = lent.delegated
	}
	return s
}

// busy waits until everything that a target does comes through: a cut of what does
// not work shows nothing.
func (w *watch) busy(ctx context.Context, t *target) error {
	for {
		if s := w.last(t); !s.message.IsZero() && !s.stored.IsZero() && !s.delegated.IsZero() {
			return nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("not all that %s sends comes through: %w", t.agent.ID, err)
		}
	}
}
