package controlplane

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// ownStored tells a publisher whether the stream of durable topics has its event.
// The stream itself says of a second try that it knows the ID, and not whose message
// it knows: whoever hears an event live can store one of its own under that ID.
//
// Where nothing is to be found there is no answer. A leader that has just begun may
// not have come to it yet, and on "no" the publisher would store a second one.
func (p *Plane) ownStored(ctx context.Context, v *envelope.Verified, req wire.StoredRequest) (any, error) {
	if req.Sequence == 0 {
		return nil, denial.New(denial.BadInput, "no sequence is named")
	}
	if _, err := capability.PublishOf(req.Topic); err != nil {
		return nil, err
	}
	stream, err := p.stored.Stream(ctx, natsconf.EventsStream)
	if err != nil {
		return nil, fmt.Errorf("controlplane: stream of durable topics: %w", err)
	}
	msg, err := stream.GetMsg(ctx, req.Sequence)
	if err != nil {
		return nil, fmt.Errorf("controlplane: stored event: %w", err)
	}
	own := p.isOwn(v, req, msg)
	if !own && msg.Header.Get(envelope.HeaderMsgID) == req.Nonce {
		// Either whoever stored it kept another's event out, or whoever asks says so of
		// an event that it has heard. Which, only the two events could tell.
		p.log.Warn().Str("reason", string(denial.Replayed)).Uint64("sequence", req.Sequence).Str("subject", msg.Subject).
			Str("asked_by", v.From().String()).Str("asked_for", req.Topic).Msg("two events under one ID")
	}
	return wire.StoredResponse{Own: own}, nil
}

// isOwn reports whether a stored message is the event that the request means, as its
// readers will find it: signed by the key that asks, for this subject.
func (p *Plane) isOwn(v *envelope.Verified, req wire.StoredRequest, msg *jetstream.RawStreamMsg) bool {
	if msg.Subject != p.space.Event(v.From(), req.Topic) {
		return false
	}
	if id := msg.Header[envelope.HeaderMsgID]; len(id) != 1 || id[0] != req.Nonce {
		return false
	}
	u, err := envelope.Parse(envelope.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data})
	if err != nil {
		return false
	}
	if _, err := u.CheckSubject(p.space); err != nil {
		return false
	}
	key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(v.Fields().Key))
	if err != nil {
		return false
	}
	_, err = u.Verify(p.cfg.Mesh.Config.TrustDomain, key, nil)
	return err == nil
}
