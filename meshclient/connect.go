package meshclient

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Connect connects as an agent and returns when the agent is admitted and knows
// its own record, its rights and the newest tick. It returns *[Denied] where the
// mesh refuses the agent, and an error wrapping [ErrUnavailable] where it could
// not be reached before ctx ends, or within [DefaultConnectTimeout] where ctx
// has no deadline. Close what it returns.
func Connect(ctx context.Context, opts ...Option) (*Mesh, error) {
	cfg, err := configure(opts)
	if err != nil {
		return nil, err
	}
	dir, err := agentdir.Find(cfg.as, cfg.meshDir)
	if err != nil {
		return nil, err
	}
	m, err := newMesh(cfg, dir)
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultConnectTimeout)
		defer cancel()
	}
	l, err := m.dialUntil(ctx)
	if err != nil {
		m.cancel()
		return nil, err
	}
	if err := m.settleIn(ctx, l); err != nil {
		m.cancel()
		l.close()
		return nil, err
	}
	m.tending.Go(m.tend)
	m.tending.Go(m.sendAudit)
	if m.cfg.onGrant != nil {
		m.tending.Go(m.tellGrants)
	}
	if m.cfg.onRefused != nil {
		m.tending.Go(m.tellRefusals)
	}
	return m, nil
}

// keyError says that the directory's key cannot be used. It quotes nothing of
// the file.
type keyError struct {
	dir     *agentdir.Dir
	file    string
	problem string
}

func (e *keyError) Error() string {
	return "meshclient: " + e.dir.File(e.file) + " " + e.problem
}

// Hint says what helps.
func (e *keyError) Hint() string {
	return "put the file back as it was; else sealmesh agent join " + e.dir.Info.Agent.String() + " makes a join token for new keys in another directory"
}

func newMesh(cfg config, dir *agentdir.Dir) (*Mesh, error) {
	info := dir.Info
	seed, err := dir.Seed()
	if err != nil {
		return nil, err
	}
	key, err := envelope.NewKey(seed)
	clear(seed)
	if err != nil {
		return nil, &keyError{dir, agentdir.KeyFile, "holds no user nkey"}
	}
	if agentid.InstanceOf(key.PublicKey()) != info.Instance {
		return nil, &keyError{dir, agentdir.KeyFile, fmt.Sprintf("is not the key of instance %s/%s", info.Agent, info.Instance)}
	}
	if seed, err = dir.CurveSeed(); err != nil {
		return nil, err
	}
	curve, err := seal.NewKey(seed)
	clear(seed)
	if err != nil {
		return nil, &keyError{dir, agentdir.CurveFile, "holds no curve key"}
	}
	source, err := dir.Source()
	if err != nil {
		return nil, err
	}
	space, err := subject.New(info.Prefix)
	if err != nil {
		return nil, err
	}
	ring, err := capability.NewKeyring(info.Roots, info.SigningKeys)
	if err != nil {
		return nil, fmt.Errorf("meshclient: %s: %w", dir.File(agentdir.InfoFile), err)
	}
	m := &Mesh{
		cfg: cfg, dir: dir, info: info, space: space, key: key, curve: curve, tls: source,
		log:      cfg.log.With().Str("agent", info.Agent.String()).Str("self", info.Instance.String()).Logger(),
		handlers: map[capability.Scope]*handler{},
		topics:   map[string]*topic{},
		durables: map[string]*durable{},
		pending:  map[string]*pending{},
		confirms: make(chan struct{}, confirmsAtOnce),
		works:    map[callID]*work{}, cancelled: map[callID]cancelled{},
		bodies:   map[callID]*body{},
		held:     map[string]loan{},
		rotated:  make(chan struct{}),
		wake:     make(chan string, 16),
		news:     make(chan struct{}, 1),
		refusals: refusals{queue: make(chan Refusal, refusalsMost)},
		spool:    audit.NewSpool(),
		stopping: make(chan struct{}),
		closed:   make(chan struct{}),
	}
	m.epoch.Store(&envelope.Epoch{})
	m.passport.Store(&info.Passport)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if m.floors, err = dir.Floors(); err != nil {
		return nil, err
	}
	m.feed = newFeed(m)
	reader := &gate.NATSReader{Conn: m.conn, Leader: gate.AgentLeader(space)}
	if m.peers, err = gate.NewPeers(gate.PeersConfig{
		Roots: info.Roots, Ring: ring, Reader: reader, Clock: cfg.clock, Log: m.log, OnChange: m.onPeerChange,
		Instances: m.listInstances, OnTrust: m.onTrust, OnRing: m.onRing, Feed: m.feed, Settle: gate.FeedSettle, Floors: m.floors,
	}); err != nil {
		return nil, err
	}
	seen, err := envelope.NewMemory(envelope.MemoryConfig{
		Window: envelope.DefaultWindow(), Since: cfg.clock().Add(-limits.RestartSlack),
	})
	if err != nil {
		return nil, err
	}
	if m.gate, err = gate.New(gate.Config{
		Self: info.Agent, TrustDomain: info.TrustDomain, Space: space, Peers: m.peers, Reader: reader,
		Burner: cfg.burning(&gate.NATSBurner{Conn: m.conn, Since: m.peers.ReplaySince}), Seen: seen, Window: envelope.DefaultWindow(), Clock: cfg.clock,
	}); err != nil {
		return nil, err
	}
	m.speaker = &gate.Speaker{
		Self: info.Agent, Key: key, TrustDomain: info.TrustDomain, Space: space, Clock: cfg.clock,
		Epoch: func() envelope.Epoch { return *m.epoch.Load() },
		Since: func() time.Time {
			since, err := m.peers.ReplayFloor(m.ctx)
			if err != nil {
				return m.peers.ReplaySince()
			}
			return since
		},
	}
	m.loadHeld()
	m.tending.Go(m.feed.listen)
	m.tending.Go(m.keepFloors)
	return m, nil
}

// dialUntil tries until it is connected, refused, or ctx ends.
func (m *Mesh) dialUntil(ctx context.Context) (*link, error) {
	var told error // why it is refused for now
	for attempt := 0; ; attempt++ {
		l, err := m.knock(ctx)
		if err == nil {
			return l, nil
		}
		var final *Denied
		reason := m.explain(ctx, err)
		if errors.As(reason, &final) {
			return nil, reason
		} else if ctx.Err() == nil {
			m.log.Debug().Err(reason).Int("attempt", attempt).Msg("not connected yet")
			told = nil
			if denial.Of(reason) != "" {
				told = reason
			}
		}
		select {
		case <-ctx.Done():
			if told != nil {
				return nil, told
			}
			return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, m.info.NATS[0], err)
		case <-time.After(backoff(attempt) + rand.N(reconnectLeast)):
		}
	}
}

// knock tries once, after a certificate that ended was renewed.
func (m *Mesh) knock(ctx context.Context) (*link, error) {
	if !m.cfg.clock().Before(m.tls.NotAfter()) {
		if err := m.renewBy(ctx, m.renewOverHTTPS); err != nil {
			return nil, err
		}
	}
	return m.dial(ctx)
}

// explain finds out what a failed connection means. nats-server tells a refused
// client nothing, so the control plane is asked over HTTPS.
func (m *Mesh) explain(ctx context.Context, err error) error {
	var d *Denied
	switch {
	case errors.As(err, &d):
		return err
	case errors.Is(err, errNonce):
		return &Denied{Reason: denial.BadRequest, Detail: "the server asked to sign something that is no connection nonce",
			Hint: "this is no nats-server of the mesh; check the URL in " + m.dir.File(agentdir.InfoFile)}
	case isAuthError(err):
		return m.why(ctx)
	case isCertificateError(err):
		return &Denied{Reason: denial.BadCertificate, Detail: err.Error(), Hint: "the server's certificate is not of this mesh; check the URL and " + m.dir.File(agentdir.CAFile)}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func isCertificateError(err error) bool {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	return errors.As(err, &unknown) || errors.As(err, &host) || errors.Is(err, nats.ErrSecureConnWanted)
}

// settleIn learns, over a new connection, everything that was decided about this
// agent before: ring, tick, own record, rights.
func (m *Mesh) settleIn(ctx context.Context, l *link) error {
	if err := m.peers.Start(ctx); err != nil {
		return fmt.Errorf("%w: reading the registry: %w", ErrUnavailable, err)
	}
	self, err := m.refreshSelf(ctx)
	if err != nil {
		return denied(err)
	}
	l.setCovered(m.basis(self))
	m.tended.policy = self.Heartbeat
	m.askSession(ctx, l)
	m.tended.effect, _ = m.effect(ctx, l, self)
	if len(m.loans()) > len(l.rest()) {
		m.poke("something lent is not in use") // its lender may be away, and has to be known to be seen coming back
	}
	// Who connects for one call a day lives from this moment alone.
	m.renew(ctx)
	return nil
}

func (m *Mesh) isClosing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing
}
