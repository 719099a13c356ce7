package gate

import (
	"context"
	"errors"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// CatchUp reads the signing keys and the trust document again where the feed may have
// brought some in vain, as while the connection was away: whoever missed that a key or
// a root was taken away would go on believing it. It costs nothing otherwise, and is
// to be called once more after it failed.
func (p *Peers) CatchUp(ctx context.Context) error {
	now := p.cfg.Clock()
	p.mu.RLock()
	stretch, settled, caught := p.stretch, p.settled, p.authority == p.stretch
	p.mu.RUnlock()
	if caught {
		return nil
	}
	if _, _, err := p.reads.do(ctx, registry.RingKey, true, nil, p.readRing); err != nil && !errors.Is(err, denial.NotFound) {
		return err
	}
	if err := p.readTrust(ctx); err != nil {
		return err
	}
	if now.Before(settled) {
		return nil // what changes right after this read may be missed again
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.authority = max(p.authority, stretch)
	return nil
}

// readTrust hands on the trust document that is stored, for who was away when it
// changed. A mesh may have none.
func (p *Peers) readTrust(ctx context.Context) error {
	if p.cfg.OnTrust == nil {
		return nil
	}
	text, err := p.cfg.Reader.Record(ctx, registry.TrustKey)
	if errors.Is(err, denial.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p.cfg.OnTrust(text)
	return nil
}
