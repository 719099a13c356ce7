package meshclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// After silenceFor without a word of a handler that is known to work, its caller
// asks for what it may have missed. A call of which nothing was heard at all is
// asked for only where its own connection broke, and askMost times: for about as long
// as an answer is kept (answerFor).
const (
	silenceFor = 3 * signEvery
	askMost    = 7
)

// reception is the answer to one call while it comes. It is used by the goroutine
// that made the call.
type reception struct {
	mesh    *Mesh
	want    gate.Want
	call    outgoingCall
	rec     *audit.Record
	request *nats.Msg
	sent    time.Time      // by the clock of the Mesh
	epoch   envelope.Epoch // in which it was sent
	returns int64          // of the connection, as far as what was lost was asked for

	stream  envelope.Stream
	held    ahead
	body    []byte // of the request, where it goes out in parts
	sending *body  // nil: nobody has asked for it
	piece   []byte // what came of a piece that goes on
	pieces  int    // that came whole
	key     string // whose parts they are, once one came
	from    agentid.ID
	handler handling // what is known of who took the call
	refused int

	receipts
	confirmed int // what the handler was told
	most      int // and what it may send
	again     *time.Timer
	asked     int  // how often since something came
	barred    bool // the broker did not let the call through once
	copied    bool // the request was sent again
}

// newReception is made before the request is sent.
func newReception(m *Mesh, want gate.Want, c outgoingCall, rec *audit.Record, request *nats.Msg, f envelope.Fields) *reception {
	return &reception{
		mesh: m, want: want, call: c, rec: rec, request: request, sent: f.Time, epoch: f.Epoch, returns: m.returns.Load(),
		most: streamParts, from: c.to,
	}
}

// await waits for the answer. Whoever is known to work on the call is told when
// nobody waits for it any more.
func (r *reception) await(ctx context.Context, p *pending) (*Reply, error) {
	r.receipts, r.again = newReceipts(), stopped()
	defer r.soon.Stop()
	defer r.again.Stop()
	reply, over, err := r.run(ctx, p)
	if r.sending != nil {
		r.sending.stop()
	}
	switch {
	case over || r.want.From == agentid.Control:
	case !r.from.IsZero():
		r.cancel()
	case errors.Is(err, context.Canceled):
		r.part(p)
	}
	return reply, r.signedBy(err)
}

// stopped returns a timer that does not run.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (r *reception) cancel() {
	r.mesh.tell(r.from, r.rec.Correlation, wire.NoteCancel, wire.CancelNote{Request: r.rec.Nonce})
}

// run reports beside the result whether the handler has no more to do.
func (r *reception) run(ctx context.Context, p *pending) (reply *Reply, over bool, err error) {
	m, c := r.mesh, r.call
	idle := time.NewTimer(c.idle)
	defer idle.Stop()
	// Of what the feed tells of the handler p.look hears. Where it lost something, or
	// nobody was known whom it could tell about, this finds out.
	var look *time.Timer
	var looks <-chan time.Time
	lookIn := func(d time.Duration) {
		if look == nil {
			look = time.NewTimer(d)
			looks = look.C
		}
		look.Reset(d)
	}
	defer func() {
		if look != nil {
			look.Stop()
		}
	}()
	if p.look != nil {
		lookIn(firstSign)
	}
	var taken <-chan struct{}
	if c.parts != nil {
		taken = c.parts.taken
	}
	for {
		var failed <-chan error
		if r.sending != nil {
			failed = r.sending.failed
		}
		m.mu.Lock()
		changed := m.rotated
		m.mu.Unlock()
		if err := m.barred(); err != nil {
			return nil, false, err
		}
		if n := m.returns.Load(); n != r.returns {
			r.returns, r.asked = n, 0
			r.ask()
		}
		select {
		case msg := <-p.replies:
			p.bytes.Add(-int64(len(msg.Data)))
			count := r.stream.Count()
			reply, err := r.take(ctx, msg)
			if reply != nil || err != nil {
				var broken *brokenStream
				return reply, !errors.As(err, &broken), err
			}
			if r.stream.Count() > count {
				if count == 0 {
					r.takenOver(p)
					lookIn(signEvery)
				}
				idle.Reset(c.idle)
				r.asked = 0
				r.again.Reset(silenceFor)
				if r.stream.Count()-r.confirmed >= streamParts/2 || r.many() {
					r.confirm()
				} else {
					r.promise()
				}
			}
		case <-r.soon.C:
			r.confirm()
		case <-r.again.C:
			if r.ofItself() {
				return nil, false, fmt.Errorf("%w: the connection broke while the control plane was asked", ErrUnavailable)
			}
			if err := r.outlived(); err != nil {
				return nil, false, err
			}
			r.ask()
		case <-taken:
			if r.room()-r.most >= streamParts/2 || r.confirmed < r.stream.Count() && !c.parts.full() {
				r.confirm()
			}
		case <-looks:
			lookIn(signEvery)
			if over, err := r.handlerLost(ctx, p, true); err != nil {
				return nil, over, err
			}
		case <-p.look:
			if over, err := r.handlerLost(ctx, p, false); err != nil {
				return nil, over, err
			}
		case <-changed:
		case <-p.barred:
			if err := r.unbar(ctx); err != nil {
				return nil, true, err
			}
		case <-p.nobody:
			return nil, true, &unhandled{c.scope}
		case err := <-failed:
			return nil, false, err
		case <-idle.C:
			if len(r.held.parts) > 0 {
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

// ofItself reports whether the agent asks about itself. The control plane says nothing
// twice, but may be asked the same thing again: whoever asks does that, and does not
// wait for an answer that a lost connection swallowed.
func (r *reception) ofItself() bool { return r.call.scope.Verb() == "self" }

// unbar sends a call again that the broker did not let through, by a connection whose
// grant has it. It was delivered to nobody.
func (r *reception) unbar(ctx context.Context) error {
	m := r.mesh
	switch {
	case r.key != "":
		return nil // somebody took it: it was about another call to the same subject
	case r.barred:
		return denial.New(denial.ScopeNotHeld, "the broker does not let the call through")
	}
	r.barred = true
	if r.rec.Chain != "" { // else it rests on none, and every grant has it
		m.link.Load().uncover(r.rec.Chain)
		if _, err := m.ready(ctx, r.call.scope); err != nil {
			return err
		}
	}
	if err := m.conn().PublishMsg(r.request); err != nil {
		return unsent(err)
	}
	return nil
}

// notLetThrough tells the calls to a subject that the broker refused one.
func (m *Mesh) notLetThrough(subj string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pending {
		if p.subject == subj {
			select {
			case p.barred <- struct{}{}:
			default:
			}
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

// notOpened says that whoever took a sealed call could not open it, an instance that
// came meanwhile for one, so that nobody worked on it.
type notOpened struct{ error }

func (n *notOpened) Unwrap() error { return n.error }

// notBurnt says that whoever was brought a call could not tell it from a replay, so
// that it did not work on it, and nobody else was sent one.
type notBurnt struct{ error }

func (n *notBurnt) Unwrap() error { return n.error }

// take judges a reply and what was waiting for it. It returns the answer when it
// is whole, and an error when there will be none.
func (r *reception) take(ctx context.Context, msg *nats.Msg) (*Reply, error) {
	for msg != nil {
		if r.held.keep(r.mesh.space, msg, r.stream.Count()+1, r.from, r.key) {
			return nil, nil
		}
		reply, err := r.admit(ctx, msg)
		if reply != nil || err != nil {
			return reply, err
		}
		msg = r.held.take(r.stream.Count() + 1)
	}
	return nil, nil
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
		r.promise()
		return nil, nil
	default:
		// Somebody else's answer, or a forged one: it is logged, and the true one
		// may still come. Who knows the nonce must not be able to fill the log
		// with more of them.
		if r.refused++; r.refused <= pendingReplies {
			m.refused(audit.Reply, v, r.rec.Correlation, r.rec.Scope, msg, err)
		}
		return nil, nil
	}
	if r.key == "" {
		r.held.only(f.Key)
		if r.call.to.IsZero() && r.want.From.IsZero() {
			m.takers.note(r.call.scope, f.From)
		}
	}
	r.key, r.from = f.Key, f.From
	r.handler.said(v, m.cfg.clock())
	r.fresh += len(msg.Data)
	last := whole || f.Part.Last
	if last && !whole {
		r.confirm()
	}
	data := v.Data()
	if r.body != nil && r.sending == nil && !last {
		if len(data) > 0 {
			return nil, &brokenStream{denial.New(denial.BrokenStream, "%q begins its answer before it has the request", f.From)}
		}
		r.sending = m.sendBody(ctx, v, r.body)
	}
	if f.Err == "" {
		most := r.call.mostBytes()
		if r.call.sealed {
			most += sealRoom // the bound is on what was sealed
		}
		size := len(r.piece) + len(data)
		if size > most {
			return nil, &brokenStream{denial.New(denial.TooLarge, "answer of more than %d bytes", r.call.mostBytes())}
		}
		if !whole && !r.stream.Piece() {
			r.piece = grown(r.piece, data, capacity(r.piece, size, most)) // nothing, of a sign of life
			return nil, nil
		}
		if len(r.piece) > 0 {
			data, r.piece = grown(r.piece, data, capacity(r.piece, size, size)), nil
		}
	}
	if f.Err != "" && !last {
		return nil, nil // it means nothing before the end
	}
	if data, err = r.open(f, data); err != nil {
		return nil, &brokenStream{err}
	}
	unheard := r.pieces == 0
	r.pieces++
	if f.Err != "" {
		r.rec.Peer = f.From
		err := incoming(f.From, f.Err, data)
		// Whoever sent something before was able to open it.
		if unheard && r.call.sealed && denial.Of(err) == denial.CannotOpen {
			err = &notOpened{err}
		}
		// Nothing is said before that refusal; and of two copies another one may have
		// been worked on.
		if whole && !r.copied && denial.Of(err) == denial.ReplayUnavailable {
			err = &notBurnt{err}
		}
		return nil, err
	}
	reply := &Reply{
		From: f.From, Instance: v.Instance(), Data: data, ContentType: f.ContentType,
		Correlation: f.Correlation, Nonce: f.Parent, Last: last, Sealed: bool(f.Enc),
	}
	if last {
		return reply, nil
	}
	if r.call.parts == nil {
		return nil, nil // nobody wants more than the end
	}
	if !r.call.parts.put(reply) {
		return nil, &brokenStream{denial.New(denial.BrokenStream, "%q sends more than it was given room for", f.From)}
	}
	return nil, nil
}

// open opens what answers a sealed call. All of it must be sealed, but for errors:
// whoever could not open the request says so to everybody.
func (r *reception) open(f envelope.Fields, data []byte) ([]byte, error) {
	switch {
	case bool(f.Enc) && r.call.sealed:
		return r.mesh.openAnswer(f, r.pieces+1, data)
	case bool(f.Enc):
		return nil, denial.New(denial.CannotOpen, "the answer is sealed, and the call was not")
	case r.call.sealed && f.Err == "" && len(data) > 0:
		return nil, denial.New(denial.CannotOpen, "the call was sealed, and its answer is not")
	}
	return data, nil
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

// confirm tells the handler what came. While the application leaves as many bytes as
// a sender keeps, nothing more counts as come, so that no more is sent.
func (r *reception) confirm() {
	r.given()
	if r.call.parts == nil || !r.call.parts.full() || r.stream.Done() {
		r.confirmed = r.stream.Count()
	}
	r.most = max(r.most, r.room())
	r.tellReceived(r.from)
}

// tellReceived tells an agent what came of the call, which asks for all that did not.
func (r *reception) tellReceived(to agentid.ID) {
	r.mesh.tell(to, r.rec.Correlation, wire.NoteReceived, wire.ReceivedNote{Request: r.rec.Nonce, Parts: r.confirmed, Most: r.most})
}

// ask asks for what a lost connection may have swallowed. Who is known to work on the
// call is told what came. Where nothing came the request is sent once more, the very
// message: whoever took it tells, or answers as before, and one that did not get
// there gets there now. Its nonce is used up by whoever took it first, so that it is
// worked on once at most. Of those who handle a scope the server picks one for that,
// which need not be who took the call: whoever is known to take such calls is asked
// besides, and says nothing about a call that it does not know.
func (r *reception) ask() {
	m := r.mesh
	if r.ofItself() {
		r.again.Reset(silenceFor)
	}
	unheard := r.stream.Count() == 0
	if r.want.From == agentid.Control || unheard && r.asked == askMost {
		return
	}
	if unheard && m.cfg.clock().Sub(r.sent) < limits.Window-limits.Ahead {
		copied := *r.request
		copied.Reply = "" // nobody there now does not mean that nobody took it
		r.copied = true
		if err := m.conn().PublishMsg(&copied); err != nil {
			m.log.Debug().Err(err).Msg("a request was not sent again")
		}
	}
	if !r.from.IsZero() {
		r.confirm()
	} else {
		for _, id := range m.takers.list(r.call.scope) {
			r.tellReceived(id)
		}
	}
	r.again.Reset(min(signEvery<<min(r.asked, 8), againMost))
	r.asked++
}

// Calls that nobody waits for any more while it is not known who took them.
const (
	partingMost = 256
	partingFor  = 30 * time.Second
)

// part waits, beside its caller who does not, for the first word of whoever took a
// call to anybody, and tells it that it works in vain.
func (r *reception) part(p *pending) {
	m := r.mesh
	if m.parting.Add(1) > partingMost {
		m.parting.Add(-1)
		return
	}
	rec, later := *r.rec, *r // its caller goes on with its own
	r = &later
	r.rec, r.call.parts = &rec, nil
	r.body = nil // nobody waits for what would be made of it
	p.parting = m.background(func() {
		defer m.parting.Add(-1)
		defer m.noLonger(rec.Nonce)
		end := time.NewTimer(partingFor)
		defer end.Stop()
		for r.from.IsZero() {
			select {
			case msg := <-p.replies:
				p.bytes.Add(-int64(len(msg.Data)))
				if reply, err := r.take(m.ctx, msg); reply != nil || err != nil {
					return
				}
			case <-p.nobody:
				return
			case <-end.C:
				return
			case <-m.ctx.Done():
				return
			}
		}
		r.cancel()
	})
	if !p.parting {
		m.parting.Add(-1)
	}
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
