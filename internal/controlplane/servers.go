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

	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// Times of the system account's requests.
const (
	kickTimeout = 2 * time.Second
	// pingWait is how long answers of servers that are not known yet are awaited.
	pingWait     = 300 * time.Millisecond
	serversEvery = 30 * time.Second
	// serverGone is how long a server is not heard of before it counts as gone.
	serverGone = 3 * serversEvery
)

// errNoSystem: there is no connection by which servers could be asked or told
// anything.
var errNoSystem = errors.New("controlplane: the mesh has no system account")

// servers are the nats-servers that were heard of. One that stays silent is
// forgotten after a while: its connections died with it.
type servers struct {
	mu    sync.Mutex
	heard map[string]time.Time
	names map[string]string
	full  time.Time // when all servers were asked last, with time to answer
}

// add notes that a server was heard of, and reports whether it was not known. The
// name may be empty.
func (s *servers) add(id, name string) (met bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard == nil {
		s.heard, s.names = map[string]time.Time{}, map[string]string{}
	}
	at, known := s.heard[id]
	s.heard[id] = time.Now()
	if name != "" {
		s.names[id] = name
	}
	return !known || time.Since(at) >= serverGone
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
			delete(s.names, id)
			continue
		}
		out[id] = true
	}
	return out
}

// name is empty where it was not heard.
func (s *servers) name(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.names[id]
}

// another reports whether the server of a name is there under another ID: it was
// restarted since.
func (s *servers) another(name, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, n := range s.names {
		if name != "" && n == name && other != id && s.heard[other].After(s.heard[id]) {
			return true
		}
	}
	return false
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

// metServer notes that a server was heard of. One that is new, or was away for so
// long that it counted as gone, may have connections that nobody knows of.
func (p *Plane) metServer(id, name string) {
	if p.servers.add(id, name) {
		p.repairs.soon()
	}
}

// answer is what a server says to a request of the system account.
type answer struct {
	ID     string `json:"id"` // of the answer to IDZ, which is nothing but a server
	Name   string `json:"name"`
	Server struct {
		ID   string `json:"id"`
		Name string `json:"name"`
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
		a.Server.ID, a.Server.Name = a.ID, a.Name
	}
	if a.Server.ID == "" {
		return a, errors.New("answer names no server")
	}
	return a, nil
}

// ping asks all servers and returns when every known one has answered, or after
// a while. At least one must answer, else nothing was learned; one whose answer
// cannot be used has not answered.
func (p *Plane) ping(ctx context.Context, subj string, body []byte, each func(server string, data json.RawMessage) error) (silent []string, err error) {
	if p.sys == nil {
		return nil, errNoSystem
	}
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
		p.metServer(a.Server.ID, a.Server.Name)
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

// startSystem learns which servers there are and hears of connections that begin
// and end.
func (p *Plane) startSystem(ctx context.Context) error {
	p.wg.Go(p.tidy)
	if p.sys == nil {
		return nil
	}
	if err := p.meetServers(ctx); err != nil {
		return err
	}
	for event, hear := range map[string]func([]byte){"CONNECT": p.onConnect, "DISCONNECT": p.onDisconnect} {
		if _, err := p.sys.Subscribe("$SYS.ACCOUNT."+natsconf.Mesh+"."+event, func(m *nats.Msg) { hear(m.Data) }); err != nil {
			return fmt.Errorf("controlplane: %w", err)
		}
	}
	p.wg.Go(p.greet)
	p.wg.Go(p.keepRepaired)
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
