package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// The documents that replicas exchange. They go on a subject of CTRL, where
// nobody publishes but the control plane itself; they are signed with its key and
// run for half a minute all the same, so that no border has to hold for the brake
// to stay on.
const (
	kindMonitorOrder  = "monitor-order"
	kindMonitorAnswer = "monitor-answer"

	// verbHold tells that a brake is on, so that it is on everywhere.
	verbHold = "hold"

	// answersWait is how long answers of replicas are awaited.
	answersWait = time.Second
	// ordersMost bounds the orders that are remembered as carried out.
	ordersMost = 1024
	// holdsPerInterval is how often a hold is told again, for replicas that start.
	holdsPerInterval = 3
)

type monitorOrder struct {
	jws.Head
	ID      string           `json:"id"`
	Replica string           `json:"replica"` // that sent it
	At      int64            `json:"at"`      // Unix milliseconds
	Verb    string           `json:"verb"`
	By      string           `json:"by"`
	Reason  string           `json:"reason"`
	Holds   []string         `json:"holds"` // what was seen by who decided
	Alarm   *heartbeat.Alarm `json:"alarm"` // of verbHold
}

type monitorAnswer struct {
	jws.Head
	Order   string              `json:"order"`
	Replica wire.MonitorReplica `json:"replica"`
}

// brakes is what a replica knows of the others.
type brakes struct {
	name string // of this replica, until it is started anew
	host string
	key  nkeys.KeyPair
	pub  string
	sub  *nats.Subscription
	wait time.Duration // for how long a replica is one of the mesh without a beat

	mu    sync.Mutex
	known map[string]time.Time // replicas, by name
	met   bool                 // all that answer have been asked once
	done  map[string]time.Time // orders
}

// replicaName is what the beats of a replica are told apart by.
func replicaName(s heartbeat.Session) string { return agentid.InstanceOf(s.String()).String() }

func (p *Plane) startBrakes(service nkeys.KeyPair) error {
	pub, err := service.PublicKey()
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	host, err := os.Hostname()
	if err != nil || len(host) > limits.LabelText {
		host = ""
	}
	p.brakes = &brakes{
		key: service, pub: pub, host: host, wait: time.Duration(p.cfg.Mesh.Config.Heartbeat.Timeout),
		known: map[string]time.Time{}, done: map[string]time.Time{},
	}
	return nil
}

// shareBrakes begins to listen to the other replicas, once this one has a name.
func (p *Plane) shareBrakes() error {
	p.brakes.mu.Lock()
	p.brakes.name = replicaName(p.pulse.Session())
	p.brakes.mu.Unlock()
	var err error
	p.brakes.sub, err = p.ctrl.Subscribe(p.space.Monitor(), p.onMonitorOrder)
	if err == nil {
		err = p.ctrl.FlushTimeout(connectWait)
	}
	if err != nil {
		return fmt.Errorf("controlplane: brakes: %w", err)
	}
	p.wg.Go(p.meetReplicas)
	p.wg.Go(p.repeatHold)
	return nil
}

// heard notes which replicas beat.
func (b *brakes) heard(beat heartbeat.Beat, at time.Time) {
	name := replicaName(beat.Session)
	b.mu.Lock()
	defer b.mu.Unlock()
	if beat.State == heartbeat.Leaving {
		delete(b.known, name)
		return
	}
	b.meet(name, at)
}

// meet is called with the lock held.
func (b *brakes) meet(name string, at time.Time) {
	for other, seen := range b.known {
		if at.Sub(seen) > b.wait {
			delete(b.known, other)
		}
	}
	b.known[name] = at
}

// expected lists the replicas from which an answer is due; complete says that
// there are no others.
func (b *brakes) expected(now time.Time) (names map[string]bool, complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	names = map[string]bool{b.name: true}
	for name, seen := range b.known {
		if now.Sub(seen) <= b.wait {
			names[name] = true
		}
	}
	return names, b.met
}

// fresh refuses orders that are too old, and reports whether one that takes the
// brake off is new: it is carried out once, however often it comes.
func (b *brakes) fresh(o monitorOrder, now time.Time) (again bool, err error) {
	if age := now.Sub(time.UnixMilli(o.At)); age.Abs() > limits.Ahead {
		return false, denial.New(denial.Stale, "order to the monitor is %s old", age.Round(time.Second))
	}
	if o.Verb != wire.MonitorRelease && o.Verb != wire.MonitorConfirm {
		return false, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, at := range b.done {
		if now.Sub(at) > 2*limits.Ahead {
			delete(b.done, id)
		}
	}
	if _, again := b.done[o.ID]; again {
		return true, nil
	}
	if len(b.done) >= ordersMost {
		return false, denial.New(denial.RateLimited, "too many orders to the monitor")
	}
	b.done[o.ID] = now
	return false, nil
}

// head begins a document, and verify takes one of another replica apart: all
// replicas of a mesh have one key.
func (b *brakes) head(kind string, now time.Time) jws.Head {
	return jws.Head{Kind: kind, IssuedAt: now.Unix()}
}

func (b *brakes) verify(u *jws.Unverified, err error) error {
	if err != nil {
		return err
	}
	if u.UnsafeIssuer() != b.pub {
		return denial.New(denial.UnknownSigner, "not signed by this control plane")
	}
	return u.Verify()
}

// newOrder begins an order of this replica.
func (p *Plane) newOrder(verb string) *monitorOrder {
	now := p.clock()
	p.brakes.mu.Lock()
	defer p.brakes.mu.Unlock()
	return &monitorOrder{
		Head: p.brakes.head(kindMonitorOrder, now), ID: heartbeat.NewSession().String(),
		Replica: p.brakes.name, At: now.UnixMilli(), Verb: verb,
	}
}

// onMonitorOrder carries out what a replica, this one or another, tells all of
// them.
func (p *Plane) onMonitorOrder(msg *nats.Msg) {
	var o monitorOrder
	now := p.clock()
	err := p.brakes.verify(jws.Decode(string(msg.Data), kindMonitorOrder, &o))
	again := false
	if err == nil {
		again, err = p.brakes.fresh(o, now)
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("order to the monitor refused")
		return
	}
	p.brakes.mu.Lock()
	p.brakes.meet(o.Replica, now)
	p.brakes.mu.Unlock()
	if !again {
		p.obey(o)
	}
	// Only to those who wait for answers, whatever the reply subject of a message
	// may say: it is not signed.
	switch {
	case !strings.HasPrefix(msg.Reply, nats.InboxPrefix):
	case o.Verb == verbPlanes:
		p.answerPlanes(o.ID, msg.Reply)
	default:
		p.answerOrder(o.ID, msg.Reply)
	}
}

func (p *Plane) obey(o monitorOrder) {
	var err error
	switch o.Verb {
	case verbHold:
		if o.Alarm != nil {
			p.monitor.Hold(*o.Alarm)
		}
		return
	case wire.MonitorRelease:
		err = p.monitor.Release(o.Holds...)
	case wire.MonitorConfirm:
		err = p.monitor.Confirm(o.Holds...)
	default:
		return
	}
	log := p.log.Warn().Str("verb", o.Verb).Str("by", o.By).Str("reason", o.Reason).Strs("holds", o.Holds)
	if err != nil {
		log.AnErr("kept", err).Msg("order to the monitor changed nothing here")
		return
	}
	log.Msg("the heartbeat monitor is no longer held")
}

func (p *Plane) answerOrder(order, to string) {
	text, err := jws.Sign(&monitorAnswer{Head: p.brakes.head(kindMonitorAnswer, p.clock()), Order: order, Replica: p.monitorView()}, p.brakes.key)
	if err == nil {
		err = p.ctrl.Publish(to, []byte(text))
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("order to the monitor could not be answered")
	}
}

// monitorView is how this replica's monitor fares.
func (p *Plane) monitorView() wire.MonitorReplica {
	s := p.monitor.Status()
	v := wire.MonitorReplica{
		Replica: p.brakes.name, Host: p.brakes.host, State: s.State, Watched: s.Watched,
		SilentCount: s.SilentCount, Silent: list(s.Silent), WouldExpire: s.WouldExpire,
		CanaryMS: s.CanaryMS, GraceMS: s.GraceMS, Blinds: s.Blinds, Gaps: s.Gaps,
		Flooding: list(p.hears.door.flooding(p.clock())),
	}
	if s.Held != nil {
		at := s.Held.At.UTC().Truncate(time.Millisecond)
		v.HeldSince, v.Hold = &at, s.Held.Hold
	}
	return v
}

// order tells all replicas something and gathers how they fare then. Missing are
// those that did not answer in time.
func (p *Plane) order(ctx context.Context, o *monitorOrder) (answers []wire.MonitorReplica, missing []string, err error) {
	missing, err = p.gather(ctx, o, func(text string) (string, error) {
		var a monitorAnswer
		if err := p.brakes.verify(jws.Decode(text, kindMonitorAnswer, &a)); err != nil || a.Order != o.ID {
			return "", cmp.Or(err, errAnotherOrder)
		}
		if !slices.ContainsFunc(answers, func(r wire.MonitorReplica) bool { return r.Replica == a.Replica.Replica }) {
			answers = append(answers, a.Replica)
		}
		return a.Replica.Replica, nil
	})
	slices.SortFunc(answers, func(a, b wire.MonitorReplica) int { return strings.Compare(a.Host+" "+a.Replica, b.Host+" "+b.Replica) })
	return answers, missing, err
}

// errAnotherOrder: what came answers something else.
var errAnotherOrder = errors.New("controlplane: it answers another order")

// gather tells all replicas something and gives each answer to take, for as long as
// one that is known to be there has not answered. take verifies it and returns the
// name of the replica.
func (p *Plane) gather(ctx context.Context, o *monitorOrder, take func(text string) (replica string, err error)) (missing []string, err error) {
	text, err := jws.Sign(o, p.brakes.key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answersWait)
	defer cancel()
	inbox := p.ctrl.NewInbox()
	sub, err := p.ctrl.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil {
			p.log.Debug().Err(err).Msg("inbox for answers of replicas")
		}
	}()
	if err := p.ctrl.PublishRequest(p.space.Monitor(), inbox, []byte(text)); err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	due, complete := p.brakes.expected(p.clock())
	for !complete || len(due) > 0 {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		name, err := take(string(msg.Data))
		if err != nil {
			p.log.Warn().AnErr("cause", err).Msg("answer of a replica refused")
			continue
		}
		delete(due, name)
		p.brakes.mu.Lock()
		p.brakes.meet(name, p.clock())
		p.brakes.mu.Unlock()
	}
	return slices.Sorted(maps.Keys(due)), nil
}

// meetReplicas learns who else there is, and how they fare: a replica that starts
// hears of a hold before it could expire anybody.
func (p *Plane) meetReplicas() {
	for p.ctx.Err() == nil {
		if _, _, err := p.order(p.ctx, p.newOrder(wire.MonitorStatusOf)); err == nil {
			p.brakes.mu.Lock()
			p.brakes.met = true
			p.brakes.mu.Unlock()
			return
		}
		select {
		case <-p.ctx.Done():
		case <-time.After(answersWait):
		}
	}
}

// tellHold tells the other replicas that the brake is on here.
func (p *Plane) tellHold(a heartbeat.Alarm) {
	a.At = a.At.UTC().Truncate(time.Millisecond)
	o := p.newOrder(verbHold)
	o.Alarm = &a
	text, err := jws.Sign(o, p.brakes.key)
	if err == nil {
		err = p.ctrl.Publish(p.space.Monitor(), []byte(text))
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("other replicas could not be told of the hold")
	}
}

// repeatHold tells it again and again, for replicas that start or were away.
func (p *Plane) repeatHold() {
	tick := time.NewTicker(max(time.Duration(p.cfg.Mesh.Config.Heartbeat.Interval)/holdsPerInterval, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
			if a, held := p.monitor.Held(); held {
				p.tellHold(a)
			}
		}
	}
}
