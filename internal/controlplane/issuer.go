package controlplane

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// remoteIssuer is an issuer that lives elsewhere: it has a credential to keep
// alive, and something to say about how it does.
type remoteIssuer interface {
	pki.Issuer
	Run(ctx context.Context, ttl time.Duration, report func(error))
}

// tendIssuer runs the issuer that is in use as long as it is that, where it is one
// that has to be run.
func (p *Plane) tendIssuer() {
	tick := time.NewTicker(lookAtFiles)
	defer tick.Stop()
	var running pki.Issuer
	stop := func() {}
	defer func() { stop() }()
	for {
		if now := p.authorities().issuer; now != running {
			stop()
			running, stop = now, p.runIssuer(now)
		}
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// runIssuer returns what ends it and waits for that.
func (p *Plane) runIssuer(i pki.Issuer) (stop func()) {
	r, ok := i.(remoteIssuer)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(p.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, p.cfg.Mesh.Config.Certificate.TTL, p.issuerReport())
	}()
	return func() { cancel(); <-done }
}

// sayAgain is how long the same trouble of the issuer is logged once.
const sayAgain = time.Minute

// issuerReport logs what is wrong with the issuer when that changes, again and again
// while it lasts, and once when it is over.
func (p *Plane) issuerReport() func(error) {
	var said string
	var last time.Time
	return func(err error) {
		now := p.clock()
		switch {
		case err == nil && said != "":
			p.log.Info().Msg("certificates of agents can be issued again")
			said = ""
		case err != nil && (err.Error() != said || now.Sub(last) >= sayAgain):
			e := p.log.Error().Err(err)
			if h, ok := err.(interface{ Hint() string }); ok {
				e = e.Str("hint", h.Hint())
			}
			e.Msg("the issuer of agents' certificates has a problem")
			said, last = err.Error(), now
		}
	}
}
