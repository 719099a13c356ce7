package controlplane

import (
	"context"
)

// ForgetPlatformKeys is what time does to the keys of OIDC issuers.
func (p *Plane) ForgetPlatformKeys() {
	for _, o := range p.platforms {
		o.mu.Lock()
		o.since = o.since.Add(-2 * keysFor)
		o.mu.Unlock()
	}
}

// ReapAll is what happens every ten minutes.
func (p *Plane) ReapAll(ctx context.Context) error { return p.reapAll(ctx) }
