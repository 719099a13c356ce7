package authcallout

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Defaults of a [Config].
const (
	// DefaultWorkers is how many requests are decided at once. They mostly wait
	// for the registry.
	DefaultWorkers = 32
	// DefaultSessionTTL is how long a user JWT lives, before jitter.
	DefaultSessionTTL = time.Hour
)

// queueGroup is shared by all replicas: with plain subscriptions each would
// decide every request and the first answer would win.
const queueGroup = "sealmesh-callout"

// waiting is how many requests may wait for each worker.
const waiting = 32

// closeGrace is how long Close lets the requests that were taken run before it
// takes their context away.
const closeGrace = 5 * time.Second

// Config is what a service is made of. What has no default is required: Start
// refuses a service that could not refuse.
type Config struct {
	Conn *nats.Conn // in the callout account, which nobody else is in
	// Issuers are the account keys that a server may have as its auth_callout issuer,
	// XKeys the curve keys that it may have as its xkey, newest first and few; asked
	// each time. While one is replaced, servers that read their configuration again
	// name the new one and the others still the old one: each is answered with what it
	// asked for.
	Issuers     func() []nkeys.KeyPair
	XKeys       func() []nkeys.KeyPair
	Account     string                // where agents are placed
	Space       subject.Space         // the mesh's subjects
	TrustDomain string                // of the agents' certificates
	Roots       func() *x509.CertPool // the agent CA and nothing else; asked each time
	Registry    Registry
	Clock       func() time.Time
	Workers     int           // default [DefaultWorkers]
	SessionTTL  time.Duration // default [DefaultSessionTTL]
	Log         zerolog.Logger
	Audit       func(Decision) // every reported decision, in place of a line in Log; must not block
	// Asked hears with which keys a server asked, by public key, and may be nil. It
	// must not block.
	Asked func(server, issuer, xkey string)
}

// Service answers a nats-server's callout requests. It is safe for concurrent
// use.
type Service struct {
	cfg      Config
	throttle *throttle
	denials  *memory

	ctx    context.Context
	cancel context.CancelFunc
	queue  chan job
	wg     sync.WaitGroup

	shed struct {
		sync.Mutex
		reported   time.Time
		suppressed uint64
	}

	sub     *nats.Subscription
	drained chan struct{} // closed when no callback of sub runs any more
	close   sync.Once
	grace   time.Duration
}

type job struct {
	msg     *nats.Msg
	arrived time.Time
}

// Start subscribes and returns when the subscription stands at the server. The
// connection stays the caller's.
func Start(cfg Config) (*Service, error) {
	if cfg.Conn == nil {
		return nil, errors.New("authcallout: a connection is required")
	}
	s, err := newService(cfg)
	if err != nil {
		return nil, err
	}
	for range s.cfg.Workers {
		s.wg.Go(s.work)
	}
	if err := s.subscribe(); err != nil {
		s.cancel()
		close(s.queue)
		s.wg.Wait()
		return nil, fmt.Errorf("authcallout: subscribing: %w", err)
	}
	return s, nil
}

// newService checks cfg and makes a service that is not running yet.
func newService(cfg Config) (*Service, error) {
	switch {
	case cfg.Issuers == nil || cfg.XKeys == nil:
		return nil, errors.New("authcallout: issuers and xkeys are required")
	case cfg.Account == "" || cfg.Space.Prefix() == "":
		return nil, errors.New("authcallout: an account and a subject space are required")
	case cfg.Registry == nil || cfg.Clock == nil:
		return nil, errors.New("authcallout: a registry and a clock are required")
	case cfg.Workers < 0 || cfg.SessionTTL < 0:
		return nil, errors.New("authcallout: workers and session TTL must not be negative")
	}
	if _, err := agentid.ParseTrustDomain(cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("authcallout: %w", err)
	}
	// A service that started without a root would deny everybody; better to say
	// so at once than to look like a mesh in which all certificates are wrong.
	if cfg.Roots == nil {
		return nil, errors.New("authcallout: agent CAs are required")
	}
	if roots := cfg.Roots(); roots == nil || roots.Equal(x509.NewCertPool()) {
		return nil, errors.New("authcallout: the pool of agent CAs is empty")
	}
	if err := checkKeys(cfg.Issuers(), nkeys.IsValidPublicAccountKey); err != nil {
		return nil, fmt.Errorf("authcallout: the issuer is not an account key: %w", err)
	}
	if err := checkKeys(cfg.XKeys(), nkeys.IsValidPublicCurveKey); err != nil {
		return nil, fmt.Errorf("authcallout: the xkey is not a curve key: %w", err)
	}
	if cfg.Workers == 0 {
		cfg.Workers = DefaultWorkers
	}
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = DefaultSessionTTL
	}
	s := &Service{
		cfg: cfg, throttle: newThrottle(), denials: newMemory(),
		queue: make(chan job, cfg.Workers*waiting), drained: make(chan struct{}), grace: closeGrace,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

func checkKeys(all []nkeys.KeyPair, valid func(string) bool) error {
	if len(all) == 0 {
		return errors.New("there is none")
	}
	for _, k := range all {
		if k == nil {
			return errors.New("there is none")
		}
		if pub, err := k.PublicKey(); err != nil || !valid(pub) {
			return errors.New("its kind is another")
		}
	}
	return nil
}

func (s *Service) subscribe() error {
	sub, err := s.cfg.Conn.QueueSubscribe(calloutSubject, queueGroup, s.take)
	if err != nil {
		return err
	}
	sub.SetClosedHandler(func(string) { close(s.drained) })
	s.sub = sub
	if err := s.cfg.Conn.Flush(); err != nil {
		sub.Unsubscribe()
		<-s.drained
		return err
	}
	return nil
}

// take is the subscription's callback. It never blocks and does no work: what
// does not fit into the queue is refused unread.
func (s *Service) take(msg *nats.Msg) {
	// The reply goes where a nats-server waits, or nowhere: the answer of the
	// control plane must not be aimed by whoever manages to send it a request.
	if !serverInbox(msg.Reply) {
		return
	}
	select {
	case s.queue <- job{msg, s.cfg.Clock()}:
	default:
		s.respond(msg, reject)
		s.reportShed()
	}
}

// serverInbox reports whether subj is where a server waits for an answer,
// directly or through a gateway.
func serverInbox(subj string) bool {
	const inbox = "$SYS._INBOX."
	return strings.HasPrefix(subj, inbox) || strings.HasPrefix(subj, "_GR_.") && strings.Contains(subj, "."+inbox)
}

func (s *Service) work() {
	for j := range s.queue {
		s.respond(j.msg, s.process(j.msg.Data, j.msg.Header.Get(xkeyHeader), j.arrived))
	}
}

func (s *Service) respond(msg *nats.Msg, answer []byte) {
	if err := msg.Respond(answer); err != nil {
		s.cfg.Log.Error().Err(err).Msg("callout answer could not be sent")
	}
}

// publish reports a decision, to the audit or, without one, to the log. A
// panicking audit must not take a worker, and with it the door, down.
func (s *Service) publish(d Decision) {
	if s.cfg.Audit == nil {
		d.log(s.cfg.Log)
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
		}
	}()
	s.cfg.Audit(d)
}

func (s *Service) panicked(p any) {
	s.cfg.Log.Error().Str("panic", fmt.Sprintf("%.256v", p)).Bytes("stack", debug.Stack()).Msg("callout worker panicked")
}

// reportShed reports requests that found the queue full, once a second with
// their number.
func (s *Service) reportShed() {
	now := s.cfg.Clock()
	s.shed.Lock()
	if now.Sub(s.shed.reported) < reportEvery && !now.Before(s.shed.reported) {
		s.shed.suppressed++
		s.shed.Unlock()
		return
	}
	n := s.shed.suppressed
	s.shed.reported, s.shed.suppressed = now, 0
	s.shed.Unlock()
	s.publish(Decision{
		ID: newDenialID(), Reason: denial.Overloaded, Detail: "the queue of callout requests is full",
		Time: now, Suppressed: n,
	})
}

// LastDenial returns why the last connect of an nkey was refused, if it has been
// refused since it was last admitted by this replica. Only denials of connects
// that proved possession of the key are kept, so nobody can put words into
// somebody else's mouth, and only of the last few thousand keys.
func (s *Service) LastDenial(key string) (Decision, bool) { return s.denials.get(key) }

// Close stops taking requests, answers those that were taken and waits for every
// goroutine. After a grace the running ones lose their context and deny. It may
// be called more than once.
func (s *Service) Close() error {
	s.close.Do(func() {
		grace := time.AfterFunc(s.grace, s.cancel)
		defer grace.Stop()
		if !s.cfg.Conn.IsConnected() || s.sub.Drain() != nil {
			s.sub.Unsubscribe() // a drain would wait for a server that is not there
		}
		select {
		case <-s.drained:
		case <-s.ctx.Done():
			s.sub.Unsubscribe()
			<-s.drained
		}
		close(s.queue)
		s.wg.Wait()
		s.cancel()
	})
	return nil
}
