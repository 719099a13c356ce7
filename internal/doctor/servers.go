package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// leastVersion is the first nats-server without the known ways around a callout.
const leastVersion = "2.12.6"

const startServer = "start nats-server, or mend nats.urls in sealmesh.yaml, the network or the firewall"

// addresses are those of nats.urls, host:port.
func (p *patient) addresses() (out []string) {
	for _, s := range p.mesh.Config.NATS.URLs {
		if u, err := url.Parse(s); err == nil {
			host := u.Host
			if u.Port() == "" {
				host = net.JoinHostPort(u.Hostname(), "4222")
			}
			out = append(out, host)
		}
	}
	return out
}

// each looks at every one of a list at once, and keeps the order.
func each[T any](list []T, f func(T) []Finding) (out []Finding) {
	found := make([][]Finding, len(list))
	var wg sync.WaitGroup
	for i, v := range list {
		wg.Go(func() { found[i] = f(v) })
	}
	wg.Wait()
	for _, f := range found {
		out = append(out, f...)
	}
	return out
}

// listeners looks at what every nats-server shows to clients.
func listeners(ctx context.Context, p *patient) []Finding {
	source, err := p.mesh.ControlSource()
	if err != nil {
		return []Finding{{Wrong, err.Error(), hint(err, "restore server/control.crt and control.key from a backup")}}
	}
	return each(p.addresses(), func(addr string) (out []Finding) {
		conn, g, err := greeted(ctx, addr, dialWait)
		if err != nil {
			return []Finding{{Wrong, fmt.Sprintf("nats-server at %s cannot be reached: %v", addr, err), startServer}}
		}
		defer conn.Close() //nolint:errcheck // nothing was said
		bad := func(l Level, remedy, format string, args ...any) {
			out = append(out, Finding{l, "nats-server at " + addr + " " + fmt.Sprintf(format, args...), remedy})
		}
		if older(g.Version, leastVersion) {
			bad(Wrong, "install nats-server "+leastVersion+" or later", "is version %s, in which identities can be got around", g.Version)
		}
		if g.Nonce == "" {
			bad(Wrong, "the user of CTRL must have an nkey, as sealmesh init writes it", "sends no nonce: no agent can prove that it has its key")
		}
		if !g.TLSRequired {
			bad(Wrong, asGenerated, "does not require TLS")
		} else if !g.TLSVerify {
			bad(Wrong, "verify: true in its tls block", "asks for no certificate")
		}
		if !g.JetStream {
			bad(Wrong, "its jetstream block must be as sealmesh init writes it; its log says what is wrong", "has no JetStream")
		}
		host, _, _ := net.SplitHostPort(addr)
		c := tls.Client(conn, source.ClientTLS(host))
		if err := c.HandshakeContext(ctx); err != nil {
			bad(Wrong, "sealmesh cert server renews its certificate; certificate.server_hosts in sealmesh.yaml lists further names", "shows a certificate that does not count, or refuses that of the control plane: %v", err)
			return out
		}
		leaf := leafOf(c)
		if leaf == nil {
			bad(Wrong, asGenerated, "shows no certificate")
			return out
		}
		if f, ok := p.life(addr, leaf); ok {
			out = append(out, f)
		}
		for _, s := range p.mesh.NATSServers() {
			if s.Address != addr || !s.Present() {
				continue
			}
			if chain, err := s.Chain(); err == nil && !chain[0].Equal(leaf) && chain[0].NotBefore.After(leaf.NotBefore) {
				bad(Warning, "sealmesh nats reload, or copy "+s.Cert+" to its host first", "shows an older certificate than the file here")
			}
		}
		if len(out) == 0 {
			days := int(leaf.NotAfter.Sub(p.now).Hours() / 24)
			out = append(out, Finding{Level: OK, What: fmt.Sprintf("nats-server %s at %s: version %s, TLS with certificates, a nonce, JetStream; its certificate is for %d days", g.Name, addr, g.Version, days)})
		}
		return out
	})
}

// nobody connects without a key.
const nobody = "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"name\":\"sealmesh doctor\",\"lang\":\"go\",\"version\":\"1\",\"protocol\":1}\r\nPING\r\n"

// strangers tries to come in without a certificate, and with an agent's certificate and
// no key. Both must fail.
func strangers(ctx context.Context, p *patient) []Finding {
	cert, err := p.agentCertificate()
	if err != nil {
		return []Finding{{Warning, fmt.Sprintf("it was not tried whether an agent's certificate alone lets in: %v", err), "give the operator's agent with --as"}}
	}
	return each(p.addresses(), func(addr string) []Finding {
		try := func(conf *tls.Config) (entry, string, bool) {
			conn, _, err := greeted(ctx, addr, callWait)
			if err != nil {
				return 0, "", false // listeners says so
			}
			defer conn.Close() //nolint:errcheck // it is refused
			got, said := enter(ctx, conn, conf, nobody)
			return got, said, true
		}
		var wg sync.WaitGroup
		var bare, shown Finding
		wg.Go(func() {
			switch got, _, ok := try(showing(nil)); {
			case !ok:
			case got == refused:
				bare = Finding{Level: OK, What: "nats-server at " + addr + " refuses who shows no certificate"}
			case got == unclear:
				bare = Finding{Warning, "nats-server at " + addr + " did not say what it thinks of a client without a certificate", "run sealmesh doctor again"}
			default:
				bare = Finding{Wrong, "nats-server at " + addr + " talks to who shows no certificate", "verify: true in its tls block"}
			}
		})
		wg.Go(func() {
			switch got, said, ok := try(showing(cert)); {
			case !ok:
			case got == open && said == "PONG":
				shown = Finding{Wrong, "nats-server at " + addr + " lets in who has an agent's certificate and no key", "its authorization block must be as sealmesh init writes it: somebody else is admitted without the callout"}
			case got == open && strings.HasPrefix(said, "-ERR"):
				shown = Finding{Level: OK, What: "nats-server at " + addr + " refuses an agent's certificate without a key"}
			case got == refused:
				// Who is let in by nobody is let in without a key neither; but agents
				// would be kept out, too.
				shown = Finding{Warning, "nats-server at " + addr + " refuses an agent's certificate", "its ca_file must hold the agent CA and the infra CA: sealmesh ca show, sealmesh nats reload"}
			default:
				shown = Finding{Warning, "nats-server at " + addr + " did not say what it thinks of a client without a key", "see whether a control plane answers, and run sealmesh doctor again"}
			}
		})
		wg.Wait()
		var out []Finding
		for _, f := range []Finding{bare, shown} {
			if f.What != "" {
				out = append(out, f)
			}
		}
		return out
	})
}

// closedDoor is a listener that only servers may come to.
type closedDoor struct {
	what, addr string
	speaks     bool // the server greets before TLS
}

// doors finds those listeners: routes in sealmesh.yaml, others in the configurations.
func (p *patient) doors() (out []closedDoor) {
	for i, s := range p.mesh.NATSServers() {
		host, _, _ := net.SplitHostPort(s.Address)
		if host == "" && len(p.addresses()) > 0 {
			host, _, _ = net.SplitHostPort(p.addresses()[0])
		}
		if all := p.mesh.Config.NATS.Servers; len(all) > 0 {
			out = append(out, closedDoor{what: "route", addr: all[i].Route})
		}
		o, err := options(p.mesh.ServerConfs()[i])
		if err != nil {
			continue // not here, or serverConfs says so
		}
		at := func(listen string, port int) string {
			if ip := net.ParseIP(listen); listen == "" || ip != nil && ip.IsUnspecified() {
				listen = host
			}
			return net.JoinHostPort(listen, strconv.Itoa(port))
		}
		if o.Cluster.Port > 0 && len(p.mesh.Config.NATS.Servers) == 0 {
			out = append(out, closedDoor{"route", at(o.Cluster.Host, o.Cluster.Port), false})
		}
		if o.Gateway.Port > 0 {
			out = append(out, closedDoor{"gateway", at(o.Gateway.Host, o.Gateway.Port), false})
		}
		if o.LeafNode.Port > 0 {
			out = append(out, closedDoor{"leafnode", at(o.LeafNode.Host, o.LeafNode.Port), !o.LeafNode.TLSHandshakeFirst})
		}
	}
	return out
}

// routes tries to join as a server with an agent's certificate. It must fail, or any
// agent could own the bus.
func routes(ctx context.Context, p *patient) []Finding {
	doors := p.doors()
	if len(doors) == 0 {
		return []Finding{{Level: OK, What: "there is no listener for other servers"}}
	}
	cert, err := p.agentCertificate()
	if err != nil {
		return []Finding{{Warning, fmt.Sprintf("it was not tried whether an agent's certificate opens a route: %v", err), "give the operator's agent with --as"}}
	}
	return each(doors, func(d closedDoor) []Finding { return []Finding{d.try(ctx, cert)} })
}

func (d closedDoor) try(ctx context.Context, cert *tls.Certificate) Finding {
	var conn net.Conn
	var err error
	if d.speaks {
		conn, _, err = greeted(ctx, d.addr, dialWait)
	} else {
		conn, err = dial(ctx, d.addr, dialWait)
	}
	if err != nil {
		return Finding{Warning, fmt.Sprintf("the %s listener at %s cannot be reached from here, so it was not tried whether it takes an agent's certificate: %v", d.what, d.addr, err), "run sealmesh doctor on a host that reaches it"}
	}
	defer conn.Close() //nolint:errcheck // nothing was said
	// To a leafnode the server says nothing behind TLS before it is asked.
	say := ""
	if d.speaks {
		say = "PING\r\n"
	}
	switch got, _ := enter(ctx, conn, showing(cert), say); got {
	case refused:
		return Finding{Level: OK, What: fmt.Sprintf("the %s listener at %s refuses an agent's certificate", d.what, d.addr)}
	case plainly:
		return Finding{Wrong, fmt.Sprintf("the %s listener at %s has no TLS", d.what, d.addr), "its tls block must be as sealmesh init writes that of routes"}
	case unclear:
		return Finding{Warning, fmt.Sprintf("the %s listener at %s did not say what it thinks of an agent's certificate", d.what, d.addr), "run sealmesh doctor again"}
	}
	return Finding{Wrong, fmt.Sprintf("the %s listener at %s takes an agent's certificate: any agent can join as a server and own the bus", d.what, d.addr), "its ca_file must be the infra CA alone (" + meshdir.ConfigFile + " and sealmesh init write it so); then restart that nats-server"}
}

// older compares versions such as 2.12.6; one that does not parse counts as old.
func older(version, than string) bool {
	v, ok := parseVersion(version)
	w, _ := parseVersion(than)
	if !ok {
		return true
	}
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

func parseVersion(s string) (v [3]int, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "-")
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, false
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
