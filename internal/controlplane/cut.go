package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
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
	mu          sync.Mutex
	cut         int
	delegates   map[agentid.ID]bool
	leaving     []target        // what is given a moment to leave by itself
	unreachable map[string]bool // servers
	revision    uint64          // of the agent's record that was cut by
	changed     time.Time       // when that was written, in an operation
}

func (r *cutReport) servers() []string { return slices.Sorted(maps.Keys(r.unreachable)) }

// cut closes every connection that no longer has the authority it was admitted
// with: those of the agent under older epochs, and those of others whose grant
// rested on what the agent delegated. It changes no record, so it can be
// repeated at any time by anybody; whoever is entitled to a connection gets a new
// one.
//
// Its own connections come first: how long the rest takes depends on how many
// sessions others have.
func (p *Plane) cut(ctx context.Context, id agentid.ID) (*cutReport, error) {
	return p.cutAs(ctx, id, atOnce)
}

// cutAs is cut; how says what becomes of the others' connections. Those that may
// leave by themselves are left to [Plane.seeOff].
func (p *Plane) cutAs(ctx context.Context, id agentid.ID, how manner) (*cutReport, error) {
	r := &cutReport{delegates: map[agentid.ID]bool{}, unreachable: map[string]bool{}}
	agent, err := p.store.Agent(ctx, id)
	if err != nil {
		return r, err
	}
	r.revision = agent.Revision
	list, err := p.store.Instances(ctx, id)
	if err != nil {
		return r, err
	}
	instances := map[agentid.Instance]*registry.Instance{}
	for _, i := range list {
		instances[i.Instance] = i
	}
	entitled, stale, err := p.ownSessions(ctx, agent, instances)
	if err != nil {
		return r, err
	}
	p.closeAll(ctx, stale, r)
	// What the index does not know the servers do.
	found, err := p.connections(ctx, id, r)
	if err != nil {
		return r, err
	}
	var unknown []target
	for _, c := range found {
		if !entitled[c.connection] {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		// Whoever is entitled may have come back since the index was read.
		if entitled, _, err = p.ownSessions(ctx, agent, instances); err != nil {
			return r, err
		}
		unknown = slices.DeleteFunc(unknown, func(c target) bool { return entitled[c.connection] })
		p.closeAll(ctx, unknown, r)
	}
	// The one is done also where the other fails.
	return r, errors.Join(p.cutDelegates(ctx, id, how, r), p.narrow(ctx, id))
}

// ownSessions tells the agent's sessions that it is entitled to from the others.
func (p *Plane) ownSessions(ctx context.Context, agent *registry.Agent, instances map[agentid.Instance]*registry.Instance) (map[connection]bool, []target, error) {
	sessions, err := p.store.Sessions(ctx, agent.Agent)
	if err != nil {
		return nil, nil, err
	}
	entitled := map[connection]bool{}
	var stale []target
	for _, s := range sessions {
		c := connection{s.ServerID, s.ClientID}
		if stands(&s, agent, instances[s.Instance]) {
			entitled[c] = true
		} else {
			stale = append(stale, target{connection: c, agent: s.Agent, session: &s})
		}
	}
	return entitled, stale, nil
}

// stands reports whether a session was admitted by records that still say so.
func stands(s *registry.Session, a *registry.Agent, i *registry.Instance) bool {
	return a != nil && i != nil && a.Status.Standing() == nil && i.State.Standing() == nil && !s.Older(a.Epoch, i.Epoch)
}

// cutDelegates closes the connections of others that rested on what the agent
// delegated.
func (p *Plane) cutDelegates(ctx context.Context, id agentid.ID, how manner, r *cutReport) error {
	sessions, err := p.store.Sessions(ctx, agentid.ID{})
	if err != nil {
		return err
	}
	lost, failed := p.delegates(ctx, sessions, id, p.store.Directory(ctx))
	for _, t := range lost {
		r.delegates[t.agent] = true
	}
	if how == gently {
		r.leaving = lost
	} else {
		p.closeAll(ctx, lost, r)
	}
	return failed
}

// delegates returns those of the sessions of others that rested on what the agent
// delegated and, as the directory says, have nothing left to stand on. What could
// not be found out is the error's matter, and has not ended.
func (p *Plane) delegates(ctx context.Context, sessions []registry.Session, id agentid.ID, dir capability.Directory) (lost []target, failed error) {
	standing := map[string]error{} // by chain: many sessions may rest on one
	for _, s := range sessions {
		if s.Agent == id || !slices.Contains(s.Via, id) {
			continue
		}
		for _, digest := range s.Chains {
			err, known := standing[digest]
			if !known {
				err = p.stillStands(ctx, digest, dir)
				standing[digest] = err
			}
			if err != nil && denial.Of(err) == "" {
				failed = err
			} else if err != nil {
				lost = append(lost, target{connection: connection{s.ServerID, s.ClientID}, agent: s.Agent, session: &s})
				break
			}
		}
	}
	return lost, failed
}

// connection names one client connection in the cluster.
type connection struct {
	server string
	client uint64
}

// target is a connection to be closed.
type target struct {
	connection
	agent   agentid.ID
	session *registry.Session // nil where the index does not have it
}

// kicks is how many connections are closed at the same time.
const kicks = 16

// closeAll closes connections. A server that does not answer is not waited for
// again and again: whoever had many connections there would hold off the others'
// end.
func (p *Plane) closeAll(ctx context.Context, list []target, r *cutReport) {
	list = spare(ctx, list, r)
	next := make(chan target)
	var wg sync.WaitGroup
	for range min(kicks, len(list)) {
		wg.Go(func() {
			for t := range next {
				p.closeOne(ctx, t, r)
			}
		})
	}
	for _, t := range list {
		next <- t
	}
	close(next)
	wg.Wait()
}

func (p *Plane) closeOne(ctx context.Context, t target, r *cutReport) {
	r.mu.Lock()
	silent := r.unreachable[t.server]
	r.mu.Unlock()
	if silent {
		return
	}
	was, err := p.kick(ctx, t.connection)
	r.mu.Lock()
	switch {
	case err != nil:
		r.unreachable[t.server] = true
	case was:
		r.cut++
	}
	r.mu.Unlock()
	if err != nil {
		p.log.Error().Err(err).Str("agent", t.agent.String()).Str("server_id", t.server).Msg("connection could not be cut")
		return
	}
	if t.session == nil {
		return
	}
	if err := p.store.DropSession(ctx, *t.session); err != nil {
		p.log.Warn().Err(err).Msg("session of a cut connection stays listed")
	}
}

// kick closes one connection and reports whether it was there. Only the server's
// own word, or that nobody has heard of the server for long, says that it is
// gone: silence proves nothing.
func (p *Plane) kick(ctx context.Context, c connection) (was bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	body := fmt.Appendf(nil, `{"cid":%d}`, c.client)
	m, err := p.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+c.server+".KICK", body)
	if errors.Is(err, nats.ErrNoResponders) && !p.servers.known(c.server) {
		return false, nil // a server that is gone has no connections
	}
	if err != nil {
		return false, fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	if was, err = parseKick(m.Data, c.server); err != nil {
		return false, fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	return was, nil
}

// noSuchClient is how a server says that a connection is not there.
const noSuchClient = "no such client or leafnode id"

func parseKick(data []byte, server string) (was bool, err error) {
	a, err := parseAnswer(data)
	switch {
	case err != nil:
		return false, err
	case a.Server.ID != server:
		return false, errors.New("another server answered")
	case a.Error == nil:
		return true, nil
	case a.Error.Text == noSuchClient:
		return false, nil
	}
	return false, fmt.Errorf("refused: %.200q", a.Error.Text)
}

// answer is what a server says to a request of the system account.
type answer struct {
	ID     string `json:"id"` // of the answer to IDZ, which is nothing but a server
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Data  json.RawMessage `json:"data"`
	Error *struct {
		Text string `json:"description"`
	} `json:"error"`
}

func parseAnswer(data []byte) (a answer, err error) {
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("answer does not parse: %w", err)
	}
	if a.Server.ID == "" {
		a.Server.ID = a.ID
	}
	if a.Server.ID == "" {
		return a, errors.New("answer names no server")
	}
	return a, nil
}

// listedAtOnce is how many connections a server lists at a time.
const listedAtOnce = 1024

// connections asks every server for the agent's connections, or for those of all
// agents where id is zero. Known servers that did not answer, or not so that it
// can be read, are noted as unreachable.
func (p *Plane) connections(ctx context.Context, id agentid.ID, r *cutReport) ([]target, error) {
	var found []target
	for offset, more := 0, true; more; offset += p.page {
		ask := map[string]any{"auth": true, "acc": natsconf.Mesh, "limit": p.page, "offset": offset}
		if !id.IsZero() {
			ask["user"] = id.String()
		}
		body, err := json.Marshal(ask)
		if err != nil {
			return nil, err
		}
		more = false
		silent, err := p.ping(ctx, "$SYS.REQ.SERVER.PING.CONNZ", body, func(server string, data json.RawMessage) error {
			list, n, err := parseConnections(server, data, id)
			found, more = append(found, list...), more || n == p.page
			return err
		})
		for _, s := range silent {
			r.unreachable[s] = true
		}
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// parseConnections reads one server's list and returns what of it is the agent's,
// or any agent's where id is zero, and how many were listed.
func parseConnections(server string, data json.RawMessage, id agentid.ID) (list []target, listed int, err error) {
	var z struct {
		Connections *[]struct {
			ID   uint64 `json:"cid"`
			User string `json:"authorized_user"`
		} `json:"connections"`
	}
	if err := json.Unmarshal(data, &z); err != nil {
		return nil, 0, fmt.Errorf("connections of %s: %w", server, err)
	}
	if z.Connections == nil {
		return nil, 0, fmt.Errorf("connections of %s: none listed", server)
	}
	for _, c := range *z.Connections {
		agent, err := agentid.Parse(c.User)
		if err == nil && (id.IsZero() || agent == id) {
			list = append(list, target{connection: connection{server, c.ID}, agent: agent})
		}
	}
	return list, len(*z.Connections), nil
}

// ping asks all servers and returns when every known one has answered, or after
// a while. At least one must answer, else nothing was learned; one whose answer
// cannot be used has not answered.
func (p *Plane) ping(ctx context.Context, subj string, body []byte, each func(server string, data json.RawMessage) error) (silent []string, err error) {
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
	for heard := 0; ; {
		wait, stop := ctx, context.CancelFunc(func() {})
		if len(missing) == 0 && heard > 0 {
			// A server that nobody has met yet may still answer.
			wait, stop = context.WithTimeout(ctx, p.servers.grace())
		}
		m, err := sub.NextMsgWithContext(wait)
		stop()
		if err != nil && heard == 0 {
			return slices.Sorted(maps.Keys(missing)), fmt.Errorf("controlplane: no server answered %s: %w", subj, err)
		}
		if err != nil {
			return slices.Sorted(maps.Keys(missing)), nil
		}
		a, err := parseAnswer(m.Data)
		if err != nil {
			p.log.Warn().Err(err).Str("subject", subj).Msg("answer of a server refused")
			continue
		}
		heard++
		p.servers.add(a.Server.ID)
		delete(missing, a.Server.ID)
		if a.Error != nil {
			err = fmt.Errorf("refused: %.200q", a.Error.Text)
		} else {
			err = each(a.Server.ID, a.Data)
		}
		if err != nil {
			p.log.Warn().Err(err).Str("server_id", a.Server.ID).Msg("answer of a server refused")
			missing[a.Server.ID] = true
		}
	}
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
	p.wg.Go(p.tidy)
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
	_, err := p.ping(ctx, "$SYS.REQ.SERVER.PING.IDZ", nil, func(string, json.RawMessage) error { return nil })
	if err == nil {
		p.servers.mu.Lock()
		p.servers.full = time.Now()
		p.servers.mu.Unlock()
	}
	return err
}
