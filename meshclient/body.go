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

// How many requests one Mesh has come in parts at a time, and how much it keeps of
// them until they are worked on. One agent has half of either: what comes on top is
// refused as overload.
var bodiesMost = share{bodies: 2 * DefaultMaxInFlight, bytes: 4 * limits.Body}

// bodyIdle is for how long a caller that was invited to send its payload may send
// nothing of it. It sends again what is not confirmed, every againMost at least.
const bodyIdle = 2 * againMost

// inline is the largest payload that goes out in one message.
func (m *Mesh) inline() int {
	nc := m.conn()
	if nc == nil {
		return headerRoom
	}
	most := int(nc.MaxPayload())
	return min(limits.Payload, max(most-headerRoom, most/2))
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
	failed     chan error // why the rest of it cannot be sent
}

// sendBody begins to send; stop must be called.
func (m *Mesh) sendBody(ctx context.Context, invitation *envelope.Verified, data []byte) *body {
	b := &body{mesh: m, invitation: invitation, failed: make(chan error, 1)}
	b.window = newWindow(b, time.Now())
	ctx, b.cancel = context.WithCancel(ctx)
	m.mu.Lock()
	m.bodies[callOf(invitation)] = b
	m.mu.Unlock()
	b.running.Go(func() {
		if err := b.last(ctx, gate.Answer{Data: data}); err != nil && ctx.Err() == nil {
			b.failed <- err
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

// share is a part of what is kept of requests that come in parts.
type share struct{ bodies, bytes int }

// within reports whether neither is more.
func (s share) within(most share) bool { return s.bodies <= most.bodies && s.bytes <= most.bytes }

func (s share) plus(o share) share { return share{s.bodies + o.bodies, s.bytes + o.bytes} }

func (s share) minus(o share) share { return share{s.bodies - o.bodies, s.bytes - o.bytes} }

// bodyRoom counts what is kept of requests that come in parts. The lock of the Mesh
// guards it.
type bodyRoom struct {
	all share
	of  map[agentid.ID]share
}

// take takes room for more of an agent's.
func (r *bodyRoom) take(from agentid.ID, more share) error {
	all, own := r.all.plus(more), r.of[from].plus(more)
	if !all.within(bodiesMost) || !own.plus(own).within(bodiesMost) {
		return denial.New(denial.Overloaded, "too much of other requests is on its way")
	}
	if r.of == nil {
		r.of = map[agentid.ID]share{}
	}
	r.all, r.of[from] = all, own
	return nil
}

// give gives it back.
func (r *bodyRoom) give(from agentid.ID, less share) {
	r.all = r.all.minus(less)
	if own := r.of[from].minus(less); own != (share{}) {
		r.of[from] = own
	} else {
		delete(r.of, from)
	}
}

// keep takes room for more of the request. What is not given back is so once the
// handler has returned: until then the payload is in memory.
func (w *work) keep(more share) error {
	w.mesh.mu.Lock()
	defer w.mesh.mu.Unlock()
	if err := w.mesh.bodyRoom.take(w.request.From(), more); err != nil {
		return err
	}
	w.kept = w.kept.plus(more)
	return nil
}

// giveBack gives back what keep took.
func (w *work) giveBack(less share) {
	w.mesh.mu.Lock()
	defer w.mesh.mu.Unlock()
	w.mesh.bodyRoom.give(w.request.From(), less)
	w.kept = w.kept.minus(less)
}

// capacity is of how many bytes something is kept that grows to n, and to most at
// most: now and then it is copied, and not each time.
func capacity(data []byte, n, most int) int {
	if n <= cap(data) {
		return cap(data)
	}
	return min(max(n, 2*cap(data)), most)
}

// grown returns data with more behind it, and capacity for as much.
func grown(data, more []byte, capacity int) []byte {
	if capacity > cap(data) {
		data = append(make([]byte, 0, capacity), data...)
	}
	return append(data, more...)
}

// gather takes the payload of a request that comes in parts, after it invited its
// caller to send it.
func (w *work) gather() (data []byte, err error) {
	m, f := w.mesh, w.request.Fields()
	if err := w.keep(share{bodies: 1}); err != nil {
		return nil, err
	}
	defer w.giveBack(share{bodies: 1})
	if err := w.put(gate.Answer{}, false); err != nil {
		return nil, err
	}
	// Whoever promises a payload and does not send it would else have the turns of
	// all whose payload is there.
	w.slot.leave()
	a := gathering{work: w, stream: envelope.BodyStream(f), receipts: newReceipts()}
	a.ahead.room = func(bytes int) bool { return w.keep(share{bytes: bytes}) == nil }
	a.ahead.free = func(bytes int) { w.giveBack(share{bytes: bytes}) }
	defer a.ahead.drop()
	defer a.soon.Stop()
	patience := min(bodyIdle, m.cfg.callerLease)
	idle := time.NewTimer(patience)
	defer idle.Stop()
	stopping := m.stopping
	for !a.stream.Done() {
		select {
		case msg := <-w.body.replies:
			w.body.bytes.Add(-int64(len(msg.Data)))
			for msg != nil && !a.ahead.keep(m.space, msg, a.stream.Count()+1, f.From, f.Key) {
				part, err := a.admit(msg)
				switch {
				case denial.Of(err) == denial.BrokenStream:
					return nil, err
				case err == nil:
					size := capacity(data, len(data)+len(part), f.Body.Size)
					if err := w.keep(share{bytes: size - cap(data)}); err != nil {
						return nil, err
					}
					data = grown(data, part, size)
					idle.Reset(patience)
				}
				msg = a.ahead.take(a.stream.Count() + 1)
			}
		case <-a.soon.C:
			a.confirm()
		case <-idle.C:
			if m.Away() == nil { // else it is not the caller who is silent
				w.cancel(ErrCallerGone)
			}
			idle.Reset(patience)
		case <-stopping: // Close waits for what comes, not for what does not
			stopping, patience = nil, min(patience, lastLease)
			idle.Reset(patience)
		case <-w.ctx.Done():
			return nil, context.Cause(w.ctx)
		}
	}
	a.confirm()
	m.mu.Lock()
	w.body.whole = func() { w.came(a.stream.Count()) } // the last word may be lost
	m.mu.Unlock()
	return data, w.slot.enter(w.ctx)
}

// gathering is the payload of one request while it comes.
type gathering struct {
	receipts
	work    *work
	stream  *envelope.Stream
	ahead   ahead
	refused int
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
	if a.fresh += len(msg.Data); a.many() {
		a.confirm()
	} else {
		a.promise()
	}
	return v.Data(), nil
}

var errNoPart = errors.New("meshclient: not a part of this body")

// confirm tells the caller what came.
func (a *gathering) confirm() {
	a.given()
	a.work.came(a.stream.Count())
}

// came tells the caller how many parts came.
func (w *work) came(n int) {
	w.mesh.tell(w.request.From(), w.request.Fields().Correlation, wire.NoteReceived,
		wire.ReceivedNote{Request: w.invitation, Parts: n, Most: n + streamParts})
}
