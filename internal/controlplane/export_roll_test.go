package controlplane

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// SettleFor sets how long a reloaded server may take to be as it was.
func (p *Plane) SettleFor(d time.Duration) { p.settleFor = d }

// Roll reloads the nats-servers.
func (p *Plane) Roll(ctx context.Context, why string) error { return p.roll(ctx, why) }

// LeasesEnd sets how long a holder of a lease may be silent.
func (p *Plane) LeasesEnd(after time.Duration) { p.leases.lost = after }

// Shown is the certificate that a nats-server shows.
func (p *Plane) Shown(ctx context.Context, addr string) (*x509.Certificate, error) {
	return p.shown(ctx, addr)
}

// RollDue has servers to be reloaded, as after a renewal.
func (p *Plane) RollDue() {
	p.certs.mu.Lock()
	defer p.certs.mu.Unlock()
	p.certs.pending = true
}

// Rolled is the last roll.
func (p *Plane) Rolled(ctx context.Context) (wire.Roll, string, error) { return p.rolled(ctx) }
