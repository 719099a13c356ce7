package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/bare"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// each connects all agents, some at once, and returns how many there were a second.
func (s *scale) each(ctx context.Context, took *samples, connect func(context.Context, int) (func(), error)) (perSecond float64, err error) {
	var next atomic.Int64
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	start := time.Now()
	for range min(atOnce, len(s.dirs)) {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(s.dirs) && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				began := time.Now()
				end, err := connect(ctx, n)
				if err != nil {
					once.Do(func() { failed = err })
					return
				}
				took.add(time.Since(began))
				end()
			}
		})
	}
	wg.Wait()
	return float64(len(s.dirs)) / time.Since(start).Seconds(), errors.Join(failed, ctx.Err())
}

// people are two agents with rights that each need, on the first and the last server.
func (s *scale) people(ctx context.Context) error {
	scope := []capability.Scope{capability.RequireScope(workScope)}
	if err := s.mesh.Operate(ctx, wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: storedTopic, MaxAge: 3600}}, nil); err != nil {
		return err
	}
	for _, who := range []struct {
		id     string
		node   int
		rights registry.Rights
		mesh   **meshclient.Mesh
		plain  **nats.Conn
	}{
		{"asking", 0, registry.Rights{
			Call: scope, Publish: []string{floodTopic, storedTopic},
			Plain: registry.Plain{Publish: []string{plainAsk}, Subscribe: []string{plainAnswer}},
		}, &s.caller, &s.asking},
		{"telling", s.nodes - 1, registry.Rights{
			Handle: scope, Subscribe: []string{floodTopic, storedTopic},
			Plain: registry.Plain{Publish: []string{plainAnswer}, Subscribe: []string{plainAsk}},
		}, &s.handler, &s.telling},
	} {
		dir, err := s.mesh.Add(ctx, registry.NewAgent{Agent: agentid.Require(who.id), Rights: who.rights})
		if err != nil {
			return err
		}
		d, err := agentdir.Open(dir)
		if err != nil {
			return err
		}
		d.Info.NATS = []string{s.mesh.Servers[who.node].URL()}
		if err := agentdir.Write(dir, d.Info); err != nil {
			return err
		}
		m, err := s.mesh.Connect(ctx, dir)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, func() { m.Close() }) //nolint:errcheck // the mesh goes with it
		nc, err := bare.Entry{Dir: dir}.Dial(ctx)
		if err != nil {
			return err
		}
		s.closers = append(s.closers, nc.Close)
		*who.mesh, *who.plain = m, nc
	}
	if _, err := s.telling.Subscribe(plainAsk, func(m *nats.Msg) {
		s.telling.Publish(plainAnswer, m.Data) //nolint:errcheck // who waits for it says so
	}); err != nil {
		return err
	}
	return errors.Join(
		s.handler.Handle(workScope, func(_ context.Context, r *meshclient.Request) ([]byte, error) { return r.Data, nil }, meshclient.MaxInFlight(4*atOnce)),
		s.telling.Flush(),
	)
}

// plainRequests answers requests over the plain subjects, by the number that each
// begins with.
type plainRequests struct {
	nc      *nats.Conn
	sub     *nats.Subscription
	next    atomic.Uint64
	waiting sync.Map // number to channel
}

func newPlainRequests(nc *nats.Conn) (*plainRequests, error) {
	p := &plainRequests{nc: nc}
	var err error
	p.sub, err = nc.Subscribe(plainAnswer, func(m *nats.Msg) {
		if len(m.Data) < 8 {
			return
		}
		if c, ok := p.waiting.LoadAndDelete(binary.BigEndian.Uint64(m.Data)); ok {
			close(c.(chan struct{})) //nolint:forcetypeassert // nothing else is put in
		}
	})
	if err != nil {
		return nil, err
	}
	return p, nc.Flush()
}

func (p *plainRequests) request(ctx context.Context) error {
	body := make([]byte, payload)
	n := p.next.Add(1)
	binary.BigEndian.PutUint64(body, n)
	answered := make(chan struct{})
	p.waiting.Store(n, answered)
	if err := p.nc.Publish(plainAsk, body); err != nil {
		return err
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *scale) call(ctx context.Context) error {
	_, err := s.caller.Call(ctx, workScope, make([]byte, payload))
	return err
}

// load has callers do something for a while and returns how often they did.
func (s *scale) load(ctx context.Context, callers int, took *samples, do func(context.Context) error) (n int64, perSecond float64, err error) {
	var count atomic.Int64
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			for time.Since(start) < s.o.For {
				began := time.Now()
				if err := do(ctx); err != nil {
					once.Do(func() { failed = err })
					return
				}
				if took != nil {
					took.add(time.Since(began))
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return count.Load(), float64(count.Load()) / time.Since(start).Seconds(), failed
}

// latency is that of one call at a time.
func (s *scale) latency(ctx context.Context) error {
	plain, err := newPlainRequests(s.asking)
	if err != nil {
		return err
	}
	defer plain.sub.Unsubscribe() //nolint:errcheck // the connection ends soon
	var bareTook, took samples
	if _, _, err := s.load(ctx, 1, &bareTook, plain.request); err != nil {
		return err
	}
	if _, _, err := s.load(ctx, 1, &took, s.call); err != nil {
		return err
	}
	s.row(took.row("call"), s.row(bareTook.row("plain-request")))
	return nil
}

// calls are as many as there can be, and what each leaves behind.
func (s *scale) calls(ctx context.Context) error {
	plain, err := newPlainRequests(s.asking)
	if err != nil {
		return err
	}
	defer plain.sub.Unsubscribe() //nolint:errcheck // the connection ends soon
	n, perSecond, err := s.load(ctx, atOnce, nil, plain.request)
	if err != nil {
		return err
	}
	base := s.row(one("plain-requests", "/s", perSecond, int(n)))
	if err := pause(ctx, audited); err != nil { // what is on its way from before
		return err
	}
	audit, nonces, err := s.leftBehind(ctx)
	if err != nil {
		return err
	}
	if n, perSecond, err = s.load(ctx, atOnce, nil, s.call); err != nil {
		return err
	}
	if err := pause(ctx, audited); err != nil {
		return err
	}
	auditAfter, noncesAfter, err := s.leftBehind(ctx)
	if err != nil {
		return err
	}
	s.row(one("calls", "/s", perSecond, int(n)), base)
	s.row(one("audit-of-a-call", "B", (auditAfter-audit)/float64(n), int(n)))
	s.row(one("nonce-of-a-call", "B", (noncesAfter-nonces)/float64(n), int(n)))
	return nil
}

func (s *scale) leftBehind(ctx context.Context) (audit, nonces float64, err error) {
	if audit, err = s.bytes(ctx, s.ctrl, natsconf.AuditStream); err != nil {
		return 0, 0, err
	}
	nonces, err = s.bytes(ctx, s.store, "KV_"+natsconf.ReplayBucket)
	return audit, nonces, err
}

// window is how many events may be on their way to their reader: past that the broker
// would have to drop some.
const window = 1024

// events are as many as a reader takes.
func (s *scale) events(ctx context.Context) error {
	flow := func(subscribe func(func()) (func(), error), publish func() error) (int, float64, error) {
		slots := make(chan struct{}, window)
		end, err := subscribe(func() {
			select {
			case <-slots:
			default: // one from before
			}
		})
		if err != nil {
			return 0, 0, err
		}
		defer end()
		n, perSecond, err := s.load(ctx, 1, nil, func(ctx context.Context) error {
			select {
			case slots <- struct{}{}:
				return publish()
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		return int(n), perSecond, err
	}
	body := make([]byte, payload)
	n, perSecond, err := flow(func(taken func()) (func(), error) {
		sub, err := s.asking.Subscribe(plainAnswer, func(*nats.Msg) { taken() })
		if err != nil {
			return nil, err
		}
		return func() { sub.Unsubscribe() }, s.asking.Flush() //nolint:errcheck // the connection ends soon
	}, func() error { return s.telling.Publish(plainAnswer, body) })
	if err != nil {
		return err
	}
	base := s.row(one("plain-events", "/s", perSecond, n))
	n, perSecond, err = flow(func(taken func()) (func(), error) {
		err := s.handler.Subscribe(floodTopic, func(context.Context, *meshclient.Event) { taken() })
		return func() {}, err
	}, func() error { return s.caller.Publish(ctx, floodTopic, body) })
	if err != nil {
		return err
	}
	s.row(one("events", "/s", perSecond, n), base)
	return nil
}

// storedEvents sees what an event of a durable topic takes.
func (s *scale) storedEvents(ctx context.Context) error {
	size := func(js jetstream.JetStream) (float64, error) { return s.bytes(ctx, js, natsconf.EventsStream) }
	before, err := size(s.store)
	if err != nil {
		return err
	}
	var took samples
	body := make([]byte, payload)
	for range stored {
		start := time.Now()
		if err := s.caller.Publish(ctx, storedTopic, body); err != nil {
			return err
		}
		took.add(time.Since(start))
	}
	after, err := size(s.store)
	if err != nil {
		return err
	}
	s.row(took.row("stored-event"))
	s.row(one("stored-event-size", "B", (after-before)/stored, stored))
	return nil
}
