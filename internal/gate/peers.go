package gate

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/registry"
)

// Times of the feed (§7 of the design).
const (
	// TickInterval is how often the control plane ticks.
	TickInterval = 5 * time.Second
	// TickAlarm is after how much silence a record is read afresh before it is
	// relied on.
	TickAlarm = 15 * time.Second
	// DefaultFeedGrace is after how much silence a peer is refused whose record
	// cannot be read either: the revocation bound of a receiver that is cut off
	// from everything. It is also how long a record is relied on without being
	// read again while the feed flows, so that it bounds what a single lost
	// document of the feed can do.
	DefaultFeedGrace = 5 * time.Minute
	// AdminFeedGrace is the same for those who drive the control plane (scopes
	// admin:…) and for the control plane itself.
	AdminFeedGrace = 30 * time.Second

	freshFor     = 2 * time.Second // how long a record read, or not read, in doubt is not read again
	negativeFor  = 2 * time.Second // how long an unknown name is not asked for again
	negativeMost = 4096
	ringAgain    = 5 * time.Second // how often an unknown signing key makes the keys be read afresh
)

// PeersConfig is what Peers needs; all fields are required but FeedGrace and those
// that may be nil.
type PeersConfig struct {
	Roots     []string // pinned authority roots
	Ring      *capability.Keyring
	Reader    Reader
	Clock     func() time.Time
	Log       zerolog.Logger
	FeedGrace time.Duration
	// OnChange hears of every newer record of a known agent that the feed brings
	// and may be nil. It must not block.
	OnChange func(agentid.ID)
	// OnRing hears when other signing keys count, or another root, and may be nil. It
	// must not block.
	OnRing func(*capability.Keyring)
	// OnTrust hears of every trust document, not verified, and may be nil. It must not
	// block on the network.
	OnTrust func(text string)
	// Instances lists instances for Recipients; nil where nothing is sealed.
	Instances InstancesFunc
	// Feed subscribes the changes of single agents when they are met; nil where
	// those of all are heard.
	Feed Feed
	// Settle is after how long a subscription is in effect on every server, zero
	// where it is at once: see [FeedSettle].
	Settle time.Duration
	// Floors are the epochs that were seen before this process began, and those that
	// it sees; nil where nothing is kept longer than the process lives.
	Floors *floors.Set
}

// Peers is what one process knows of the agents it deals with. It is safe for
// concurrent use. Its memory grows with the peers that it met lately, not with all
// agents of the mesh; of those that it let go it keeps the epochs.
//
// A record is relied on without a question while three things hold: it was read
// from the leader in the current stretch of the feed, ticks are coming, and no
// tick listed a higher epoch. A stretch ends when documents of the feed may have
// been lost: after a silence, or when [Peers.Gap] says so.
type Peers struct {
	cfg    PeersConfig
	reads  *flights[struct{}]
	lists  *flights[struct{}] // of instances, by agent
	budget *budget
	floors *floors.Set
	least  floors.Tick   // below which no tick counts, as it was at the start
	stamp  atomic.Uint64 // orders reads, arrivals on the feed, and those who ask

	follows follows

	mu        sync.RWMutex
	ring      *capability.Keyring
	ringTried time.Time
	ringSeen  map[string]bool // certificates of signing keys; false: taken away for good
	peers     map[agentid.ID]*peer
	missing   map[string]time.Time        // keys that were not there, until when not to ask
	named     map[string]agentid.Instance // instances that were met, by nkey: deriving the ID anew takes a hash
	tick      *registry.Tick
	listed    map[agentid.ID]uint64 // what the newest tick listed
	heard     time.Time             // when the last tick arrived
	gaps      uint64                // how often a tick may have been lost
	caught    uint64                // of which so many came before the newest tick was read or heard
	stretch   uint64                // of the feed, without a known gap
	authority uint64                // stretch in which signing keys and trust document were read
	settled   time.Time             // from when on the subscriptions of this stretch are in effect for certain
	topics    topics
}

// doc is what is known about the state of one record.
type doc struct {
	epoch, revision uint64    // neither ever goes back
	kept            uint64    // stamp of when this content came
	confirmed       uint64    // stamp at which the newest leader read that confirmed it began
	stretch         uint64    // of the feed, in which that read began
	read            time.Time // when it began
	asOf            time.Time // when the record was known to be current, if its stretch is over
	tried           time.Time // when a read failed last
	again           time.Time // when it is to be read once more: what it came from was not yet followed for certain
}

type peer struct {
	doc
	met       time.Time
	agent     *registry.Agent // nil: forgotten, the epoch is not
	floor     uint64          // a tick said that the epoch is at least this
	instances map[agentid.Instance]*instance
	listing   listing
}

type instance struct {
	doc
	nkey   string
	member *member // nil: forgotten, the epoch is not
}

// member is the content of an instance's record. It never changes.
type member struct {
	record   *registry.Instance
	passport capability.Passport
	key      ed25519.PublicKey
}

// Sender is one key's standing as it was when it was asked for.
type Sender struct {
	Agent    *registry.Agent
	Instance *registry.Instance
	Key      ed25519.PublicKey
	Curve    string
}

// Epoch is the epoch in which the sender's messages are current.
func (s Sender) Epoch() envelope.Epoch {
	if s.Agent == nil || s.Instance == nil {
		return envelope.Epoch{}
	}
	return envelope.Epoch{Agent: s.Agent.Epoch, Instance: s.Instance.Epoch}
}

// NewPeers returns an empty view. Feed it with Observe, and call Start once the
// feed is subscribed.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	if cfg.Ring == nil || cfg.Reader == nil || cfg.Clock == nil || len(cfg.Roots) == 0 {
		return nil, errors.New("gate: roots, keyring, reader and clock are required")
	}
	if cfg.FeedGrace < 0 || cfg.Settle < 0 {
		return nil, errors.New("gate: the grace and the settling of the feed must not be negative")
	}
	if cfg.FeedGrace == 0 {
		cfg.FeedGrace = DefaultFeedGrace
	}
	if cfg.Floors == nil {
		cfg.Floors = floors.New()
	}
	now := cfg.Clock()
	return &Peers{
		cfg: cfg, ring: cfg.Ring, heard: now, stretch: 1, settled: now.Add(cfg.Settle),
		floors: cfg.Floors, least: cfg.Floors.Tick(), follows: follows{all: map[agentid.ID]*followed{}, swept: now},
		reads: newFlights[struct{}](readTimeout), lists: newFlights[struct{}](listTimeout), budget: newBudget(),
		peers:   map[agentid.ID]*peer{},
		missing: map[string]time.Time{}, named: map[string]agentid.Instance{}, ringSeen: seenIn(cfg.Ring),
	}, nil
}

// Start reads the signing keys and the newest tick; nothing arriving on the
// feed is relied on to be complete.
func (p *Peers) Start(ctx context.Context) error {
	p.mu.Lock()
	p.settled = p.cfg.Clock().Add(p.cfg.Settle)
	p.mu.Unlock()
	if _, _, err := p.reads.do(ctx, registry.RingKey, true, nil, p.readRing); err != nil && !errors.Is(err, denial.NotFound) {
		return err
	}
	if err := p.readTrust(ctx); err != nil {
		return err
	}
	text, err := p.cfg.Reader.Record(ctx, registry.TickKey)
	switch {
	case errors.Is(err, denial.NotFound):
	case err != nil:
		return err
	default:
		p.Observe(registry.TickKey, text)
	}
	return nil
}

// Ring returns the current keyring.
func (p *Peers) Ring() *capability.Keyring {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.ring
}

// ReplaySince is the time from which the shared store can tell replays apart, as
// the newest tick said that came here, or the zero time.
func (p *Peers) ReplaySince() time.Time {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.replaySince()
}

func (p *Peers) replaySince() time.Time {
	since := p.least.ReplaySince
	if p.tick != nil {
		since = p.tick.ReplaySince
	}
	if since == 0 {
		return time.Time{}
	}
	return time.UnixMilli(since)
}

// ReplayFloor is ReplaySince for those who rely on it. Where a tick may have been
// lost, because the connection was away, the newest one is read first: the store
// may have lost what it held while nobody was there to hear of it.
func (p *Peers) ReplayFloor(ctx context.Context) (time.Time, error) {
	p.mu.RLock()
	since, current := p.replaySince(), p.caught == p.gaps
	p.mu.RUnlock()
	if current {
		return since, nil
	}
	if _, _, err := p.reads.do(ctx, registry.TickKey, true, nil, p.readTick); err != nil {
		return time.Time{}, err
	}
	return p.ReplaySince(), nil
}

func (p *Peers) readTick(ctx context.Context) (struct{}, error) {
	p.mu.RLock()
	gaps := p.gaps
	p.mu.RUnlock()
	text, err := p.cfg.Reader.Record(ctx, registry.TickKey)
	switch {
	case errors.Is(err, denial.NotFound):
	case err != nil:
		return struct{}{}, err
	default:
		err := p.observe(registry.TickKey, text, true)
		if denial.Of(err) == denial.UnknownSigner && p.learnRing(ctx) {
			err = p.observe(registry.TickKey, text, true)
		}
		if err != nil {
			return struct{}{}, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.caught = max(p.caught, gaps)
	return struct{}{}, nil
}

// Silence is how long nothing was heard from the control plane.
func (p *Peers) Silence() time.Duration {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.silence(p.cfg.Clock())
}

// silence is called with the lock held. The monotonic clock stands still while a
// machine sleeps and the wall clock can be set back: whichever says more counts.
func (p *Peers) silence(now time.Time) time.Duration {
	return max(now.Sub(p.heard), now.Round(0).Sub(p.heard.Round(0)))
}

// Gap tells that documents of the feed may have been lost: the connection was
// away, or the subscription was too slow. Each record is read once more before
// it is relied on. It does not block.
func (p *Peers) Gap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gaps++
	p.endStretch()
	// Over a new connection the subscriptions have to travel anew.
	p.settled = p.cfg.Clock().Add(p.cfg.Settle)
}

// endStretch is called with the lock held. What was current is known to have
// been so until the last tick.
func (p *Peers) endStretch() {
	p.settle(&p.topics.doc)
	for _, known := range p.peers {
		p.settle(&known.doc)
		p.settle(&known.listing.doc)
		for _, i := range known.instances {
			p.settle(&i.doc)
		}
	}
	p.stretch++
}

func (p *Peers) settle(d *doc) {
	if d.stretch == p.stretch && d.asOf.Before(p.heard) {
		d.asOf = p.heard
	}
}
