package gate

import (
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Stored is what a receiver expects of a message that it pulled out of the stream
// of durable topics. The sender's standing counts as it is now, so that whatever
// a cut key signed is refused where it waits; its right must have run when the
// stream took the message, so that one that has ended by itself since covers what
// was published while it ran.
type Stored struct {
	Consumer string                 // the receiver's own, by which it pulled
	MaxAge   time.Duration          // of the topic
	Seen     *envelope.StoredMemory // the consumer's; Use it when the message is acknowledged
}

// delivery checks how a message came here, by the reply field that the server
// set. Whoever may pull can have a stored message delivered wherever it likes:
// to those who listen to what is live, where it would be taken for fresh, or into
// another's inbox.
func (w Want) delivery(reply string) (subject.Ack, error) {
	if w.Stored == nil {
		if subject.IsAck(reply) {
			return subject.Ack{}, denial.New(denial.ForeignDelivery, "came out of a stream, on a subscription for what is live")
		}
		return subject.Ack{}, nil
	}
	a, err := subject.ParseAck(reply)
	if err != nil || a.Stream != subject.EventsStream || a.Consumer != w.Stored.Consumer {
		return subject.Ack{}, denial.New(denial.ForeignDelivery, "was not handed out by consumer %q: %.160q", w.Stored.Consumer, reply)
	}
	return a, nil
}

// checkTime checks freshness: of what is live by the receiver's clock, of what
// was stored by the stream's.
func (g *Gate) checkTime(u *envelope.Unverified, w Want, a subject.Ack, now time.Time) error {
	if w.Stored == nil {
		return u.CheckTime(now, g.cfg.Window)
	}
	return u.CheckStored(a.Time, now, g.cfg.Window, w.Stored.MaxAge)
}
