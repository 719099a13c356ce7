package gate

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
)

// Covers is what a message costs for its authority, apart from the message: may
// the holder of the chain use the scope now.
func (g *Gate) Covers(ctx context.Context, digest string, scope capability.Scope, holder agentid.ID, admin bool) error {
	return g.covers(ctx, digest, scope, holder, query{cause: holder, admin: admin})
}
