package meshclient

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Times of pulling.
const (
	// pullExpires is how long the server holds a pull for which there is nothing.
	pullExpires = 5 * time.Second
	// pullLost is after how long one is made again to which nobody said anything.
	pullLost = pullExpires + 2*time.Second
	// Pauses after an answer that something is wrong with the consumer.
	pullPauseLeast = 250 * time.Millisecond
	pullPauseMost  = 10 * time.Second
	// settleMost bounds how long the server may take to look at a pull.
	settleMost = time.Second
	// pullRoom is how many messages may wait at one puller. It asks for one at a
	// time, so more come only after answers that were late.
	pullRoom = 64
)

// puller takes the events of a durable subscription over one connection, one at a
// time: nothing that it has not worked on is in its hands, so a rotation or the
// end of the process loses nothing and hands nothing out twice.
type puller struct {
	link    *link
	durable *durable
	inbox   string // of which nobody else knows the last token
	sub     *nats.Subscription
	came    chan *nats.Msg
	asked   uint64
	open    bool          // nobody said anything yet to what was asked last
	trouble int           // answers in a row that something is wrong
	done    chan struct{} // closed when it is over
}

// delivery is one message that the subscription's own consumer handed out.
type delivery struct {
	msg *nats.Msg
	ack subject.Ack
}

// attachDurable begins to pull once the connection before this one no longer
// does. It is called with Mesh.attaching held.
func (l *link) attachDurable(d *durable) error {
	m := l.mesh
	p := &puller{
		link: l, durable: d, came: make(chan *nats.Msg, pullRoom), done: make(chan struct{}),
		inbox: subject.InboxPrefix(m.info.Agent, m.info.Instance) + ".pull." + envelope.NewNonce() + ".",
	}
	var err error
	if p.sub, err = l.nc.ChanSubscribe(p.inbox+"*", p.came); err != nil {
		return fmt.Errorf("meshclient: subscribing for %s: %w", d.name, err)
	}
	l.mu.Lock()
	l.pullers = append(l.pullers, p)
	l.mu.Unlock()
	go p.run() // endPulls waits for it
	return nil
}

// endPulls stops pulling and waits until what was handed out here is worked on. A
// pull for which there was nothing runs out in a few seconds; whoever cannot wait
// for that gives it up, and what is on its way at that moment comes again, later.
func (l *link) endPulls(ctx context.Context, atOnce bool) {
	l.mu.Lock()
	pullers := l.pullers
	l.pullers = nil
	l.mu.Unlock()
	close(l.halt)
	if atOnce {
		close(l.cut)
	}
	for _, p := range pullers {
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
	}
}

// run pulls until the connection is replaced, the subscription ends or the Mesh
// closes.
func (p *puller) run() {
	defer close(p.done)
	select {
	case p.durable.turn <- struct{}{}:
		defer func() { <-p.durable.turn }()
	case <-p.link.halt: // the next connection waits for the same turn
	case <-p.durable.ended:
	case <-p.link.mesh.stopping:
	}
	defer p.leave()
	for !p.over() {
		if !p.link.nc.IsConnected() {
			p.pause(time.Second)
			continue
		}
		got, ok := p.next()
		if ok {
			p.trouble = 0
			if d := p.link.mesh.onStored(p, got); d > 0 {
				p.pause(d)
			}
		}
	}
}

// over reports whether no more is to be pulled here.
func (p *puller) over() bool {
	select {
	case <-p.link.halt:
	case <-p.durable.ended:
	case <-p.link.mesh.stopping:
	default:
		return p.link.nc.IsClosed()
	}
	return true
}

// pause waits, but not past the end or a new beginning.
func (p *puller) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.link.again():
	case <-p.link.halt:
	case <-p.durable.ended:
	case <-p.link.mesh.stopping:
	}
}

// next asks for one message and waits for what the server says to that. A pull
// cannot be taken back, so where the connection is replaced it is left to run out:
// what it still brings is worked on here.
func (p *puller) next() (got delivery, ok bool) {
	again := p.link.again()
	p.asked++
	inbox := p.inbox + strconv.FormatUint(p.asked, 10)
	if err := p.ask(inbox, pullRequest{Batch: 1, Expires: pullExpires}); err != nil {
		p.wrong(err.Error())
		return delivery{}, false
	}
	p.open = true
	lost := time.NewTimer(pullLost)
	defer lost.Stop()
	halt := p.link.halt
	for {
		select {
		case msg := <-p.came:
			if status := statusOf(msg); status != "" {
				if msg.Subject != inbox {
					continue // of a pull that was given up
				}
				switch status {
				case "100":
					continue
				case "404", "408":
					p.open, p.trouble = false, 0
				default:
					p.open = false
					p.wrong(status + " " + msg.Header.Get("Description"))
				}
				return delivery{}, false
			}
			if got, ok = p.own(msg); ok {
				p.open = false
				return got, true
			}
		case <-halt:
			if !p.link.nc.IsConnected() {
				return delivery{}, false // nothing comes of it
			}
			halt = nil
		case <-lost.C:
			p.open = false
			return delivery{}, false
		case <-again:
			p.open = false
			return delivery{}, false
		case <-p.link.cut:
			return delivery{}, false
		case <-p.durable.ended:
			return delivery{}, false
		case <-p.link.mesh.stopping:
			return delivery{}, false
		}
	}
}

// pullRequest is the body of a pull.
type pullRequest struct {
	Batch   int           `json:"batch"`
	Expires time.Duration `json:"expires,omitempty"`
	NoWait  bool          `json:"no_wait,omitempty"`
}

func (p *puller) ask(inbox string, r pullRequest) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.link.nc.PublishRequest(subject.Pull(p.durable.consumer), inbox, body)
}

// statusOf is what the server says in place of a message, and empty for one.
func statusOf(msg *nats.Msg) string {
	if len(msg.Data) != 0 || msg.Reply != "" {
		return ""
	}
	return msg.Header.Get("Status")
}

// own takes what this subscription's consumer handed out. Anything else somebody
// had delivered here.
func (p *puller) own(msg *nats.Msg) (delivery, bool) {
	ack, err := subject.ParseAck(msg.Reply)
	if err == nil && ack.Stream == subject.EventsStream && ack.Consumer == p.durable.consumer {
		return delivery{msg, ack}, true
	}
	p.link.mesh.refused(audit.Event, nil, "", "", msg,
		denial.New(denial.ForeignDelivery, "was not handed out by consumer %q: %.160q", p.durable.consumer, msg.Reply))
	return delivery{}, false
}

// wrong notes that nothing can be pulled now, and waits a little longer each
// time.
func (p *puller) wrong(what string) {
	if p.trouble++; p.trouble == 1 || p.trouble%16 == 0 {
		p.link.mesh.log.Warn().Str("durable", p.durable.name).Str("status", clip(what)).Msg("nothing can be pulled; trying again")
	}
	p.pause(min(pullPauseLeast<<min(p.trouble-1, 8), pullPauseMost))
}

// leave ends the subscription. What was handed out and not looked at goes to
// whoever pulls next.
func (p *puller) leave() {
	if p.open && p.link.nc.IsConnected() {
		p.settle()
	}
	if p.sub.Drain() == nil && p.link.nc.IsConnected() {
		// The answer says that the server sends no more.
		if err := p.link.nc.FlushTimeout(leaveTimeout); err != nil {
			p.link.mesh.log.Debug().Err(err).Msg("pulling ended without the server's word")
		}
	}
	for {
		select {
		case msg := <-p.came:
			p.giveBack(msg)
		default:
			return
		}
	}
}

// settle waits until the server knows of the pull that is open. It forgets one
// whose inbox is gone, but hands an event out into the void for one whose inbox
// goes before it was looked at, and that event comes again half a minute late.
// Pulls are looked at in turn, so the answer to another one, which waits for
// nothing, says that it was.
func (p *puller) settle() {
	end := p.inbox + "end"
	if p.ask(end, pullRequest{Batch: 1, NoWait: true}) != nil {
		return
	}
	late := time.NewTimer(settleMost)
	defer late.Stop()
	for answers := 0; answers < 2; {
		select {
		case msg := <-p.came:
			if p.giveBack(msg) {
				answers++ // of either pull
			} else if statusOf(msg) != "" && msg.Subject == end {
				return
			}
		case <-late.C:
			return
		}
	}
}

// giveBack has an event handed out again that nobody here will work on.
func (p *puller) giveBack(msg *nats.Msg) bool {
	if statusOf(msg) != "" {
		return false
	}
	got, ok := p.own(msg)
	if ok {
		p.link.mesh.nak(got, 0)
	}
	return ok
}
