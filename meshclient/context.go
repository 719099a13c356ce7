package meshclient

import (
	"context"

	"github.com/sealmesh/sealmesh/envelope"
)

// place is where in a call tree a piece of work stands.
type place struct {
	correlation string
	parent      string
	hop         int
}

type placeKey struct{}

// within returns the context of the work that a verified message causes.
func within(ctx context.Context, v *envelope.Verified) context.Context {
	f := v.Fields()
	return context.WithValue(ctx, placeKey{}, place{f.Correlation, f.Nonce, f.Hop + 1})
}

// placeOf returns where the work of ctx stands; outside of any, a new tree.
func placeOf(ctx context.Context) place {
	if p, ok := ctx.Value(placeKey{}).(place); ok {
		return p
	}
	return place{correlation: envelope.NewCorrelation()}
}

// WithCorrelation starts a call tree under a correlation ID of the caller's
// choosing (22 characters of base64url, 128 bits), for one that must be known
// before the first call is made. Inside a handler it changes nothing.
func WithCorrelation(ctx context.Context, id string) context.Context {
	if _, ok := ctx.Value(placeKey{}).(place); ok {
		return ctx
	}
	return context.WithValue(ctx, placeKey{}, place{correlation: id})
}
