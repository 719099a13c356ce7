package scale_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// member is one instance that beats.
type member struct {
	id       agentid.ID
	instance agentid.Instance
	speaker  *gate.Speaker
	session  heartbeat.Session
	sequence uint64
	dead     atomic.Bool
	last     atomic.Int64 // of its beats, in Unix nanoseconds
}

// crowd are all of them, on one connection: what they say is what as many
// connections would say.
type crowd struct {
	mesh    *meshdir.Mesh
	nc      *nats.Conn
	store   *registry.Store
	members []*member
	flooder *member // of them, or nil
}

// connect connects as the control plane does, which may say anything in its own
// account.
func connect(mesh *meshdir.Mesh) (*nats.Conn, error) {
	return devmesh.AsService(mesh, mesh.Config.NATS.URLs[0])
}

func newCrowd(ctx context.Context, mesh *meshdir.Mesh, n int) (*crowd, error) {
	nc, err := connect(mesh)
	if err != nil {
		return nil, err
	}
	ring, err := mesh.Ring()
	if err != nil {
		return nil, err
	}
	records, err := mesh.RecordsKey()
	if err != nil {
		return nil, err
	}
	tokens, err := mesh.TokensKey()
	if err != nil {
		return nil, err
	}
	c := &crowd{mesh: mesh, nc: nc, members: make([]*member, n)}
	if c.store, err = registry.Open(ctx, registry.Config{
		Conn: nc, Space: subject.Default(), Ring: ring, Records: records, Tokens: tokens, Clock: time.Now, Log: zerolog.Nop(),
	}); err != nil {
		return nil, err
	}
	const atOnce = 16
	var wg sync.WaitGroup
	errs := make(chan error, atOnce)
	var next atomic.Int64
	for range atOnce {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				m, err := c.enrol(ctx, agentid.Require(fmt.Sprintf("agent-%05d", i)))
				if err != nil {
					errs <- err
					return
				}
				c.members[i] = m
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return c, nil
	}
}

// enrol writes what an enrolment and the first connect write.
func (c *crowd) enrol(ctx context.Context, id agentid.ID) (*member, error) {
	if _, err := c.store.Add(ctx, registry.NewAgent{Agent: id}, "scale"); err != nil {
		return nil, err
	}
	secret, _, err := c.store.NewJoin(ctx, id, 0, 0, "scale")
	if err != nil {
		return nil, err
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		return nil, err
	}
	e := registry.Enrolment{Hash: registry.JoinHash(secret), Agent: id, Host: "scale", TLS: registry.JoinHash(secret)}
	if e.Key, err = pair.PublicKey(); err != nil {
		return nil, err
	}
	if e.Curve, err = curve.PublicKey(); err != nil {
		return nil, err
	}
	_, i, err := c.store.Enrol(ctx, e)
	if err != nil {
		return nil, err
	}
	a, i, err := c.store.Attest(ctx, id, i.Instance, "scale")
	if err != nil {
		return nil, err
	}
	seed, err := pair.Seed()
	if err != nil {
		return nil, err
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		return nil, err
	}
	epoch := envelope.Epoch{Agent: a.Epoch, Instance: i.Epoch}
	return &member{id: id, instance: i.Instance, session: heartbeat.NewSession(), speaker: &gate.Speaker{
		Self: id, Key: key, TrustDomain: c.mesh.Config.TrustDomain, Space: subject.Default(), Clock: time.Now,
		Epoch: func() envelope.Epoch { return epoch },
	}}, nil
}

func (m *member) message() (*nats.Msg, error) {
	m.sequence++
	data, err := heartbeat.Beat{
		Agent: m.id, Instance: m.instance, Session: m.session, Epoch: m.speaker.Epoch().String(),
		Sequence: m.sequence, State: heartbeat.Up, Client: "scale",
	}.Encode()
	if err != nil {
		return nil, err
	}
	msg, _, _, err := m.speaker.Message(subject.Default().Beat(m.id, m.instance), envelope.Fields{}, nil, data, nil)
	return msg, err
}

// beat lets all who live beat once in each interval, evenly spread, until ctx
// ends.
func (c *crowd) beat(ctx context.Context, interval time.Duration) error {
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	begin := time.Now()
	for sent := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int(int64(len(c.members)) * int64(time.Since(begin)) / int64(interval)); sent < due; sent++ {
			m := c.members[sent%len(c.members)]
			if m.dead.Load() {
				continue
			}
			msg, err := m.message()
			if err == nil {
				err = c.nc.PublishMsg(msg)
			}
			if err != nil {
				return err
			}
			m.last.Store(time.Now().UnixNano())
		}
	}
}

// kill ends n of them that are spread over the interval, and returns how long each
// was silent when it had expired.
func (c *crowd) kill(ctx context.Context, from, n int) ([]time.Duration, error) {
	victims := map[agentid.ID]*member{}
	for i := range n {
		m := c.members[from+i*len(c.members)/(2*n)]
		m.dead.Store(true)
		victims[m.id] = m
	}
	var out []time.Duration
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := c.store.Watch(ctx, func(e registry.Event) error {
		now := time.Now()
		if e.Instance == nil || !e.Current || e.Instance.State != registry.InstanceExpired {
			return nil
		}
		m := victims[e.Instance.Agent]
		if m == nil {
			if c.flooder != nil && e.Instance.Agent == c.flooder.id {
				return nil // nothing that it says is its own word
			}
			return fmt.Errorf("%s expired and lives", e.Instance.Agent)
		}
		out = append(out, now.Sub(time.Unix(0, m.last.Load())))
		if len(out) == n {
			cancel()
		}
		return nil
	})
	if len(out) == n {
		err = nil
	}
	return out, err
}
