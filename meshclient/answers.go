package meshclient

import (
	"container/list"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// What was answered is kept for a while after its handler returned, the very
// messages: a connection that broke at that moment, on either side, would else cost
// the answer. It is said again once this agent's own connection is back, to a caller
// who asks for it, and what went out in parts until it is confirmed. Nothing is
// worked on again for that, and the oldest make room.
const (
	answerFor    = time.Minute
	answersMost  = 1024
	answersBytes = 2 * limits.Payload
	// messageCost is what a message takes beside its payload.
	messageCost = 1 << 10
	// A caller may ask askedMost times for one answer, askedLeast apart: a note is
	// small, and an answer need not be.
	askedMost  = 8
	askedLeast = time.Second
)

// answer is what of one answer is not known to have come.
type answer struct {
	id       callID
	instance agentid.Instance // that may ask for it
	parts    []openPart       // one of number 0 where it is a whole answer
	bytes    int
	ended    time.Time
	asked    time.Time // when somebody asked last and was heard
	times    int       // how often
}

// whole reports whether the answer is one message, which nobody confirms.
func (a *answer) whole() bool { return a.parts[0].number == 0 }

// answers are those of a Mesh, whose lock guards them. The zero value is ready.
type answers struct {
	all   map[callID]*list.Element
	order list.List // of *answer, oldest first
	bytes int
	timer *time.Timer // nil: there is nothing to look at
}

func (s *answers) find(id callID) *answer {
	if e := s.all[id]; e != nil {
		return e.Value.(*answer)
	}
	return nil
}

func (s *answers) drop(id callID) {
	e := s.all[id]
	if e == nil {
		return
	}
	s.bytes -= s.order.Remove(e).(*answer).bytes
	delete(s.all, id)
}

// keep takes an answer in. look is called once it is time to look at what is kept.
func (s *answers) keep(a *answer, look func()) {
	s.drop(a.id)
	for i := range a.parts {
		a.bytes += len(a.parts[i].msg.Data) + messageCost
	}
	for s.order.Len() >= answersMost || s.order.Len() > 0 && s.bytes+a.bytes > answersBytes {
		s.drop(s.order.Front().Value.(*answer).id)
	}
	if s.all == nil {
		s.all = map[callID]*list.Element{}
	}
	s.all[a.id] = s.order.PushBack(a)
	s.bytes += a.bytes
	if s.timer == nil {
		s.timer = time.AfterFunc(signEvery, look)
	}
}

// confirmed notes that parts came, and forgets an answer of which all did.
func (s *answers) confirmed(a *answer, parts int) {
	for len(a.parts) > 0 && a.parts[0].number <= parts {
		cost := len(a.parts[0].msg.Data) + messageCost
		a.bytes, s.bytes = a.bytes-cost, s.bytes-cost
		a.parts[0] = openPart{}
		a.parts = a.parts[1:]
	}
	if len(a.parts) == 0 {
		s.drop(a.id)
	}
}

// askedFor returns what a caller gets who asks for an answer. Parts that were sent a
// moment ago may be on their way.
func (a *answer) askedFor(now time.Time) (again []*nats.Msg) {
	if a.times >= askedMost || now.Sub(a.asked) < askedLeast {
		return nil
	}
	for i := range a.parts {
		if p := &a.parts[i]; p.number == 0 || now.Sub(p.at) >= askedLeast {
			p.at = now
			again = append(again, p.msg)
		}
	}
	if len(again) > 0 {
		a.asked, a.times = now, a.times+1
	}
	return again
}

// lookAtAnswers forgets what is old and sends parts again that nobody confirms.
func (m *Mesh) lookAtAnswers() {
	if m.ctx.Err() != nil || !m.begin() {
		return
	}
	defer m.end()
	now := time.Now()
	var again []*nats.Msg
	m.mu.Lock()
	s := &m.answers
	for s.order.Len() > 0 {
		oldest := s.order.Front().Value.(*answer)
		if now.Sub(oldest.ended) < answerFor {
			break
		}
		if !oldest.whole() {
			m.log.Warn().Str("nonce", oldest.id.nonce).Str("peer", oldest.id.agent.String()).Msg("the caller did not confirm the end of its answer")
		}
		s.drop(oldest.id)
	}
	m.dropLost()
	for e := s.order.Front(); e != nil; e = e.Next() {
		a := e.Value.(*answer)
		for i := range a.parts {
			if p := &a.parts[i]; p.number > 0 && !now.Before(p.again()) {
				p.at = now
				again = append(again, p.msg)
			}
		}
	}
	if s.order.Len() > 0 {
		s.timer.Reset(signEvery)
	} else {
		s.timer = nil
	}
	m.mu.Unlock()
	m.resend(again)
}

// dropLost forgets what was answered to callers that are out of the mesh: nothing more
// is sent to them. It is called with the lock held.
func (m *Mesh) dropLost() {
	known := m.peers.Known()
	for e := m.answers.order.Front(); e != nil; {
		a := e.Value.(*answer)
		e = e.Next()
		if out(known.Instance(a.id.agent, a.instance)) {
			m.answers.drop(a.id)
		}
	}
}

// returned is called when the connection is there again after it was lost: calls ask
// for what it may have swallowed, and what was answered is said again.
func (m *Mesh) returned() {
	m.returns.Add(1)
	m.announce()
	m.background(m.sayAgain)
}

// sayAgain sends everything once more that was answered lately: this agent's own
// connection is back, and what broke it may have swallowed some of it.
func (m *Mesh) sayAgain() {
	now := time.Now()
	var again []*nats.Msg
	m.mu.Lock()
	m.dropLost()
	for e := m.answers.order.Front(); e != nil; e = e.Next() {
		a := e.Value.(*answer)
		for i := range a.parts {
			a.parts[i].at = now
			again = append(again, a.parts[i].msg)
		}
	}
	m.mu.Unlock()
	m.resend(again)
}

// resend sends messages as they are. Who has one already refuses it as a replay, or
// waits for none any more.
func (m *Mesh) resend(again []*nats.Msg) {
	for _, msg := range again {
		m.conn().PublishMsg(msg) //nolint:errcheck // it is sent again until it came, or asked for
	}
}

// copied takes note of a request that was refused because it had come before. Its
// caller sends one again, the very message, after its connection broke: it knows
// neither whether the request came, nor who to ask for the answer. What was answered
// is said again; nothing is worked on again, and a handler that still works gives
// signs of life anyway. Anybody else who sends a copy has no more of it than that the
// caller is told a second time.
func (m *Mesh) copied(msg *nats.Msg) {
	u, err := envelope.Parse(message(msg))
	if err != nil {
		return
	}
	f := u.UnsafeFields()
	var again []*nats.Msg
	m.mu.Lock()
	if a := m.answers.find(callID{f.From, f.Nonce}); a != nil {
		again = a.askedFor(time.Now())
	}
	m.mu.Unlock()
	m.resend(again)
}
