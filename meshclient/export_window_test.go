package meshclient

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/internal/gate"
)

// Bounds of a window.
const (
	StreamBytes = streamBytes
	OpenMost    = openMost
	SignEvery   = signEvery
	AgainMost   = againMost
)

// Window is the sending side of an answer, with nothing behind it.
type Window struct{ w window }

type windowOutlet struct {
	say func(part string, data []byte) error
}

func (o windowOutlet) message(a gate.Answer) (*nats.Msg, error) {
	return &nats.Msg{Subject: a.Part.String(), Data: a.Data}, nil
}

func (o windowOutlet) part() int                    { return 4 * streamBytes } // pieces go out whole
func (o windowOutlet) seal(*gate.Answer, int) error { return nil }

func (o windowOutlet) publish(msg *nats.Msg) error { return o.say(msg.Subject, msg.Data) }

// NewWindow returns a window that sends to say.
func NewWindow(say func(part string, data []byte) error) *Window {
	w := &Window{}
	o := windowOutlet{say}
	w.w = newWindow(o, time.Now()) //nolint:govet // nobody has locked it
	return w
}

func (w *Window) Send(ctx, until context.Context, data []byte) error {
	return w.w.send(ctx, until, data)
}
func (w *Window) Put(data []byte, last bool) error {
	return w.w.put(gate.Answer{Data: data}, last)
}
func (w *Window) Confirmed(parts, most int) { w.w.confirmed(parts, most) }
func (w *Window) Alone() bool               { return w.w.alone() }
func (w *Window) Close() int                { return len(w.w.close()) }

// Due returns which parts are sent again, and the rest of what is due.
func (w *Window) Due(now time.Time) (again []string, sign bool, silent time.Duration, next time.Time, done bool) {
	d := w.w.due(now)
	for _, msg := range d.again {
		again = append(again, msg.Subject)
	}
	return again, d.sign, d.silent, d.next, d.done
}

// Open returns how many parts are kept, and of how many bytes, counted and noted.
func (w *Window) Open() (parts, bytes, noted int) {
	w.w.mu.Lock()
	defer w.w.mu.Unlock()
	for _, p := range w.w.open {
		bytes += len(p.msg.Data)
	}
	return len(w.w.open), bytes, w.w.bytes
}

// Sent returns the number of the last part.
func (w *Window) Sent() int {
	w.w.mu.Lock()
	defer w.w.mu.Unlock()
	return w.w.sent
}

// SetCallerLease is what two minutes are for every other Mesh.
func (m *Mesh) SetCallerLease(d time.Duration) { m.cfg.callerLease = d }

// Kept counts the answers that are kept, and their bytes.
func (m *Mesh) Kept() (answers, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answers.order.Len(), m.answers.bytes
}

// Backlog counts the replies that calls have not looked at yet.
func (m *Mesh) Backlog() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pending {
		n += len(p.replies)
	}
	return n
}

// Returns counts how often the connection was there again after it was lost.
func (m *Mesh) Returns() int64 { return m.returns.Load() }

// Bounds of what was answered.
const (
	AnswersMost  = answersMost
	AnswersBytes = answersBytes
)
