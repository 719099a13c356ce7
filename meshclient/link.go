package meshclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// Times of a connection. The server waits ten seconds for its callout, so the
// client waits a little longer: else an outage of the control plane would look
// like one of the network.
const (
	connectTimeout = 12 * time.Second
	reconnectLeast = 100 * time.Millisecond
	reconnectMost  = 5 * time.Second
	// settle is how long a new connection runs beside the old one before the
	// old one's subscriptions are drained: longer than a route's round trip, or
	// messages are lost on a cluster.
	settle = time.Second
	// hurry is the same where a right has to be gone from the broker within a
	// second. It is still longer than a route between two servers of one mesh
	// should take.
	hurry = 200 * time.Millisecond
	// linger is how long the old one stays after that at least.
	linger = 300 * time.Millisecond
)

// link is one NATS connection and what hangs on it. A Mesh has one, and two
// while it rotates.
type link struct {
	mesh *Mesh
	nc   *nats.Conn

	// Events are taken from a new connection once the old one has handed over
	// what it had, so that they stay in order.
	predecessor <-chan struct{} // closed when the old connection brings no more; nil: there is none
	drained     chan struct{}   // the same for this one

	// Between the two it may break with the last that was sent over it.
	replaced, ended atomic.Bool

	mu     sync.Mutex
	back   chan struct{}   // closed and replaced whenever the server is there again
	has    map[string]bool // digests of the chains and the footing that the grant rests on
	lent   map[string]loan // what of that others lent
	work   []*nats.Subscription
	base   []*nats.Subscription
	bodies bool // base has what is sent in parts to handlers

	pullers []*puller     // of durable subscriptions
	halt    chan struct{} // closed when no more is to be pulled here
	cut     chan struct{} // closed when not even what was asked for is waited for
}

// nonceForm is what a nats-server sends to be signed. Whatever else a server
// asks for is refused: the same key signs envelopes and delegations, and their
// signed bytes can never look like this.
var nonceForm = regexp.MustCompile(`^[A-Za-z0-9_-]{15}$`)

// errNonce is returned where a server asks to sign something that is no nonce.
var errNonce = errors.New("meshclient: the server asked to sign something that is no connection nonce")

// dial is dialOnce, and once more where it failed because what counts in the mesh had
// changed.
func (m *Mesh) dial(ctx context.Context) (*link, error) {
	l, err := m.dialOnce(ctx)
	if err != nil && doubtful(err) && m.regain(ctx) {
		return m.dialOnce(ctx)
	}
	return l, err
}

// dialOnce opens one connection and subscribes what every agent needs. It returns
// the error of the single attempt.
func (m *Mesh) dialOnce(ctx context.Context) (*link, error) {
	l := &link{
		mesh: m, has: map[string]bool{},
		drained: make(chan struct{}), halt: make(chan struct{}), cut: make(chan struct{}), back: make(chan struct{}),
	}
	opts := []nats.Option{
		nats.Name(m.info.Agent.String() + "/" + m.info.Instance.String()),
		nats.Nkey(m.key.PublicKey(), func(nonce []byte) ([]byte, error) {
			if !nonceForm.Match(nonce) {
				return nil, errNonce
			}
			return m.key.Sign(nonce)
		}),
		nats.TokenHandler(func() string { return presentation(m.presented()) }),
		nats.CustomInboxPrefix(subject.InboxPrefix(m.info.Agent, m.info.Instance)),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // nats.go gives up after two by default, which an outage of the callout causes
		nats.CustomReconnectDelay(backoff),
		nats.DisconnectErrHandler(l.onDisconnect),
		nats.ReconnectHandler(l.onReconnect),
		nats.ErrorHandler(l.onError),
		nats.Secure(m.clientTLS()),
		m.readRoots,
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { m.doubted(err) }),
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		nc, err := nats.Connect(strings.Join(m.info.NATS, ","), opts...)
		got <- result{nc, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, r.err
		}
		l.nc = r.nc
	case <-ctx.Done():
		m.abandoned.Go(func() {
			if r := <-got; r.nc != nil {
				r.nc.Close()
			}
		})
		return nil, ctx.Err()
	}
	// What comes in on the first connection may need it before this returns:
	// anybody can send a note, and judging one reads the registry.
	first := m.link.CompareAndSwap(nil, l)
	if err := l.subscribeBase(); err != nil {
		if first {
			m.link.CompareAndSwap(l, nil)
		}
		l.close()
		return nil, err
	}
	return l, nil
}

// clientTLS is asked for once a connection; nats.go clones it for each dial, and
// the callbacks in it read the newest certificate. The name that a server must
// prove is the one that is dialled: a cluster has several.
func (m *Mesh) clientTLS() *tls.Config { return m.tls.ClientTLS("") }

// presentation is the auth token of a connection: digests of the delegated
// chains, never a secret.
func presentation(digests []string) string {
	if len(digests) == 0 {
		return ""
	}
	return "v1:" + strings.Join(digests, ",")
}

func backoff(attempts int) time.Duration {
	d := reconnectLeast << min(attempts, 6)
	return min(d, reconnectMost)/2 + rand.N(min(d, reconnectMost)/2+1)
}

func (l *link) subscribeBase() error {
	m := l.mesh
	// First: what comes in by the others may make records be read.
	if err := m.feed.attach(l); err != nil {
		return err
	}
	for _, s := range []struct {
		subject string
		handle  nats.MsgHandler
	}{
		{m.space.ReplyFilter(m.info.Agent, m.info.Instance), m.onReply},
		{m.space.NoteFilter(m.info.Agent), func(msg *nats.Msg) { m.onNote(l, msg) }},
		{m.noResponderSubject("*"), m.onNoResponder},
	} {
		sub, err := l.nc.Subscribe(s.subject, s.handle)
		if err != nil {
			return fmt.Errorf("meshclient: subscribing %s: %w", s.subject, err)
		}
		l.base = append(l.base, sub)
	}
	if err := m.joinVanishing(l); err != nil {
		return err
	}
	return l.flush()
}

func (l *link) flush() error {
	if err := l.nc.FlushTimeout(connectTimeout); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// attach subscribes the application's handlers and topics.
func (l *link) attach() error {
	m := l.mesh
	m.mu.Lock()
	handlers := make([]*handler, 0, len(m.handlers))
	for _, h := range m.handlers {
		handlers = append(handlers, h)
	}
	topics := make([]*topic, 0, len(m.topics))
	for _, t := range m.topics {
		topics = append(topics, t)
	}
	durables := slices.Collect(maps.Values(m.durables))
	m.mu.Unlock()
	for _, h := range handlers {
		if err := l.attachHandler(h); err != nil {
			return err
		}
	}
	for _, t := range topics {
		if err := l.attachTopic(t); err != nil {
			return err
		}
	}
	for _, d := range durables {
		if err := l.attachDurable(d); err != nil {
			return err
		}
	}
	return l.flush()
}

// attachBodies subscribes what is sent in parts to handlers, once. It goes on until
// the last of them has returned.
func (l *link) attachBodies() error {
	m := l.mesh
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bodies {
		return nil
	}
	filter := m.space.BodyFilter(m.info.Agent, m.info.Instance)
	sub, err := l.nc.Subscribe(filter, m.onReply)
	if err != nil {
		return fmt.Errorf("meshclient: subscribing %s: %w", filter, err)
	}
	l.base, l.bodies = append(l.base, sub), true
	return nil
}

func (l *link) attachHandler(h *handler) error {
	m := l.mesh
	dotted := h.scope.Dotted()
	if err := l.attachBodies(); err != nil {
		return err
	}
	for _, s := range []struct {
		class  subject.Class
		filter string
	}{
		{subject.Call, m.space.CallFilter(dotted)},
		{subject.Ask, m.space.AskFilter(m.info.Agent, dotted)},
	} {
		sub, err := l.nc.QueueSubscribe(s.filter, subject.Queue(dotted), func(msg *nats.Msg) { m.onRequest(h, s.class, msg) })
		if err != nil {
			return fmt.Errorf("meshclient: subscribing %s: %w", s.filter, err)
		}
		l.addWork(sub)
	}
	return nil
}

func (l *link) attachTopic(t *topic) error {
	filter := l.mesh.space.EventFilter(t.name)
	sub, err := l.nc.Subscribe(filter, func(msg *nats.Msg) { l.mesh.onEvent(l, t, msg) })
	if err != nil {
		return fmt.Errorf("meshclient: subscribing %s: %w", filter, err)
	}
	l.addWork(sub)
	return nil
}

// place subscribes one handler or topic. Where that fails it leaves nothing
// behind, so that it can be tried again.
func (l *link) place(attach func(*link) error, undo func()) error {
	l.mu.Lock()
	before := len(l.work)
	l.mu.Unlock()
	err := attach(l)
	if err == nil {
		err = l.flush()
	}
	if err == nil {
		return nil
	}
	l.mu.Lock()
	subs := slices.Clone(l.work[before:])
	l.work = l.work[:before]
	l.mu.Unlock()
	for _, s := range subs {
		s.Unsubscribe() //nolint:errcheck // the connection may be gone, and the subscription with it
	}
	l.mesh.mu.Lock()
	undo()
	l.mesh.mu.Unlock()
	return err
}

func (l *link) addWork(sub *nats.Subscription) {
	l.mu.Lock()
	l.work = append(l.work, sub)
	l.mu.Unlock()
}

// drainWork drains the subscriptions that bring work, one by one, and waits for
// their callbacks. Draining the connection in place of them loses messages on a
// cluster.
func (l *link) drainWork(ctx context.Context) {
	l.mu.Lock()
	subs := l.work
	l.work = nil
	l.mu.Unlock()
	l.drain(ctx, subs)
}

func (l *link) drainBase(ctx context.Context) {
	l.mu.Lock()
	subs := l.base
	l.base = nil
	l.mu.Unlock()
	l.drain(ctx, subs)
}

func (l *link) drain(ctx context.Context, subs []*nats.Subscription) {
	done := make(chan struct{}, len(subs))
	waiting := 0
	for _, s := range subs {
		s.SetClosedHandler(func(string) { done <- struct{}{} }) // after the last callback
		if l.nc.IsConnected() && s.Drain() == nil || runDry(ctx, s) {
			waiting++
		}
	}
	for range waiting {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// runDry ends a subscription whose connection is away once its callbacks have
// had what it brought; a drain would wait for the server. It reports whether
// there was anything to end.
func runDry(ctx context.Context, s *nats.Subscription) bool {
	for {
		n, _, err := s.Pending()
		if err != nil {
			return false
		}
		if n == 0 {
			return s.Unsubscribe() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (l *link) close() {
	l.ended.Store(true)
	l.mesh.feed.detach(l)
	l.nc.Close()
}

// covers reports whether the connection's grant rests on the chain or footing.
func (l *link) covers(digest string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.has[digest]
}

// uncover notes that the connection's grant does not rest on a chain after all: the
// server closed it and took it back with another grant, of which the answer to
// self:session has not told yet.
func (l *link) uncover(digest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.has, digest)
}

func (l *link) setCovered(digests []string) {
	has, lent := make(map[string]bool, len(digests)), map[string]loan{}
	l.mesh.mu.Lock()
	for _, d := range digests {
		has[d] = true
		if held, ok := l.mesh.held[d]; ok {
			lent[d] = held
		}
	}
	l.mesh.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.has, l.lent = has, lent
}

func (l *link) onDisconnect(_ *nats.Conn, err error) {
	m := l.mesh
	if m.isClosing() {
		return
	}
	if m.link.Load() != l {
		if l.replaced.Load() && !l.ended.Load() {
			m.returned() // what it swallowed is asked for over the one in its place
		}
		return
	}
	m.peers.Gap() // the feed went on meanwhile, and not all of it is repeated
	if err == nil {
		err = errors.New("connection closed by the server")
	}
	m.setAway(fmt.Errorf("%w: %w", ErrUnavailable, err))
	if m.link.Load() != l {
		m.poke("the connection was replaced meanwhile") // what was just said is out of date
	}
}

// again is closed when the server is there again after it was lost.
func (l *link) again() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.back
}

func (l *link) onReconnect(*nats.Conn) {
	l.mu.Lock()
	close(l.back)
	l.back = make(chan struct{})
	l.mu.Unlock()
	if l.mesh.link.Load() == l {
		l.mesh.peers.Gap()
		l.mesh.returned()
		l.mesh.poke("reconnected")
	}
}

// publishViolation finds the subject in what the server says of a publish that the
// grant does not permit. It is a hint: whoever forges it stops one call at most.
var publishViolation = regexp.MustCompile(`Publish to "([^" ]+)"`)

// onError hears of refused reconnects and of what the broker's grant does not
// allow; nats.go reports neither anywhere else.
func (l *link) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	m := l.mesh
	if m.isClosing() {
		return
	}
	switch {
	case isAuthError(err):
		if m.link.Load() == l {
			m.doubted(err)
			m.askWhy()
		}
	case errors.Is(err, nats.ErrPermissionViolation):
		m.log.Warn().Err(err).Msg("the broker refused this by the grant")
		if found := publishViolation.FindStringSubmatch(err.Error()); found != nil {
			m.notLetThrough(found[1])
		}
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		if m.feed.brings(sub.Subject) {
			m.feed.overflowed()
		}
		m.log.Warn().Str("subject", sub.Subject).Msg("messages were dropped: the handler is slower than its callers")
	case errors.Is(err, nats.ErrMaxSubscriptionsExceeded):
		m.log.Warn().Err(err).Msg("the connection has no room for more subscriptions; the whole feed is heard by one")
		m.feed.crowded(l)
	default:
		m.log.Warn().Err(err).Msg("connection error")
	}
}

func isAuthError(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

// presented returns the digests of the delegated chains to present.
func (m *Mesh) presented() []string {
	var out []string
	for _, c := range m.chosen() {
		out = append(out, c.Digest())
	}
	return out
}
