package meshclient

import (
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/envelope"
)

// recent remembers, while two connections overlap, which of them brought a
// message. The other one brings the same message once more, and whichever is
// judged second is the client's own doing and no replay.
type recent struct {
	mu   sync.Mutex
	on   int
	seen map[string][]*link
}

// recentMost bounds what is remembered of one overlap.
const recentMost = 1 << 16

func (r *recent) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on++
	if r.seen == nil {
		r.seen = map[string][]*link{}
	}
}

func (r *recent) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on--; r.on == 0 {
		r.seen = nil
	}
}

// arrival is one message on one connection.
type arrival struct {
	id    string
	first bool // it had not come on this connection before
}

// came notes a message before it is judged: its copy may be judged at the same
// time.
func (r *recent) came(l *link, msg *nats.Msg) arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen == nil {
		return arrival{}
	}
	a := arrival{id: identity(msg)}
	links := r.seen[a.id]
	if slices.Contains(links, l) || links == nil && len(r.seen) >= recentMost {
		return a
	}
	a.first = true
	r.seen[a.id] = append(links, l)
	return a
}

// isCopy reports whether an arrival that was found to be replayed is the copy of
// what another connection brought. A second one on the same connection is not.
func (r *recent) isCopy(a arrival) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return a.first && len(r.seen[a.id]) > 1
}

// identity names a message by its signature, which covers everything in it.
func identity(msg *nats.Msg) string {
	return msg.Subject + "\n" + msg.Header.Get(envelope.HeaderSignature)
}
