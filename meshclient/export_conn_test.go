package meshclient

import "github.com/nats-io/nats.go"

// Conn is the connection that is used now.
func (m *Mesh) Conn() *nats.Conn { return m.conn() }

// Poke has the client look after itself now.
func (m *Mesh) Poke() { m.poke("a test") }

// PullInbox is where the current connection takes what a durable subscription
// pulls.
func (m *Mesh) PullInbox(name string) string {
	l := m.link.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.pullers {
		if p.durable.name == name {
			return p.inbox + "x"
		}
	}
	return ""
}

// ReadStored reads the answer of the stream to an event.
var ReadStored = readStored
