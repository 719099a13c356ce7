package meshclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// How something of many parts is sent. A part is kept until the other side says
// that it came, so that neither side's lost connection loses one; all bounds are of
// one window.
const (
	streamParts = 32      // that may be under way before the first word of the other side
	streamBytes = 4 << 20 // that may be kept, unless a single part is larger
	// openMost is how many parts are kept at most: whoever gives room without end
	// and confirms nothing would else have a part of one byte cost a kilobyte.
	openMost = 2 * streamParts
	// signEvery is how long a sender that has nothing to say is silent at most, and
	// after which time a part that was not heard of is sent again.
	signEvery = 2 * time.Second
	// againMost is the longest time after which that is done once more. It is as
	// long again as the part has waited, so that what cannot be brought costs little.
	againMost = 15 * time.Second
)

// outlet makes and sends the messages of a window.
type outlet interface {
	// message signs an answer, or a part of one.
	message(a gate.Answer) (*nats.Msg, error)
	publish(msg *nats.Msg) error
	// part is how many bytes one part has at most.
	part() int
	// seal seals what is about to go out, by the number of the piece from 1, or
	// leaves it as it is.
	seal(a *gate.Answer, piece int) error
}

// window is the sending side of what goes out in parts: it numbers them, holds them
// back until there is room, and keeps them until they came. It knows nothing of what
// they are parts of, and has no clock that runs by itself. It is safe for concurrent
// use.
type window struct {
	out outlet

	turn    chan struct{} // of those who send: one waits for room at a time
	sending sync.Mutex    // held while a part gets its number and leaves; before mu

	mu      sync.Mutex
	sent    int        // number of the last part that was sent
	most    int        // above which none may be sent yet
	open    []openPart // what was sent and is not known to have come
	bytes   int        // of those
	said    time.Time  // when something was sent last
	heard   time.Time  // when the other side said something last
	moved   time.Time  // when it confirmed something last
	ending  bool       // nobody but who ends it has a turn any more
	over    bool       // nothing more is to be sent
	changed chan struct{}

	// What only who has the turn uses.
	pieces int  // that were sent
	torn   bool // one was begun and not sent whole
}

// openPart is a message that may have to be sent again. One that is no part of
// anything has the number 0.
type openPart struct {
	number int
	msg    *nats.Msg
	first  time.Time // when it was sent first
	at     time.Time // and last
}

// again is when it is to be sent again.
func (p *openPart) again() time.Time {
	return p.at.Add(min(max(p.at.Sub(p.first), signEvery), againMost))
}

// again is when a part is to be sent again. While others come one by one, those
// behind them are on their way, however slow that is: what is lost stops all that
// follow. Whoever sent them again would have the way carry all of it twice.
func (w *window) again(p *openPart) time.Time {
	at := p.again()
	if moved := w.moved.Add(signEvery); moved.After(at) {
		return moved
	}
	return at
}

func newWindow(out outlet, now time.Time) window {
	return window{
		out: out, turn: make(chan struct{}, 1), changed: make(chan struct{}),
		most: streamParts, said: now, heard: now,
	}
}

// send sends one piece of content, in as many parts as it takes, each once there is
// room for it, unless either context ends first.
func (w *window) send(ctx, until context.Context, data []byte) error {
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-until.Done():
		return context.Cause(until)
	}
	defer func() { <-w.turn }()
	if len(data) > limits.Body {
		return denial.New(denial.TooLarge, "a part of %d bytes, at most %d", len(data), limits.Body)
	}
	return w.piece(ctx, until, gate.Answer{Data: data}, false)
}

// last ends the window with a last piece, for all parts of which but the last it
// waits like send. Who waits for room meanwhile is told that it is over.
func (w *window) last(until context.Context, a gate.Answer) error {
	w.mu.Lock()
	w.ending = true
	w.signal()
	w.mu.Unlock()
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	return w.piece(until, until, a, true)
}

// piece is called by who has the turn; the contexts are those of send. An error
// answer takes back what was begun of a piece, and nothing else may follow one that
// was given up halfway: the next part would be taken for its end.
func (w *window) piece(ctx, until context.Context, a gate.Answer, last bool) error {
	if w.torn && a.Err == "" {
		return errTorn
	}
	if err := w.out.seal(&a, w.pieces+1); err != nil {
		return err
	}
	for most := w.out.part(); len(a.Data) > most; a.Data = a.Data[most:] {
		if err := w.room(ctx, until, most, last); err != nil {
			return err
		}
		if err := w.put(gate.Answer{Data: a.Data[:most], Part: envelope.Part{More: true}, Enc: a.Enc}, false); err != nil {
			return err
		}
		w.torn = true // until its end is sent
	}
	if !last {
		if err := w.room(ctx, until, len(a.Data), false); err != nil {
			return err
		}
	}
	if err := w.put(a, last); err != nil {
		return err
	}
	w.pieces, w.torn = w.pieces+1, false
	return nil
}

// room waits until there is room for a part. ending says that it is one of the last
// piece.
func (w *window) room(ctx, until context.Context, bytes int, ending bool) error {
	for {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case until.Err() != nil:
			return context.Cause(until)
		}
		w.mu.Lock()
		room := w.sent < w.most && len(w.open) < openMost && (w.bytes == 0 || w.bytes+bytes <= streamBytes)
		over, changed := w.over || w.ending && !ending, w.changed
		w.mu.Unlock()
		if over {
			return errOver
		}
		if room {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-until.Done():
		}
	}
}

// signal wakes those who wait for a change. It is called with mu held.
func (w *window) signal() {
	close(w.changed)
	w.changed = make(chan struct{})
}

var (
	errOver = fmt.Errorf("%w: the handler has returned", ErrConfig)
	errTorn = fmt.Errorf("%w: an earlier Send was given up halfway", ErrConfig)
)

// put signs and sends the next part, room or not. Only one that the server takes
// for its size counts; whatever else goes wrong is made good by sending it again.
func (w *window) put(a gate.Answer, last bool) error {
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
	a.Part.Number, a.Part.Last = n, last
	msg, err := w.out.message(a)
	if err != nil {
		return err
	}
	now := time.Now()
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return errOver
	}
	w.open = append(w.open, openPart{n, msg, now, now}) // before it is sent: the other side may be fast
	w.bytes += len(msg.Data)
	w.sent, w.said, w.over = n, now, last
	w.mu.Unlock()
	err = w.out.publish(msg)
	if !errors.Is(err, nats.ErrMaxPayload) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// Somebody may have confirmed meanwhile what never left.
	if i := slices.IndexFunc(w.open, func(p openPart) bool { return p.number == n }); i >= 0 {
		w.open = slices.Delete(w.open, i, i+1)
		w.bytes -= len(msg.Data)
	}
	w.sent, w.over = n-1, false
	return unsent(err)
}

// alone ends the window where nothing was sent in parts, and reports that. A part
// that is on its way counts.
func (w *window) alone() bool {
	w.sending.Lock()
	defer w.sending.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent > 0 {
		return false
	}
	w.over = true
	return true
}

// reopen takes alone back.
func (w *window) reopen() {
	w.mu.Lock()
	w.over = false
	w.mu.Unlock()
}

// close ends the window. What is returned is not known to have come.
func (w *window) close() []openPart {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest := w.open
	w.over, w.open, w.bytes = true, nil, 0
	return rest
}

// confirmed takes what the other side says of the parts that it has and of the room
// that it has.
func (w *window) confirmed(parts, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if parts < 0 || parts > w.sent {
		return // of parts that were never sent
	}
	w.heard = time.Now()
	if len(w.open) > 0 && w.open[0].number <= parts {
		w.moved = w.heard
	}
	for len(w.open) > 0 && w.open[0].number <= parts {
		w.bytes -= len(w.open[0].msg.Data)
		w.open[0] = openPart{}
		w.open = w.open[1:]
	}
	w.most = max(w.most, most)
	w.signal()
}

// waiting returns how many parts are not known to have come, and what is closed when
// that changes.
func (w *window) waiting() (int, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open), w.changed
}

// due is what has to be done at some time.
type due struct {
	again  []*nats.Msg   // to be sent again
	sign   bool          // nothing was said for a while, and a sign of life is due
	silent time.Duration // for how long the other side has left unconfirmed what it was sent
	next   time.Time     // when to ask again, as far as it is known
	done   bool          // there will be nothing more to do
}

// due returns what has to be done now, and takes it for done.
func (w *window) due(now time.Time) due {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := due{done: w.over && len(w.open) == 0, next: now.Add(signEvery)}
	if len(w.open) == 0 {
		if d.sign = !w.over && (w.sent == 0 || !now.Before(w.said.Add(signEvery))); !d.sign {
			d.next = w.said.Add(signEvery)
		}
		return d
	}
	since := w.open[0].first
	if w.heard.After(since) {
		since = w.heard
	}
	d.silent = now.Sub(since)
	for i := range w.open {
		p := &w.open[i]
		if !now.Before(w.again(p)) {
			p.at = now
			d.again = append(d.again, p.msg)
		}
		if at := w.again(p); at.Before(d.next) {
			d.next = at
		}
	}
	return d
}
