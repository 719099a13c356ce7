package meshclient

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// What a request or an answer is cut into that is too large for one message.
const (
	// partBytes leaves room for many to be under way within the bounds of a window.
	partBytes = 256 << 10
	// headerRoom is what a message needs beside its payload; the server counts it.
	headerRoom = 4 << 10
)

// How much of requests that come in parts one Mesh keeps at a time, and of those one
// agent: what comes on top is refused as overload.
const (
	bodiesBytes = 4 * limits.Body
	bodiesShare = 2 * limits.Body
)

// inline is the largest payload that goes out in one message.
func (m *Mesh) inline() int {
	if nc := m.conn(); nc != nil && nc.MaxPayload() > 2*headerRoom {
		return min(limits.Payload, int(nc.MaxPayload())-headerRoom)
	}
	return headerRoom
}

// part is how much of something larger goes out in one message.
func (m *Mesh) part() int { return min(partBytes, m.inline()) }

// body sends the payload of a request in parts to the instance that took it, beside
// whoever waits for the answer.
type body struct {
	window
	mesh       *Mesh
	invitation *envelope.Verified // the first part of the answer
	cancel     context.CancelFunc
	running    sync.WaitGroup
}

// sendBody begins to send; stop must be called.
func (m *Mesh) sendBody(ctx context.Context, invitation *envelope.Verified, data []byte) *body {
	b := &body{mesh: m, invitation: invitation}
	b.window = newWindow(b, time.Now())
	ctx, b.cancel = context.WithCancel(ctx)
	m.mu.Lock()
	m.bodies[callOf(invitation)] = b
	m.mu.Unlock()
	b.running.Go(func() {
		if err := b.last(ctx, gate.Answer{Data: data}); err != nil && ctx.Err() == nil {
			m.log.Warn().Err(err).Str("nonce", invitation.Fields().Parent).Msg("the payload of a call was not sent")
		}
	})
	b.running.Go(func() { b.repeat(ctx) })
	return b
}

// stop ends it and waits until nothing of it is at work.
func (b *body) stop() {
	b.cancel()
	b.close()
	b.running.Wait()
	b.mesh.mu.Lock()
	defer b.mesh.mu.Unlock()
	delete(b.mesh.bodies, callOf(b.invitation))
}

// repeat sends parts again that nobody confirms.
func (b *body) repeat(ctx context.Context) {
	ticker := time.NewTicker(signEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			b.mesh.resend(b.due(time.Now()).again)
		case <-ctx.Done():
			return
		}
	}
}

// by reports whether a verified note is of the instance that took the request.
func (b *body) by(note *envelope.Verified) bool {
	return note.From() == b.invitation.From() && note.Instance() == b.invitation.Instance()
}

// message implements outlet. A body is one piece: its parts need not say that it
// goes on.
func (b *body) message(a gate.Answer) (*nats.Msg, error) {
	a.Part.More = false
	return b.mesh.speaker.Body(b.invitation, a.Part, a.Data)
}

// publish implements outlet.
func (b *body) publish(msg *nats.Msg) error { return b.mesh.conn().PublishMsg(msg) }

// part implements outlet.
func (b *body) part() int { return b.mesh.part() }

// seal implements outlet: what is sealed was so as a whole.
func (b *body) seal(*gate.Answer, int) error { return nil }

// bodyRoom counts what is kept of requests that come in parts. The lock of the Mesh
// guards it.
type bodyRoom struct {
	bytes int
	of    map[agentid.ID]int
}

// takeRoom takes room for more of an agent's, or gives it back where n is negative.
func (m *Mesh) takeRoom(from agentid.ID, n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &m.bodyRoom
	if n > 0 && (a.bytes+n > bodiesBytes || a.of[from]+n > bodiesShare) {
		return denial.New(denial.Overloaded, "too much of other requests is on its way")
	}
	if a.of == nil {
		a.of = map[agentid.ID]int{}
	}
	a.bytes += n
	if a.of[from] += n; a.of[from] == 0 {
		delete(a.of, from)
	}
	return nil
}

// gather takes the payload of a request that comes in parts, after it invited its
// caller to send it.
func (w *work) gather() (data []byte, err error) {
	m, v := w.mesh, w.request
	f := v.Fields()
	kept := 0
	defer func() { m.takeRoom(f.From, -kept) }() //nolint:errcheck // giving back is never refused
	p := newPending("")
	w.invitation = envelope.NewNonce()
	m.mu.Lock()
	m.pending[w.invitation] = p
	m.mu.Unlock()
	defer m.noLonger(w.invitation)
	if err := w.put(gate.Answer{Nonce: w.invitation}, false); err != nil {
		return nil, err
	}
	a := gathering{work: w, stream: envelope.BodyStream(f), soon: stopped()}
	defer a.soon.Stop()
	idle := time.NewTimer(m.cfg.callerLease)
	defer idle.Stop()
	for !a.stream.Done() {
		select {
		case msg := <-p.replies:
			p.bytes.Add(-int64(len(msg.Data)))
			for msg != nil && !a.ahead.keep(m.space, msg, a.stream.Count()+1, f.From, f.Key) {
				part, err := a.admit(msg)
				switch {
				case denial.Of(err) == denial.BrokenStream:
					return nil, err
				case err != nil:
				case part != nil:
					if err := m.takeRoom(f.From, len(part)); err != nil {
						return nil, err
					}
					kept += len(part)
					data = append(data, part...)
					idle.Reset(m.cfg.callerLease)
				}
				msg = a.ahead.take(a.stream.Count() + 1)
			}
		case <-a.soon.C:
			a.confirm()
		case <-idle.C:
			w.cancel(ErrCallerGone)
		case <-w.ctx.Done():
			return nil, context.Cause(w.ctx)
		}
	}
	a.confirm()
	return data, nil
}

// gathering is the payload of one request while it comes.
type gathering struct {
	work     *work
	stream   *envelope.Stream
	ahead    ahead
	fresh    int // bytes that were not confirmed
	soon     *time.Timer
	promised bool
	refused  int
}

// admit judges one part. What somebody else sent is refused and changes nothing.
func (a *gathering) admit(msg *nats.Msg) ([]byte, error) {
	w := a.work
	m, f := w.mesh, w.request.Fields()
	ctx, cancel := context.WithTimeout(w.ctx, admitTimeout)
	defer cancel()
	v, err := m.gate.Admit(ctx, message(msg), gate.Want{Class: subject.Body, From: f.From, Request: &w.invited, Stream: a.stream})
	switch {
	case err == nil:
	case denial.Of(err) == denial.BrokenStream && v.Fields().Key == f.Key:
		return nil, err
	case denial.Of(err) == denial.Replayed:
		m.unmatched.Add(1) // it was sent again, or came on both connections of a rotation
		a.promise()
		return nil, errNoPart
	default:
		if a.refused++; a.refused <= pendingReplies {
			m.refused(audit.Call, v, f.Correlation, w.handler.scope.String(), msg, err)
		}
		return nil, errNoPart
	}
	if a.fresh += len(msg.Data); a.fresh >= streamBytes/4 {
		a.confirm()
	} else {
		a.promise()
	}
	return v.Data(), nil
}

var errNoPart = errors.New("meshclient: not a part of this body")

func (a *gathering) promise() {
	if !a.promised {
		a.promised = true
		a.soon.Reset(confirmAfter)
	}
}

// confirm tells the caller what came.
func (a *gathering) confirm() {
	a.promised, a.fresh = false, 0
	a.soon.Stop()
	w, n := a.work, a.stream.Count()
	w.mesh.tell(w.request.From(), w.request.Fields().Correlation, wire.NoteReceived,
		wire.ReceivedNote{Request: w.invitation, Parts: n, Most: n + streamParts})
}
