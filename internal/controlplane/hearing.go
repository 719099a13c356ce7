package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	// beatsMost is how many beats of one instance are looked at in one interval. It
	// has a beat for each of its sessions, twice over, and what reconnects cost.
	beatsMost = 64
	// canariesMost is the same of all replicas of the control plane together, which
	// share a name that nobody else can write to.
	canariesMost = 4096
	// beatsWaiting bounds those that wait to be verified: all instances of a large
	// mesh that come back at once.
	beatsWaiting = 1 << 15
	// beatsPending bounds, in bytes, what was received and not even counted yet.
	beatsPending = 256 << 20
	// farewellTime bounds the good-bye of a replica.
	farewellTime = 500 * time.Millisecond
)

// hearing is how a replica hears beats. They come on a connection of their own:
// nothing that agents say to the control plane on another one, however much it
// is, keeps them waiting or is a gap in them.
type hearing struct {
	nc    *nats.Conn
	sub   *nats.Subscription
	door  *beatDoor
	queue chan heardBeat
}

type heardBeat struct {
	msg *nats.Msg
	at  time.Time
}

// listenForBeats takes the beats of all instances from a plain subscription, not
// from the stream, which keeps the last message of a subject whatever it is: a
// subscriber gets every beat, and drops what is not signed.
func (p *Plane) listenForBeats(ctx context.Context, service nkeys.KeyPair) error {
	h := &hearing{
		door: newBeatDoor(time.Duration(p.cfg.Mesh.Config.Heartbeat.Interval), p.space,
			p.space.Beat(agentid.Control, agentid.InstanceOf(p.speaker.Key.PublicKey()))),
		queue: make(chan heardBeat, beatsWaiting),
	}
	var err error
	h.nc, err = p.connect(ctx, service, nats.Name("sealmesh control plane (beats)"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			p.log.Warn().Err(err).Msg("connection for beats")
			if errors.Is(err, nats.ErrSlowConsumer) {
				p.monitor.Gap()
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if p.ctx.Err() == nil {
				p.log.Warn().AnErr("cause", err).Msg("lost nats-server for beats")
				p.monitor.Gap()
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			p.log.Info().Msg("nats-server for beats is back")
			p.monitor.Gap()
		}))
	if err != nil {
		return err
	}
	p.hears = h
	h.sub, err = h.nc.Subscribe(p.space.BeatFilter(), p.hear)
	if err == nil {
		err = h.sub.SetPendingLimits(-1, beatsPending)
	}
	if err == nil {
		err = h.nc.FlushTimeout(connectWait)
	}
	if err != nil {
		return fmt.Errorf("controlplane: beats: %w", err)
	}
	p.wg.Go(p.verifyBeats)
	return nil
}

// hear drops at once what nobody has to look at, and queues the rest: whoever
// sends beats as fast as he can must not keep those of others waiting behind the
// verification of his.
func (p *Plane) hear(msg *nats.Msg) {
	now := p.clock()
	ok, first := p.hears.door.lets(msg.Subject, msg.Size(), now)
	if first {
		p.log.Warn().Str("subject", msg.Subject).Int("most", beatsMost).Msg("an instance floods its heartbeats; what is too many is dropped unread")
	}
	if !ok {
		return
	}
	select {
	case p.hears.queue <- heardBeat{msg, now}:
	default:
		// More than so many instances at once: whose beat is lost is not known.
		p.monitor.Gap()
	}
}

// verifyBeats looks at beats one after another, so that a canary comes behind
// whatever was heard before it.
func (p *Plane) verifyBeats() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case b := <-p.hears.queue:
			p.onBeat(b.msg, b.at)
		}
	}
}

func (p *Plane) onBeat(msg *nats.Msg, received time.Time) {
	ctx, cancel := context.WithTimeout(p.ctx, admitTimeout)
	defer cancel()
	v, err := p.gate.Admit(ctx, envelope.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Reply: msg.Reply}, gate.Want{Class: subject.Beat})
	var b heartbeat.Beat
	if err == nil {
		b, err = heartbeat.Decode(v.Data())
	}
	if err != nil {
		p.refusedMessage(audit.Beat, "", msg, err)
		return
	}
	f := v.Fields()
	if f.From == agentid.Control {
		p.canary.Returned(b)
		p.brakes.heard(b, received)
		return
	}
	if err := p.monitor.Observe(f.From, v.Instance(), b, received); err != nil {
		p.log.Debug().Err(err).Str("agent", f.From.String()).Msg("beat not counted")
	}
}

func (p *Plane) sendBeat(_ context.Context, b heartbeat.Beat) error {
	data, err := b.Encode()
	if err != nil {
		return err
	}
	msg, _, _, err := p.speaker.Message(p.space.Beat(b.Agent, b.Instance), envelope.Fields{}, nil, data, nil)
	if err != nil {
		return err
	}
	return p.hears.nc.PublishMsg(msg)
}

// endPulse tells the other replicas that this one ends: they wait for its answers
// no more.
func (p *Plane) endPulse() {
	if p.pulse == nil {
		return
	}
	p.pulse.Close()
	if !p.hears.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewellTime)
	defer cancel()
	err := p.pulse.Leave(ctx)
	if err == nil {
		err = p.hears.nc.FlushWithContext(ctx)
	}
	if err != nil {
		p.log.Debug().Err(err).Msg("no farewell to the other replicas")
	}
}

// beatDoor counts messages before anything of them is looked at. It goes by the
// subject alone, for which the broker vouches: an instance may publish on its own
// and on no other, so none uses up what another has, and there are no more
// subjects than instances.
type beatDoor struct {
	interval time.Duration
	space    subject.Space
	control  string // on which all replicas beat: they have one key

	mu     sync.Mutex
	ends   time.Time // of this interval
	counts map[string]int
	before []string // who had too many in the one before
}

func newBeatDoor(interval time.Duration, space subject.Space, control string) *beatDoor {
	return &beatDoor{interval: interval, space: space, control: control, counts: map[string]int{}}
}

// lets reports whether a message of that size in bytes is to be looked at, and
// whether it is the first of this interval of which its instance has too many.
func (d *beatDoor) lets(subj string, size int, now time.Time) (ok, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !now.Before(d.ends) {
		d.before = d.over()
		clear(d.counts)
		d.ends = now.Add(d.interval)
	}
	n := d.counts[subj] + 1
	d.counts[subj] = n
	if subj == d.control {
		return n <= canariesMost, n == canariesMost+1
	}
	return n <= beatsMost && size <= limits.BeatMessage, n == beatsMost+1
}

// floodersShown bounds those who are named.
const floodersShown = 20

func (d *beatDoor) over() []string {
	var out []string
	for subj, n := range d.counts {
		if n <= beatsMost || subj == d.control || len(out) == floodersShown {
			continue
		}
		if s, err := d.space.Parse(subj); err == nil {
			out = append(out, s.Sender.String()+"/"+s.Instance.String())
		}
	}
	return out
}

// flooding names instances that sent too many beats lately, as AGENT/INSTANCE.
func (d *beatDoor) flooding(now time.Time) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	if now.Before(d.ends) {
		out = append(d.over(), d.before...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
