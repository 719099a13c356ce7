package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/bare"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/pki"
)

// What nats-server says where it refuses by itself. The mesh's own reason codes
// are those of package denial.
const (
	permissionsViolation = "permissions-violation"
	authViolation        = "authorization-violation"
	tlsNoCertificate     = "tls-no-certificate"
	tlsUnknownAuthority  = "tls-unknown-authority"
)

// intruder is a plain NATS connection with the identity of one instance. It can
// do whatever the broker lets that instance do, and sign whatever it likes.
type intruder struct {
	*bare.Agent
	stage *stage
	nc    *nats.Conn
	beats *heartbeat.Sender

	answers chan *nats.Msg
	caught  chan *nats.Msg
	errs    chan error
	closed  chan struct{}
	taps    []*nats.Subscription
	proof   []byte // its signature of the connection's nonce
}

// entry is how an intruder comes on stage.
type entry struct {
	bare.Entry
	beats bool
}

type entryOption func(*entry)

// beating sends heartbeats, so that the instance is not taken for dead.
func beating() entryOption { return func(e *entry) { e.beats = true } }

// presenting shows chains at the door.
func presenting(digests []string) entryOption { return func(e *entry) { e.Present = digests } }

// certificateOf reads the TLS identity in an agent's directory.
func certificateOf(dir string) (*tls.Certificate, error) {
	d, err := agentdir.Open(dir)
	if err != nil {
		return nil, err
	}
	key, err := pki.ReadSecret(d.File(agentdir.TLSKeyFile))
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return keyPair(d.File(agentdir.TLSCertFile), key)
}

// infiltrate connects as the instance in a directory.
func (s *stage) infiltrate(ctx context.Context, path string, opts ...entryOption) (*intruder, error) {
	e := entry{Entry: bare.Entry{Dir: path}}
	for _, o := range opts {
		o(&e)
	}
	who, err := bare.Open(path)
	if err != nil {
		return nil, err
	}
	p := &intruder{
		Agent: who, stage: s,
		answers: make(chan *nats.Msg, 64), caught: make(chan *nats.Msg, 64),
		errs: make(chan error, 64), closed: make(chan struct{}),
	}
	e.Sign = func(nonce []byte) (sig []byte, err error) {
		p.proof, err = p.Pair.Sign(nonce)
		return p.proof, err
	}
	if p.nc, err = e.Dial(ctx, nats.ErrorHandler(p.onError), nats.ClosedHandler(func(*nats.Conn) { close(p.closed) })); err != nil {
		return nil, fmt.Errorf("connecting as %s/%s: %w", p.ID, p.Instance, err)
	}
	s.closing(p.leave)
	if _, err := p.nc.ChanSubscribe(p.Space.ReplyFilter(p.ID, p.Instance), p.answers); err != nil {
		return nil, err
	}
	if err := p.Learn(ctx, p.nc); err != nil {
		return nil, err
	}
	if !e.beats {
		return p, nil
	}
	p.beats, err = heartbeat.NewSender(heartbeat.SenderConfig{
		Agent: p.ID, Instance: p.Instance, Epoch: p.Speaker.Epoch().String(), Client: "intruder",
		Interval: heartbeatInterval, Send: p.beat,
	})
	return p, err
}

func (p *intruder) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	select {
	case p.errs <- err:
	default: // nobody asked for so many
	}
}

func (p *intruder) beat(_ context.Context, b heartbeat.Beat) error {
	m, err := p.signBeat(b)
	if err != nil {
		return err
	}
	return p.nc.PublishMsg(m)
}

func (p *intruder) signBeat(b heartbeat.Beat) (*nats.Msg, error) {
	data, err := b.Encode()
	if err != nil {
		return nil, err
	}
	m, _, _, err := p.Speaker.Message(p.Space.Beat(p.ID, p.Instance), envelope.Fields{}, nil, data, nil)
	return m, err
}

// leave says goodbye where it said anything before, so that the monitor does not
// count those who left the stage among the dead.
func (p *intruder) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if p.beats != nil && p.nc.IsConnected() {
		if p.beats.Leave(ctx) == nil {
			p.nc.FlushWithContext(ctx) //nolint:errcheck // it leaves either way
		}
	}
	if p.beats != nil {
		p.beats.Close()
	}
	p.nc.Close()
}

// cut waits until the server has closed the connection.
func (p *intruder) cut(ctx context.Context) error {
	select {
	case <-p.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the connection of %s/%s is still open: %w", p.ID, p.Instance, ctx.Err())
	}
}

// tap listens for the calls of a scope as a handler does, and answers none.
func (p *intruder) tap(scope string) error {
	dotted := capability.RequireScope(scope).Dotted()
	for _, filter := range []string{p.Space.CallFilter(dotted), p.Space.AskFilter(p.ID, dotted)} {
		sub, err := p.nc.ChanQueueSubscribe(filter, subject.Queue(dotted), p.caught)
		if err != nil {
			return err
		}
		p.taps = append(p.taps, sub)
	}
	return p.nc.Flush()
}

// untap stops listening.
func (p *intruder) untap() error {
	for _, sub := range p.taps {
		if err := sub.Unsubscribe(); err != nil {
			return err
		}
	}
	p.taps = nil
	return p.nc.Flush()
}

// catch takes the next call that it reads off its own connection.
func (p *intruder) catch(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-p.caught:
		return m, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("no call came to %s: %w", p.ID, ctx.Err())
	}
}

// send publishes a copy of a message, on the subject that the message names.
func (p *intruder) send(m *nats.Msg) error {
	if err := p.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}); err != nil {
		return err
	}
	return p.nc.Flush()
}

// barred does something that the broker has to refuse, and waits for its word
// about that subject.
func (p *intruder) barred(ctx context.Context, subj string, do func() error) error {
	p.complaint()
	if err := do(); err != nil {
		return err
	}
	if err := p.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		select {
		case err := <-p.errs:
			if errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(strings.ToLower(err.Error()), strings.ToLower(`"`+subj+`"`)) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("the broker let %s publish %s", p.ID, subj)
		}
	}
}

// complaint takes what the server has complained of so far and returns the last.
func (p *intruder) complaint() (last error) {
	for {
		select {
		case last = <-p.errs:
		default:
			return last
		}
	}
}

// sign makes a message as the instance's own, however it lies in it.
func (p *intruder) sign(subj string, f envelope.Fields, data []byte) (*nats.Msg, error) {
	m, _, _, err := p.Speaker.Message(subj, f, nil, data, nil)
	return m, err
}

// call signs a call of a scope under a chain of its choice and sends it.
func (p *intruder) call(scope, chain string, data []byte) error {
	m, err := p.sign(p.Space.Call(p.ID, capability.RequireScope(scope).Dotted()), envelope.Fields{Token: chain}, data)
	if err != nil {
		return err
	}
	return p.send(m)
}

// answer is a reply as it came; the intruder believes what it reads.
type answer struct {
	from agentid.ID
	err  string
	data []byte
}

// exchange sends a signed request and waits for its reply.
func (p *intruder) exchange(ctx context.Context, subj string, f envelope.Fields, data []byte) (answer, error) {
	f.Nonce = envelope.NewNonce()
	m, err := p.sign(subj, f, data)
	if err != nil {
		return answer{}, err
	}
	if err := p.send(m); err != nil {
		return answer{}, err
	}
	for {
		select {
		case m := <-p.answers:
			u, err := envelope.Parse(envelope.Message{Subject: m.Subject, Header: m.Header, Data: m.Data})
			if err != nil {
				return answer{}, err
			}
			if got := u.UnsafeFields(); got.Parent == f.Nonce {
				return answer{got.From, got.Err, m.Data}, nil
			}
		case <-ctx.Done():
			return answer{}, fmt.Errorf("no answer to %s: %w", subj, ctx.Err())
		}
	}
}

// works is the control of an attack: the same connection gets an answer to a
// call under a chain that is worth something.
func (p *intruder) works(ctx context.Context, scope, chain string) error {
	a, err := p.exchange(ctx, p.Space.Call(p.ID, capability.RequireScope(scope).Dotted()), envelope.Fields{Token: chain}, []byte("control"))
	if err == nil && a.err != "" {
		err = fmt.Errorf("refused with %s: %s", a.err, a.data)
	}
	if err != nil {
		return fmt.Errorf("the control, a call that is allowed, failed: %w", err)
	}
	return nil
}

// ask asks the control plane about the instance itself, as meshclient does.
func (p *intruder) ask(ctx context.Context, scope string, body any) (answer, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	return p.exchange(ctx, p.Space.Ask(p.ID, agentid.Control, capability.RequireScope(scope).Dotted()), envelope.Fields{}, data)
}

// read verifies a request that it caught, which gives it what a reply has to be
// bound to.
func (p *intruder) read(m *nats.Msg) (*envelope.Verified, error) {
	u, err := envelope.Parse(envelope.Message{Subject: m.Subject, Header: m.Header, Data: m.Data})
	if err != nil {
		return nil, err
	}
	key, err := jws.PublicKey(u.UnsafeFields().Key)
	if err != nil {
		return nil, err
	}
	return u.Verify(p.Dir.Info.TrustDomain, key, nil)
}

// reply signs a reply to a request that it caught and sends it.
func (p *intruder) reply(m *nats.Msg, data string) error {
	v, err := p.read(m)
	if err != nil {
		return err
	}
	r, _, err := p.Speaker.Reply(v, gate.Answer{Data: []byte(data), Token: p.Record.Tokens[0]})
	if err != nil {
		return err
	}
	return p.send(r)
}

// copyOf copies a message so that it can be changed.
func copyOf(m *nats.Msg) *nats.Msg {
	h := nats.Header{}
	for name, values := range m.Header {
		h[name] = slices.Clone(values)
	}
	return &nats.Msg{Subject: m.Subject, Header: h, Data: slices.Clone(m.Data)}
}
