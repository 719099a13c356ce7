package meshclient

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/pki"
)

// Mesh is one instance of an agent, connected.
type Mesh struct {
	cfg     config
	log     zerolog.Logger
	dir     *agentdir.Dir
	info    agentdir.Info
	space   subject.Space
	key     *envelope.Key
	tls     *pki.Source
	gate    *gate.Gate
	peers   *gate.Peers
	speaker *gate.Speaker

	link  atomic.Pointer[link]
	epoch atomic.Pointer[envelope.Epoch]

	// attaching is held while handlers and topics are put on a connection, so
	// that one that is registered during a rotation is on the new one as well.
	// It is taken before mu.
	attaching sync.Mutex

	mu       sync.Mutex
	handlers map[capability.Scope]*handler
	topics   map[string]*topic
	pending  map[string]*pending          // calls by nonce
	held     map[string]*capability.Chain // delegated chains by digest
	away     error                        // why the agent is away, or nil
	closing  bool
	rotated  chan struct{} // closed and replaced whenever the link changed

	recent    recent // what was taken while two links overlap
	tended    tended
	beats     *heartbeat.Sender // the tending goroutine's
	flight    sync.WaitGroup    // handlers at work
	atWork    atomic.Int64
	rotations atomic.Int64 // how often the connection was replaced
	unmatched atomic.Int64 // replies that nobody waited for
	wake      chan string  // reasons to look after the connection
	asking    atomic.Bool  // a question to /v1/self is under way
	ctx       context.Context
	cancel    context.CancelFunc
	tending   sync.WaitGroup
	closed    chan struct{}
}

// ID returns the agent.
func (m *Mesh) ID() agentid.ID { return m.info.Agent }

// Instance returns the instance.
func (m *Mesh) Instance() agentid.Instance { return m.info.Instance }

// UnmatchedReplies counts the replies that nobody waited for: late ones, and what
// a handler sent unasked.
func (m *Mesh) UnmatchedReplies() int64 { return m.unmatched.Load() }

// Epoch returns the epoch that the agent and this instance are in: "3.1".
func (m *Mesh) Epoch() string { return m.epoch.Load().String() }

// Away returns why the agent is away from the mesh, or nil when it is not.
func (m *Mesh) Away() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.away
}

func (m *Mesh) setAway(err error) {
	m.mu.Lock()
	changed := (m.away == nil) != (err == nil) || err != nil && m.away != nil && err.Error() != m.away.Error()
	m.away = err
	m.mu.Unlock()
	if !changed {
		return
	}
	if err != nil {
		m.log.Warn().Err(err).Msg("away from the mesh")
	} else {
		m.log.Info().Msg("back in the mesh")
	}
	if m.cfg.onAway != nil {
		m.cfg.onAway(err)
	}
}

// conn returns the connection to send on.
func (m *Mesh) conn() *nats.Conn { return m.link.Load().nc }

// Scopes returns the scopes that the agent holds now, own and delegated, sorted.
func (m *Mesh) Scopes(ctx context.Context) ([]capability.Scope, error) {
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	set := map[capability.Scope]bool{}
	now := m.cfg.clock()
	for _, c := range chains {
		if c.Check(now, m.peers.Directory(ctx)) != nil {
			continue
		}
		for _, s := range c.Scopes() {
			set[s] = true
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b capability.Scope) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	}), nil
}

// Run blocks until ctx ends, then closes the Mesh: handlers finish, the agent
// says goodbye. It returns nil after a clean end.
func (m *Mesh) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-m.closed:
		return nil
	}
	return m.Close()
}

// Close stops taking work, waits for handlers to finish (at most
// DefaultCloseTimeout), leaves politely, closes the connection and waits for
// every goroutine.
func (m *Mesh) Close() error {
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		<-m.closed
		return nil
	}
	m.closing = true
	m.mu.Unlock()
	defer close(m.closed)

	ctx, cancel := context.WithTimeout(context.Background(), DefaultCloseTimeout)
	defer cancel()
	l := m.link.Load()
	l.drainWork(ctx)
	err := m.waitFlight(ctx)
	m.cancel()
	m.tending.Wait()
	l = m.link.Load()
	if l.nc.IsConnected() {
		if e := m.leave(ctx, l); e != nil {
			m.log.Warn().Err(e).Msg("could not say goodbye")
		}
	}
	if m.beats != nil {
		m.beats.Close()
	}
	l.close()
	return err
}

func (m *Mesh) leave(ctx context.Context, l *link) error {
	if m.beats == nil {
		// Nobody waits for its beats; that it is gone should be seen all the same.
		s, err := m.sender(heartbeat.DefaultInterval)
		if err != nil {
			return err
		}
		m.beats = s
	}
	if err := m.beats.Leave(ctx); err != nil {
		return err
	}
	return l.nc.FlushTimeout(2 * time.Second)
}

func (m *Mesh) waitFlight(ctx context.Context) error {
	done := make(chan struct{})
	go func() { m.flight.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		// Handlers are told by their context; the goroutine above ends with them.
		m.cancel()
		<-done
		return fmt.Errorf("meshclient: handlers were still at work after %s", DefaultCloseTimeout)
	}
}
