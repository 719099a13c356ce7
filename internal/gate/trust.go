package gate

import (
	"context"
	"errors"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

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
