package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/registry"
)

// Times of the system account's requests.
const (
	kickTimeout = 2 * time.Second
	// pingWait is how long answers of servers that are not known yet are awaited.
	pingWait     = 300 * time.Millisecond
	serversEvery = 30 * time.Second
)

// cutReport is what a cut did.
type cutReport struct {
	cut         int
	delegates   []agentid.ID
	unreachable []string
}

// cut closes every connection that no longer has the authority it was admitted
// with: those of the agent under older epochs, and those of others whose grant
// rested on what the agent delegated. It changes no record, so it can be
// repeated at any time by anybody; whoever is entitled to a connection gets a new
// one.
func (p *Plane) cut(ctx context.Context, id agentid.ID) (cutReport, error) {
	var r cutReport
	agent, err := p.store.Agent(ctx, id)
	if err != nil {
		return r, err
	}
	list, err := p.store.Instances(ctx, id)
	if err != nil {
		return r, err
	}
	instances := map[agentid.Instance]*registry.Instance{}
	for _, i := range list {
		instances[i.Instance] = i
	}
	sessions, err := p.store.Sessions(ctx, agentid.ID{})
	if err != nil {
		return r, err
	}
	entitled := map[connection]bool{}
	delegates := map[agentid.ID]bool{}
	for _, s := range sessions {
		switch {
		case s.Agent == id:
			if i := instances[s.Instance]; i != nil && agent.Status.Standing() == nil && i.State.Standing() == nil && !s.Older(agent.Epoch, i.Epoch) {
				entitled[connection{s.ServerID, s.ClientID}] = true
				continue
			}
		case slices.Contains(s.Via, id) && (&admitter{p}).recheck(ctx, s.Chains) != nil:
			delegates[s.Agent] = true
		default:
			continue
		}
		p.closeSession(ctx, s, &r)
	}
	r.delegates = slices.SortedFunc(maps.Keys(delegates), func(a, b agentid.ID) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	// What the index does not know the servers do.
	found, silent, err := p.connections(ctx, id)
	if err != nil {
		return r, err
	}
	r.unreachable = append(r.unreachable, silent...)
	for _, c := range found {
		if !entitled[c] {
			if err := p.kick(ctx, c); err != nil {
				r.unreachable = append(r.unreachable, c.server)
				continue
			}
			r.cut++
		}
	}
	return r, nil
}

func (p *Plane) closeSession(ctx context.Context, s registry.Session, r *cutReport) {
	if err := p.kick(ctx, connection{s.ServerID, s.ClientID}); err != nil {
		r.unreachable = append(r.unreachable, s.ServerID)
		p.log.Error().Err(err).Str("agent", s.Agent.String()).Str("server_id", s.ServerID).Msg("connection could not be cut")
		return
	}
	r.cut++
	if err := p.store.DropSession(ctx, s); err != nil {
		p.log.Warn().Err(err).Msg("session of a cut connection stays listed")
	}
}

// connection names one client connection in the cluster.
type connection struct {
	server string
	client uint64
}

// kick closes one connection. A connection that is not there is a success.
func (p *Plane) kick(ctx context.Context, c connection) error {
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	body := fmt.Appendf(nil, `{"cid":%d}`, c.client)
	m, err := p.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+c.server+".KICK", body)
	if err != nil {
		if !p.servers.known(c.server) {
			return nil // a server that is gone has no connections
		}
		return fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	var resp struct {
		Error *struct {
			Text string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &resp); err != nil {
		return fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	return nil // an error says that there is no such client
}

// connections asks every server for the agent's connections. It returns those,
// and the known servers that did not answer.
func (p *Plane) connections(ctx context.Context, id agentid.ID) ([]connection, []string, error) {
	body, err := json.Marshal(map[string]any{"auth": true, "user": id.String(), "acc": natsconf.Mesh, "limit": 4096})
	if err != nil {
		return nil, nil, err
	}
	var found []connection
	silent, err := p.ping(ctx, "$SYS.REQ.SERVER.PING.CONNZ", body, func(server string, data json.RawMessage) {
		var z struct {
			Connections []struct {
				ID   uint64 `json:"cid"`
				User string `json:"authorized_user"`
			} `json:"connections"`
		}
		if json.Unmarshal(data, &z) != nil {
			return
		}
		for _, c := range z.Connections {
			if c.User == id.String() {
				found = append(found, connection{server, c.ID})
			}
		}
	})
	return found, silent, err
}

// ping asks all servers and returns when every known one has answered, or after
// a while.
func (p *Plane) ping(ctx context.Context, subj string, body []byte, each func(server string, data json.RawMessage)) (silent []string, err error) {
	sub, err := p.sys.SubscribeSync(p.sys.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it ends with the connection at the latest
	if err := p.sys.PublishRequest(subj, sub.Subject, body); err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	missing := p.servers.all()
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	for {
		wait, stop := ctx, context.CancelFunc(func() {})
		if len(missing) == 0 {
			// A server that nobody has met yet may still answer.
			wait, stop = context.WithTimeout(ctx, p.servers.grace())
		}
		m, err := sub.NextMsgWithContext(wait)
		stop()
		if err != nil {
			break
		}
		var a struct {
			Server struct {
				ID string `json:"id"`
			} `json:"server"`
			Data json.RawMessage `json:"data"`
		}
		if json.Unmarshal(m.Data, &a) != nil || a.Server.ID == "" {
			continue
		}
		p.servers.add(a.Server.ID)
		delete(missing, a.Server.ID)
		each(a.Server.ID, a.Data)
	}
	return slices.Sorted(maps.Keys(missing)), nil
}

// servers are the nats-servers that were heard of. One that stays silent is
// forgotten after a while: its connections died with it.
type servers struct {
	mu    sync.Mutex
	heard map[string]time.Time
	full  time.Time // when all servers were asked last, with time to answer
}

const serverGone = 3 * serversEvery

func (s *servers) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard = map[string]time.Time{}
	}
	s.heard[id] = time.Now()
}

func (s *servers) known(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.heard[id]
	return ok && time.Since(at) < serverGone
}

func (s *servers) all() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for id, at := range s.heard {
		if time.Since(at) >= serverGone {
			delete(s.heard, id)
			continue
		}
		out[id] = true
	}
	return out
}

// grace is how long to wait for servers that are not known: long after a start,
// hardly when all were asked a moment ago.
func (s *servers) grace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.full.IsZero() && time.Since(s.full) < 2*serversEvery {
		return 5 * time.Millisecond
	}
	return pingWait
}

// startSystem learns which servers there are and hears of connections that end.
func (p *Plane) startSystem(ctx context.Context) error {
	if err := p.meetServers(ctx); err != nil {
		return err
	}
	_, err := p.sys.Subscribe("$SYS.ACCOUNT."+natsconf.Mesh+".DISCONNECT", p.onDisconnect)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	p.wg.Go(func() {
		tick := time.NewTicker(serversEvery)
		defer tick.Stop()
		for {
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
				if err := p.meetServers(p.ctx); err != nil && p.ctx.Err() == nil {
					p.log.Warn().Err(err).Msg("servers cannot be asked")
				}
			}
		}
	})
	return nil
}

func (p *Plane) meetServers(ctx context.Context) error {
	p.servers.mu.Lock()
	p.servers.full = time.Time{}
	p.servers.mu.Unlock()
	_, err := p.ping(ctx, "$SYS.REQ.SERVER.PING.IDZ", nil, func(string, json.RawMessage) {})
	if err == nil {
		p.servers.mu.Lock()
		p.servers.full = time.Now()
		p.servers.mu.Unlock()
	}
	return err
}

// onDisconnect forgets the session of a connection that ended.
func (p *Plane) onDisconnect(m *nats.Msg) {
	var e struct {
		Server struct {
			ID string `json:"id"`
		} `json:"server"`
		Client struct {
			ID   uint64 `json:"id"`
			User string `json:"user"`
		} `json:"client"`
	}
	if json.Unmarshal(m.Data, &e) != nil {
		return
	}
	id, err := agentid.Parse(e.Client.User)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, kickTimeout)
	defer cancel()
	sessions, err := p.store.Sessions(ctx, id)
	if err != nil {
		p.log.Debug().Err(err).Msg("sessions cannot be read")
		return
	}
	for _, s := range sessions {
		if s.ServerID == e.Server.ID && s.ClientID == e.Client.ID {
			if err := p.store.DropSession(ctx, s); err != nil {
				p.log.Debug().Err(err).Msg("session stays listed")
			}
		}
	}
}

// cutting counts the operations that are about to cut an agent themselves, so
// that the watcher, which sees the record change as well, leaves it to them.
type cutting struct {
	mu     sync.Mutex
	agents map[agentid.ID]int
}

func (c *cutting) begin(id agentid.ID) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agents == nil {
		c.agents = map[agentid.ID]int{}
	}
	c.agents[id]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.agents[id]--; c.agents[id] == 0 {
			delete(c.agents, id)
		}
	}
}

func (c *cutting) busy(id agentid.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.agents[id] > 0
}

// cutAndLog is the cut that nobody waits for.
func (p *Plane) cutAndLog(id agentid.ID) {
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	r, err := p.cut(ctx, id)
	switch {
	case p.ctx.Err() != nil || denial.Of(err) == denial.UnlistedAgent:
	case err != nil:
		p.log.Error().Err(err).Str("agent", id.String()).Msg("connections could not be cut")
	case r.cut > 0 || len(r.unreachable) > 0:
		p.log.Info().Str("agent", id.String()).Int("cut", r.cut).Strs("unreachable", r.unreachable).Msg("connections cut")
	}
}
