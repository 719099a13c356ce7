package controlplane

import (
	"context"
	"time"
)

// SettleFor sets how long a reloaded server may take to be as it was.
func (p *Plane) SettleFor(d time.Duration) { p.settleFor = d }

// Roll reloads the nats-servers.
func (p *Plane) Roll(ctx context.Context, why string) error { return p.roll(ctx, why) }

// LeasesEnd sets how long a holder of a lease may be silent.
func (p *Plane) LeasesEnd(after time.Duration) { p.leases.lost = after }
