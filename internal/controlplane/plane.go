package controlplane

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// connectWait bounds one attempt to connect to nats-server.
const connectWait = 5 * time.Second

// Config is what a control plane needs.
type Config struct {
	Mesh *meshdir.Mesh
	Log  zerolog.Logger
	// GoneAfter is how long an instance may be without a connection before those who
	// wait for its answers are told; registry.GoneAfter where zero.
	GoneAfter time.Duration
	// Clock says what time it is, for what the registry and certificates say; time.Now
	// where nil. TLS and nats-server have a clock of their own.
	Clock func() time.Time
	// Embedded are the nats-servers of this process, by name, and how each one reads
	// its configuration again. Their certificates they read by themselves.
	Embedded map[string]func() error
}

// Plane is a running control plane.
type Plane struct {
	cfg         Config
	log         zerolog.Logger
	clock       func() time.Time
	space       subject.Space
	ctrl        *nats.Conn
	sys         *nats.Conn
	store       *registry.Store
	stored      jetstream.JetStream         // streams in the account STORE
	trusted     atomic.Pointer[authorities] // see authorities
	settled     atomic.Uint64               // version of the trust document that registry and files agree on
	source      *pki.Source
	gate        *gate.Gate
	peers       *gate.Peers // of the gate
	keys        keyring     // the mesh's own
	speaker     *gate.Speaker
	epoch       atomic.Pointer[envelope.Epoch]
	callout     *authcallout.Service
	monitor     *heartbeat.Monitor
	beats       jetstream.Stream // of beats
	canary      *heartbeat.Canary
	pulse       *heartbeat.Sender
	hears       *hearing  // beats
	brakes      *brakes   // of the other replicas' monitors
	storedBeats lastBeats // of before the start
	https       *endpoint
	calls       []*nats.Subscription
	feed        *nats.Subscription
	seam        func(authcallout.Registry) authcallout.Registry
	page        int     // connections that a server lists at a time
	working     working // calls being worked on
	epochs      epochs  // of the ticks
	servers     servers // known nats-servers
	denials     atomic.Uint64
	denied      denied       // by reason, lately
	began       time.Time    // by the clock
	asks        *limiter     // of instances about themselves
	swept       atomic.Bool  // all root tokens were looked through since the start
	started     atomic.Bool  // everything above is set and stays
	cutting     *cutting     // who is being cut
	ended       *ended       // connections whose sessions are to be forgotten
	durables    *durables    // consumers of durable subscriptions
	replay      *replayWatch // the store of used nonces
	clones      *clones      // keys in use on several hosts

	departures departures    // connections whose end is waited for
	sessions   *sessions     // which there are
	arrivals   *arrivals     // connections whose session is not known yet
	repairs    *repairs      // of that list
	absences   *absences     // instances that may be gone
	leases     leases        // that other replicas hold
	settleFor  time.Duration // how long a reloaded server may take to be as it was
	certs      serverCerts   // of the servers
	endings    endings       // what ends by time
	spool      *audit.Spool
	metrics    *metrics
	operators  *operators // the endpoint of the metrics; nil: there is none
	older      *older     // what is remembered of the registry
	platforms  platforms  // OIDC issuers

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
}

// Start brings the control plane up against the nats-server of the mesh
// directory. It waits for that server until ctx ends.
func Start(ctx context.Context, cfg Config) (*Plane, error) {
	return start(ctx, cfg, func(r authcallout.Registry) authcallout.Registry { return r })
}

// start is Start with what stands between the callout and the registry.
func start(ctx context.Context, cfg Config, seam func(authcallout.Registry) authcallout.Registry) (*Plane, error) {
	p := newPlane(cfg, seam)
	if err := p.start(ctx); err != nil {
		p.shutdown()
		return nil, err
	}
	return p, nil
}

// newPlane is a control plane that has not begun.
func newPlane(cfg Config, seam func(authcallout.Registry) authcallout.Registry) *Plane {
	p := &Plane{seam: seam, page: listedAtOnce, cfg: cfg, log: cfg.Log, clock: time.Now, cutting: newCutting(), ended: newEnded(), durables: newDurables(), replay: newReplayWatch(), clones: newClones(), asks: newLimiter(askRate, askBurst)}
	p.absences = newAbsences(cfg.GoneAfter)
	p.spool = audit.NewSpool()
	p.metrics = newMetrics(p)
	p.arrivals, p.repairs = newArrivals(), newRepairs()
	p.older = newOlder()
	p.settleFor, p.leases.lost = settleTimeout, leaseLost
	p.keys.wake, p.keys.asked = make(chan struct{}, 1), map[string]wire.KeyServer{}
	if cfg.Clock != nil {
		p.clock = cfg.Clock
	}
	p.began = p.clock()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *Plane) start(ctx context.Context) error {
	mesh := p.cfg.Mesh
	service, system, err := p.load()
	if err != nil {
		return err
	}
	if err := p.recall(); err != nil {
		return err
	}
	if p.ctrl, err = p.connect(ctx, service, nats.Name("sealmesh control plane")); err != nil {
		return err
	}
	if mesh.Config.NATS.NoSystemAccount {
		p.log.Warn().Dur("revocation_bound", p.revocationBound()).Msg("nats.insecure_no_system_account: connections cannot be closed, they end by themselves")
	} else if p.sys, err = p.connect(ctx, system, nats.Name("sealmesh control plane (system)"), nats.CustomInboxPrefix(natsconf.SystemInbox)); err != nil {
		return err
	}
	if err := p.untilReady(ctx, func(ctx context.Context) error { return p.openStore(ctx, service) }); err != nil {
		return err
	}
	p.sessions = newSessions(p.store, p.log)
	p.wg.Go(func() { p.sessions.follow(p.ctx) })
	if err := p.startGate(ctx, service); err != nil {
		return err
	}
	if err := p.startMonitor(ctx, service); err != nil {
		return err
	}
	if err := p.startGone(); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if err := p.startSystem(ctx); err != nil {
		return err
	}
	if err := p.startCallout(); err != nil {
		return err
	}
	if err := p.startControl(); err != nil {
		return err
	}
	p.wg.Go(p.tendIssuer)
	if err := p.followAuthorities(ctx); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	p.followKeys()
	p.wg.Go(p.sweep)
	p.wg.Go(p.sendAudit)
	p.wg.Go(p.lookAtOlder)
	p.wg.Go(p.reapGone)
	p.wg.Go(p.watchReplay)
	p.keepServerCerts()
	if err := p.watchClones(); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	p.keepDurables()
	if p.https, err = p.listen(); err != nil {
		return err
	}
	p.listenForOperators()
	p.started.Store(true)
	p.log.Info().Str("url", p.URL()).Msg("control plane is up")
	return nil
}

// load reads what the mesh directory has for every control plane, and the keys of
// the two configured users.
func (p *Plane) load() (service, system nkeys.KeyPair, err error) {
	mesh := p.cfg.Mesh
	if p.space, err = subject.New(mesh.Config.Prefix); err != nil {
		return nil, nil, err
	}
	if err := p.loadTrust(); err != nil {
		return nil, nil, err
	}
	if p.platforms, err = newPlatforms(mesh.Issuers(), p.clock); err != nil {
		return nil, nil, err
	}
	if service, err = mesh.ServiceKey(); err != nil {
		return nil, nil, err
	}
	system, err = mesh.SystemKey()
	return service, system, err
}

func (p *Plane) loadTrust() error {
	mesh := p.cfg.Mesh
	if err := p.loadAuthorities(); err != nil {
		return err
	}
	var err error
	p.source, err = mesh.ControlSource()
	return err
}

// connect opens a connection as one of the two configured users, trying until
// ctx ends.
func (p *Plane) connect(ctx context.Context, key nkeys.KeyPair, opts ...nats.Option) (*nats.Conn, error) {
	pub, err := key.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	urls := p.cfg.Mesh.Config.NATS.URLs
	o := nats.GetDefaultOptions()
	o.Servers = urls
	for _, opt := range append([]nats.Option{
		nats.Nkey(pub, key.Sign), nats.Secure(p.source.ClientTLS("")), nats.Timeout(connectWait),
		nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond), nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			p.log.Warn().Err(err).Msg("connection error")
			if errors.Is(err, nats.ErrSlowConsumer) {
				p.missed()
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if p.ctx.Err() == nil {
				p.log.Warn().AnErr("cause", err).Msg("lost nats-server")
				p.gap()
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			p.log.Info().Msg("nats-server is back")
			p.gap()
		}),
	}, opts...) {
		if err := opt(&o); err != nil {
			return nil, fmt.Errorf("controlplane: %w", err)
		}
	}
	for {
		nc, err := o.Connect()
		if err == nil {
			return nc, nil
		}
		p.log.Debug().Err(err).Strs("urls", urls).Msg("nats-server is not there yet")
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("controlplane: connecting to %s: %w", urls[0], err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// storeConfig says what the registry is opened with, once there is a connection.
func (p *Plane) storeConfig() (registry.Config, error) {
	mesh := p.cfg.Mesh
	c := registry.Config{
		Conn: p.ctrl, Space: p.space, Clock: p.clock, Log: p.log,
		TokenTTL: time.Duration(mesh.Config.Token.TTL), Replicas: mesh.Config.Replicas,
	}
	if p.older.memory != nil {
		c.Memory = p.older.memory
	}
	err := p.firstKeys(&c)
	return c, err
}

func (p *Plane) openStore(ctx context.Context, service nkeys.KeyPair) error {
	mesh := p.cfg.Mesh
	c, err := p.storeConfig()
	if err != nil {
		return err
	}
	if p.store, err = registry.Open(ctx, c); err != nil {
		return err
	}
	if err := p.reconcile(ctx); err != nil {
		return err
	}
	if err := p.openStreams(ctx); err != nil {
		return err
	}
	xkey, err := mesh.XKey()
	if err != nil {
		return err
	}
	curve, err := xkey.PublicKey()
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	key, err := service.PublicKey()
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	founders, err := mesh.Founders()
	if err != nil {
		return err
	}
	if err := p.store.Found(ctx, key, curve, founders); err != nil {
		return err
	}
	if err := p.store.Tick(ctx, 0, p.replay.founded, nil); err != nil {
		return err
	}
	p.compared()
	return nil
}

// openStreams creates the replay store, the streams of beats and of the audit, and
// that of durable topics.
func (p *Plane) openStreams(ctx context.Context) error {
	var err error
	if p.stored, err = jetstream.NewWithAPIPrefix(p.ctrl, natsconf.StoreAPI); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if err := p.judgeReplay(ctx); err != nil {
		return err
	}
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if p.beats, err = makeStream(ctx, js, natsconf.Beats(p.space, p.cfg.Mesh.Config.Replicas)); err != nil {
		return fmt.Errorf("controlplane: stream of beats: %w", err)
	}
	if err := p.openAudit(ctx, js); err != nil {
		return err
	}
	return p.syncEvents(ctx)
}

// startGate makes the door for calls to the control plane and its voice.
func (p *Plane) startGate(ctx context.Context, service nkeys.KeyPair) error {
	seed, err := service.Seed()
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	// These are the key's own bytes, and the connections sign with it whenever
	// they come back: what is wiped has to be a copy.
	seed = bytes.Clone(seed)
	key, err := envelope.NewKey(seed)
	clear(seed)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	conn := func() *nats.Conn { return p.ctrl }
	reader := &gate.NATSReader{Conn: conn, Leader: gate.ControlLeader}
	peers, err := gate.NewPeers(gate.PeersConfig{
		Roots: p.store.Ring().Roots(), Ring: p.store.Ring(), Reader: reader, Clock: p.clock, Log: p.log,
		Settle: gate.FeedSettle,
	})
	if err != nil {
		return err
	}
	p.peers = peers
	prefix := p.space.FeedAgents() + "."
	if p.feed, err = p.ctrl.Subscribe(p.space.FeedAgents()+".>", func(m *nats.Msg) {
		peers.Observe(m.Subject[len(prefix):], string(m.Data))
	}); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if err := p.ctrl.FlushTimeout(connectWait); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if err := peers.Start(ctx); err != nil {
		return err
	}
	self, err := peers.Refresh(ctx, agentid.Control, key.PublicKey())
	if err != nil {
		return fmt.Errorf("controlplane: own record: %w", err)
	}
	e := self.Epoch()
	p.epoch.Store(&e)
	seen, err := envelope.NewMemory(envelope.MemoryConfig{Window: envelope.DefaultWindow(), Since: p.clock().Add(-limits.RestartSlack)})
	if err != nil {
		return err
	}
	td := p.cfg.Mesh.Config.TrustDomain
	p.gate, err = gate.New(gate.Config{
		Self: agentid.Control, TrustDomain: td, Space: p.space, Peers: peers, Reader: reader,
		Burner: &gate.NATSBurner{Conn: conn, Since: peers.ReplaySince}, Seen: seen, Window: envelope.DefaultWindow(), Clock: p.clock,
	})
	if err != nil {
		return err
	}
	p.speaker = &gate.Speaker{
		Self: agentid.Control, Key: key, TrustDomain: td, Space: p.space, Clock: p.clock,
		Epoch: func() envelope.Epoch { return *p.epoch.Load() },
	}
	return nil
}

func (p *Plane) startCallout() error {
	mesh := p.cfg.Mesh
	if err := p.loadCallout(); err != nil {
		return err
	}
	var err error
	p.callout, err = authcallout.Start(authcallout.Config{
		Conn: p.ctrl, Issuers: p.issuers, XKeys: p.xkeys, Asked: p.askedWith, Account: natsconf.Mesh, Space: p.space,
		TrustDomain: mesh.Config.TrustDomain, Roots: func() *x509.CertPool { return p.authorities().roots },
		Registry: p.seam(&admitter{p}), Clock: p.clock, SessionTTL: p.sessionTTL(),
		Log: p.log, Audit: p.auditDecision,
	})
	return err
}

func (p *Plane) auditDecision(d authcallout.Decision) {
	if !d.Admitted() {
		p.denials.Add(1 + d.Suppressed)
	}
	rec := audit.Record{
		Kind: audit.Connect, Verdict: audit.Accepted, Reason: d.Reason, Detail: d.Detail, Denial: d.ID,
		Sender: d.Agent, Instance: d.Instance, Duration: d.Took,
		Host: d.Host, Key: d.Key, Server: d.ServerID, Epoch: d.Epoch, Suppressed: d.Suppressed,
	}
	if !d.Admitted() {
		rec.Verdict = audit.Refused
	}
	p.audited(rec)
}

// URL is where the HTTPS endpoint listens, as agents are told to reach it.
func (p *Plane) URL() string { return p.https.url }

// Close ends the control plane; connected agents stay connected.
func (p *Plane) Close() error {
	p.close.Do(p.shutdown)
	return nil
}

func (p *Plane) shutdown() {
	if p.https != nil {
		p.https.close()
	}
	p.operators.close()
	if p.callout != nil {
		if err := p.callout.Close(); err != nil {
			p.log.Warn().Err(err).Msg("closing the callout")
		}
	}
	p.drainCalls()
	p.endWork()
	p.endPulse()
	p.cancel()
	if p.monitor != nil {
		p.monitor.Close()
	}
	conns := []*nats.Conn{p.ctrl, p.sys}
	if p.hears != nil {
		conns = append(conns, p.hears.nc)
	}
	for _, nc := range conns {
		// Whoever asks a server that is gone would wait for all of his time.
		if nc != nil && !nc.IsConnected() {
			nc.Close()
		}
	}
	p.wg.Wait()
	p.platforms.close()
	p.endAudit()
	for _, nc := range conns {
		if nc != nil {
			nc.Close()
		}
	}
	if p.older.memory != nil {
		if err := p.older.memory.Close(); err != nil {
			p.log.Error().Err(err).Msg("closing the log of epochs")
		}
	}
}
