package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
)

// errHeard keeps an instance alive that this replica did not hear and another
// server did.
var errHeard = errors.New("controlplane: the instance was heard elsewhere")

// heardElsewhere returns errHeard where the stream of beats has one of an instance
// that this replica did not hear, and that is not older than silence may be.
//
// A replica whose server is cut off from the others hears its own canary and
// nobody from there. It can expire none of them as long as that lasts, because what
// it would write takes a majority; but when the network is back it writes before it
// has heard the first of them. The stream, which takes a majority too, has heard
// them all the time.
func (p *Plane) heardElsewhere(ctx context.Context, id agentid.ID, inst agentid.Instance) error {
	msg, err := p.beats.GetLastMsgForSubject(ctx, p.space.Beat(id, inst))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil
	case err != nil:
		// Whoever cannot ask cannot write either, and tries again.
		return fmt.Errorf("controlplane: last beat of %s/%s: %w", id, inst, err)
	}
	age := max(p.clock().Sub(msg.Time), 0)
	if age >= p.cfg.Mesh.Config.Heartbeat.Timeout {
		return nil
	}
	record, err := p.store.Instance(ctx, id, inst)
	if err != nil {
		return err
	}
	// The stream keeps what came last, whatever it is; and one that was heard here
	// is no news.
	b, err := p.storedBeat(msg.Subject, msg.Header, msg.Data, msg.Time, record)
	if err == nil {
		err = p.monitor.Observe(id, inst, b, p.clock().Add(-age))
	}
	if err != nil {
		p.log.Debug().Err(err).Str("agent", id.String()).Msg("last stored beat is no sign of life")
		return nil
	}
	return errHeard
}
