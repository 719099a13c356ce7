package meshclient

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Times of a request that is worked on.
const (
	// firstSign is how long a handler may work before its caller hears of it. Who
	// called anybody knows from then on whom to tell that it no longer waits.
	firstSign = 250 * time.Millisecond
	// goneTimeout bounds how long it is asked whether the other side of a call was
	// taken out of the mesh: parts wait meanwhile.
	goneTimeout = 500 * time.Millisecond
	// callerLease is for how long a caller may say nothing to what it was sent.
	callerLease = DefaultIdleTimeout
	// lastLease is how long Close waits for a caller to confirm the end of an answer.
	lastLease = 5 * time.Second
)

// ErrCancelled is the cause (context.Cause) with which a handler's context ends
// because its caller no longer waits.
var ErrCancelled = errors.New("meshclient: the caller cancelled its call")

// ErrCallerGone is the cause with which a handler's context ends because nothing
// was heard of its caller for too long, or because its caller was taken out of the
// mesh: then it is a *[Denied] as well, which says why.
var ErrCallerGone = errors.New("meshclient: nothing is heard of the caller")

// callID names a call among all that a handler works on.
type callID struct {
	agent agentid.ID
	nonce string
}

func callOf(v *envelope.Verified) callID { return callID{v.From(), v.Fields().Nonce} }

// by reports whether a verified note is of the instance that made the call: nobody
// else has a say in it.
func (w *work) by(note *envelope.Verified) bool {
	return note.From() == w.request.From() && note.Instance() == w.request.Instance()
}

// work is one request while its handler works on it, and what of the answer is
// under way.
type work struct {
	window
	mesh    *Mesh
	handler *handler
	request *envelope.Verified
	ctx     context.Context // the handler's
	cancel  context.CancelCauseFunc
	timer   *time.Timer // under the window's lock

	slot *slot // its place among those that the handler works on

	ground  ground
	sender  watch
	lenders []*watch // of whose rights it makes use

	// The invitation to send the payload, where it comes in parts.
	invitation string // its nonce
	invited    envelope.Digest
	body       *pending
	kept       share // under the lock of the Mesh

	// What finish leaves for end, in one goroutine.
	answered bool
	whole    *nats.Msg // the answer, where it went out as one message
}

// begun enters a request among those that are worked on. It returns nil where the
// caller cancelled before its turn came.
func (m *Mesh) begun(ctx context.Context, cancel context.CancelCauseFunc, h *handler, v *envelope.Verified, s *slot) *work {
	now := time.Now()
	w := &work{mesh: m, handler: h, request: v, ctx: ctx, cancel: cancel, slot: s, ground: m.groundOf(v, now)}
	w.window = newWindow(w, now)
	if !w.enter() {
		return nil
	}
	w.watched()
	return w
}

func (w *work) enter() bool {
	m, v := w.mesh, w.request
	id := callOf(v)
	m.mu.Lock()
	defer m.mu.Unlock()
	if by, ok := m.cancelled[id]; ok && by.instance == v.Instance() {
		delete(m.cancelled, id)
		return false
	}
	m.works[id] = w
	if !v.Fields().Body.IsZero() {
		w.invitation, w.body = envelope.NewNonce(), newPending("")
		m.pending[w.invitation] = w.body
	}
	w.window.mu.Lock()
	w.timer = time.AfterFunc(m.cfg.firstSign, w.tick)
	w.window.mu.Unlock()
	return true
}

// end takes the request out again. What of the answer may not have come is kept.
func (w *work) end() {
	m := w.mesh
	now := time.Now()
	w.unwatched()
	rest := w.close()
	w.timer.Stop()
	if w.whole != nil {
		rest = []openPart{{0, w.whole, now, now}}
	}
	id := callOf(w.request)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.works, id)
	if w.body != nil {
		delete(m.pending, w.invitation)
	}
	m.bodyRoom.give(w.request.From(), w.kept)
	if w.answered && len(rest) > 0 {
		m.answers.keep(&answer{id: id, instance: w.request.Instance(), parts: rest, ended: now}, m.lookAtAnswers)
	}
}

// message implements outlet: it signs one reply to the request. The first part is
// the invitation, whoever sends it: the caller knows it by that and nothing else.
func (w *work) message(a gate.Answer) (*nats.Msg, error) {
	invitation := w.body != nil && a.Part.Number == 1
	if invitation {
		a.Nonce = w.invitation
	}
	msg, digest, err := w.mesh.reply(w.handler, w.request, a)
	if invitation {
		w.invited = digest
	}
	return msg, err
}

// part implements outlet.
func (w *work) part() int { return w.mesh.part() }

// seal implements outlet: what answers a sealed request is sealed, but for refusals.
func (w *work) seal(a *gate.Answer, piece int) error {
	if !bool(w.request.Fields().Enc) || len(a.Data) == 0 || a.Err == CodeDenied {
		return nil
	}
	data, err := w.mesh.sealAnswer(w.request, piece, a.Data)
	if err == nil {
		a.Data, a.Enc = data, envelope.X1
	}
	return err
}

// publish implements outlet.
func (w *work) publish(msg *nats.Msg) error { return w.mesh.conn().PublishMsg(msg) }

// tick does what is due, and sees whether anybody is there for whom it is done.
func (w *work) tick() {
	if !w.mesh.begin() {
		return
	}
	defer w.mesh.end()
	d := w.due(time.Now())
	if d.done {
		return
	}
	w.mesh.resend(d.again)
	if d.sign {
		if err := w.put(gate.Answer{}, false); err != nil && !errors.Is(err, errOver) {
			w.mesh.log.Debug().Err(err).Msg("no sign of life was sent")
		}
	}
	// The feed tells at once. Where it lost something, this is what finds out.
	ctx, cancel := context.WithTimeout(w.mesh.ctx, goneTimeout)
	cut := w.ground.reread(ctx, w.mesh.peers)
	cancel()
	if cut != nil {
		w.cutOff(cut)
	} else if d.silent >= w.mesh.cfg.callerLease {
		w.cancel(ErrCallerGone)
	}
	w.window.mu.Lock()
	defer w.window.mu.Unlock()
	if !w.over || len(w.open) > 0 {
		w.timer.Reset(max(time.Until(d.next), firstSign))
	}
}

// finish sends what the handler returned: the whole answer, or the last part of
// one. It does not wait until the caller has it: one that never says so would have
// the handler's room meanwhile.
func (w *work) finish(a gate.Answer) error {
	if len(a.Data) > limits.Body {
		return denial.New(denial.TooLarge, "answer of %d bytes, at most %d", len(a.Data), limits.Body)
	}
	if len(a.Data) > w.mesh.inline()-sealRoom || !w.alone() {
		if err := w.last(w.ctx, a); err != nil {
			return err
		}
		w.answered = true
		w.settle()
		return nil
	}
	var msg *nats.Msg
	err := w.seal(&a, 1)
	if err == nil {
		msg, err = w.message(a)
	}
	if err == nil {
		if err = w.publish(msg); err != nil {
			err = unsent(err)
		}
	}
	if err != nil && (denial.Of(err) != "" || msg == nil || w.mesh.ctx.Err() != nil) {
		w.reopen() // something shorter may follow
		return err
	}
	w.answered, w.whole = true, msg // one that did not leave is sent once the connection is back
	return nil
}

// settle waits, in a Mesh that closes and takes with it what it keeps, until the
// caller has the answer.
func (w *work) settle() {
	if !w.mesh.isClosing() || errors.Is(context.Cause(w.ctx), ErrCallerGone) {
		return
	}
	patience := time.NewTimer(lastLease)
	defer patience.Stop()
	for {
		left, changed := w.waiting()
		if left == 0 {
			return
		}
		select {
		case <-changed:
		case <-patience.C:
			return
		case <-w.mesh.ctx.Done():
			return
		}
	}
}

// reply signs one reply to a request.
func (m *Mesh) reply(h *handler, v *envelope.Verified, a gate.Answer) (*nats.Msg, envelope.Digest, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), admitTimeout)
	defer cancel()
	chain, err := m.chainFor(ctx, h.handles)
	if err != nil {
		return nil, envelope.Digest{}, err
	}
	a.Token = chain.Digest()
	return m.speaker.Reply(v, a)
}
