package envelope

import (
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Backing says what else will decide about a message after the memory of this
// process did.
type Backing int

const (
	// MemoryOnly: nothing else. What was sent before the memory began is refused,
	// since an earlier process may have taken it.
	MemoryOnly Backing = iota
	// SharedStore: the caller goes on to ask the shared store, which remembers
	// what earlier processes and other replicas took.
	SharedStore
)

// ReplayChecker remembers nonces. Implementations must be safe for concurrent
// use and must refuse where they cannot tell.
type ReplayChecker interface {
	// Seen refuses a message that Use would refuse. It changes nothing, so that
	// it can come before the signature: junk burns no nonce.
	Seen(u *Unverified, b Backing, now time.Time) error
	// Use burns the nonce of a verified message. Of any number of calls with
	// copies of one message, at whatever time, at most one returns nil.
	Use(v *Verified, b Backing, now time.Time) error
}

var _ ReplayChecker = (*Memory)(nil)

// MemoryConfig configures a Memory.
type MemoryConfig struct {
	Window    Window    // that of the receiver; required
	Since     time.Time // when this memory began: start of the process less limits.RestartSlack; required
	Nonces    int       // how many it holds; 0: limits.Nonces
	PerSender int       // how many of one sender; 0: limits.NoncesPerSender, or a quarter of Nonces if that is less
}

// shardCount is a power of two; more shards than cores, so that senders seldom
// wait for each other.
const shardCount = 64

// In milliseconds: how much time one bucket spans, how often a shard is looked
// through for senders that have gone quiet, and how often all are when the
// memory is full.
const (
	bucketSpan = 30_000
	sweepEvery = 30_000
	sweepFull  = 1_000
)

// Memory is the ReplayChecker of one process. A used nonce is remembered until
// no clock can find its message fresh again. It holds a bounded number of nonces
// and never drops one early to make room: when it is full, or when one sender
// has used up its share, messages are refused until older ones have expired.
//
// Nonces are kept by sender, so that an agent cannot burn the nonce of another
// one whose message it has seen.
type Memory struct {
	window    Window
	nonces    int64
	perSender int
	seed      maphash.Seed

	began  atomic.Int64 // floor where nothing else decides, Unix milliseconds
	floor  atomic.Int64 // floor for everything
	used   atomic.Int64
	swept  atomic.Int64 // when the memory was last swept because it was full
	shards [shardCount]shard
}

type shard struct {
	mu      sync.Mutex
	senders map[agentid.ID]*sender
	swept   int64
	// forgotten is the latest expiry that was ever dropped here. A message that
	// would expire no later may have been among those: it is refused even if the
	// clock was set back so far that it looks fresh again.
	forgotten int64
}

// sender holds one agent's nonces in buckets by expiry, of which the messages of
// one window fill about a dozen. A bucket is dropped whole when its time is over,
// so that no message waits while the nonces of others are cleared away.
type sender struct {
	buckets []bucket
	count   int
}

type bucket struct {
	end    int64 // no expiry in it is later
	nonces map[nonce]struct{}
}

type nonce = [idBytes]byte

// NewMemory returns an empty memory.
func NewMemory(c MemoryConfig) (*Memory, error) {
	if c.Nonces == 0 {
		c.Nonces = limits.Nonces
	}
	if c.PerSender == 0 {
		c.PerSender = min(limits.NoncesPerSender, max(1, c.Nonces/4))
	}
	switch {
	case c.Window == Window{}:
		return nil, fmt.Errorf("envelope: replay memory without a window")
	case c.Since.IsZero():
		return nil, fmt.Errorf("envelope: replay memory without a beginning")
	case c.Nonces < 0 || c.PerSender < 0 || c.PerSender > c.Nonces:
		return nil, fmt.Errorf("envelope: replay memory of %d nonces, %d a sender", c.Nonces, c.PerSender)
	}
	m := &Memory{window: c.Window, nonces: int64(c.Nonces), perSender: c.PerSender, seed: maphash.MakeSeed()}
	m.began.Store(c.Since.UnixMilli())
	m.floor.Store(math.MinInt64)
	m.swept.Store(math.MinInt64)
	for i := range m.shards {
		m.shards[i].senders = make(map[agentid.ID]*sender)
		m.shards[i].swept = math.MinInt64
		m.shards[i].forgotten = math.MinInt64
	}
	return m, nil
}

// RaiseFloor refuses from now on everything sent before t, also where the shared
// store decides: for when the store itself cannot show that it forgot nothing.
// The floor never goes down.
func (m *Memory) RaiseFloor(t time.Time) {
	for ms := t.UnixMilli(); ; {
		old := m.floor.Load()
		if ms <= old || m.floor.CompareAndSwap(old, ms) {
			return
		}
	}
}

// Len returns how many nonces are held.
func (m *Memory) Len() int { return int(m.used.Load()) }

// Seen implements ReplayChecker. Refusals: Stale, Future, Replayed.
func (m *Memory) Seen(u *Unverified, b Backing, now time.Time) error {
	if err := m.check(&u.fields, b, now); err != nil {
		return err
	}
	s := m.shard(u.fields.From)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen(u, m.window.expiry(u.fields.Time))
}

// Use implements ReplayChecker. Refusals: those of Seen; QuotaExceeded where the
// sender has used up its share; ReplayUnavailable where the memory is full.
func (m *Memory) Use(v *Verified, b Backing, now time.Time) error {
	if v.IsZero() {
		return denial.New(denial.BadSignature, "not a verified message")
	}
	u := v.u
	if err := m.check(&u.fields, b, now); err != nil {
		return err
	}
	// The place is taken before the shard is locked, so that making room never
	// holds two locks.
	ms := now.UnixMilli()
	if !m.reserve(ms) {
		return denial.New(denial.ReplayUnavailable, "all %d nonces are in use", m.nonces)
	}
	s := m.shard(u.fields.From)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.sweep(s, ms, sweepEvery)
	from := s.senders[u.fields.From]
	if from != nil {
		m.forget(s, from, ms)
	}
	expiry := m.window.expiry(u.fields.Time)
	if err := s.seen(u, expiry); err != nil {
		m.used.Add(-1)
		return err
	}
	if from == nil {
		from = new(sender)
		s.senders[own(u.fields.From)] = from
	}
	if from.count >= m.perSender {
		m.used.Add(-1)
		return denial.New(denial.QuotaExceeded, "%s has %d nonces in use", u.fields.From, from.count)
	}
	from.add(u.nonce, expiry)
	return nil
}

func (from *sender) has(n nonce) bool {
	for i := range from.buckets {
		if _, ok := from.buckets[i].nonces[n]; ok {
			return true
		}
	}
	return false
}

func (from *sender) add(n nonce, expiry int64) {
	from.count++
	end := expiry - expiry%bucketSpan + bucketSpan
	for i := range from.buckets {
		if from.buckets[i].end == end {
			from.buckets[i].nonces[n] = struct{}{}
			return
		}
	}
	from.buckets = append(from.buckets, bucket{end, map[nonce]struct{}{n: {}}})
}

// check is what is refused without a look at the nonces. It checks freshness
// once more: a nonce that would be forgotten at once protects nothing.
func (m *Memory) check(f *Fields, b Backing, now time.Time) error {
	if err := m.window.check(f.Time, now); err != nil {
		return err
	}
	ms := f.Time.UnixMilli()
	if floor := m.floor.Load(); ms < floor {
		return denial.New(denial.Stale, "sent %d ms before the replay store can vouch for", floor-ms)
	}
	if began := m.began.Load(); ms < began && b != SharedStore {
		return denial.New(denial.Stale, "sent %d ms before this receiver began to remember", began-ms)
	}
	return nil
}

func (s *shard) seen(u *Unverified, expiry int64) error {
	if from := s.senders[u.fields.From]; from != nil && from.has(u.nonce) {
		return denial.New(denial.Replayed, "nonce %s of %s was used", u.fields.Nonce, u.fields.From)
	}
	if expiry <= s.forgotten {
		return denial.New(denial.Stale, "nonces of that time are forgotten already")
	}
	return nil
}

// reserve takes one of the places, after looking for expired ones if none is
// left.
func (m *Memory) reserve(now int64) bool {
	if m.used.Add(1) <= m.nonces {
		return true
	}
	m.used.Add(-1)
	last := m.swept.Load()
	// A last sweep that lies ahead is one before the clock was set back.
	if now >= last && now < last+sweepFull || !m.swept.CompareAndSwap(last, now) {
		return false
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		m.sweep(s, now, 0)
		s.mu.Unlock()
	}
	if m.used.Add(1) <= m.nonces {
		return true
	}
	m.used.Add(-1)
	return false
}

// sweep forgets what has expired in a shard, if that was not done lately.
func (m *Memory) sweep(s *shard, now, every int64) {
	if every > 0 && now >= s.swept && now < s.swept+every {
		return
	}
	s.swept = now
	for id, from := range s.senders {
		if m.forget(s, from, now); from.count == 0 {
			delete(s.senders, id)
		}
	}
}

// forget drops the buckets of a sender whose time is over.
func (m *Memory) forget(s *shard, from *sender, now int64) {
	from.buckets = slices.DeleteFunc(from.buckets, func(b bucket) bool {
		if b.end > now {
			return false
		}
		s.forgotten = max(s.forgotten, b.end)
		from.count -= len(b.nonces)
		m.used.Add(-int64(len(b.nonces)))
		return true
	})
}

func (m *Memory) shard(id agentid.ID) *shard {
	return &m.shards[maphash.String(m.seed, id.String())%shardCount]
}

// own copies an ID out of the header it was read from, which a map key would
// otherwise keep alive.
func own(id agentid.ID) agentid.ID { return agentid.Require(strings.Clone(id.String())) }
