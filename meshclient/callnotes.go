package meshclient

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// cancelledMost bounds how many cancelled calls are remembered whose turn did not
// come yet: what is forgotten is worked on in vain.
const cancelledMost = 1024

// callNoteMost is the longest note about a call in bytes.
const callNoteMost = 256

// noted finds the request that a note of a caller is about, and reports whether
// the note is worth judging: a note goes to all instances of an agent, and one of
// them works on the request. What is read of it here nobody signed.
func (m *Mesh) noted(kind string, msg *nats.Msg) bool {
	switch kind {
	case wire.NoteReceived:
	case wire.NoteRotate:
		return !m.forAnother(msg.Data)
	default:
		return true
	}
	var n wire.ReceivedNote
	p, err := m.space.Parse(msg.Subject)
	if err != nil || len(msg.Data) > callNoteMost || json.Unmarshal(msg.Data, &n) != nil {
		return true // so that it is refused as what it is
	}
	id := callID{p.Sender, n.Request}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.works[id] != nil || m.bodies[id] != nil || m.answers.find(id) != nil
}

// takeReceived takes what a caller has, or asks for what it was not brought. It
// judges no more than whose call it is: the sender is verified.
func (m *Mesh) takeReceived(v *envelope.Verified) error {
	var n wire.ReceivedNote
	if len(v.Data()) > callNoteMost || json.Unmarshal(v.Data(), &n) != nil {
		return denial.New(denial.BadInput, "note does not parse")
	}
	id := callID{v.From(), n.Request}
	var again []*nats.Msg
	m.mu.Lock()
	w, b := m.works[id], m.bodies[id]
	if a := m.answers.find(id); a != nil && a.instance == v.Instance() {
		if !a.whole() {
			m.answers.confirmed(a, n.Parts)
		}
		again = a.askedFor(time.Now())
	}
	m.mu.Unlock()
	if w != nil && w.by(v) {
		w.confirmed(n.Parts, n.Most)
	}
	if b != nil && b.by(v) {
		b.confirmed(n.Parts, n.Most)
	}
	m.resend(again)
	return nil
}

// takeCancel ends the work on a call whose caller no longer waits. It may overtake
// a request that waits for its turn.
func (m *Mesh) takeCancel(v *envelope.Verified) error {
	var n wire.CancelNote
	if len(v.Data()) > callNoteMost || json.Unmarshal(v.Data(), &n) != nil || len(n.Request) != len(v.Fields().Nonce) {
		return denial.New(denial.BadInput, "note does not parse")
	}
	id := callID{v.From(), n.Request}
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.works[id]; w != nil {
		if w.by(v) {
			w.cancel(ErrCancelled)
		}
		return nil
	}
	if a := m.answers.find(id); a != nil {
		if a.instance == v.Instance() {
			m.answers.drop(id)
		}
		return nil
	}
	if len(m.cancelled) >= cancelledMost {
		delete(m.cancelled, m.leastCancelled(id.agent))
	}
	m.cancelled[id] = cancelled{v.Instance(), v.Fields().Time}
	return nil
}

// leastCancelled returns which call to forget for one more of an agent: its own that
// it cancelled first, so that nobody has those of others forgotten, and where it has
// none the first of all.
func (m *Mesh) leastCancelled(agent agentid.ID) (least callID) {
	var at time.Time
	for id, c := range m.cancelled {
		own, leastOwn := id.agent == agent, least.agent == agent
		if least == (callID{}) || own && !leastOwn || own == leastOwn && c.at.Before(at) {
			least, at = id, c.at
		}
	}
	return least
}

// cancelled is a call that was cancelled before its turn came.
type cancelled struct {
	instance agentid.Instance
	at       time.Time
}

// tell sends a note about one call to whoever works on it. Nobody waits for it.
func (m *Mesh) tell(to agentid.ID, correlation, kind string, body any) {
	data, err := json.Marshal(body)
	if err == nil {
		var msg *nats.Msg
		msg, _, _, err = m.speaker.Message(m.space.Note(m.info.Agent, to, kind),
			envelope.Fields{Correlation: correlation, ContentType: jsonType}, nil, data, nil)
		if err == nil {
			err = m.conn().PublishMsg(msg)
		}
	}
	if err != nil {
		m.log.Debug().Err(err).Str("kind", kind).Msg("note about a call was not sent")
	}
}
