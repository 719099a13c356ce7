package authcallout

import (
	"time"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// The tests reach inside in three places: a service without a connection, so
// that requests can be forged that no nats-server would send; the second opinion
// on a grant, which by design no input can make fail; and the bounded maps.

func NewDetached(cfg Config) (*Service, error) { return newService(cfg) }

func (s *Service) Process(data []byte, xkey string) []byte {
	return s.process(data, xkey, s.cfg.Clock())
}

func (s *Service) SetCloseGrace(d time.Duration) { s.grace = d }

func Finish(space subject.Space, in Subject, g Grant) (Grant, error) { return finish(space, in, g) }

var (
	Expiry      = expiry
	Source      = source
	ServerInbox = serverInbox
)

const (
	FailureBurst = failureBurst
	FailureEvery = failureEvery
	MaxSources   = maxSources
	MaxKnown     = maxKnown
	Remembered   = remembered
	Waiting      = waiting
)

type Throttle = throttle

var NewThrottle = newThrottle

func (t *Throttle) Failed(src string, now time.Time) { t.failed(src, now) }
func (t *Throttle) Succeeded(src, key string)        { t.succeeded(src, key) }
func (t *Throttle) Admits(src, key string, now time.Time) (bool, bool, uint64) {
	return t.admits(src, key, now)
}
func (t *Throttle) Known() int   { return len(t.known) }
func (t *Throttle) Sources() int { return len(t.sources) }

type Memory = memory

var NewMemory = newMemory

func (m *Memory) Put(d Decision)                  { m.put(d) }
func (m *Memory) Forget(key string)               { m.forget(key) }
func (m *Memory) Get(key string) (Decision, bool) { return m.get(key) }
