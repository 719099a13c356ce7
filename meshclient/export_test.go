package meshclient

// Rotations counts how often the connection was replaced.
func (m *Mesh) Rotations() int64 { return m.rotations.Load() }
