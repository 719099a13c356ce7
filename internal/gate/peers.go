package gate

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/jws"
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
	// from everything.
	DefaultFeedGrace = 5 * time.Minute
	// AdminFeedGrace is the same for the control plane's own scopes.
	AdminFeedGrace = 30 * time.Second

	freshFor     = 2 * time.Second // how long a record read in doubt is not read again
	negativeFor  = 2 * time.Second // how long an unknown name is not asked for again
	negativeMost = 4096
)

// PeersConfig is what Peers needs; all fields are required but FeedGrace.
type PeersConfig struct {
	Roots     []string // pinned authority roots
	Ring      *capability.Keyring
	Reader    Reader
	Clock     func() time.Time
	Log       zerolog.Logger
	FeedGrace time.Duration
	// OnChange hears of every accepted record of a known agent and may be nil.
	// It must not block.
	OnChange func(agentid.ID)
}

// Peers is what one process knows of the agents it deals with. It is safe for
// concurrent use. Its memory grows with the peers that it met, not with all
// agents of the mesh.
type Peers struct {
	cfg PeersConfig

	mu       sync.RWMutex
	ring     *capability.Keyring
	peers    map[agentid.ID]*peer
	missing  map[string]time.Time // keys that were not there, until when not to ask
	limiters map[agentid.ID]*rate.Limiter
	tick     *registry.Tick
	heard    time.Time // when the last tick arrived, by the monotonic clock
}

type peer struct {
	agent     *registry.Agent
	read      time.Time // when the record was last known to be current
	floor     uint64    // a tick said that the epoch is at least this
	instances map[agentid.Instance]*instance
}

type instance struct {
	record   *registry.Instance
	passport capability.Passport
	key      ed25519.PublicKey
	read     time.Time
}

// Sender is one key's standing as it was when it was asked for.
type Sender struct {
	Agent    *registry.Agent
	Instance *registry.Instance
	Key      ed25519.PublicKey
	Curve    string
}

// NewPeers returns an empty view. Feed it with Observe, and call Start once the
// feed is subscribed.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	if cfg.Ring == nil || cfg.Reader == nil || cfg.Clock == nil || len(cfg.Roots) == 0 {
		return nil, errors.New("gate: roots, keyring, reader and clock are required")
	}
	if cfg.FeedGrace == 0 {
		cfg.FeedGrace = DefaultFeedGrace
	}
	return &Peers{
		cfg: cfg, ring: cfg.Ring, heard: cfg.Clock(),
		peers:    map[agentid.ID]*peer{},
		missing:  map[string]time.Time{},
		limiters: map[agentid.ID]*rate.Limiter{},
	}, nil
}

// Start reads the signing keys and the newest tick; nothing arriving on the
// feed is relied on to be complete.
func (p *Peers) Start(ctx context.Context) error {
	for _, key := range []string{registry.RingKey, registry.TickKey} {
		text, err := p.cfg.Reader.Record(ctx, key)
		if errors.Is(err, denial.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		p.Observe(key, text)
	}
	return nil
}

// Ring returns the current keyring.
func (p *Peers) Ring() *capability.Keyring {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.ring
}

// ReplaySince is the time before which no message is believed, or the zero time.
func (p *Peers) ReplaySince() time.Time {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.tick == nil || p.tick.ReplaySince == 0 {
		return time.Time{}
	}
	return time.UnixMilli(p.tick.ReplaySince)
}

// Silence is how long nothing was heard from the control plane.
func (p *Peers) Silence() time.Duration {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.cfg.Clock().Sub(p.heard)
}

// Observe takes a document from the feed, under the bucket key that it came
// with. Only its signature makes it count.
func (p *Peers) Observe(key, text string) {
	if text == "" {
		return // a delete or TTL marker: unsigned, so nothing
	}
	now := p.cfg.Clock()
	var err error
	switch key {
	case registry.TickKey:
		err = p.observeTick(text, now)
	case registry.RingKey:
		err = p.observeRing(text)
	default:
		err = p.observeRecord(key, text, now)
	}
	if err != nil {
		p.cfg.Log.Warn().Err(err).Str("key", key).Msg("feed document refused")
	}
}

func (p *Peers) observeTick(text string, now time.Time) error {
	t, err := registry.DecodeTick(text, p.Ring(), now)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.tick; old != nil && (t.Incarnation < old.Incarnation || t.Incarnation == old.Incarnation && t.Revision <= old.Revision) {
		return nil // ticks only go forward
	}
	first := p.tick == nil
	if first {
		// The first one may be old: silence counts from its own time on.
		if age := now.Sub(time.UnixMilli(t.Time)); age > 0 {
			p.heard = now.Add(-age)
		} else {
			p.heard = now
		}
	} else {
		if t.ReplaySince < p.tick.ReplaySince {
			t.ReplaySince = p.tick.ReplaySince
		}
		p.heard = now
	}
	p.tick = t
	for _, c := range t.Changed {
		if known := p.peers[c.Agent]; known != nil {
			known.floor = max(known.floor, c.Epoch)
		}
	}
	return nil
}

func (p *Peers) observeRing(text string) error {
	ring, err := capability.NewKeyring(p.cfg.Roots, registry.SplitRing(text))
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.ring = ring
	p.mu.Unlock()
	return nil
}

// observeRecord keeps a record of an agent that this process deals with; the
// feed carries those of everybody.
func (p *Peers) observeRecord(key, text string, now time.Time) error {
	name, inst, isInstance := strings.Cut(key, ".")
	id, err := agentid.Parse(name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	known := p.peers[id] != nil
	delete(p.missing, key)
	p.mu.Unlock()
	if !known {
		return nil
	}
	if isInstance {
		i, err := agentid.ParseInstance(inst)
		if err != nil {
			return err
		}
		_, err = p.keepInstance(id, i, text, now)
		if err != nil {
			return err
		}
	} else if _, err := p.keepAgent(id, text, now); err != nil {
		return err
	}
	if p.cfg.OnChange != nil {
		p.cfg.OnChange(id)
	}
	return nil
}

// keepAgent verifies a record and keeps it if it is newer than what is known.
func (p *Peers) keepAgent(id agentid.ID, text string, now time.Time) (*registry.Agent, error) {
	a, err := registry.DecodeAgent(text, id, p.Ring(), now)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.peers[id]
	if known == nil {
		known = &peer{instances: map[agentid.Instance]*instance{}}
		p.peers[id] = known
	}
	// A broker that serves an old record must not bring a right back.
	if old := known.agent; old != nil && (a.Epoch < old.Epoch || a.Revision < old.Revision) {
		return old, nil
	}
	known.agent, known.read = a, now
	return a, nil
}

func (p *Peers) keepInstance(id agentid.ID, inst agentid.Instance, text string, now time.Time) (*instance, error) {
	ring := p.Ring()
	r, err := registry.DecodeInstance(text, id, inst, ring, now)
	if err != nil {
		return nil, err
	}
	pass, err := r.Identity(ring, now)
	if err != nil {
		return nil, err
	}
	key, err := jws.PublicKey(pass.Key)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.peers[id]
	if known == nil {
		known = &peer{instances: map[agentid.Instance]*instance{}}
		p.peers[id] = known
	}
	if old := known.instances[inst]; old != nil && (r.Epoch < old.record.Epoch || r.Revision < old.record.Revision) {
		return old, nil
	}
	i := &instance{record: r, passport: pass, key: key, read: now}
	known.instances[inst] = i
	return i, nil
}

// Agent returns an agent's record, current as far as anybody can know.
func (p *Peers) Agent(ctx context.Context, id agentid.ID) (*registry.Agent, error) {
	return p.agent(ctx, id, false)
}

func (p *Peers) agent(ctx context.Context, id agentid.ID, afresh bool) (*registry.Agent, error) {
	now := p.cfg.Clock()
	p.mu.RLock()
	known := p.peers[id]
	var have *registry.Agent
	var read time.Time
	doubt, floor := afresh, uint64(0)
	if known != nil && known.agent != nil {
		have, read, floor = known.agent, known.read, known.floor
		doubt = doubt || have.Epoch < floor
	}
	silence := now.Sub(p.heard)
	p.mu.RUnlock()
	if have != nil && !doubt && (silence <= TickAlarm || now.Sub(read) < freshFor) {
		return have, nil
	}
	text, err := p.fetch(ctx, id, id.String(), have == nil)
	if err == nil {
		a, err := p.keepAgent(id, text, now)
		if err == nil && a.Epoch < floor {
			return nil, denial.New(denial.FeedStale, "record of %q is of epoch %d, a tick said %d", id, a.Epoch, floor)
		}
		return a, err
	}
	if have == nil {
		if errors.Is(err, denial.NotFound) {
			return nil, denial.New(denial.UnlistedAgent, "agent %q is not registered", id)
		}
		return nil, err
	}
	if doubt || silence > p.graceFor(id) {
		return nil, denial.New(denial.FeedStale, "control plane silent for %s and the record of %q cannot be read", silence.Truncate(time.Second), id)
	}
	return have, nil
}

// graceFor bounds what is believed of an agent while the control plane is
// silent. Whoever drives the control plane gets little.
func (p *Peers) graceFor(id agentid.ID) time.Duration {
	if id == agentid.Control {
		return min(AdminFeedGrace, p.cfg.FeedGrace)
	}
	return p.cfg.FeedGrace
}

func (p *Peers) instance(ctx context.Context, id agentid.ID, inst agentid.Instance, afresh bool) (*instance, error) {
	now := p.cfg.Clock()
	p.mu.RLock()
	var have *instance
	if known := p.peers[id]; known != nil {
		have = known.instances[inst]
	}
	silence := now.Sub(p.heard)
	p.mu.RUnlock()
	if have != nil && !afresh && (silence <= TickAlarm || now.Sub(have.read) < freshFor) {
		return have, nil
	}
	text, err := p.fetch(ctx, id, registry.InstanceKey(id, inst), have == nil)
	if err == nil {
		return p.keepInstance(id, inst, text, now)
	}
	if have == nil {
		if errors.Is(err, denial.NotFound) {
			return nil, denial.New(denial.UnlistedKey, "key is not an instance of %q", id)
		}
		return nil, err
	}
	if afresh || silence > p.graceFor(id) {
		return nil, denial.New(denial.FeedStale, "control plane silent for %s and the record of %s/%s cannot be read", silence.Truncate(time.Second), id, inst)
	}
	return have, nil
}

// fetch reads a document, with a memory of what was not there and a limit on
// how many unknown ones a sender may make this process ask for.
func (p *Peers) fetch(ctx context.Context, cause agentid.ID, key string, unknown bool) (string, error) {
	now := p.cfg.Clock()
	p.mu.Lock()
	if until, ok := p.missing[key]; ok && now.Before(until) {
		p.mu.Unlock()
		return "", denial.NotFound
	}
	if unknown && !p.limiter(cause).AllowN(now, 1) {
		p.mu.Unlock()
		return "", denial.New(denial.RateLimited, "too many unknown names under %q", cause)
	}
	p.mu.Unlock()
	text, err := p.cfg.Reader.Record(ctx, key)
	if errors.Is(err, denial.NotFound) {
		p.mu.Lock()
		if len(p.missing) >= negativeMost {
			clear(p.missing)
		}
		p.missing[key] = now.Add(negativeFor)
		p.mu.Unlock()
	}
	return text, err
}

// limiter is called with the lock held.
func (p *Peers) limiter(id agentid.ID) *rate.Limiter {
	l := p.limiters[id]
	if l == nil {
		if len(p.limiters) >= negativeMost {
			clear(p.limiters)
		}
		l = rate.NewLimiter(50, 100)
		p.limiters[id] = l
	}
	return l
}

// Sender returns the standing of a key that signs as an agent: the agent is
// active, the key is one of its instances, and that instance counts.
func (p *Peers) Sender(ctx context.Context, id agentid.ID, nkey string) (Sender, error) {
	return p.sender(ctx, id, nkey, false)
}

func (p *Peers) sender(ctx context.Context, id agentid.ID, nkey string, afresh bool) (Sender, error) {
	a, err := p.agent(ctx, id, afresh)
	if err != nil {
		return Sender{}, err
	}
	if err := a.Status.Standing(); err != nil {
		return Sender{}, denial.New(denial.Of(err), "agent %q is %s", id, a.Status)
	}
	i, err := p.instance(ctx, id, agentid.InstanceOf(nkey), afresh)
	if err != nil {
		return Sender{}, err
	}
	if i.passport.Key != nkey {
		return Sender{}, denial.New(denial.UnlistedKey, "key is not an instance of %q", id)
	}
	if err := i.record.State.Standing(); err != nil {
		return Sender{}, denial.New(denial.Of(err), "instance %s/%s is %s", id, i.record.Instance, i.record.State)
	}
	return Sender{Agent: a, Instance: i.record, Key: i.key, Curve: i.passport.Curve}, nil
}

// Directory answers what the check of a chain asks.
func (p *Peers) Directory(ctx context.Context) capability.Directory {
	return directory{ctx, p}
}

type directory struct {
	ctx   context.Context
	peers *Peers
}

func (d directory) Standing(id agentid.ID) error {
	a, err := d.peers.Agent(d.ctx, id)
	if err != nil {
		return err
	}
	return a.Status.Standing()
}

func (d directory) SignerStanding(id agentid.ID, key string) error {
	i, err := d.peers.instance(d.ctx, id, agentid.InstanceOf(key), false)
	if err != nil {
		return err
	}
	return registry.SignerStanding(i.record, key, d.peers.Ring(), d.peers.cfg.Clock())
}

func (d directory) TokenLive(holder agentid.ID, token string) error {
	a, err := d.peers.Agent(d.ctx, holder)
	if err != nil {
		return err
	}
	return a.TokenLive(token)
}

func (d directory) NotVoided(issuer agentid.ID, token string) error {
	a, err := d.peers.Agent(d.ctx, issuer)
	if err != nil {
		return err
	}
	return a.NotVoided(token)
}

// mayRefresh limits how often junk in an agent's name makes its record be read
// afresh.
func (p *Peers) mayRefresh(id agentid.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limiter(id).AllowN(p.cfg.Clock(), 1)
}

// Refresh reads a sender's records afresh, whatever is known.
func (p *Peers) Refresh(ctx context.Context, id agentid.ID, nkey string) (Sender, error) {
	return p.sender(ctx, id, nkey, true)
}

// Epoch is the epoch in which the sender's messages are current.
func (s Sender) Epoch() envelope.Epoch { return epochOf(s) }
