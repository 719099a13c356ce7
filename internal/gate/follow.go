package gate

import (
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// Times of what is followed.
const (
	// FeedSettle is how long a subscription may take to reach the server from which
	// the feed comes: longer than a route's round trip. A record that was read
	// sooner after it is relied on, and read once more.
	FeedSettle = time.Second
	// KeepPeer is how long a peer that nobody asks for is kept. It is longer than any
	// is relied on without being read.
	KeepPeer = 15 * time.Minute

	keepStranger = 10 * time.Second // how long one is followed of whom nothing is known
	sweepEvery   = 30 * time.Second
)

// Feed hears of single agents, so that a process gets the changes of its peers and
// not those of everybody. The ticks, the signing keys and the list of topics come
// in any case.
type Feed interface {
	// Follow brings what becomes of an agent and its instances from now on: of
	// whatever the leader is asked after it returned, at least on one server. It is
	// called once an agent until that is let go, and must not wait for the network.
	Follow(agentid.ID) error
	// Unfollow ends that.
	Unfollow([]agentid.ID)
}

// follows are the agents that are followed.
type follows struct {
	mu    sync.Mutex // taken before that of Peers
	all   map[agentid.ID]*followed
	swept time.Time
}

type followed struct {
	since time.Time
	asked time.Time // when a read was last begun
}

// follow has the feed bring what becomes of an agent, before it is read.
func (p *Peers) follow(id agentid.ID) error {
	if p.cfg.Feed == nil {
		return nil
	}
	now := p.cfg.Clock()
	p.follows.mu.Lock()
	defer p.follows.mu.Unlock()
	if f := p.follows.all[id]; f != nil {
		f.asked = now
		return nil
	}
	id = own(id)
	if err := p.cfg.Feed.Follow(id); err != nil {
		return denial.New(denial.RegistryUnavailable, "following %q: %w", id, err)
	}
	p.follows.all[id] = &followed{since: now, asked: now}
	return nil
}

// settles is when the subscription that brings an agent's changes has reached every
// server for certain; zero where it has.
func (p *Peers) settles(id agentid.ID) time.Time {
	if p.cfg.Feed == nil || id.IsZero() {
		return time.Time{}
	}
	p.follows.mu.Lock()
	defer p.follows.mu.Unlock()
	f := p.follows.all[id]
	if f == nil {
		return time.Time{}
	}
	return f.since.Add(p.cfg.Settle)
}

// sweep lets go, now and then, of the peers that nobody asked for in a while. Their
// floors stay.
func (p *Peers) sweep(now time.Time) {
	p.follows.mu.Lock()
	defer p.follows.mu.Unlock()
	if since := now.Sub(p.follows.swept); since >= 0 && since < sweepEvery {
		return
	}
	p.follows.swept = now
	// Whoever is about to use what it reads has asked for it here first.
	idle := func(id agentid.ID, keep time.Duration) bool {
		f := p.follows.all[id]
		return f == nil || now.Sub(f.asked) >= keep
	}
	p.mu.Lock()
	for id, known := range p.peers {
		if now.Sub(known.looked()) >= KeepPeer && idle(id, KeepPeer) {
			for _, i := range known.instances {
				delete(p.named, i.nkey)
			}
			delete(p.peers, id)
		}
	}
	var gone []agentid.ID
	for id := range p.follows.all {
		if p.peers[id] == nil && idle(id, keepStranger) {
			gone = append(gone, id)
		}
	}
	p.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	p.cfg.Feed.Unfollow(gone)
	for _, id := range gone {
		delete(p.follows.all, id)
	}
}

// peer is called with the lock held. What a tick listed before the agent was met
// counts from the beginning, and so does what was known of it once.
func (p *Peers) peer(id agentid.ID) *peer {
	known := p.peers[id]
	if known == nil {
		known = &peer{floor: p.listed[id], instances: map[agentid.Instance]*instance{}, met: p.cfg.Clock()}
		known.epoch = p.floors.Epoch(id.String())
		p.peers[id] = known
	}
	return known
}

// met is the same for an instance, by its record.
func (p *Peers) met(known *peer, r *registry.Instance, nkey string) *instance {
	i := known.instances[r.Instance]
	if i == nil {
		i = &instance{nkey: nkey}
		i.epoch = p.floors.Epoch(registry.InstanceKey(r.Agent, r.Instance))
		known.instances[r.Instance] = i
		p.named[nkey] = r.Instance
	}
	return i
}

// looked is when somebody last had the peer looked up and not found at hand. Who is
// relied on is read once in a grace in any case, so that nothing has to be noted for
// each message.
func (k *peer) looked() time.Time {
	at := k.met
	for _, t := range []time.Time{k.read, k.tried} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// rise keeps the epochs of a record that was admitted, beyond this process's life.
func (p *Peers) rise(id agentid.ID, inst agentid.Instance, epoch uint64) {
	key := id.String()
	if !inst.IsZero() {
		key = registry.InstanceKey(id, inst)
	}
	p.floors.Raise(key, epoch, p.cfg.Clock())
}
