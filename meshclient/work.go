package meshclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// How an answer of many parts is sent. A part is kept until its caller says that
// it came, so that neither side's lost connection loses one; both bounds are of
// one answer.
const (
	streamParts = 32      // that may be under way
	streamBytes = 4 << 20 // that may be kept, unless a single part is larger
	// signEvery is how long a handler that works is silent at most, and after
	// which time a part that was not heard of is sent again.
	signEvery = 2 * time.Second
	// callerLease is for how long a caller may say nothing to what it was sent.
	callerLease = DefaultIdleTimeout
	// lastLease is the same once the last part was sent.
	lastLease = 15 * time.Second
)

// ErrCancelled is the cause (context.Cause) with which a handler's context ends
// because its caller no longer waits.
var ErrCancelled = errors.New("meshclient: the caller cancelled its call")

// ErrCallerGone is the cause with which a handler's context ends because nothing
// was heard of its caller for too long.
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
	mesh    *Mesh
	handler *handler
	request *envelope.Verified
	ctx     context.Context // the handler's
	cancel  context.CancelCauseFunc

	turn    sync.Mutex // of those who send: one waits for room at a time
	sending sync.Mutex // held while a part gets its number and leaves; before mu

	mu       sync.Mutex
	sent     int        // number of the last part that was sent
	received int        // of the last one that is known to have come
	most     int        // above which none may be sent yet
	open     []openPart // between the two
	bytes    int        // of those
	said     time.Time  // when something was sent last
	heard    time.Time  // when the caller said something last
	over     bool       // nothing more is to be sent
	changed  chan struct{}
	timer    *time.Timer
}

type openPart struct {
	number int
	msg    *nats.Msg
	first  time.Time // when it was sent first
	at     time.Time // and last
}

// begun enters a request among those that are worked on. It returns nil where the
// caller cancelled before its turn came.
func (m *Mesh) begun(ctx context.Context, cancel context.CancelCauseFunc, h *handler, v *envelope.Verified) *work {
	now := time.Now()
	w := &work{
		mesh: m, handler: h, request: v, ctx: ctx, cancel: cancel,
		most: streamParts, said: now, heard: now, changed: make(chan struct{}),
	}
	id := callOf(v)
	m.mu.Lock()
	defer m.mu.Unlock()
	if by, ok := m.cancelled[id]; ok && by.instance == v.Instance() {
		delete(m.cancelled, id)
		return nil
	}
	m.works[id] = w
	w.timer = time.AfterFunc(signEvery, w.tick)
	return w
}

// end takes the request out again.
func (w *work) end() {
	m := w.mesh
	w.timer.Stop()
	w.mu.Lock()
	w.over, w.open = true, nil
	w.mu.Unlock()
	id := callOf(w.request)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.works[id] == w {
		delete(m.works, id)
	}
}

// send sends one part once there is room for it.
func (w *work) send(ctx context.Context, data []byte) error {
	w.turn.Lock()
	defer w.turn.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case w.ctx.Err() != nil:
			return context.Cause(w.ctx)
		}
		w.mu.Lock()
		room := w.sent < w.most && (w.bytes == 0 || w.bytes+len(data) <= streamBytes)
		over, changed := w.over, w.changed
		w.mu.Unlock()
		if over {
			return errOver
		}
		if room {
			return w.put(gate.Answer{Data: data}, false)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-w.ctx.Done():
		}
	}
}

var errOver = fmt.Errorf("%w: the handler has returned", ErrConfig)

// put signs and sends the next part. Only one that the server takes for its size
// counts; whatever else goes wrong is made good by sending it again.
func (w *work) put(a gate.Answer, last bool) error {
	w.sending.Lock()
	defer w.sending.Unlock()
	w.mu.Lock()
	n, over := w.sent+1, w.over
	w.mu.Unlock()
	switch {
	case over:
		return errOver
	case n > limits.Parts || n == limits.Parts && !last:
		return denial.New(denial.TooLarge, "an answer of more than %d parts", limits.Parts)
	}
	a.Part = envelope.Part{Number: n, Last: last}
	msg, err := w.mesh.reply(w.handler, w.request, a)
	if err != nil {
		return err
	}
	now := time.Now()
	w.mu.Lock()
	w.open = append(w.open, openPart{n, msg, now, now}) // before it is sent: its caller may be fast
	w.bytes += len(msg.Data)
	w.sent, w.said, w.over = n, now, last
	w.mu.Unlock()
	err = w.mesh.conn().PublishMsg(msg)
	if !errors.Is(err, nats.ErrMaxPayload) {
		return nil
	}
	w.mu.Lock()
	w.open = w.open[:len(w.open)-1]
	w.bytes -= len(msg.Data)
	w.sent, w.over = n-1, false
	w.mu.Unlock()
	return unsent(err)
}

// tick gives a sign of life where nothing was said for a while, an empty part, and
// sends again what the caller has not confirmed.
func (w *work) tick() {
	if !w.mesh.begin() {
		return
	}
	defer w.mesh.end()
	if err := w.mesh.gone(w.request.Fields()); err != nil {
		w.cancel(fmt.Errorf("%w: %w", ErrCallerGone, err))
	}
	now := time.Now()
	w.mu.Lock()
	if w.over && len(w.open) == 0 {
		w.mu.Unlock()
		return
	}
	var again []*nats.Msg
	if len(w.open) > 0 {
		since := w.open[0].first
		if w.heard.After(since) {
			since = w.heard
		}
		if now.Sub(since) >= callerLease {
			w.cancel(ErrCallerGone)
		}
		for i := range w.open {
			if p := &w.open[i]; now.Sub(p.at) >= signEvery {
				p.at = now
				again = append(again, p.msg)
			}
		}
	}
	sign := len(w.open) == 0 && now.Sub(w.said) >= signEvery
	w.timer.Reset(signEvery)
	w.mu.Unlock()
	for _, msg := range again {
		w.mesh.conn().PublishMsg(msg) //nolint:errcheck // it is sent again until the caller has it
	}
	if sign {
		if err := w.put(gate.Answer{}, false); err != nil && !errors.Is(err, errOver) {
			w.mesh.log.Debug().Err(err).Msg("no sign of life was sent")
		}
	}
}

// gone says whether the other side of a call was taken out of the mesh since. What
// cannot be found out changes nothing: messages are judged one by one.
func (m *Mesh) gone(f envelope.Fields) error {
	ctx, cancel := context.WithTimeout(m.ctx, signEvery)
	defer cancel()
	_, err := m.peers.Sender(ctx, f.From, f.Key)
	switch denial.Of(err) {
	case denial.Revoked, denial.Suspended, denial.UnlistedAgent, denial.UnlistedKey:
		return err
	}
	return nil
}

// confirmed takes what the caller says of the parts that it has.
func (w *work) confirmed(n wire.ReceivedNote) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.Parts < 0 || n.Parts > w.sent {
		return // of parts that were never sent
	}
	w.heard = time.Now()
	for len(w.open) > 0 && w.open[0].number <= n.Parts {
		w.bytes -= len(w.open[0].msg.Data)
		w.open[0] = openPart{}
		w.open = w.open[1:]
	}
	w.received, w.most = max(w.received, n.Parts), max(w.most, n.Most)
	close(w.changed)
	w.changed = make(chan struct{})
}

// finish sends what the handler returned: the whole answer, or the last part of
// one. A last part is kept until its caller has it, who may be connecting anew.
func (w *work) finish(a gate.Answer) error {
	w.sending.Lock() // after a sign of life that is on its way
	w.mu.Lock()
	streamed := w.sent > 0
	w.over = !streamed
	w.mu.Unlock()
	w.sending.Unlock()
	if !streamed {
		msg, err := w.mesh.reply(w.handler, w.request, a)
		if err == nil {
			if err = w.mesh.conn().PublishMsg(msg); err != nil {
				err = unsent(err)
			}
		}
		if err != nil {
			w.mu.Lock()
			w.over = false // something shorter may follow
			w.mu.Unlock()
		}
		return err
	}
	if err := w.put(a, true); err != nil {
		return err
	}
	patience := time.NewTimer(lastLease)
	defer patience.Stop()
	for {
		w.mu.Lock()
		left, changed := len(w.open), w.changed
		w.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return fmt.Errorf("%w: the caller does not confirm the answer", ErrUnavailable)
		case <-w.mesh.ctx.Done():
			return ErrClosed
		case <-w.ctx.Done():
			if cause := context.Cause(w.ctx); errors.Is(cause, ErrCancelled) {
				return cause
			}
			select { // its time is over, and the caller's with it
			case <-changed:
			case <-patience.C:
			case <-time.After(signEvery):
				return context.Cause(w.ctx)
			}
		}
	}
}

// reply signs one reply to a request.
func (m *Mesh) reply(h *handler, v *envelope.Verified, a gate.Answer) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), admitTimeout)
	defer cancel()
	chain, err := m.chainFor(ctx, h.handles)
	if err != nil {
		return nil, err
	}
	a.Token = chain.Digest()
	return m.speaker.Reply(v, a)
}

// cancelledMost bounds how many cancelled calls are remembered whose turn did not
// come yet: what is forgotten is worked on in vain.
const cancelledMost = 1024

// callNoteMost is the longest note about a call in bytes.
const callNoteMost = 256

// noted finds the request that a note of a caller is about, and reports whether
// the note is worth judging: a note goes to all instances of an agent, and one of
// them works on the request. What is read of it here nobody signed.
func (m *Mesh) noted(kind string, msg *nats.Msg) bool {
	if kind != wire.NoteReceived {
		return true
	}
	var n wire.ReceivedNote
	p, err := m.space.Parse(msg.Subject)
	if err != nil || len(msg.Data) > callNoteMost || json.Unmarshal(msg.Data, &n) != nil {
		return true // so that it is refused as what it is
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.works[callID{p.Sender, n.Request}] != nil
}

// takeReceived judges no more than whose call it is: the sender is verified.
func (m *Mesh) takeReceived(v *envelope.Verified) error {
	var n wire.ReceivedNote
	if len(v.Data()) > callNoteMost || json.Unmarshal(v.Data(), &n) != nil {
		return denial.New(denial.BadInput, "note does not parse")
	}
	m.mu.Lock()
	w := m.works[callID{v.From(), n.Request}]
	m.mu.Unlock()
	if w != nil && w.by(v) {
		w.confirmed(n)
	}
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
	if len(m.cancelled) >= cancelledMost {
		oldest, first := id, v.Fields().Time
		for other, c := range m.cancelled {
			if c.at.Before(first) {
				oldest, first = other, c.at
			}
		}
		if oldest == id {
			return nil
		}
		delete(m.cancelled, oldest)
	}
	m.cancelled[id] = cancelled{v.Instance(), v.Fields().Time}
	return nil
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
