package natsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

// DefaultStartTimeout bounds Start where its context has no deadline.
const DefaultStartTimeout = 30 * time.Second

// readyPoll is how often a server that is not ready yet is asked again.
const readyPoll = 10 * time.Millisecond

// Config is what a server needs.
type Config struct {
	File   string // nats-server configuration file; required
	Listen string // host:port that replaces the file's client listener, where not empty; port -1 takes a free one
	Log    zerolog.Logger
}

// Server is a running nats-server.
type Server struct {
	srv   *server.Server
	cfg   Config
	close sync.Once
}

// Start runs a server from its configuration file and returns when clients can
// connect and JetStream is ready. A server with a cluster block has no
// JetStream before a majority of its peers has started too, so for one of those
// Start waits for the listeners only: call [Server.Ready] when all are started.
//
// What nats-server finds wrong in the file is an error; nothing keeps running
// when Start returns one.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.File == "" {
		return nil, errors.New("natsserver: a configuration file is required")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultStartTimeout)
		defer cancel()
	}
	opts, err := load(cfg)
	if err != nil {
		return nil, err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	log := newLogger(cfg.Log)
	srv.SetLoggerV2(log, opts.Debug, false, false)
	s := &Server{srv: srv, cfg: cfg}
	srv.Start()
	if err := s.listening(ctx, log.fatal); err != nil {
		s.Close()
		return nil, err
	}
	if opts.Cluster.Port != 0 {
		return s, nil
	}
	if err := s.Ready(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// load reads the file as nats-server's own command does.
func load(cfg Config) (*server.Options, error) {
	opts := &server.Options{}
	if err := opts.ProcessConfigFile(cfg.File); err != nil {
		var findings interface {
			Errors() []error
			Warnings() []error
		}
		if !errors.As(err, &findings) || len(findings.Errors()) > 0 {
			return nil, fmt.Errorf("natsserver: configuration %q: %w", cfg.File, err)
		}
		for _, w := range findings.Warnings() {
			cfg.Log.Warn().Str("text", w.Error()).Msg("nats-server configuration")
		}
	}
	if cfg.Listen != "" {
		host, port, err := net.SplitHostPort(cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("natsserver: listen address %q: %w", cfg.Listen, err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil || opts.Port < -1 || opts.Port == 0 || opts.Port > 65535 {
			return nil, fmt.Errorf("natsserver: listen address %q has no valid port", cfg.Listen)
		}
	}
	if err := follow(opts, cfg.File); err != nil {
		return nil, err
	}
	// What reloads it from outside, as a request in the system account, would take the
	// certificates of that moment and keep them.
	opts.ConfigFile = ""
	opts.NoSigs = true // signals belong to the program that embeds the server
	opts.Trace, opts.TraceVerbose = false, false
	return opts, nil
}

func (s *Server) listening(ctx context.Context, fatal <-chan error) error {
	return poll(ctx, "listening", func() (bool, error) {
		select {
		case err := <-fatal:
			return false, err
		default:
		}
		return s.srv.ReadyForConnections(readyPoll), nil
	})
}

// Ready returns when JetStream answers on this server: at once on a single one,
// in a cluster when it has contact with a meta leader.
func (s *Server) Ready(ctx context.Context) error {
	return poll(ctx, "waiting for JetStream", func() (bool, error) {
		if !s.srv.Running() {
			return false, errors.New("natsserver: the server has stopped")
		}
		// Not whether every stream is well: a server that was killed while it made
		// one keeps a folder without a stream, which is complained of for ever
		// and replaced when the stream is made again.
		clustered := s.srv.JetStreamIsClustered()
		h := s.srv.Healthz(&server.HealthzOptions{JSMetaOnly: clustered, JSEnabledOnly: !clustered})
		return h.Status == "ok" && s.srv.JetStreamEnabled(), nil
	})
}

func poll(ctx context.Context, what string, ready func() (bool, error)) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		ok, err := ready()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("natsserver: %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// URL is where clients on this host connect. A listener on all addresses is
// named by the loopback one.
func (s *Server) URL() string { return "tls://" + loopback(s.srv.Addr()) }

// ClusterAddr is the host:port of the route listener, empty without one.
func (s *Server) ClusterAddr() string {
	addr := s.srv.ClusterAddr()
	if addr == nil {
		return ""
	}
	return loopback(addr)
}

func loopback(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return ""
	}
	host := tcp.IP.String()
	switch {
	case !tcp.IP.IsUnspecified():
	case tcp.IP.To4() != nil:
		host = "127.0.0.1"
	default:
		host = "localhost" // a dual-stack listener; the name is in the certificate, ::1 may not be
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

// ID is the server's ID ("N…"), new at every start.
func (s *Server) ID() string { return s.srv.ID() }

// Name is the configured server name.
func (s *Server) Name() string { return s.srv.Name() }

// Routes is how many route connections are open.
func (s *Server) Routes() int { return s.srv.NumRoutes() }

// Done is closed when the server has stopped, by Close or by itself.
func (s *Server) Done() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.srv.WaitForShutdown()
		close(done)
	}()
	return done
}

// Close stops the server and returns when it is gone. Connections are cut;
// drain your own before. It may be called more than once.
func (s *Server) Close() {
	s.close.Do(s.srv.Shutdown)
	s.srv.WaitForShutdown()
}

// StopJetStream takes JetStream away and leaves the connections. It is back with
// the next start.
func (s *Server) StopJetStream() error {
	if err := s.srv.DisableJetStream(); err != nil {
		return fmt.Errorf("natsserver: %w", err)
	}
	return nil
}
