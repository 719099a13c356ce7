package meshclient

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// Rotations counts how often the connection was replaced.
func (m *Mesh) Rotations() int64 { return m.rotations.Load() }

// SetCloseTimeout is what DefaultCloseTimeout is for every other Mesh.
func (m *Mesh) SetCloseTimeout(d time.Duration) { m.cfg.closeTimeout = d }

// Held returns who lent what is held, and how many chains each.
func (m *Mesh) Held() map[agentid.ID]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[agentid.ID]int{}
	for _, c := range m.held {
		out[delegator(c.chain)]++
	}
	return out
}

// Resting returns who lent what the connection rests on.
func (m *Mesh) Resting() (out []agentid.ID) {
	for _, l := range m.link.Load().rest() {
		out = append(out, delegator(l.chain))
	}
	return out
}

// Presented returns the digests that a connection made now would present.
func (m *Mesh) Presented() []string { return m.presented() }

// Incoming turns the error code and payload of a reply into an error.
var Incoming = incoming

// Presentation is the auth token of a connection that presents chains.
var Presentation = presentation

// Die ends the agent's process: nothing is said, and nothing comes back.
func (m *Mesh) Die() {
	m.cancel()
	m.tending.Wait()
	if m.beats != nil {
		m.beats.Close()
	}
	m.link.Load().close()
}

// StreamParts is how many parts may be under way.
const StreamParts = streamParts

// Works counts the requests that are worked on.
func (m *Mesh) Works() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.works)
}

// Pending counts the calls that wait.
func (m *Mesh) Pending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending)
}

// Cancelled counts the calls that were cancelled before their turn.
func (m *Mesh) Cancelled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.cancelled)
}

// ChainDigests returns the digests of what the agent holds.
func (m *Mesh) ChainDigests(ctx context.Context) ([]string, error) {
	chains, err := m.chains(ctx)
	var out []string
	for _, c := range chains {
		out = append(out, c.Digest())
	}
	return out, err
}

// Cover makes the connection believe that its grant rests on a chain.
func (m *Mesh) Cover(digest string) {
	l := m.link.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.has[digest] = true
}
