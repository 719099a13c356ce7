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
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/seal"
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
	curve   *seal.Key
	tls     *pki.Source
	gate    *gate.Gate
	peers   *gate.Peers
	speaker *gate.Speaker
	feed    *feed
	floors  *floors.Set

	link        atomic.Pointer[link]
	epoch       atomic.Pointer[envelope.Epoch]
	passport    atomic.Pointer[string] // of the own record
	ringChanged atomic.Bool

	// attaching is held while handlers and topics are put on a connection, so
	// that one that is registered during a rotation is on the new one as well.
	// It is taken before mu.
	attaching sync.Mutex
	enlisting sync.Mutex // held while a durable subscription is asked for

	mu        sync.Mutex
	handlers  map[capability.Scope]*handler
	topics    map[string]*topic
	durables  map[string]*durable  // by name
	pending   map[string]*pending  // calls by nonce
	works     map[callID]*work     // requests that are worked on
	cancelled map[callID]cancelled // calls whose turn had not come by then
	answers   answers              // what was answered lately
	bodies    map[callID]*body     // payloads that are sent in parts, by invitation
	bodyRoom  bodyRoom             // of those that come
	held      map[string]loan      // delegated chains by digest
	lenders   map[agentid.ID]bool  // whose records decide about them
	away      error                // why the agent is away, or nil
	closing   bool
	ended     bool          // no message is taken any more
	rotated   chan struct{} // closed and replaced whenever the link changed

	watches   watches // calls in flight, by those on whom they rest
	vanishing vanishing
	takers    takers // of calls to anybody
	recent    recent // what was taken while two links overlap
	tended    tended
	renewing  renewing
	trust     trust
	beats     *heartbeat.Sender // the tending goroutine's
	flight    sync.WaitGroup    // messages at work; see begin
	retiring  sync.WaitGroup    // old connections that still bring work; under attaching
	atWork    atomic.Int64
	rotations atomic.Int64  // how often the connection was replaced
	unmatched atomic.Int64  // replies that nobody waited for
	returns   atomic.Int64  // how often the connection was there again after it was lost
	parting   atomic.Int64  // calls that nobody waits for and whose handler is not known yet
	wake      chan string   // reasons to look after the connection
	news      chan struct{} // what the agent may do has changed
	refusals  refusals      // that the application is told of
	spool     *audit.Spool  // of records for the audit stream
	confirms  chan struct{} // holds one for each event whose place in the stream is asked for
	asking    atomic.Bool   // a question to /v1/self is under way
	ctx       context.Context
	cancel    context.CancelFunc
	tending   sync.WaitGroup
	abandoned sync.WaitGroup // connections that nobody waits for any more
	stopping  chan struct{}  // closed when Close begins
	closed    chan struct{}  // closed when it is done
	closeErr  error
}

// begin notes that a message is worked on, for Close to wait for; false says
// that nothing is taken any more. Every begin that was true needs an end.
func (m *Mesh) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return false
	}
	m.flight.Add(1)
	return true
}

func (m *Mesh) end() { m.flight.Done() }

// background runs f beside everything else, unless the Mesh is closing. It may
// be called from anywhere, also from callbacks of a connection that is closing.
func (m *Mesh) background(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	m.tending.Go(f)
	return true
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
		m.endWork()
		m.log.Warn().Err(err).Msg("away from the mesh")
	} else {
		m.log.Info().Msg("back in the mesh")
	}
	if m.cfg.onAway != nil {
		m.cfg.onAway(err)
	}
}

// conn returns the connection to send on. Before there is one it returns nil, of
// which every request fails.
func (m *Mesh) conn() *nats.Conn {
	if l := m.link.Load(); l != nil {
		return l.nc
	}
	return nil
}

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
// DefaultCloseTimeout; requests that still wait for their turn by then are answered
// with ErrDraining), leaves politely, closes the connection and waits for
// every goroutine. A handler that goes on after its context has ended is an
// error, and is left behind. Close must not be called by a handler.
func (m *Mesh) Close() error {
	// Whatever is being put on a connection now is drained below, and nothing
	// is put on one after.
	m.attaching.Lock()
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		m.attaching.Unlock()
		<-m.closed
		return m.closeErr
	}
	m.closing = true
	close(m.stopping)
	m.mu.Unlock()
	m.attaching.Unlock()
	defer close(m.closed)
	m.closeErr = m.shutdown()
	return m.closeErr
}

func (m *Mesh) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.closeTimeout)
	defer cancel()
	// Requests that still wait for their turn when the time is over are turned away
	// in the grace, and their callers told.
	context.AfterFunc(ctx, m.cancel)
	late, stop := context.WithTimeout(context.Background(), m.cfg.closeTimeout+lateGrace)
	defer stop()
	m.link.Load().drainWork(late)
	m.link.Load().endPulls(ctx, true)
	err := m.waitFlight(ctx)
	m.cancel()
	m.tending.Wait()
	m.writeFloors()
	// Of this connection's own time: whoever is silent is taken for dead.
	ctx, cancel = context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	l := m.link.Load()
	if l.nc.IsConnected() {
		m.spool.Flush(m.sendBatch) // what it says of the work is there before the goodbye
		m.waitAbandoned(ctx)
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

// waitAbandoned waits for connections that were being made when the end came. One
// that is admitted behind the goodbye would make the agent one that came back and
// fell silent.
func (m *Mesh) waitAbandoned(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		m.abandoned.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
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

// Times of the end.
const (
	leaveTimeout = 5 * time.Second
	// lateGrace is what handlers get that did not end in time, once their
	// context has told them.
	lateGrace = time.Second
)

// waitFlight waits for what was taken, and takes nothing any more.
func (m *Mesh) waitFlight(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		m.retiring.Wait() // what they bring was sent to this instance and to nobody else
		m.mu.Lock()
		m.ended = true
		m.mu.Unlock()
		m.flight.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	m.cancel() // tells them
	select {
	case <-done:
	case <-time.After(lateGrace):
	}
	return fmt.Errorf("meshclient: handlers were still at work after %s", m.cfg.closeTimeout)
}
