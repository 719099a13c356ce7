package meshclient

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// confirmAfter is how long what came is confirmed later, together with what comes
// meanwhile.
const confirmAfter = 100 * time.Millisecond

// heldMost bounds how many parts are kept that came before their turn.
const heldMost = 2 * streamParts

// Stream makes a call and yields the parts of its answer as they come: what the
// handler sent while it worked ([Request.Send]) and then, with Last set, what it
// returned. An error ends it and says, like that of [Mesh.Call], why there is no
// whole answer; without one the answer is whole: every part came, once, in order,
// of one handler. The call is made when the loop begins, once for each loop, and
// leaving the loop cancels it. A handler that is faster than the loop waits.
//
//	for part, err := range mesh.Stream(ctx, "write:story", prompt) {
//		if err != nil {
//			return err
//		}
//		os.Stdout.Write(part.Data)
//	}
func (m *Mesh) Stream(ctx context.Context, scope string, data []byte, opts ...CallOption) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		call, err := m.outgoing(scope, data, opts)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		call.parts = &parts{ready: make(chan *Reply, heldMost), taken: make(chan struct{}, 1)}
		var last *Reply
		done := make(chan struct{})
		go func() {
			defer close(done)
			last, err = m.call(ctx, call)
		}()
		for {
			part, ok := call.parts.next(done)
			if !ok {
				break
			}
			if !yield(part, nil) {
				cancel()
				<-done // its log line is written, and the handler told
				return
			}
		}
		yield(last, err)
	}
}

// parts is what came and was not taken by the application yet.
type parts struct {
	ready chan *Reply
	taken chan struct{}
}

// next returns the next part; false says that no more than the end is left.
func (p *parts) next(done <-chan struct{}) (*Reply, bool) {
	select {
	case part := <-p.ready:
		p.took()
		return part, true
	case <-done:
	}
	select { // all that came before the end
	case part := <-p.ready:
		return part, true
	default:
		return nil, false
	}
}

func (p *parts) took() {
	select {
	case p.taken <- struct{}{}:
	default:
	}
}

// reception is the answer to one call while it comes. It is used by the goroutine
// that made the call.
type reception struct {
	mesh *Mesh
	want gate.Want
	call outgoingCall
	rec  *audit.Record

	stream    envelope.Stream
	held      map[int]*nats.Msg // parts that came before their turn, by number; nobody has judged them
	key       string            // whose parts they are, once one came
	from      agentid.ID
	confirmed int // what the handler was told
	most      int // and what it may send
	refused   int
}

// await waits for the answer. Whoever is known to work on the call is told when
// nobody waits for it any more.
func (m *Mesh) await(ctx context.Context, p *pending, want gate.Want, c outgoingCall, rec *audit.Record) (*Reply, error) {
	r := &reception{mesh: m, want: want, call: c, rec: rec, most: streamParts, from: c.to}
	reply, over, err := r.run(ctx, p)
	if !over && !r.from.IsZero() && r.from != agentid.Control {
		m.tell(r.from, rec.Correlation, wire.NoteCancel, wire.CancelNote{Request: rec.Nonce})
	}
	return reply, err
}

// run reports beside the result whether the handler has no more to do.
func (r *reception) run(ctx context.Context, p *pending) (reply *Reply, over bool, err error) {
	m, c := r.mesh, r.call
	idle := time.NewTimer(c.idle)
	defer idle.Stop()
	confirm := time.NewTimer(time.Hour)
	confirm.Stop()
	defer confirm.Stop()
	var look <-chan time.Time // at whether the handler was cut, once it is known
	var taken <-chan struct{}
	if c.parts != nil {
		taken = c.parts.taken
	}
	for {
		m.mu.Lock()
		changed := m.rotated
		m.mu.Unlock()
		if err := m.barred(); err != nil {
			return nil, false, err
		}
		select {
		case msg := <-p.replies:
			count := r.stream.Count()
			reply, err := r.take(ctx, msg)
			if reply != nil || err != nil {
				var broken *brokenStream
				return reply, !errors.As(err, &broken), err
			}
			if r.stream.Count() > count {
				if look == nil {
					ticker := time.NewTicker(signEvery)
					defer ticker.Stop()
					look = ticker.C
				}
				idle.Reset(c.idle)
				if r.stream.Count()-r.confirmed >= streamParts/2 {
					r.confirm()
				} else {
					confirm.Reset(confirmAfter)
				}
			}
		case <-confirm.C:
			r.confirm()
		case <-taken:
			if r.room()-r.most >= streamParts/2 {
				r.confirm()
			}
		case <-look:
			if err := m.gone(envelope.Fields{From: r.from, Key: r.key}); err != nil {
				return nil, true, fmt.Errorf("%w: the handler was cut while it worked: %s", ErrUnavailable, denial.Of(err))
			}
		case <-changed:
		case <-p.nobody:
			return nil, true, &unhandled{c.scope}
		case <-idle.C:
			if len(r.held) > 0 {
				return nil, false, &brokenStream{denial.New(denial.BrokenStream, "part %d did not come", r.stream.Count()+1)}
			}
			return nil, false, m.silence(fmt.Errorf("%w: nothing heard for %s", ErrDeadline, c.idle))
		case <-ctx.Done():
			return nil, false, m.silence(ended(ctx))
		case <-m.ctx.Done():
			return nil, false, ErrClosed
		}
	}
}

// unhandled is ErrNobody with the scope.
type unhandled struct{ scope capability.Scope }

func (u *unhandled) Error() string {
	return ErrUnavailable.Error() + ": nobody handles " + u.scope.String() + " now"
}
func (u *unhandled) Unwrap() error { return ErrNobody }

// brokenStream ends a call whose parts do not fit together.
type brokenStream struct{ error }

func (b *brokenStream) Unwrap() error { return b.error }

// take judges a reply and what was waiting for it. It returns the answer when it
// is whole, and an error when there will be none.
func (r *reception) take(ctx context.Context, msg *nats.Msg) (*Reply, error) {
	for msg != nil {
		if r.early(msg) {
			return nil, nil
		}
		reply, err := r.admit(ctx, msg)
		if reply != nil || err != nil {
			return reply, err
		}
		next := r.stream.Count() + 1
		msg = r.held[next]
		delete(r.held, next)
	}
	return nil, nil
}

// early keeps a part whose turn has not come: two connections of a rotation, on
// either side, bring parts in any order, and lost ones are sent again. It goes by
// what the part says of itself; it is judged when it is its turn.
func (r *reception) early(msg *nats.Msg) bool {
	if !partOf(msg) {
		return false
	}
	u, err := envelope.Parse(message(msg))
	if err != nil {
		return false
	}
	f := u.UnsafeFields()
	if f.Part.Number <= r.stream.Count()+1 || r.key != "" && f.Key != r.key {
		return false
	}
	if r.held == nil {
		r.held = map[int]*nats.Msg{}
	}
	if _, ok := r.held[f.Part.Number]; ok || len(r.held) < heldMost {
		r.held[f.Part.Number] = msg
	}
	return true
}

func (r *reception) admit(ctx context.Context, msg *nats.Msg) (*Reply, error) {
	m, want := r.mesh, r.want
	whole := r.stream.Count() == 0 && !partOf(msg)
	if !whole {
		want.Stream = &r.stream
	}
	v, err := m.gate.Admit(ctx, message(msg), want)
	f := v.Fields()
	switch {
	case err == nil:
	case denial.Of(err) == denial.BrokenStream && r.key != "" && f.Key == r.key:
		return nil, &brokenStream{err}
	case denial.Of(err) == denial.Replayed && r.key != "":
		m.unmatched.Add(1) // it was sent again, or came on both connections of a rotation
		r.confirm()
		return nil, nil
	default:
		// Somebody else's answer, or a forged one: it is logged, and the true one
		// may still come. Who knows the nonce must not be able to fill the log
		// with more of them.
		if r.refused++; r.refused <= pendingReplies {
			m.refused(audit.Reply, r.rec.Correlation, r.rec.Scope, msg, err)
		}
		return nil, nil
	}
	r.key, r.from = f.Key, f.From
	last := whole || f.Part.Last
	if last && !whole {
		r.confirm()
	}
	if f.Err != "" && last {
		r.rec.Peer = f.From
		return nil, incoming(f.From, f.Err, v.Data())
	}
	reply := &Reply{
		From: f.From, Instance: v.Instance(), Data: v.Data(), ContentType: f.ContentType,
		Correlation: f.Correlation, Nonce: f.Parent, Last: last,
	}
	if last {
		return reply, nil
	}
	if len(reply.Data) == 0 || r.call.parts == nil {
		return nil, nil // a sign of life, or nobody wants more than the end
	}
	select {
	case r.call.parts.ready <- reply:
	default:
		return nil, &brokenStream{denial.New(denial.BrokenStream, "%q sends more than it was given room for", f.From)}
	}
	return nil, nil
}

// partOf reports whether a reply says that it is part of a stream. Whether that is
// so the gate decides: it refuses one as the other.
func partOf(msg *nats.Msg) bool {
	return strings.Contains(msg.Header.Get(envelope.HeaderEnvelope), ";part=")
}

// room is up to which number the handler may send.
func (r *reception) room() int {
	n := r.stream.Count() + streamParts
	if r.call.parts != nil {
		n -= len(r.call.parts.ready)
	}
	return n
}

// confirm tells the handler what came.
func (r *reception) confirm() {
	r.confirmed, r.most = r.stream.Count(), max(r.most, r.room())
	r.mesh.tell(r.from, r.rec.Correlation, wire.NoteReceived, wire.ReceivedNote{Request: r.rec.Nonce, Parts: r.confirmed, Most: r.most})
}

// barred returns why the agent will not come back by itself, or nil. What is under
// way then has nobody any more whom an answer could reach.
func (m *Mesh) barred() error {
	away := m.Away()
	var d *Denied
	if !errors.As(away, &d) || d.Reason == denial.Expired || d.Reason == denial.Pending {
		return nil
	}
	return away
}
