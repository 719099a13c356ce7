package meshclient

import (
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/envelope"
)

// recent remembers, while two connections overlap, which one brought a message
// first. The other one brings the same message once more: that copy is the
// client's own doing and no replay.
type recent struct {
	mu    sync.Mutex
	on    int
	first map[string]*link
}

// recentMost bounds what is remembered of one overlap.
const recentMost = 1 << 16

func (r *recent) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on++
	if r.first == nil {
		r.first = map[string]*link{}
	}
}

func (r *recent) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on--; r.on == 0 {
		r.first = nil
	}
}

// came notes a message before it is judged: its copy may be judged at the same
// time.
func (r *recent) came(l *link, msg *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil || len(r.first) >= recentMost {
		return
	}
	if id := identity(msg); r.first[id] == nil {
		r.first[id] = l
	}
}

// copyFrom reports whether msg, on this link, is the copy of a message that the
// other link brought first. A second copy on the same link is a replay.
func (r *recent) copyFrom(l *link, msg *nats.Msg) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := identity(msg)
	other := r.first[id]
	if other == nil || other == l {
		return false
	}
	delete(r.first, id)
	return true
}

// identity names a message by its signature, which covers everything in it.
func identity(msg *nats.Msg) string {
	return msg.Subject + "\n" + msg.Header.Get(envelope.HeaderSignature)
}
