package gate

import (
	"context"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// errOlder: a document is genuine and older than one that was seen before.
var errOlder = denial.New(denial.BadRecord, "older than one that was seen before")

// Observe takes a document from the feed, under the bucket key that it came
// with. Only its signature makes it count. It does not wait for the network.
func (p *Peers) Observe(key, text string) {
	if text == "" {
		return // a delete or TTL marker: unsigned, so nothing
	}
	reading := p.reads.touch(key)
	err := p.observe(key, text, reading)
	if denial.Of(err) == denial.UnknownSigner {
		// The signing keys may have changed while this process was away.
		go func() {
			if p.learnRing(context.Background()) {
				p.refused(key, p.observe(key, text, reading))
			} else {
				p.refused(key, err)
			}
		}()
		return
	}
	p.refused(key, err)
}

func (p *Peers) refused(key string, err error) {
	if err != nil {
		p.cfg.Log.Warn().Err(err).Str("key", key).Msg("document of the registry refused")
	}
}

func (p *Peers) observe(key, text string, reading bool) error {
	switch key {
	case registry.TickKey:
		now := p.cfg.Clock()
		err := p.observeTick(text, now)
		p.sweep(now)
		return err
	case registry.RingKey:
		return p.observeRing(text)
	case registry.TrustKey:
		if p.cfg.OnTrust != nil {
			p.cfg.OnTrust(text)
		}
		return nil
	case registry.TopicsKey:
		return p.observeTopics(text)
	default:
		return p.observeRecord(key, text, reading)
	}
}

func (p *Peers) observeTick(text string, now time.Time) error {
	t, err := registry.DecodeTick(text, p.Ring(), now)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.tick
	if old != nil && (t.Incarnation < old.Incarnation || t.Incarnation == old.Incarnation && t.Revision <= old.Revision) {
		return nil // ticks only go forward
	}
	seen := floors.Tick{Incarnation: t.Incarnation, Revision: t.Revision, ReplaySince: t.ReplaySince}
	if old == nil && seen.Before(p.least) {
		// Not over a restart either. Whoever serves it does not prove that nothing
		// changed since.
		if at := time.UnixMilli(t.Time); at.Before(p.heard) {
			p.heard = at
		}
		return errOlder
	}
	if p.silence(now) > TickAlarm {
		// What changed meanwhile may have been lost, and ticks do not list it
		// for ever.
		p.endStretch()
	}
	switch age := now.Sub(time.UnixMilli(t.Time)); {
	case old == nil && age > 0:
		// The first one may be old: silence counts from its own time on.
		p.heard = now.Add(-age)
	case age > limits.Window:
		// Nor does a later one that was held back prove that somebody is there
		// now. Less than that may be the difference of two clocks.
		if at := now.Add(limits.Window - age); at.After(p.heard) {
			p.heard = at
		}
	default:
		p.heard = now
	}
	t.ReplaySince = max(t.ReplaySince, p.least.ReplaySince)
	if old != nil {
		t.ReplaySince = max(t.ReplaySince, old.ReplaySince)
	}
	p.tick, p.caught = t, p.gaps
	p.floors.RaiseTick(seen)
	p.listed = make(map[agentid.ID]uint64, len(t.Changed))
	for _, c := range t.Changed {
		p.listed[c.Agent] = max(p.listed[c.Agent], c.Epoch)
		if known := p.peers[c.Agent]; known != nil {
			known.floor = max(known.floor, c.Epoch)
			p.rise(c.Agent, agentid.Instance{}, c.Epoch)
		}
	}
	return nil
}

// observeRecord keeps a record of an agent that this process deals with, or is
// about to; the feed carries those of everybody.
func (p *Peers) observeRecord(key, text string, reading bool) error {
	name, tail, isInstance := strings.Cut(key, ".")
	id, err := agentid.Parse(name)
	if err != nil {
		return err
	}
	var inst agentid.Instance
	if isInstance {
		if inst, err = agentid.ParseInstance(tail); err != nil {
			return err
		}
	}
	p.mu.Lock()
	known := p.peers[id]
	met := known != nil && (!isInstance || known.instances[inst] != nil || known.listing.asked)
	delete(p.missing, key)
	p.mu.Unlock()
	if !met && !reading {
		return nil
	}
	newer := false
	if isInstance {
		newer, err = p.keepInstance(id, inst, text, origin{})
	} else {
		newer, err = p.keepAgent(id, text, origin{})
	}
	if err == errOlder {
		return nil // arrived late; the newer one is known
	}
	if err == nil && newer && p.cfg.OnChange != nil {
		p.cfg.OnChange(id)
	}
	return err
}

// origin says where a document came from; the zero origin is the feed.
type origin struct {
	stamp   uint64 // of the beginning of a leader read
	stretch uint64 // of the feed at that time
	began   time.Time
	again   time.Time // when it has to be read once more; zero: it has not
}

// begin notes that a document is about to be read; id is zero where it is no
// agent's.
func (p *Peers) begin(id agentid.ID) origin {
	again := p.settles(id)
	now := p.cfg.Clock()
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.settled.After(again) {
		again = p.settled
	}
	if !now.Before(again) {
		again = time.Time{}
	}
	return origin{p.stamp.Add(1), p.stretch, now, again}
}

// admit decides, with the lock held, whether a document is to be kept over what
// is known, and whether it is newer. A broker that serves an old record must not
// bring a right back.
func (p *Peers) admit(d *doc, epoch, revision uint64, from origin) (newer bool, err error) {
	switch {
	case epoch >= d.epoch && revision >= d.revision:
		newer = epoch > d.epoch || revision > d.revision
		d.epoch, d.revision, d.kept = epoch, revision, p.stamp.Add(1)
	case from.stamp != 0 && d.kept > from.stamp:
		// The feed overtook the read, so what it brought is at least as new.
		newer, err = false, nil
	default:
		return false, errOlder
	}
	if from.stamp > d.confirmed {
		d.confirmed, d.stretch, d.read = from.stamp, from.stretch, from.began
		d.asOf, d.tried, d.again = from.began, time.Time{}, from.again
	}
	return newer, err
}

// keepAgent verifies a record and keeps it if it is no older than what is known.
func (p *Peers) keepAgent(id agentid.ID, text string, from origin) (newer bool, err error) {
	return p.keep(func(ring *capability.Keyring) (func() (bool, error), error) {
		a, err := registry.DecodeAgent(text, id, ring, p.cfg.Clock())
		if err != nil {
			return nil, err
		}
		return func() (bool, error) {
			known := p.peer(a.Agent)
			newer, err := p.admit(&known.doc, a.Epoch, a.Revision, from)
			if err == nil && a.Epoch == known.epoch && a.Revision == known.revision {
				known.agent = a
			}
			if newer {
				p.rise(a.Agent, agentid.Instance{}, a.Epoch)
			}
			return newer, err
		}, nil
	})
}

func (p *Peers) keepInstance(id agentid.ID, inst agentid.Instance, text string, from origin) (newer bool, err error) {
	return p.keep(func(ring *capability.Keyring) (func() (bool, error), error) {
		now := p.cfg.Clock()
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
		return func() (bool, error) {
			known := p.peer(r.Agent)
			i := p.met(known, r, pass.Key)
			newer, err := p.admit(&i.doc, r.Epoch, r.Revision, from)
			if err == nil && r.Epoch == i.epoch && r.Revision == i.revision {
				i.member = &member{r, pass, key}
			}
			if newer {
				p.unlisted(known, inst)
				p.rise(r.Agent, r.Instance, r.Epoch)
			}
			return newer, err
		}, nil
	})
}

// keep verifies without the lock and stores with it. What was verified with a
// keyring that was replaced meanwhile is verified again.
func (p *Peers) keep(verify func(*capability.Keyring) (store func() (bool, error), err error)) (newer bool, err error) {
	for {
		ring := p.Ring()
		store, err := verify(ring)
		if err != nil {
			return false, err
		}
		p.mu.Lock()
		if p.ring == ring {
			newer, err = store()
			p.mu.Unlock()
			return newer, err
		}
		p.mu.Unlock()
	}
}
