package meshclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// rotateLeast is the least time between two rotations, so that a burst of new
// rights costs one; the first is not delayed.
const rotateLeast = 5 * time.Second

// rotateAhead is how long before the end of a user JWT a rotation begins at
// least, where the JWT lives twice as long.
const rotateAhead = 10 * time.Second

// lookEvery is how often the client looks after itself without being poked.
const lookEvery = 15 * time.Second

// poke asks the tending goroutine to look now; it never blocks.
func (m *Mesh) poke(why string) {
	select {
	case m.wake <- why:
	default: // it is about to look anyway
	}
}

// tended is what the tending goroutine knows. Connect fills it in before that
// goroutine starts; after that nobody else touches it.
type tended struct {
	asked    bool            // the control plane told about the session
	rotated  time.Time       // when the connection was rotated last
	replace  time.Time       // when to rotate, before the user JWT ends; zero: not known
	again    time.Time       // when to look again
	tried    map[string]bool // chains for which a rotation was made
	futile   int             // how many rotations in a row gave none of them
	interval time.Duration
	quiet    bool // the control plane wants no beats
	beating  string
}

// tend keeps the agent connected with what it currently may: it takes over a
// changed record, asks again about its session, renews the certificate and
// rotates the connection before any of them ends.
func (m *Mesh) tend() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var again <-chan time.Time
		if next := m.tended.next(); !next.IsZero() {
			again = time.After(max(time.Until(next), 10*time.Millisecond))
		}
		why := ""
		select {
		case <-m.ctx.Done():
			return
		case why = <-m.wake:
		case <-tick.C:
		case <-again:
			why = "time to rotate"
		}
		ctx, cancel := context.WithTimeout(m.ctx, connectTimeout+2*settle)
		m.look(ctx, why)
		cancel()
	}
}

// next is when something has to be done without being asked.
func (t *tended) next() time.Time {
	if t.again.IsZero() || !t.replace.IsZero() && t.replace.Before(t.again) {
		return t.replace
	}
	return t.again
}

// look does what is due.
func (m *Mesh) look(ctx context.Context, why string) {
	l := m.link.Load()
	if !l.nc.IsConnected() {
		m.wakeUp(ctx)
		return
	}
	roots, err := m.refreshSelf(ctx)
	if err != nil {
		m.log.Warn().Err(err).Str("why", why).Msg("own record cannot be used")
		return
	}
	if m.Away() != nil {
		// The broker compiled the grant anew, from what was presented.
		l.setCovered(append(slices.Clone(roots), m.presented()...))
		m.setAway(nil)
		m.askSession(ctx, l)
		m.announce()
	}
	m.beat()
	m.renew(ctx)
	if !m.tended.asked {
		m.askSession(ctx, l)
	}
	if m.due(ctx, l, roots) {
		m.rotate(ctx)
	}
}

// due reports whether the connection has to be replaced now. A rotation that
// must wait for the least interval is remembered.
func (m *Mesh) due(ctx context.Context, l *link, roots []string) bool {
	now, t := time.Now(), &m.tended
	if !t.replace.IsZero() && !now.Before(t.replace) {
		return true // the user JWT is about to end: that cannot wait
	}
	t.again = time.Time{}
	open := slices.DeleteFunc(m.usable(ctx, roots), l.covers)
	if len(open) == 0 {
		t.tried, t.futile = nil, 0
		return false
	}
	// What the control plane did not count at the last connection, for whatever
	// reason, is not asked for every few seconds.
	wait := rotateLeast
	if slices.ContainsFunc(open, func(d string) bool { return !t.tried[d] }) {
		t.futile = 0
	} else {
		wait <<= min(t.futile, 6)
	}
	if at := t.rotated.Add(wait); now.Before(at) {
		t.again = at
		return false
	}
	t.futile++
	t.tried = map[string]bool{}
	for _, d := range open {
		t.tried[d] = true
	}
	return true
}

// rotate replaces the connection without losing a message: the new one is
// subscribed and flushed before it is used, both run side by side for longer
// than a message needs through the cluster, and the old one's subscriptions are
// drained one by one, never the connection.
func (m *Mesh) rotate(ctx context.Context) {
	old := m.link.Load()
	m.recent.begin()
	fresh, err := m.dial(ctx)
	if err != nil {
		m.recent.end()
		m.notRotated(err)
		return
	}
	roots, err := m.roots(ctx)
	if err != nil {
		m.log.Warn().Err(err).Msg("own record cannot be used")
	}
	m.attaching.Lock()
	if m.isClosing() {
		m.attaching.Unlock()
		fresh.close()
		m.recent.end()
		return
	}
	fresh.predecessor = old.drained
	if err := fresh.attach(); err != nil {
		m.attaching.Unlock()
		fresh.close()
		m.recent.end()
		m.notRotated(err)
		return
	}
	fresh.setCovered(append(slices.Clone(roots), m.presented()...))
	m.retiring.Add(1)
	m.link.Store(fresh)
	m.attaching.Unlock()
	m.tended.rotated, m.tended.replace = time.Now(), time.Time{}
	if !old.nc.IsConnected() {
		m.peers.Gap() // the feed went on without a listener
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
		m.retire(old)
	})
	m.log.Info().Int64("rotations", m.rotations.Add(1)).Msg("connection rotated")
	m.granted()
}

// notRotated keeps the old connection; another try comes after a while.
func (m *Mesh) notRotated(err error) {
	m.tended.rotated = time.Now()
	if !m.tended.replace.IsZero() {
		m.tended.replace = time.Now().Add(settle)
	}
	m.log.Warn().Err(err).Msg("connection could not be rotated; the old one stays")
}

// retire ends an old connection after its work is done.
func (m *Mesh) retire(old *link) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-m.stopping: // Close drains everything, so nothing gets lost between two
		}
	}
	ctx, cancel := context.WithTimeout(m.ctx, DefaultCloseTimeout)
	defer cancel()
	wait(settle)
	old.drainWork(ctx)
	close(old.drained)
	m.retiring.Done()
	wait(settle)
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
		m.tended.asked = false
		return
	}
	if !resp.Expires.IsZero() {
		// What was presented is a wish; this is what the broker's grant rests on.
		l.setCovered(resp.Chains)
	}
	t := &m.tended
	t.asked = !resp.Expires.IsZero()
	t.interval, t.quiet, t.replace = time.Duration(resp.HeartbeatMS)*time.Millisecond, !resp.Watched, time.Time{}
	if left := time.Until(resp.Expires); !resp.Expires.IsZero() {
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
		return false
	}
	m.mu.Lock()
	_, have := m.held[c.Digest()]
	var drop *capability.Chain
	if !have {
		// Whoever may delegate anything could else fill memory and disk of
		// everybody, or push out what others lent.
		if drop = m.crowded(c); drop != c {
			m.held[c.Digest()] = c
		}
		if drop != nil {
			delete(m.held, drop.Digest())
		}
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

// onFeed passes registry documents on to the view of peers.
func (m *Mesh) onFeed(msg *nats.Msg) {
	prefix := m.space.FeedAgents() + "."
	if len(msg.Subject) > len(prefix) && msg.Subject[:len(prefix)] == prefix {
		m.peers.Observe(msg.Subject[len(prefix):], string(msg.Data))
	}
}
