package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/streams"
)

const (
	// membersWait is how long servers are waited for that sealmesh.yaml names, and
	// strangerWait for others once these have answered.
	membersWait  = 3 * time.Second
	strangerWait = 300 * time.Millisecond
	// streamsWait is how long a stream that nobody leads is waited for.
	streamsWait = 4 * time.Second
	// skewMost is by how much a clock may differ before it is said.
	skewMost = 5 * time.Second
)

// connect opens a connection as one of the control plane's two users, which no callout
// decides about. Nothing is written over it.
func (p *patient) connect(ctx context.Context, key func() (nkeys.KeyPair, error), opts ...nats.Option) (*nats.Conn, error) {
	k, err := key()
	if err != nil {
		return nil, err
	}
	pub, err := k.PublicKey()
	if err != nil {
		return nil, err
	}
	source, err := p.mesh.ControlSource()
	if err != nil {
		return nil, err
	}
	o := nats.GetDefaultOptions()
	o.Servers = p.mesh.Config.NATS.URLs
	for _, opt := range append([]nats.Option{
		nats.Nkey(pub, k.Sign), nats.Secure(source.ClientTLS("")), nats.Timeout(dialWait), nats.NoReconnect(), nats.Name("sealmesh doctor"),
	}, opts...) {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return o.Connect()
}

// member is what a nats-server says of itself to the system account.
type member struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Version   string    `json:"ver"`
	JetStream bool      `json:"jetstream"`
	Time      time.Time `json:"time"`

	skew, doubt time.Duration // its clock less ours, and by how much that may be wrong
}

// members asks all nats-servers of the mesh who they are.
func members(ctx context.Context, p *patient) []Finding {
	if p.mesh.Config.NATS.NoSystemAccount {
		return []Finding{{Warning, "the servers cannot be asked: the mesh has no system account", "see nats.insecure_no_system_account in sealmesh.yaml"}}
	}
	nc, err := p.connect(ctx, p.mesh.SystemKey, nats.CustomInboxPrefix(natsconf.SystemInbox))
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("no nats-server lets the control plane's user in SYS in: %v", err), "start nats-server; auth_users and SYS in nats-server.conf must have the key of server/system.nk"}}
	}
	defer nc.Close()
	heard, err := p.ask(ctx, nc)
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("the servers cannot be asked: %v", err), "look into the log of nats-server"}}
	}
	return p.judgeMembers(heard)
}

func (p *patient) judgeMembers(heard map[string]member) (out []Finding) {
	known := map[string]bool{}
	for _, s := range p.mesh.Config.NATS.Servers {
		known[s.Name] = true
		if _, ok := heard[s.Name]; !ok {
			out = append(out, Finding{Wrong, "nats-server " + s.Name + " does not answer the others", "start it; its log says why no route comes to be"})
		}
	}
	if len(known) == 0 {
		known[p.mesh.Config.NATS.ServerName] = true
	}
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(heard)) {
		m := heard[name]
		versions = append(versions, m.Version)
		if !known[name] {
			out = append(out, Finding{Warning, fmt.Sprintf("nats-server %q answers, which sealmesh.yaml does not name", name), "list it under nats.servers, or find out whose it is"})
		}
		if !m.JetStream {
			out = append(out, Finding{Wrong, "nats-server " + name + " has no JetStream", "its log says why"})
		}
		if f, ok := skewed("nats-server "+name, m.skew, m.doubt); ok {
			out = append(out, f)
		}
	}
	if f, ok := apart(versions); ok {
		out = append(out, f)
	}
	if len(out) == 0 {
		slices.Sort(versions)
		out = append(out, Finding{Level: OK, What: fmt.Sprintf("%s answered, version %s, with clocks as ours", count(len(heard), "server"), strings.Join(slices.Compact(versions), " and "))})
	}
	return out
}

// skewed judges a clock by what it is ahead of ours.
func skewed(whose string, skew, doubt time.Duration) (Finding, bool) {
	off := skew.Abs() - doubt
	if off <= skewMost {
		return Finding{}, false
	}
	which := "ahead of"
	if skew < 0 {
		which = "behind"
	}
	f := Finding{Warning, fmt.Sprintf("the clock of %s is %s %s this host's", whose, skew.Abs().Round(time.Second), which), "let both hosts set their clocks by NTP"}
	if off > limits.Ahead {
		f.Level = Wrong
		f.What += ", and what is signed is refused"
	}
	return f, true
}

// apart judges the versions of a cluster: those one minor version apart work together.
// 2.13 was never released.
func apart(versions []string) (Finding, bool) {
	low, high := 1<<30, 0
	for _, s := range versions {
		if v, ok := parseVersion(s); ok {
			n := v[0]*1000 + v[1]
			if v[0] == 2 && v[1] >= 14 {
				n--
			}
			low, high = min(low, n), max(high, n)
		}
	}
	if high-low <= 1 {
		return Finding{}, false
	}
	slices.Sort(versions)
	return Finding{Warning, "the servers are of versions " + strings.Join(slices.Compact(versions), ", ") + ", more than one apart", "upgrade the older ones, one server at a time"}, true
}

// ask sends one question to all servers and gathers who answers.
func (p *patient) ask(ctx context.Context, nc *nats.Conn) (map[string]member, error) {
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, err
	}
	due := map[string]bool{}
	for _, s := range p.mesh.Config.NATS.Servers {
		due[s.Name] = true
	}
	asked := p.Now()
	// Of the questions that this user may ask, the answers to this one have version
	// and time.
	if err := nc.PublishRequest("$SYS.REQ.SERVER.PING.CONNZ", sub.Subject, []byte(`{"limit":1}`)); err != nil {
		return nil, err
	}
	heard := map[string]member{}
	for end := time.Now().Add(membersWait); ; {
		wait := time.Until(end)
		if len(due) == 0 && len(heard) > 0 {
			wait = min(wait, strangerWait)
		}
		m, err := sub.NextMsg(wait)
		if err != nil || ctx.Err() != nil {
			if len(heard) == 0 {
				return nil, errors.Join(err, ctx.Err())
			}
			return heard, nil
		}
		var a struct {
			Server member `json:"server"`
		}
		if json.Unmarshal(m.Data, &a) != nil || a.Server.Name == "" {
			continue
		}
		now := p.Now()
		a.Server.doubt = now.Sub(asked) / 2
		a.Server.skew = a.Server.Time.Sub(asked.Add(a.Server.doubt))
		heard[a.Server.Name] = a.Server
		delete(due, a.Server.Name)
	}
}

// copies looks at the streams that the mesh rests on.
func copies(ctx context.Context, p *patient) (out []Finding) {
	nc, err := p.connect(ctx, p.mesh.ServiceKey)
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("no nats-server lets the control plane's user in CTRL in: %v", err), "start nats-server; auth_users and CTRL in nats-server.conf must have the key of server/service.nk"}}
	}
	defer nc.Close()
	control, err := jetstream.New(nc)
	if err != nil {
		return []Finding{{Wrong, err.Error(), startServer}}
	}
	stored, err := jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI)
	if err != nil {
		return []Finding{{Wrong, err.Error(), startServer}}
	}
	ask, cancel := context.WithTimeout(ctx, streamsWait)
	_, err = control.AccountInfo(ask)
	cancel()
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("JetStream does not answer: %v", err), "a cluster has JetStream while most of its servers are up: start those that are missing"}}
	}
	all := streams.Look(ctx, control, streamsWait, natsconf.ControlStreams()...)
	all = append(all, streams.Look(ctx, stored, streamsWait, natsconf.StoredStreams()...)...)
	leads, n := map[string]int{}, 0
	for _, s := range all {
		if s.Err == nil {
			n++
			leads[s.Leader]++
		}
		if f, ok := p.judgeStream(s); ok {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		what := fmt.Sprintf("%s, each in as many copies as configured (%d) and all complete", count(n, "stream"), p.mesh.Config.Replicas)
		delete(leads, "")
		if len(leads) > 0 {
			what += ", led by " + strings.Join(slices.Sorted(maps.Keys(leads)), ", ")
		}
		out = append(out, Finding{Level: OK, What: what})
	}
	return out
}

func (p *patient) judgeStream(s streams.State) (Finding, bool) {
	switch want := p.mesh.Config.Replicas; {
	case errors.Is(s.Err, jetstream.ErrStreamNotFound) && s.Name == natsconf.EventsStream:
		return Finding{}, false // there is no durable topic
	case errors.Is(s.Err, jetstream.ErrStreamNotFound):
		return Finding{Wrong, "there is no stream " + s.Name, "start the control plane, which makes it; where there was one, restore a backup"}, true
	case s.Err != nil:
		return Finding{Wrong, fmt.Sprintf("stream %s does not answer, so it has no leader: %v", s.Name, s.Err), "start the nats-servers that are missing"}, true
	case !s.Quorum():
		return Finding{Wrong, fmt.Sprintf("stream %s cannot be written: %d of %d copies are there", s.Name, s.Online, s.Copies), "start the nats-servers that are missing"}, true
	case len(s.Offline) > 0:
		return Finding{Warning, fmt.Sprintf("stream %s has no copy on %s", s.Name, strings.Join(s.Offline, ", ")), "start that nats-server"}, true
	case len(s.Behind) > 0:
		return Finding{Warning, fmt.Sprintf("the copy of %s on %s is behind", s.Name, strings.Join(s.Behind, ", ")), "it catches up by itself; where it does not, look into that nats-server's log"}, true
	case s.Copies < want:
		return Finding{Warning, fmt.Sprintf("stream %s has %d copies, and replicas in sealmesh.yaml says %d", s.Name, s.Copies, want), fmt.Sprintf("nats stream edit %s --replicas %d", s.Name, want)}, true
	}
	return Finding{}, false
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
