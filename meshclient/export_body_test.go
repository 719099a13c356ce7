package meshclient

import "time"

// Gathering returns how many bytes are kept of requests that come in parts.
func (m *Mesh) Gathering() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bodyRoom.all.bytes
}

// Coming returns how many requests come in parts.
func (m *Mesh) Coming() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bodyRoom.all.bodies
}

// Sending returns of how many requests the payload goes out in parts.
func (m *Mesh) Sending() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bodies)
}

// FailSending has the rest of all of them not be sent.
func (m *Mesh) FailSending(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.bodies {
		b.failed <- err
	}
}

// Parting counts the calls that nobody waits for and whose handler is not known yet.
func (m *Mesh) Parting() int64 { return m.parting.Load() }

// SetFirstSign is what a quarter of a second is for every other Mesh.
func (m *Mesh) SetFirstSign(d time.Duration) { m.cfg.firstSign = d }

// What is kept of requests that come in parts, of one agent.
var (
	ShareBodies = bodiesMost.bodies / 2
	ShareBytes  = bodiesMost.bytes / 2
)

// Closing reports whether Close has begun.
func (m *Mesh) Closing() bool { return m.isClosing() }
