package controlplane

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// StartWith is Start with what stands between the callout and the registry.
func StartWith(ctx context.Context, cfg Config, seam func(authcallout.Registry) authcallout.Registry) (*Plane, error) {
	return start(ctx, cfg, seam)
}

// Store is the plane's registry.
func (p *Plane) Store() *registry.Store { return p.store }

// ChangeAndCut runs an operation of an operator.
func (p *Plane) ChangeAndCut(ctx context.Context, id agentid.ID, change func() (*registry.Agent, error)) error {
	_, _, err := p.changeAndCut(ctx, id, change)
	return err
}

// LeaveAlone makes the watcher leave an agent to an operation that never ends.
func (p *Plane) LeaveAlone(id agentid.ID) { p.cutting.begin(id) }

// StopListening takes the feed away from the gate of the plane.
func (p *Plane) StopListening() error { return p.feed.Unsubscribe() }

// ForgetServers is what time does where the system account is out of reach.
func (p *Plane) ForgetServers() {
	p.servers.mu.Lock()
	defer p.servers.mu.Unlock()
	clear(p.servers.heard)
}

// Kick closes a connection.
func (p *Plane) Kick(ctx context.Context, server string, client uint64) (bool, error) {
	return p.kick(ctx, connection{server, client})
}

// Connections counts what the servers list of an agent.
func (p *Plane) Connections(ctx context.Context, id agentid.ID) (n int, unreachable []string, err error) {
	c, err := p.connections(ctx, id)
	return len(c.found), slices.Sorted(maps.Keys(c.silent)), err
}

// HoldSessions holds the watch of the sessions back until release is called.
func (p *Plane) HoldSessions() (release func()) {
	p.sessions.pause.Lock()
	return p.sessions.pause.Unlock
}

// LoseSessions is what happens where the watch of the sessions missed something.
func (p *Plane) LoseSessions() {
	p.sessions.mu.Lock()
	defer p.sessions.mu.Unlock()
	p.sessions.clear()
	p.sessions.unsure = true
}

// KnownSessions counts what the plane knows of an agent's sessions without asking.
func (p *Plane) KnownSessions(id agentid.ID) int { return len(p.sessions.of(id)) }

// MeetServer is what happens where a server is heard of, and MissServer where it was
// not for long.
func (p *Plane) MeetServer(id, name string) { p.servers.add(id, name) }

func (p *Plane) MissServer(id string) {
	p.servers.mu.Lock()
	defer p.servers.mu.Unlock()
	delete(p.servers.heard, id)
}

// Repair compares sessions and connections; what was opened longer ago than settled
// should be there.
func (p *Plane) Repair(ctx context.Context, settled, away time.Duration) error {
	p.repairs.mu.Lock()
	p.repairs.settled, p.repairs.awayLong = settled, away
	p.repairs.mu.Unlock()
	return p.repair(ctx)
}

// HoldRepairs keeps sessions and connections from being compared until release is
// called.
func (p *Plane) HoldRepairs() (release func()) {
	p.repairs.mu.Lock()
	return p.repairs.mu.Unlock
}

// SetPage makes servers list so many connections at a time.
func (p *Plane) SetPage(n int) { p.page = n }

// KnownServers lists the servers that the plane has heard of.
func (p *Plane) KnownServers() map[string]bool { return p.servers.all() }

// ParseKick and ParseConnections read what servers answer.
var ParseKick = parseKick

// Pages reads the pages of one server's list, so many connections on each.
func Pages(size int, pages ...[]uint64) error {
	var l listing
	for i, list := range pages {
		next := page{n: len(list)}
		if len(list) > 0 {
			next.first, next.last = list[0], list[len(list)-1]
		}
		if err := l.take(next, size, i == 0); err != nil {
			return err
		}
	}
	return nil
}

func ParseConnections(server string, data []byte, id agentid.ID) (found, listed int, err error) {
	page, err := parseConnections(server, json.RawMessage(data), id)
	return len(page.found), page.n, err
}

// Limiter is a limiter.
type Limiter struct{ l *limiter }

func NewLimiter(r rate.Limit, burst int) Limiter { return Limiter{newLimiter(r, burst)} }

func (l Limiter) Allow(source string, cost int, now time.Time) bool {
	return l.l.allow(source, cost, now)
}

func (l Limiter) Len() int { return len(l.l.sources) }

const (
	LimiterMost = limiterMost
	DoorSource  = doorSource
)

var Source = source

// NewDoor bounds a listener.
func NewDoor(l net.Listener) net.Listener { return newDoor(l) }

// SyncDurables sets the consumers of an agent right.
func (p *Plane) SyncDurables(ctx context.Context, id agentid.ID) error {
	_, err := p.syncDurables(ctx, id)
	return err
}

// EndDurable is what an agent asks for that gives a durable subscription up.
func (p *Plane) EndDurable(ctx context.Context, id agentid.ID, name string) error {
	_, err := p.endDurable(ctx, id, wire.DurableEnd{Name: name})
	return err
}

// LookAtDurables is what the control plane does from time to time.
func (p *Plane) LookAtDurables() { p.durables.soonAll() }

// Clocks compares clocks, and says which one was set ahead.
type Clocks struct{ c clocks }

func (c *Clocks) Look(before, after time.Duration, server, own time.Time) string {
	return c.c.look(before, after, server, own)
}

var (
	// Lost is lost: whether enough servers were started anew.
	Lost = lost
	// Forgets is forgets: by which setting a stream would forget.
	Forgets = forgets
)

// AlarmReplay says that a store in this state fills up.
func (p *Plane) AlarmReplay(ctx context.Context, info *jetstream.StreamInfo) {
	p.replay.mu.Lock()
	defer p.replay.mu.Unlock()
	p.alarmReplay(ctx, info)
}

// StoredStreams manages the streams of the account STORE.
func (p *Plane) StoredStreams() jetstream.JetStream { return p.stored }
