package gate

import (
	"context"
	"slices"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// observeRing takes over the list of the signing keys. Where one was taken away,
// nothing that it may have signed is relied on any longer; the epochs that were seen
// stay.
func (p *Peers) observeRing(text string) error {
	ring, err := capability.Follow(p.Ring().Roots(), registry.SplitRing(text))
	if err != nil {
		return err
	}
	after := ring.Certificates()
	if len(after) == 0 {
		return denial.New(denial.BadRecord, "a keyring without any key")
	}
	changed, err := p.takeRing(ring, after)
	if err == nil && changed && p.cfg.OnRing != nil {
		p.cfg.OnRing(ring)
	}
	return err
}

func (p *Peers) takeRing(ring *capability.Keyring, after []string) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.ring.Certificates()
	if slices.Equal(before, after) {
		return false, nil
	}
	// Lists have an order: whoever adds a certificate signs it later than all that
	// are there. An older list must not make the true one unusable, nor bring back a
	// key that was taken away while this process did not run.
	if ring.Issued().Before(p.ring.Issued()) {
		return false, denial.New(denial.BadRecord, "a keyring from before one that was seen")
	}
	for _, c := range after {
		if valid, seen := p.ringSeen[c]; seen && !valid {
			return false, denial.New(denial.BadRecord, "a keyring from before a signing key was taken away")
		}
	}
	p.useRing(ring, before, after)
	return true, nil
}

// Trust pins the roots of a keyring and uses it, whatever was seen before: this
// process was told so by its own files.
func (p *Peers) Trust(ring *capability.Keyring) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, after := p.ring.Certificates(), ring.Certificates()
	if slices.Equal(before, after) {
		return
	}
	p.useRing(ring, before, after)
}

// useRing is called with the lock held. What the new list lacks never comes back.
func (p *Peers) useRing(ring *capability.Keyring, before, after []string) {
	for _, c := range after {
		p.ringSeen[c] = true
	}
	p.ring = ring
	gone := slices.DeleteFunc(before, func(c string) bool { return slices.Contains(after, c) })
	if len(gone) == 0 {
		return
	}
	for _, c := range gone {
		p.ringSeen[c] = false
	}
	p.topics.list = nil
	for _, known := range p.peers {
		known.agent = nil
		known.listing = listing{asked: known.listing.asked}
		for _, i := range known.instances {
			i.member = nil
		}
	}
}

func seenIn(ring *capability.Keyring) map[string]bool {
	seen := map[string]bool{}
	for _, c := range ring.Certificates() {
		seen[c] = true
	}
	return seen
}

// readRing reads the certificates of the signing keys from the leader. The feed
// is ahead of a read that it overtook: what came from it stays.
func (p *Peers) readRing(ctx context.Context) (struct{}, error) {
	text, err := p.cfg.Reader.Record(ctx, registry.RingKey)
	if err == nil && !p.reads.touched(registry.RingKey) {
		p.refused(registry.RingKey, p.observeRing(text))
	}
	return struct{}{}, err
}

// learnRing reads the signing keys afresh, not too often, and reports whether
// they changed.
func (p *Peers) learnRing(ctx context.Context) bool {
	before := p.Ring()
	_, _, err := p.reads.do(ctx, registry.RingKey, false, func() error {
		now := p.cfg.Clock()
		p.mu.Lock()
		defer p.mu.Unlock()
		if since := now.Sub(p.ringTried); since >= 0 && since < ringAgain {
			return denial.RateLimited
		}
		p.ringTried = now
		return nil
	}, p.readRing)
	if err != nil && denial.Of(err) != denial.RateLimited {
		p.cfg.Log.Warn().Err(err).Msg("signing keys could not be read")
	}
	return p.Ring() != before
}
