package meshclient

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
)

const (
	// confirmWait is how long one answer of the control plane is waited for: there
	// may be another one that answers.
	confirmWait = 5 * time.Second
	// confirmsAtOnce bounds how many events wait for its answer at a time. A lost
	// connection can leave as many open as were under way, and it answers one
	// instance a bounded number of times a second.
	confirmsAtOnce = 4
)

// errKeptOut says that the stream has a message under an event's ID that is not the
// event.
var errKeptOut error = denial.New(denial.Replayed, "the stream has something else under the event's ID: the event is not stored")

// confirmStored finds out whether what the stream has under an event's ID is the
// event: nil, errKeptOut, or that nobody can say. The stream's answer is the same
// for both, and agents cannot read what is stored.
func (m *Mesh) confirmStored(ctx context.Context, topic string, sequence uint64, f envelope.Fields) error {
	waiting, stop := context.WithTimeout(ctx, storeAgain)
	defer stop()
	// In turn also while it is waited for another try: those behind would fare no
	// better.
	select {
	case m.confirms <- struct{}{}:
		defer func() { <-m.confirms }()
	case <-waiting.Done():
		return m.unconfirmed(ctx, ErrDeadline)
	case <-m.ctx.Done():
		return ErrClosed
	}
	for {
		once, cancel := context.WithTimeout(waiting, confirmWait)
		var resp wire.StoredResponse
		err := m.ask(once, wire.SelfStored, wire.StoredRequest{Topic: topic, Sequence: sequence, Nonce: f.Nonce}, &resp)
		cancel()
		var d *Denied
		switch {
		case err == nil && resp.Own:
			return nil
		case err == nil:
			m.log.Warn().Str("reason", string(denial.Replayed)).Str("topic", clip(topic)).Uint64("sequence", sequence).
				Str("nonce", f.Nonce).Msg("event kept out: another one was stored under its ID")
			return errKeptOut
		case errors.As(err, &d) && d.Reason != denial.Stale && d.Reason != denial.DeadlinePassed:
			// Those two are about this one question: it came too late, or the server was
			// started anew after it was signed.
			return maybeStored(denial.New(d.Reason, "asking the control plane: %s", d.Detail))
		case errors.Is(err, ErrClosed):
			return err
		}
		select {
		case <-time.After(storePause):
		case <-waiting.Done():
			return m.unconfirmed(ctx, err)
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
}

// unconfirmed is the error where the control plane did not say what the stream has
// until time was up.
func (m *Mesh) unconfirmed(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return m.silence(maybeStored(err))
}
