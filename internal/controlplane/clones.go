package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// clonesSubject is how replicas tell each other of clones, in their own account,
	// into which no agent can say anything there.
	clonesSubject = "control.clones"
	// cloneQuiet is how long an alarm stands after what gave rise to it was seen
	// last.
	cloneQuiet = time.Hour
	// suspectsMost bounds the instances that are looked at, and cloneHosts the hosts
	// that are told apart for one: who has a copy of a key must not fill memory. An
	// instance that finds no room is looked at when it connects the next time.
	suspectsMost = 1 << 14
	cloneHosts   = 8
)

// instanceName names an instance among all.
type instanceName struct {
	agent agentid.ID
	inst  agentid.Instance
}

func nameOf(id agentid.ID, inst agentid.Instance) instanceName { return instanceName{id, inst} }

// clones finds keys that are in use on several hosts at the same time.
//
// Two open connections from two addresses prove nothing: a laptop that changed its
// network leaves one behind on which nobody is any more, and its server notices
// that minutes later. What proves it is that something came on both after both
// were there. So they are looked at again and again, as long as both are open, and
// what counts is what the clients sent.
type clones struct {
	mu       sync.Mutex
	suspects map[instanceName]*suspect
	alarms   map[instanceName]*wire.ClonesView
}

// suspect is an instance that has connected since it was looked at last, or that
// several hosts are connected as. Its times are when somebody looked.
type suspect struct {
	again   bool                 // connected since the look under way began
	seen    map[connection]*talk // open connections
	refused map[string]time.Time // hosts whose key was good and whose place was taken; zero: not looked at yet
}

type talk struct {
	first, last time.Time // when it was first seen, and when it had last sent something since
	sent        int64
}

func newClones() *clones {
	return &clones{suspects: map[instanceName]*suspect{}, alarms: map[instanceName]*wire.ClonesView{}}
}

func (c *clones) suspect(n instanceName) *suspect {
	s := c.suspects[n]
	if s == nil {
		if len(c.suspects) >= suspectsMost {
			return nil
		}
		s = &suspect{seen: map[connection]*talk{}, refused: map[string]time.Time{}}
		c.suspects[n] = s
	}
	s.again = true
	return s
}

// admitted notes that an instance was let in, from a host.
func (c *clones) admitted(n instanceName, host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.suspect(n); s != nil {
		delete(s.refused, host)
	}
}

// refused notes that somebody proved to have an instance's key while another host
// had its place.
func (c *clones) refused(n instanceName, host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspect(n)
	if s == nil {
		return
	}
	if _, known := s.refused[host]; !known && len(s.refused) < cloneHosts {
		s.refused[host] = time.Time{}
	}
}

// begin returns who is to be looked at.
func (c *clones) begin() []instanceName {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.suspects {
		s.again = false
	}
	return slices.Collect(maps.Keys(c.suspects))
}

// crowded reports whether there is more to see of an instance than its sessions.
func (c *clones) crowded(n instanceName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspects[n]
	return s != nil && (len(s.refused) > 0 || len(s.seen) > 0)
}

// forget drops an instance of which nothing is to be seen, unless it connected
// meanwhile.
func (c *clones) forget(n instanceName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.suspects[n]; s != nil && !s.again {
		delete(c.suspects, n)
	}
}

// judge takes what was seen of an instance's connections and returns the hosts on
// which its key was in use at the same time, none where that is not proven.
func (c *clones) judge(n instanceName, now time.Time, places []place) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.suspects[n]
	if s == nil {
		return nil
	}
	hosts := map[connection]string{}
	for _, o := range places {
		at := connectionOf(&o.Session)
		hosts[at] = hostOf(o.Host)
		if o.err != nil {
			continue // nothing is known of it now
		}
		a := s.seen[at]
		if a == nil {
			a = &talk{first: now, sent: o.sent}
			s.seen[at] = a
		}
		if o.sent > a.sent {
			a.sent, a.last = o.sent, now
		}
	}
	maps.DeleteFunc(s.seen, func(at connection, _ *talk) bool { _, open := hosts[at]; return !open })
	found := map[string]bool{}
	for x, a := range s.seen {
		for y, b := range s.seen {
			both := a.first
			if b.first.After(both) {
				both = b.first
			}
			if hosts[x] != hosts[y] && a.last.After(both) && b.last.After(both) {
				found[hosts[x]], found[hosts[y]] = true, true
			}
		}
	}
	for host, at := range s.refused {
		if at.IsZero() {
			at = now
			s.refused[host] = now
		}
		held := false // by a connection that was there when this one came
		for x, a := range s.seen {
			if hosts[x] == host || a.first.After(at) {
				continue
			}
			held = true
			if a.last.After(at) {
				found[hosts[x]], found[host] = true, true
			}
		}
		if !held {
			delete(s.refused, host)
		}
	}
	if several(hosts) || len(s.refused) > 0 {
		s.again = true // until one of them is gone
	}
	return slices.Sorted(maps.Keys(found))
}

func several(hosts map[connection]string) bool {
	one := ""
	for _, h := range hosts {
		if one != "" && h != one {
			return true
		}
		one = h
	}
	return false
}

// note takes an alarm over, of this replica or of another, and returns the hosts
// that are new in it.
func (c *clones) note(n instanceName, v wire.ClonesView) (fresh []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.alarms, func(_ instanceName, old *wire.ClonesView) bool { return v.Seen.Sub(old.Seen) > cloneQuiet })
	old := c.alarms[n]
	if old == nil {
		if len(c.alarms) >= suspectsMost {
			return nil
		}
		old = &wire.ClonesView{Since: v.Since}
		c.alarms[n] = old
	}
	for _, h := range v.Hosts {
		if !slices.Contains(old.Hosts, h) && len(old.Hosts) < cloneHosts {
			old.Hosts, fresh = append(old.Hosts, h), append(fresh, h)
		}
	}
	slices.Sort(old.Hosts)
	if v.Since.Before(old.Since) {
		old.Since = v.Since
	}
	if v.Seen.After(old.Seen) {
		old.Seen = v.Seen
	}
	return fresh
}

// alarm returns what is known of clones of an instance, nil where nothing is.
func (c *clones) alarm(n instanceName, now time.Time) *wire.ClonesView {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.alarms[n]
	if a == nil || now.Sub(a.Seen) > cloneQuiet {
		return nil
	}
	v := *a
	v.Hosts = slices.Clone(a.Hosts)
	v.Since, v.Seen = v.Since.UTC(), v.Seen.UTC()
	return &v
}

// cloneAlarms lists the alarms about those of the instances whose keys still count
// for anything.
func (p *Plane) cloneAlarms(instances []*registry.Instance) []wire.AlarmView {
	out := []wire.AlarmView{}
	for _, i := range instances {
		if i.State == registry.InstanceRevoked {
			continue
		}
		if a := p.clones.alarm(nameOf(i.Agent, i.Instance), p.clock()); a != nil {
			out = append(out, wire.AlarmView{Kind: wire.AlarmClone, Agent: i.Agent, Instance: i.Instance, Hosts: a.Hosts, Since: a.Since, Seen: a.Seen})
		}
	}
	slices.SortFunc(out, func(a, b wire.AlarmView) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Instance.String(), b.Instance.String()))
	})
	return out
}

// cloneNews is what replicas tell each other.
type cloneNews struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	wire.ClonesView
}

// watchClones looks at who connected lately, twice within the time in which
// whoever is alive sends a beat.
func (p *Plane) watchClones() error {
	_, err := p.ctrl.Subscribe(clonesSubject, func(m *nats.Msg) {
		var news cloneNews
		if json.Unmarshal(m.Data, &news) == nil {
			p.clones.note(nameOf(news.Agent, news.Instance), news.ClonesView)
		}
	})
	if err != nil || p.sys == nil {
		return err // without the servers' word nothing can be proven
	}
	p.wg.Go(func() {
		every := time.Duration(p.cfg.Mesh.Config.Heartbeat.Interval) / 2
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
			}
			p.lookForClones()
		}
	})
	return nil
}

func (p *Plane) lookForClones() {
	names := p.clones.begin()
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, cutTimeout)
	defer cancel()
	if err := p.sessions.catchUp(ctx); err != nil {
		p.log.Debug().Err(err).Msg("sessions cannot be read")
		return // they stay suspect
	}
	each(ctx, names, func(ctx context.Context, n instanceName) error {
		list := slices.DeleteFunc(p.sessions.of(n.agent), func(s registry.Session) bool { return s.Instance != n.inst })
		p.lookAt(ctx, n, list)
		return nil
	})
}

// lookAt looks at the connections of one instance where they are, or were, of
// several hosts.
func (p *Plane) lookAt(ctx context.Context, n instanceName, list []registry.Session) {
	hosts := map[connection]string{}
	for _, s := range list {
		hosts[connectionOf(&s)] = hostOf(s.Host)
	}
	if several(hosts) || p.clones.crowded(n) {
		if len(list) > placesRead {
			// The newest of each host come first to their turn.
			slices.SortFunc(list, func(a, b registry.Session) int { return b.Issued.Compare(a.Issued) })
			list = list[:placesRead]
		}
		now := p.clock()
		if found := p.clones.judge(n, now, p.places(ctx, list)); len(found) > 0 {
			p.raiseClones(n, wire.ClonesView{Hosts: found, Since: now, Seen: now})
		}
	}
	p.clones.forget(n)
}

// raiseClones says that a key is in use on several hosts: in the log and the audit
// for each host that is new in it, and to the other replicas each time it is seen.
func (p *Plane) raiseClones(n instanceName, v wire.ClonesView) {
	fresh := p.clones.note(n, v)
	a := p.clones.alarm(n, v.Seen)
	if a == nil {
		return // too many alarms to remember one more
	}
	if len(fresh) > 0 {
		p.log.Error().Str("agent", n.agent.String()).Str("instance", n.inst.String()).Strs("hosts", a.Hosts).Time("since", a.Since).
			Msg("the key of an instance is in use on several hosts: somebody has a copy of it")
		p.change(agentid.Control, n.agent, n.inst, wire.AlarmClone, "in use on "+strings.Join(a.Hosts, " and "), nil)
	}
	data, err := json.Marshal(cloneNews{n.agent, n.inst, *a})
	if err == nil {
		err = p.ctrl.Publish(clonesSubject, data)
	}
	if err != nil {
		p.log.Debug().Err(err).Msg("other replicas were not told of a clone")
	}
}
