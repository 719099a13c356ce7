package meshclient

import (
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// What is kept of parts that came before their turn, at most: as many as a sender
// may have under way, whose last part knows no bound but that of a message.
const (
	heldMost  = openMost
	heldBytes = streamBytes + limits.Payload
)

// ahead keeps parts that came before their turn, by number: two connections of a
// rotation, on either side, bring parts in any order, and lost ones are sent again.
// It goes by what a part says of itself; nobody has judged them, which is done when
// it is their turn. The zero ahead is ready; it is not safe for concurrent use.
type ahead struct {
	parts map[int]heldPart
	bytes int
	room  func(bytes int) bool // whether there is any for more; nil: there is
	free  func(bytes int)      // gives it back
}

type heldPart struct {
	msg *nats.Msg
	key string
}

// keep reports whether the part's turn has not come: what of it there is room for is
// kept. from and key are those of the sender, as far as they are known.
func (a *ahead) keep(space subject.Space, msg *nats.Msg, next int, from agentid.ID, key string) bool {
	if !partOf(msg) {
		return false
	}
	u, err := envelope.Parse(message(msg))
	if err != nil {
		return false
	}
	// The broker vouches for the name in the subject: nobody else's parts take up
	// the room of those that are waited for.
	if _, err := u.CheckSubject(space); err != nil {
		return false
	}
	f := u.UnsafeFields()
	n := f.Part.Number
	if n <= next || !from.IsZero() && f.From != from || key != "" && f.Key != key {
		return false
	}
	if a.parts == nil {
		a.parts = map[int]heldPart{}
	}
	a.take(n) // the newer one counts
	if a.bytes+len(msg.Data) <= heldBytes && len(a.parts) < heldMost && (a.room == nil || a.room(len(msg.Data))) {
		a.parts[n] = heldPart{msg, f.Key}
		a.bytes += len(msg.Data)
	}
	return true
}

// take returns a part whose turn has come, or nil.
func (a *ahead) take(number int) *nats.Msg {
	h, ok := a.parts[number]
	if !ok {
		return nil
	}
	a.bytes -= len(h.msg.Data)
	if a.free != nil {
		a.free(len(h.msg.Data))
	}
	delete(a.parts, number)
	return h.msg
}

// drop forgets all parts.
func (a *ahead) drop() {
	for n := range a.parts {
		a.take(n)
	}
}

// only forgets the parts of all other keys.
func (a *ahead) only(key string) {
	for n, h := range a.parts {
		if h.key != key {
			a.take(n)
		}
	}
}
