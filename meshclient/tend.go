package meshclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// The least time between two rotations for new rights: the first is not delayed,
// and where one follows the other the wait doubles from rotateSoon to rotateLeast,
// so that neither a burst nor a lender without end costs many.
const (
	rotateSoon  = 250 * time.Millisecond
	rotateLeast = 5 * time.Second
)

// narrowLeast is the least time between two rotations by which the connection is
// rid of what has ended. What was taken back has to be gone within a second, so
// no rotation for a new right holds one off.
const narrowLeast = 300 * time.Millisecond

// rotateAhead is how long before the end of a user JWT a rotation begins at
// least, where the JWT lives twice as long.
const rotateAhead = 10 * time.Second

// lookSoonest is the least time between two looks that nobody asked for.
const lookSoonest = 10 * time.Millisecond

// lookEvery is how often the client looks after itself without being poked.
const lookEvery = 15 * time.Second

// poke asks the tending goroutine to look now; it never blocks.
func (m *Mesh) poke(why string) {
	select {
	case m.wake <- why:
	default: // it is about to look anyway
	}
}

// lenderChanged is why the tending goroutine looks when somebody changed who lent
// something.
const lenderChanged = "record of a lender changed"

// tended is what the tending goroutine knows. Connect fills it in before that
// goroutine starts; after that nobody else touches it.
type tended struct {
	asked    bool            // the control plane told about the session
	rotated  time.Time       // when the connection was rotated last, or that failed
	pace     time.Duration   // how long after that it may be for a new right
	narrowed time.Time       // when that was tried last to be rid of one
	failed   int             // how many rotations in a row failed
	replace  time.Time       // when to rotate, before the user JWT ends; zero: not known
	again    time.Time       // when to look again
	ask      time.Time       // when to ask about the session again; zero: it was answered
	layDown  time.Time       // when something lent is about to end
	effect   string          // what the agent may do, as far as the application was told
	tried    map[string]bool // chains and footings for which a rotation was made
	futile   int             // how many rotations in a row gave none of them
	interval time.Duration
	quiet    bool // the control plane wants no beats
	beating  string
	policy   registry.Heartbeat // of the record when the session was asked about
	renewal  renewal
}

// tend keeps the agent connected with what it currently may: it takes over a
// changed record, asks again about its session, renews the certificate and
// rotates the connection before any of them ends.
func (m *Mesh) tend() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	least := lookSoonest
	for {
		var again <-chan time.Time
		if next := m.nextLook(); !next.IsZero() {
			again = time.After(max(time.Until(next), least))
		}
		why := ""
		select {
		case <-m.ctx.Done():
			return
		case why = <-m.wake:
			if why == orderCame {
				continue // it says when
			}
		case <-tick.C:
		case <-again:
			why = "time to rotate"
		}
		ctx, cancel := context.WithTimeout(m.ctx, connectTimeout+2*settle)
		least = lookSoonest
		if !m.look(ctx, why) {
			least = settle // what is overdue cannot be done, and would be tried without a pause
		}
		cancel()
	}
}

// nextLook is when something has to be done without being asked. Without a
// connection that can be the certificate alone.
func (m *Mesh) nextLook() time.Time {
	l := m.link.Load()
	connected := l.nc.IsConnected()
	first := m.tended.renewal.next(m.cfg.clock(), connected)
	if !connected {
		return first
	}
	for _, at := range []time.Time{m.tended.next(), m.orderDue()} {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// next is when something has to be done about the connection.
func (t *tended) next() time.Time {
	var first time.Time
	for _, at := range []time.Time{t.replace, t.again, t.ask, t.layDown} {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// look does what is due, and reports whether it could.
func (m *Mesh) look(ctx context.Context, why string) bool {
	m.alarm()
	m.takeRing()
	l := m.link.Load()
	if !l.nc.IsConnected() {
		m.wakeUp(ctx)
		return true
	}
	if err := m.peers.CatchUp(ctx); err != nil {
		m.log.Debug().Err(err).Msg("signing keys and trust document could not be read again yet")
	}
	read := m.refreshSelf
	if why == lenderChanged {
		// The feed brought the other record and would have brought this one. A
		// lender must not make all its borrowers read theirs over and over.
		read = func(ctx context.Context) (*registry.Agent, error) { return m.peers.Agent(ctx, m.info.Agent) }
	}
	self, err := read(ctx)
	if err != nil {
		m.log.Warn().Err(err).Str("why", why).Msg("own record cannot be used")
		return false
	}
	if m.Away() != nil {
		// The broker compiled the grant anew, from what was presented.
		l.setCovered(m.basis(self))
		m.setAway(nil)
		m.askSession(ctx, l)
		m.announce()
	}
	if self.Heartbeat != m.tended.policy {
		// Whoever is watched from now on must begin to send beats.
		m.tended.policy, m.tended.asked = self.Heartbeat, false
	}
	m.beat()
	m.renew(ctx)
	if !m.tended.asked {
		m.askSession(ctx, l)
	}
	m.granted(ctx, l, self)
	if overlap := m.due(ctx, l, self); overlap > 0 && m.rotate(ctx, self, overlap) {
		l = m.link.Load()
		m.granted(ctx, l, self)
	}
	m.tended.layDown = l.layDown(m.cfg.clock())
	return true
}

// due reports whether the connection has to be replaced now, and for how long
// the old one is to run beside the new one; zero where it has not. A rotation that
// must wait for the least interval is remembered.
func (m *Mesh) due(ctx context.Context, l *link, self *registry.Agent) (overlap time.Duration) {
	now, t := time.Now(), &m.tended
	overlap = settle
	fallen := m.fallen(ctx, l)
	if len(fallen) > 0 {
		overlap = hurry
	}
	if !t.replace.IsZero() && !now.Before(t.replace) {
		return overlap // the user JWT is about to end: that cannot wait
	}
	t.again = time.Time{}
	open := slices.DeleteFunc(append(m.usable(ctx, self.Tokens), self.Footing()), l.covers)
	if len(open) == 0 {
		t.tried, t.futile = nil, 0
	}
	if len(open) == 0 && len(fallen) == 0 {
		return 0
	}
	// What the control plane did not count at the last connection, for whatever
	// reason, is not asked for every few seconds.
	wait, since := rotateLeast, t.rotated
	switch {
	case len(fallen) > 0:
		wait, since = narrowLeast<<min(t.failed, 4), t.narrowed
	case slices.ContainsFunc(open, func(d string) bool { return !t.tried[d] }):
		wait, t.futile = t.pace, 0
	default:
		wait <<= min(t.futile, 6)
	}
	if at := since.Add(wait); now.Before(at) {
		t.again = at
		return 0
	}
	if len(fallen) > 0 {
		t.narrowed = now
	}
	t.futile++
	t.tried = map[string]bool{}
	for _, d := range open {
		t.tried[d] = true
	}
	return overlap
}

// rotate replaces the connection without losing a message: the new one is
// subscribed and flushed before it is used, both run side by side for longer
// than a message needs through the cluster, and the old one's subscriptions are
// drained one by one, never the connection. It reports whether it was replaced.
//
// Nothing is asked over the old connection: it may be cut at this moment.
func (m *Mesh) rotate(ctx context.Context, self *registry.Agent, overlap time.Duration) bool {
	old := m.link.Load()
	m.recent.begin()
	fresh, err := m.dial(ctx)
	if err != nil {
		m.recent.end()
		m.notRotated(err)
		return false
	}
	m.attaching.Lock()
	if m.isClosing() {
		m.attaching.Unlock()
		fresh.close()
		m.recent.end()
		return false
	}
	fresh.predecessor = old.drained
	if err := fresh.attach(); err != nil {
		m.attaching.Unlock()
		fresh.close()
		m.recent.end()
		m.notRotated(err)
		return false
	}
	// What is new counts once the control plane has said so: a call by a right that
	// the broker does not know of would be waited for in vain.
	fresh.setCovered(slices.DeleteFunc(m.basis(self), func(d string) bool { return !old.covers(d) }))
	m.retiring.Add(1)
	old.replaced.Store(true)
	m.link.Store(fresh)
	m.attaching.Unlock()
	m.tended.noteRotation(time.Now())
	if !old.nc.IsConnected() {
		m.peers.Gap() // the feed went on without a listener
		m.returned()
	}
	if fresh.nc.IsConnected() {
		m.setAway(nil)
	} else {
		// It was lost before anybody listened to it; it comes back by itself.
		m.setAway(fmt.Errorf("%w: connection lost while it was rotated", ErrUnavailable))
	}
	m.askSession(ctx, fresh)
	m.announce()
	m.tending.Go(func() {
		defer m.recent.end()
		m.retire(old, overlap)
	})
	m.log.Info().Int64("rotations", m.rotations.Add(1)).Msg("connection rotated")
	return true
}

// noteRotation notes that the connection was replaced.
func (t *tended) noteRotation(now time.Time) {
	if now.Sub(t.rotated) < rotateLeast {
		t.pace = min(2*max(t.pace, rotateSoon/2), rotateLeast)
	} else {
		t.pace = rotateSoon
	}
	t.rotated, t.replace, t.failed = now, time.Time{}, 0
}

// notRotated keeps the old connection; another try comes after a while.
func (m *Mesh) notRotated(err error) {
	t := &m.tended
	t.rotated, t.pace = time.Now(), rotateLeast
	t.again = t.rotated.Add(narrowLeast << min(t.failed, 4))
	t.failed++
	if !t.replace.IsZero() {
		t.replace = t.rotated.Add(settle)
	}
	m.log.Warn().Err(err).Msg("connection could not be rotated; the old one stays")
}

// retire ends an old connection after its work is done. What was asked over it, by
// a handler that uses up a nonce for one, is still answered.
func (m *Mesh) retire(old *link, overlap time.Duration) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-m.stopping: // Close drains everything, so nothing gets lost between two
		}
	}
	ctx, cancel := context.WithTimeout(m.ctx, DefaultCloseTimeout)
	defer cancel()
	wait(overlap)
	old.drainWork(ctx)
	close(old.drained)
	old.endPulls(ctx, overlap < settle)
	m.retiring.Done()
	wait(max(overlap, linger))
	old.drainBase(ctx)
	old.close()
}

// announce wakes everybody who waits for a change of the connection.
func (m *Mesh) announce() {
	m.mu.Lock()
	close(m.rotated)
	m.rotated = make(chan struct{})
	m.mu.Unlock()
}

// askSession asks the control plane how long this connection may live and what
// was delegated meanwhile. Without an answer the connection lives on and the
// question is asked again.
func (m *Mesh) askSession(ctx context.Context, l *link) {
	var resp wire.SessionResponse
	id, err := l.nc.GetClientID()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	if err := m.ask(ctx, wire.SelfSession, wire.SessionRequest{Server: l.nc.ConnectedServerId(), Client: id}, &resp); err != nil {
		m.log.Debug().Err(err).Msg("session is not known yet")
		m.tended.asked, m.tended.ask = false, time.Now().Add(settle)
		return
	}
	if !resp.Expires.IsZero() {
		// What was presented is a wish; this is what the broker's grant rests on.
		l.setCovered(append(resp.Chains, resp.Footing))
	}
	t := &m.tended
	t.asked, t.ask = !resp.Expires.IsZero(), time.Time{}
	t.interval, t.quiet, t.replace = time.Duration(resp.HeartbeatMS)*time.Millisecond, !resp.Watched, time.Time{}
	// One that ends with something lent is replaced when that is laid down.
	if left := time.Until(resp.Expires); !resp.Expires.IsZero() && !l.endsWithLoan(resp.Expires) {
		// A fifth of its life before the end, so that a slow control plane costs
		// nothing, and spread, so that a fleet does not come at once. A short life
		// leaves half: what makes the rotation slow does not shrink with it.
		// A clock that is wrong must not make it rotate without a pause.
		left = max(left, 0)
		lead := max(left/5, min(left/2, rotateAhead))
		t.replace = time.Now().Add(max(left-lead-rand.N(left/20+1), settle))
	}
	for _, digest := range resp.Held {
		m.fetchHeld(ctx, digest)
	}
	m.beat()
}

// fetchHeld takes a delegation that was made while the agent was away.
func (m *Mesh) fetchHeld(ctx context.Context, digest string) {
	m.mu.Lock()
	_, have := m.held[digest]
	m.mu.Unlock()
	if have {
		return
	}
	c, err := m.gate.Chain(ctx, digest)
	if err != nil {
		m.log.Debug().Err(err).Str("chain", digest).Msg("delegation cannot be used")
		return
	}
	m.keep(ctx, c)
}

// keep takes a verified chain that was delegated to this agent.
func (m *Mesh) keep(ctx context.Context, c *capability.Chain) bool {
	if c.Holder() != m.info.Agent || len(c.Hops()) < 2 {
		return false
	}
	if err := c.Check(m.cfg.clock(), m.peers.Directory(ctx)); err != nil {
		m.log.Debug().Err(err).Str("chain", c.Digest()).Msg("delegation cannot be used")
		if final(err) {
			return false
		}
	}
	m.mu.Lock()
	_, have := m.held[c.Digest()]
	var drop *capability.Chain
	if !have {
		// Whoever may delegate anything could else fill memory and disk of
		// everybody, or push out what others lent.
		if drop = m.crowded(c); drop != c {
			m.held[c.Digest()] = newLoan(c, m.cfg.clock())
		}
		if drop != nil {
			delete(m.held, drop.Digest())
		}
		m.noteLenders()
	}
	m.mu.Unlock()
	if drop != nil {
		m.log.Warn().Str("chain", drop.Digest()).Str("delegator", delegator(drop).String()).Msg("delegation dropped: too many are held")
	}
	if have || drop == c {
		return false
	}
	if drop != nil {
		if err := m.dir.DropChain(drop.Digest()); err != nil {
			m.log.Warn().Err(err).Msg("dropped chain could not be removed")
		}
	}
	if err := m.dir.KeepChain(c.Text()); err != nil {
		m.log.Warn().Err(err).Msg("delegated chain could not be kept on disk")
	}
	m.poke("a delegation came")
	return true
}

// beat sees to it that heartbeats go out under the current epoch.
func (m *Mesh) beat() {
	t := &m.tended
	epoch, interval := m.epoch.Load().String(), t.interval
	if interval <= 0 {
		interval = heartbeat.DefaultInterval
	}
	want := epoch + " " + interval.String()
	if m.beats != nil && t.beating == want && !t.quiet {
		return
	}
	if m.beats != nil {
		m.beats.Close()
		m.beats = nil
	}
	if t.quiet {
		return
	}
	s, err := m.sender(interval)
	if err != nil {
		m.log.Error().Err(err).Msg("no heartbeats are sent")
		return
	}
	m.beats, t.beating = s, want
}

func (m *Mesh) sender(interval time.Duration) (*heartbeat.Sender, error) {
	return heartbeat.NewSender(heartbeat.SenderConfig{
		Agent: m.info.Agent, Instance: m.info.Instance, Epoch: m.epoch.Load().String(), Client: clientVersion, Interval: interval,
		InFlight: func() int { return int(m.atWork.Load()) },
		Send:     m.sendBeat, Log: m.log,
	})
}
