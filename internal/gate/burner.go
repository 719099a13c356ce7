package gate

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Burner uses up a nonce in the shared store.
type Burner interface {
	// Burn returns nil if this was the first use, denial.Replayed if it was
	// not, and denial.ReplayUnavailable if that could not be decided.
	Burn(ctx context.Context, dotted string, sender agentid.ID, nonce string) error
}

// NATSBurner burns nonces in the bucket MESH_REPLAY, where the first write
// wins. The write is empty and has no header at all: with a Nats-Msg-Id the
// server would answer a replay with success.
//
// Writes of many messages at a time leave together, and their answers come on
// one subscription of each connection. It is safe for concurrent use, and holds
// no more than what waits for an answer.
type NATSBurner struct {
	// Conn returns the connection to use, which may change; nil: there is none.
	Conn func() *nats.Conn
	// Since is the time from which replays can be told apart, as the newest tick
	// says. A store that went back is refused until that has risen; where Since is
	// nil, until the store has caught up.
	Since func() time.Time

	order    sequence
	mu       sync.Mutex
	now, old *burnLine // two connections may be in use while one replaces the other
}

// Burn implements Burner. It never repeats a write whose answer got lost: the
// second try would meet the first one's record, and taking that for a replay or
// for one's own write are both guesses.
func (b *NATSBurner) Burn(ctx context.Context, dotted string, sender agentid.ID, nonce string) error {
	err := ctx.Err()
	if err == nil {
		var l *burnLine
		if l, err = b.line(b.Conn()); err == nil {
			var data []byte
			began := b.began()
			if data, err = l.write(ctx, subject.KV(ReplayBucket, subject.ReplayKey(dotted, sender, nonce))); err == nil {
				seq, ok := firstSeq(data)
				if !ok {
					if seq, err = burnt(data); err != nil {
						return err
					}
				}
				return b.order.end(began, seq)
			}
		}
	}
	return denial.New(denial.ReplayUnavailable, "shared replay store: %w", err)
}

// plainAck begins the server's answer to a write that it took.
var plainAck = []byte(`{"stream":"` + subject.KVStream(ReplayBucket) + `","seq":`)

func (b *NATSBurner) began() place {
	if b.Since == nil {
		return b.order.begin(time.Time{})
	}
	return b.order.begin(b.Since())
}

// line returns what is under way on a connection.
func (b *NATSBurner) line(nc *nats.Conn) (*burnLine, error) {
	if nc == nil {
		return nil, nats.ErrInvalidConnection
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range [...]*burnLine{b.now, b.old} {
		if l != nil && l.nc == nc {
			return l, nil
		}
	}
	// Whoever may send to a stream can aim its answer at any subject, so nobody
	// else may know on which one an answer is waited for.
	l := &burnLine{nc: nc, prefix: nc.NewInbox() + "." + envelope.NewNonce() + ".", waiting: map[uint64]*burning{}}
	sub, err := nc.Subscribe(l.prefix+"*", l.answered)
	if err != nil {
		return nil, err
	}
	b.now, b.old = l, b.now
	sub.SetClosedHandler(func(string) { b.gone(l) })
	return l, nil
}

// gone forgets a connection that was closed; what waits there waits in vain.
func (b *NATSBurner) gone(l *burnLine) {
	b.mu.Lock()
	switch l {
	case b.now:
		b.now, b.old = b.old, nil
	case b.old:
		b.old = nil
	}
	b.mu.Unlock()
	l.end()
}

// burnLine is what is under way on one connection. Nobody looks at an answer
// whose number is not waited for, and no number is used twice.
type burnLine struct {
	nc     *nats.Conn
	prefix string // of the subjects on which answers come; the number follows

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*burning
	queue   []unsent // what leaves next, together
	spare   []unsent // room for it
	sending bool     // somebody sends the queue
	ended   bool
}

type unsent struct {
	number  uint64
	subject string
}

// burning is one write that waits. They are used again: each has a timer.
type burning struct {
	answer chan burnAnswer // has room for one, and gets no second one
	timer  *time.Timer
}

type burnAnswer struct {
	data []byte
	err  error
}

var burnings = sync.Pool{New: func() any {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &burning{make(chan burnAnswer, 1), timer}
}}

// write makes one write and waits for its answer until ctx ends, for readTimeout
// at most.
func (l *burnLine) write(ctx context.Context, subj string) ([]byte, error) {
	w := burnings.Get().(*burning)
	w.timer.Reset(readTimeout)
	number := l.send(w, subj)
	var a burnAnswer
	var err error
	select {
	case a = <-w.answer:
	case <-ctx.Done():
		err = ctx.Err()
	case <-w.timer.C:
		err = context.DeadlineExceeded
	}
	if err != nil && !l.forget(number) {
		a, err = <-w.answer, nil // it has come at this moment
	}
	w.timer.Stop()
	burnings.Put(w)
	if err == nil {
		err = a.err
	}
	return a.data, err
}

// send has a write leave, and returns the number under which it is waited for.
//
// The client library flushes whenever the goroutine that published waits, so that
// writes of many goroutines would leave one by one, each with a system call and a
// TLS record of its own. Where others wait already, one goroutine sends what all
// of them have at the moment.
func (l *burnLine) send(w *burning, subj string) uint64 {
	l.mu.Lock()
	l.last++
	number := l.last
	if l.ended {
		l.mu.Unlock()
		w.answer <- burnAnswer{err: nats.ErrConnectionClosed}
		return number
	}
	l.waiting[number] = w
	if len(l.waiting) == 1 && !l.sending {
		l.mu.Unlock()
		l.publish(unsent{number, subj})
		return number
	}
	l.queue = append(l.queue, unsent{number, subj})
	begin := !l.sending
	l.sending = true
	l.mu.Unlock()
	if begin {
		go l.sendQueue()
	}
	return number
}

// sendQueue sends until nothing is left to be sent.
func (l *burnLine) sendQueue() {
	for {
		runtime.Gosched() // whoever is about to write is not left behind
		l.mu.Lock()
		queue := l.queue
		if len(queue) == 0 {
			l.sending = false
			l.mu.Unlock()
			return
		}
		l.queue, l.spare = l.spare[:0], nil
		l.mu.Unlock()
		for _, u := range queue {
			l.publish(u)
		}
		clear(queue)
		l.mu.Lock()
		l.spare = queue
		l.mu.Unlock()
	}
}

func (l *burnLine) publish(u unsent) {
	reply := string(strconv.AppendUint(append(make([]byte, 0, 128), l.prefix...), u.number, 36))
	if err := l.nc.PublishRequest(u.subject, reply, nil); err != nil {
		l.settle(u.number, burnAnswer{err: err})
	}
}

func (l *burnLine) answered(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[len(l.prefix):], 36, 64)
	if err != nil {
		return
	}
	a := burnAnswer{data: m.Data}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		a.err = nats.ErrNoResponders
	}
	l.settle(number, a)
}

// settle gives a write its answer, if it still waits.
func (l *burnLine) settle(number uint64, a burnAnswer) {
	l.mu.Lock()
	w := l.waiting[number]
	delete(l.waiting, number)
	l.mu.Unlock()
	if w != nil {
		w.answer <- a
	}
}

// forget stops waiting; false says that the answer is on its way to who waits.
func (l *burnLine) forget(number uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, waits := l.waiting[number]
	delete(l.waiting, number)
	return waits
}

// end gives up whatever waits.
func (l *burnLine) end() {
	l.mu.Lock()
	waiting := l.waiting
	l.waiting, l.ended = map[uint64]*burning{}, true
	l.mu.Unlock()
	for _, w := range waiting {
		w.answer <- burnAnswer{err: nats.ErrConnectionClosed}
	}
}
