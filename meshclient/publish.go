package meshclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Publish sends an event to whoever subscribes the topic. While the agent is away
// it waits for ctx, at most DefaultIdleTimeout where ctx has no deadline.
//
// On an ordinary topic only those get it who listen now, and Publish returns once
// the message is on its way to the server; Flush waits until it is there. On a
// durable topic it returns once the event is stored. Where the server's answer to
// that stays away the very same message is sent again, which the server tells
// from a second event; what it then has is asked of the control plane. Where that
// is somebody else's event under the same ID, which kept this one out, the event
// is signed anew: it is stored once, and whoever listens live may be given it
// twice. An error that wraps [ErrUnavailable] after that leaves it open whether
// the event is stored, and publishing again makes a second one.
// *[Denied] with denial.QuotaExceeded says that as many events of this agent are
// stored on the topic as may be.
func (m *Mesh) Publish(ctx context.Context, name string, data []byte) error {
	start := m.cfg.clock()
	at := placeOf(ctx)
	rec := audit.Record{
		Kind: audit.Event, Verdict: audit.Sent, Correlation: at.correlation, Parent: at.parent, Nonce: envelope.NewNonce(),
		Sender: m.info.Agent, Instance: m.info.Instance, Scope: clip(name), Payload: payloadDigest(data), Size: len(data),
	}
	err := m.publish(ctx, name, data, at, &rec)
	rec.Duration = m.cfg.clock().Sub(start)
	if err != nil {
		err = m.notHeld(err, "--publish "+name)
		rec.Verdict, rec.Reason, rec.Detail = verdictOf(err), reasonOf(err), err.Error()
	}
	m.audited(rec)
	return err
}

func (m *Mesh) publish(ctx context.Context, name string, data []byte, at place, rec *audit.Record) error {
	scope, err := capability.PublishOf(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return ended(ctx)
	}
	waiting, stop := patient(ctx, DefaultIdleTimeout)
	defer stop()
	chain, err := m.ready(waiting, scope)
	if err != nil {
		return err
	}
	_, durable, err := m.peers.Topic(waiting, name)
	if err != nil {
		return err
	}
	subj := m.space.Event(m.info.Agent, name)
	rec.Chain, rec.Subject = chain.Digest(), subj
	sign := func() (*nats.Msg, envelope.Fields, error) {
		msg, f, _, err := m.speaker.Message(subj, envelope.Fields{
			Nonce: rec.Nonce, Correlation: at.correlation, Parent: at.parent, Hop: at.hop, Token: chain.Digest(),
		}, nil, data, nil)
		if err == nil {
			// Also where the topic is not durable as far as this client knows: it may
			// have become so a moment ago, and what is stored without the ID is refused.
			msg.Header[envelope.HeaderMsgID] = []string{f.Nonce}
		}
		return msg, f, err
	}
	if durable {
		return m.store(waiting, name, sign, rec)
	}
	msg, _, err := sign()
	if err != nil {
		return err
	}
	if err := m.conn().PublishMsg(msg); err != nil {
		return unsent(err)
	}
	return nil
}

// Times of storing an event.
const (
	// storeWait is how long the stream's answer is waited for before the message
	// is sent again.
	storeWait = 3 * time.Second
	// storeAgain is for how long after it was signed a message is sent again: a
	// stream that takes it later than the window allows stores what every reader
	// refuses.
	storeAgain = limits.Window / 2
	// storePause is the pause before another try where there was an answer.
	storePause = 250 * time.Millisecond
)

// storeAnew is how often an event that was kept out is signed anew.
const storeAnew = 2

// store has an event stored. Whoever hears it live and may have events of its own
// stored can store one under its ID, where the first try did not get that far: then
// the stream takes the next try for a copy. Under a new ID, which nobody knows yet,
// it is another event.
func (m *Mesh) store(ctx context.Context, name string, sign func() (*nats.Msg, envelope.Fields, error), rec *audit.Record) error {
	for anew := 0; ; anew++ {
		msg, f, err := sign()
		if err != nil {
			return err
		}
		if err = m.storeOne(ctx, name, msg, f); !errors.Is(err, errKeptOut) || anew == storeAnew {
			return err
		}
		rec.Nonce = envelope.NewNonce()
	}
}

// storeOne sends an event until the stream has it. Each try is the same signed
// message, of which the stream takes one.
func (m *Mesh) storeOne(ctx context.Context, name string, msg *nats.Msg, f envelope.Fields) error {
	var last error
	for try := 0; ; try++ {
		if err := m.present(ctx); err != nil {
			return err
		}
		if try > 0 && *m.epoch.Load() != f.Epoch {
			return maybeStored(denial.New(denial.StaleEpoch, "the epoch rose meanwhile"))
		}
		once, cancel := context.WithTimeout(ctx, storeWait)
		answer, err := m.conn().RequestMsgWithContext(once, msg)
		cancel()
		switch {
		case err == nil:
			var ack gate.StoreAck
			if ack, err = readStored(answer.Data); err == nil {
				if !ack.Duplicate {
					return nil
				}
				return m.confirmStored(ctx, name, ack.Seq, f)
			}
			if final := denial.Of(err); final != "" && !transient(final) {
				return denial.New(final, "topic %q: %s", name, denial.Detail(err))
			}
		case errors.Is(err, nats.ErrMaxPayload):
			return unsent(err)
		case errors.Is(err, nats.ErrConnectionClosed) && m.ctx.Err() != nil:
			return ErrClosed
		}
		last = err
		switch {
		case ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
			return ctx.Err()
		case ctx.Err() != nil:
			return m.silence(maybeStored(fmt.Errorf("%w: %w", ErrDeadline, last)))
		case m.cfg.clock().Sub(f.Time) > storeAgain:
			return m.silence(maybeStored(last))
		}
		// An operator may have made the topic an ordinary one: then it was sent.
		if _, durable, err := m.peers.Topic(ctx, name); err == nil && !durable {
			return nil
		}
		pause := storePause
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
			pause = 0 // it was long enough
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-m.ctx.Done():
			return ErrClosed
		}
	}
}

// maybeStored says that nobody knows whether the event is stored.
func maybeStored(err error) error {
	return fmt.Errorf("%w: the event may be stored or not, publishing again makes a second one: %w", ErrUnavailable, err)
}

// tooLarge is the server's code for a message that the stream takes in no case.
const tooLarge = 10054

// ackMost bounds the answer of the stream.
const ackMost = 4 << 10

var errStrangeAck = fmt.Errorf("%w: answer of the stream does not parse", ErrUnavailable)

// readStored reads the stream's answer to an event. Nobody signed it: it says
// what a broker that can drop the message anyway wants to have believed. Only an
// acknowledgement by the right stream is one. That it is a duplicate says that the
// stream has some message under this ID, and where, and not whose that is.
func readStored(data []byte) (gate.StoreAck, error) {
	if len(data) > ackMost {
		return gate.StoreAck{}, errStrangeAck
	}
	ack, err := gate.ReadStoreAck(data)
	if err != nil {
		return gate.StoreAck{}, errStrangeAck
	}
	switch {
	case ack.Error.Full():
		err = denial.New(denial.QuotaExceeded, "as many events of this agent are stored as may be")
	case ack.Error != nil && ack.Error.Code == tooLarge:
		err = denial.New(denial.TooLarge, "the stream takes no message of this size")
	case ack.Error != nil:
		err = fmt.Errorf("%w: stream: %.120q (%d)", ErrUnavailable, ack.Error.Text, ack.Error.Code)
	case !ack.By(subject.EventsStream):
		err = fmt.Errorf("%w: answer is not the stream's", ErrUnavailable)
	}
	return ack, err
}

// Flush waits until the server has everything that was sent so far, at most a few
// seconds where ctx has no deadline.
func (m *Mesh) Flush(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, connectTimeout)
		defer cancel()
	}
	if err := m.conn().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}
