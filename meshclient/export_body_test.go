package meshclient

// Gathering returns how many bytes are kept of requests that come in parts.
func (m *Mesh) Gathering() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bodyRoom.bytes
}
