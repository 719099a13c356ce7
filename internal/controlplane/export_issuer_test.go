package controlplane

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// ReportIssuer returns what logs the trouble of an issuer.
func ReportIssuer(log zerolog.Logger, clock func() time.Time) func(error) {
	return (&Plane{log: log, clock: clock}).issuerReport()
}

// TendIssuer tends the issuer that is in use until ctx ends; use puts another one
// there.
func TendIssuer(ctx context.Context, first pki.Issuer) (use func(pki.Issuer), done <-chan struct{}) {
	p := &Plane{log: zerolog.Nop(), clock: time.Now, ctx: ctx, cfg: Config{Mesh: &meshdir.Mesh{}}}
	use = func(i pki.Issuer) { p.trusted.Store(&authorities{issuer: i}) }
	use(first)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.tendIssuer()
	}()
	return use, ended
}
