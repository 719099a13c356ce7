package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// stage is the running mesh with everybody who plays.
type stage struct {
	mesh    *devmesh.Mesh
	journal *journal
	tamper  func(*nats.Msg)

	mu    sync.Mutex
	exits []func() // what has to be closed, in order of its making

	cast
	props
	sights
}

// cast is who plays. Honest agents use meshclient. The others are single
// connections that speak NATS and hold the keys of one instance.
type cast struct {
	clerk   *actor // calls pay:invoice, read:logs, write:reports; follows news
	bank    *actor // handles pay:invoice
	bank2   *actor // another instance of it, which starts late
	reader  *actor // handles read:logs
	reader2 *actor // another instance of it
	archive *actor // handles read:logs as well
	writer  *actor // handles write:reports, calls read:logs, publishes news
	ping    *actor // calls pong when it is called
	pong    *actor // calls ping when it is called
	boss    *actor // holds rights that it may pass on
	temp    *actor // has no rights of its own

	clerkPod   *intruder // a pod of clerk that was taken over
	bankPod    *intruder // a pod of bank that was taken over
	bossPod    *intruder // a pod of boss that was taken over
	mallory    *intruder // an enrolled agent with few rights and bad manners
	trainee    *intruder // calls read:logs with whatever chain it likes
	sleeper    *intruder // goes silent
	sleeperDir string
}

// props is what one step leaves for another.
type props struct {
	captured *nats.Msg // a call of clerk that never reached the bank
	lent     *meshclient.Delegation
	short    *meshclient.Delegation
	frozen   time.Time // when sleeper gave its last sign of life
}

// actor is an honest instance. It counts what its handlers are given.
type actor struct {
	*meshclient.Mesh
	dir string
	ran atomic.Int64
}

// handle answers a scope and counts.
func (a *actor) handle(scope string, fn meshclient.Handler) error {
	return a.Handle(scope, func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		a.ran.Add(1)
		return fn(ctx, req)
	})
}

// raise starts the mesh and brings the first agents up.
func raise(ctx context.Context, dir string, o Options) (*stage, error) {
	s := &stage{journal: newJournal(), tamper: o.sabotage.tamper}
	s.news = make(chan *meshclient.Event, 16)
	if s.tamper == nil {
		s.tamper = func(m *nats.Msg) { m.Data = []byte("pay 9999 to mallory") }
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	out := zerolog.MultiLevelWriter(s.journal)
	if o.Log != nil {
		shown := &zerolog.FilteredLevelWriter{Writer: zerolog.LevelWriterAdapter{Writer: zerolog.SyncWriter(o.Log)}, Level: o.Level}
		out = zerolog.MultiLevelWriter(s.journal, shown)
	}
	log := zerolog.New(out).With().Timestamp().Logger()
	var err error
	s.mesh, err = devmesh.Start(ctx, dir, devmesh.Options{Log: log, ClientLog: log, Heartbeat: heartbeatInterval})
	if err != nil {
		return nil, err
	}
	if err := s.gather(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// closing has f called at the end.
func (s *stage) closing(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exits = append(s.exits, f)
}

// close takes everything down: whoever is on stage together, then the mesh.
func (s *stage) close() {
	s.mu.Lock()
	list := s.exits
	s.exits = nil
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, f := range list {
		wg.Go(f)
	}
	wg.Wait()
	s.mesh.Close() //nolint:errcheck // the directory goes next
}

// role is an agent to register, and where its instances come on stage.
type role struct {
	id     string
	rights registry.Rights
	actors []**actor
	pods   []**intruder
}

func scopes(list ...string) []capability.Scope {
	out := make([]capability.Scope, len(list))
	for i, s := range list {
		out[i] = capability.RequireScope(s)
	}
	return out
}

// gather registers, enrols and connects the cast, all agents at a time.
func (s *stage) gather(ctx context.Context) error {
	if _, err := s.mesh.Admin(ctx); err != nil {
		return err
	}
	all := []func() error{func() (err error) {
		s.sleeperDir, err = s.enrol(ctx, "sleeper", registry.Rights{Call: scopes("read:logs")}, true)
		return err
	}}
	for _, r := range []role{
		{id: "clerk", rights: registry.Rights{Call: scopes("pay:invoice", "read:logs", "write:reports"), Subscribe: []string{"news"}},
			actors: []**actor{&s.clerk}, pods: []**intruder{&s.clerkPod}},
		{id: "bank", rights: registry.Rights{Handle: scopes("pay:invoice")}, actors: []**actor{&s.bank}, pods: []**intruder{&s.bankPod}},
		{id: "reader", rights: registry.Rights{Handle: scopes("read:logs")}, actors: []**actor{&s.reader, &s.reader2}},
		{id: "archive", rights: registry.Rights{Handle: scopes("read:logs")}, actors: []**actor{&s.archive}},
		{id: "writer", rights: registry.Rights{Handle: scopes("write:reports"), Call: scopes("read:logs"), Publish: []string{"news"}},
			actors: []**actor{&s.writer}},
		{id: "ping", rights: registry.Rights{Handle: scopes("play:ping"), Call: scopes("play:pong")}, actors: []**actor{&s.ping}},
		{id: "pong", rights: registry.Rights{Handle: scopes("play:pong"), Call: scopes("play:ping")}, actors: []**actor{&s.pong}},
		{id: "boss", rights: registry.Rights{Call: scopes("read:logs", "audit:books"), MayDelegate: scopes("read:logs")},
			actors: []**actor{&s.boss}, pods: []**intruder{&s.bossPod}},
		{id: "temp", actors: []**actor{&s.temp}},
		{id: "mallory", rights: registry.Rights{Call: scopes("play:ping"), Handle: scopes("play:dice")}, pods: []**intruder{&s.mallory}},
		{id: "trainee", rights: registry.Rights{Call: scopes("read:logs")}, pods: []**intruder{&s.trainee}},
	} {
		all = append(all, func() error { return s.bring(ctx, r) })
	}
	if err := together(all...); err != nil {
		return err
	}
	return s.employ()
}

// together runs all at a time and returns their errors.
func together(all ...func() error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, f := range all {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bring registers an agent and connects its instances.
func (s *stage) bring(ctx context.Context, r role) error {
	first := true
	if _, err := s.enrol(ctx, r.id, r.rights, true); err != nil {
		return err
	}
	if r.id == "mallory" {
		// A second root token: one call right under a token of its own.
		req := wire.AdminRequest{Op: wire.OpGrant, Target: r.id, Rights: registry.Rights{Call: scopes("read:logs")}}
		if err := s.mesh.Operate(ctx, req, nil); err != nil {
			return err
		}
	}
	dir := func() (string, error) {
		if first {
			first = false
			return s.mesh.AgentDir(r.id), nil
		}
		return s.enrol(ctx, r.id, registry.Rights{}, false)
	}
	for _, at := range r.actors {
		d, err := dir()
		if err != nil {
			return err
		}
		if *at, err = s.connect(ctx, d); err != nil {
			return err
		}
	}
	for _, at := range r.pods {
		d, err := dir()
		if err != nil {
			return err
		}
		if *at, err = s.infiltrate(ctx, d, beating()); err != nil {
			return err
		}
	}
	return nil
}

// enrol registers an agent and enrols its first instance, or enrols one more.
func (s *stage) enrol(ctx context.Context, id string, rights registry.Rights, add bool) (string, error) {
	agent, err := agentid.Parse(id)
	if err != nil {
		return "", err
	}
	if add {
		return s.mesh.Add(ctx, registry.NewAgent{Agent: agent, Rights: rights})
	}
	return s.mesh.Instance(ctx, agent)
}

// connect brings an honest instance up.
func (s *stage) connect(ctx context.Context, dir string) (*actor, error) {
	m, err := s.mesh.Connect(ctx, dir)
	if err != nil {
		return nil, err
	}
	s.closing(func() { m.Close() }) //nolint:errcheck // the mesh goes next
	return &actor{Mesh: m, dir: dir}, nil
}

// show reads an agent as the operator sees it.
func (s *stage) show(ctx context.Context, id string) (wire.AgentView, error) {
	var v wire.AgentView
	return v, s.mesh.Operate(ctx, wire.AdminRequest{Op: wire.OpShow, Target: id}, &v)
}

// readers are all who handle read:logs.
func (s *stage) readers() []*actor { return []*actor{s.reader, s.reader2, s.archive} }

func ran(list []*actor) (n int64) {
	for _, a := range list {
		n += a.ran.Load()
	}
	return n
}

// refused does something that one of the receivers has to refuse, and returns
// the reason that it logged. That a handler ran, or that nobody said anything,
// is an error.
func (s *stage) refused(ctx context.Context, receivers []*actor, kind audit.Kind, do func() error) (string, error) {
	from, before := s.journal.mark(), ran(receivers)
	if err := do(); err != nil {
		return "", err
	}
	var said line
	err := eventually(ctx, "a refusal in the audit", func() bool {
		var ok bool
		said, ok, _ = s.journal.find(from, func(l line) bool { return refusal(l, kind, receivers) })
		return ok || ran(receivers) != before
	})
	if n := ran(receivers) - before; n != 0 {
		return "", fmt.Errorf("it was accepted: the handler ran %d times", n)
	}
	if err != nil {
		return "", err
	}
	return said.text("reason"), nil
}

// refusal reports whether one of the receivers says in l that it refused.
func refusal(l line, kind audit.Kind, receivers []*actor) bool {
	return l.has("audit", string(kind), "verdict", string(audit.Refused)) && slices.ContainsFunc(receivers, func(a *actor) bool {
		return l.has("agent", a.ID().String(), "self", a.Instance().String())
	})
}

// eventually waits for something that comes by itself.
func eventually(ctx context.Context, what string, ok func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s did not happen: %w", what, ctx.Err())
		}
	}
	return nil
}
