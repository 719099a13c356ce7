package meshclient

import (
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/envelope"
)

// recent remembers, while two connections overlap, on which one a message was
// taken. The other one brings the same message once more: that copy is the
// client's own doing and no replay.
type recent struct {
	mu    sync.Mutex
	on    int
	taken map[string]*link
}

// recentMost bounds what is remembered of one overlap.
const recentMost = 1 << 16

func (r *recent) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on++
	if r.taken == nil {
		r.taken = map[string]*link{}
	}
}

func (r *recent) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on--; r.on == 0 {
		r.taken = nil
	}
}

func (r *recent) took(l *link, msg *nats.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken != nil && len(r.taken) < recentMost {
		r.taken[identity(msg)] = l
	}
}

// copyFrom reports whether msg is the first copy, on this link, of a message
// that the other link brought. A second copy on the same link is a replay.
func (r *recent) copyFrom(l *link, msg *nats.Msg) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := identity(msg)
	other := r.taken[id]
	if other == nil || other == l {
		return false
	}
	delete(r.taken, id)
	return true
}

// identity names a message by its signature, which covers everything in it.
func identity(msg *nats.Msg) string {
	return msg.Subject + "\n" + msg.Header.Get(envelope.HeaderSignature)
}
