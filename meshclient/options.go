package meshclient

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/gate"
)

// Defaults.
const (
	// DefaultConnectTimeout bounds Connect where its context has no deadline.
	DefaultConnectTimeout = 30 * time.Second
	// DefaultIdleTimeout is how long a call without a deadline waits for a sign
	// of life from its handler.
	DefaultIdleTimeout = 2 * time.Minute
	// DefaultMaxInFlight is how many requests one handler works on at once.
	DefaultMaxInFlight = 64
	// DefaultCloseTimeout bounds how long Close waits for handlers to end.
	DefaultCloseTimeout = 30 * time.Second
	// DefaultDelegation is how long a delegation lives that says nothing.
	DefaultDelegation = 10 * time.Minute
)

// ErrConfig is wrapped by errors of options.
var ErrConfig = errors.New("meshclient: configuration")

type config struct {
	as        string
	meshDir   string
	log       zerolog.Logger
	clock     func() time.Time
	onAway    func(error)
	onGrant   func()
	onRefused func(Refusal)

	closeTimeout time.Duration
	callerLease  time.Duration
	firstSign    time.Duration
	burning      func(gate.Burner) gate.Burner
}

// Option configures Connect.
type Option func(*config) error

// As names the agent to be: an ID, looked up in the mesh directory's agents/
// and then in the user's configuration directory, or a path, which has a slash.
// The default is $SEALMESH_AS.
func As(agent string) Option {
	return func(c *config) error {
		if agent == "" {
			return fmt.Errorf("%w: As needs an agent ID or a path", ErrConfig)
		}
		c.as = agent
		return nil
	}
}

// MeshDir names the mesh directory in which agents are looked up. The default is
// $SEALMESH_MESH, then ./mesh.
func MeshDir(path string) Option {
	return func(c *config) error {
		if path == "" {
			return fmt.Errorf("%w: MeshDir needs a path", ErrConfig)
		}
		c.meshDir = path
		return nil
	}
}

// Log directs the client's log: one JSON line for every message sent, verified
// or refused, and for every change of the connection. The default is standard
// error. No payloads and no secrets are logged.
func Log(log zerolog.Logger) Option {
	return func(c *config) error { c.log = log; return nil }
}

// OnAway is told why the agent is away from the mesh, and nil when it is back.
// f must not block.
func OnAway(f func(error)) Option {
	return func(c *config) error { c.onAway = f; return nil }
}

// OnGrant is told when what the agent may do is no longer what it was: after more
// was granted or lent, once a call may use it, and after something was taken back,
// ended by time, or rested on somebody who was cut or came back, once a call is
// refused for it. Scopes says what it is now. What comes about while the agent is
// away is told when it is back.
//
// f is called by a goroutine of its own, one call at a time; what changes
// meanwhile is told by one more call. It may use the Mesh, also for what takes
// time, but not close it: Close waits for it.
func OnGrant(f func()) Option {
	return func(c *config) error { c.onGrant = f; return nil }
}

func configure(opts []Option) (config, error) {
	c := config{
		as:      os.Getenv("SEALMESH_AS"),
		meshDir: os.Getenv("SEALMESH_MESH"),
		log:     zerolog.New(os.Stderr).With().Timestamp().Logger(),
		clock:   time.Now,

		closeTimeout: DefaultCloseTimeout,
		callerLease:  callerLease,
		firstSign:    firstSign,
		burning:      func(b gate.Burner) gate.Burner { return b },
	}
	if c.meshDir == "" {
		c.meshDir = "mesh"
	}
	for _, o := range opts {
		if err := o(&c); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

type callConfig struct {
	to      string
	idle    time.Duration
	limited bool
	behalf  *Request
	ct      string
	sealed  bool
	most    int
}

// CallOption configures one call.
type CallOption func(*callConfig)

// To sends the call to one agent in place of any that handles the scope; only
// that agent's answer counts.
func To(agent string) CallOption { return func(c *callConfig) { c.to = agent } }

// IdleTimeout ends the call when nothing was heard from the handler for that
// long; the default is [DefaultIdleTimeout]. A handler that works gives a sign of
// life every two seconds, so a call without a deadline lasts as long as its
// handler does, and one whose handler died ends.
func IdleTimeout(d time.Duration) CallOption { return func(c *callConfig) { c.idle = d } }

// OnBehalf makes the call under the intersection of the agent's own right, that of
// the caller of req, and those of everybody on whose behalf req was made: whoever
// handles it checks them all, so that a low-right caller cannot use this agent as
// its deputy, nor a row of agents. A right counts as req's caller named it, by one
// chain. Where req is not what a handler was given, the call is refused.
func OnBehalf(req *Request) CallOption {
	return func(c *callConfig) { c.limited, c.behalf = true, req }
}

// ContentType says what the payload is; the default is plain bytes.
func ContentType(ct string) CallOption { return func(c *callConfig) { c.ct = ct } }

// Sealed encrypts the payload to the instances of the one agent that the call goes to
// ([To] is needed), and has its answer encrypted to this one: the server, and whoever
// reads what it stores or logs, sees who calls whom with what scope and how much is
// said, and not what. It costs two key agreements, and a question to the control plane
// now and then for who the instances are. What is sealed is at most 64 MiB with what
// that adds: 51 bytes and 112 for each instance of the agent, and 163 to an answer.
func Sealed() CallOption { return func(c *callConfig) { c.sealed = true } }

// MaxReply bounds in bytes what the answer, or one part of a stream, may be; the
// default, and the most, is 64 MiB. A call whose answer is larger fails with
// [denial.TooLarge]. The bound is on what the application gets, sealed or not, and on
// no error.
func MaxReply(bytes int) CallOption { return func(c *callConfig) { c.most = bytes } }

type handleConfig struct{ inFlight, most int }

// HandleOption configures one handler.
type HandleOption func(*handleConfig)

// MaxInFlight bounds how many requests the handler works on at once; more wait.
// The default is [DefaultMaxInFlight].
func MaxInFlight(n int) HandleOption { return func(c *handleConfig) { c.inFlight = n } }

// MaxRequest bounds in bytes what a request may be, as the handler gets it; the
// default, and the most, is 64 MiB. One that is larger is refused with
// [denial.TooLarge], and nothing of it is sent where it goes in parts.
func MaxRequest(bytes int) HandleOption { return func(c *handleConfig) { c.most = bytes } }
