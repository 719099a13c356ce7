package meshclient

import (
	"context"

	"github.com/sealmesh/sealmesh/capability"
)

// UnderWay counts what is kept for calls that are not over: those that wait, those
// that are worked on, and cancelled ones whose turn did not come.
func (m *Mesh) UnderWay() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending) + len(m.works) + len(m.cancelled)
}

// Standing is what the agent thinks of a chain that somebody names.
func (m *Mesh) Standing(ctx context.Context, digest string) error {
	c, err := m.gate.Chain(ctx, digest)
	if err != nil {
		return err
	}
	return c.Check(m.cfg.clock(), m.peers.Directory(ctx))
}

// ChainFor is chainFor, which every message that rests on a right asks.
func (m *Mesh) ChainFor(ctx context.Context, scope capability.Scope) (*capability.Chain, error) {
	return m.chainFor(ctx, scope)
}
