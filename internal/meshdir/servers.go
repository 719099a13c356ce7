package meshdir

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sealmesh/sealmesh/internal/natsconf"
)

const (
	// clusterName is what the servers of a cluster call it.
	clusterName = "mesh"
	routeUser   = "routes"
	// secretFile is the cluster's password and routes, in the folder of each
	// server.
	secretFile = "cluster-secret.conf"

	defaultClientPort = 4222
	// routeOffset is how far above the clients' port that for routes lies unless
	// it is given: 6222 for 4222, as nats-server has it.
	routeOffset = 2000

	// clusterReplicas is how often a cluster keeps what is stored: one server of
	// the three may be away, and a majority still knows everything.
	clusterReplicas = 3
	clusterLeast    = clusterReplicas
	clusterMost     = 15
)

// Server is one nats-server of a cluster. Its files are in a folder of its name
// below nats/.
type Server struct {
	Name   string `yaml:"name"`   // unique; a DNS label
	Client string `yaml:"client"` // host:port where agents and the control plane reach it
	Route  string `yaml:"route"`  // host:port where the other servers reach it
}

// ParseServer reads NAME=HOST[:PORT[:ROUTEPORT]]; an IPv6 address stands in
// brackets. The ports are 4222, and the first one plus 2000, where they are left
// out.
func ParseServer(s string) (Server, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return Server{}, fmt.Errorf("%q is not NAME=HOST[:PORT[:ROUTEPORT]]", s)
	}
	host, ports := rest, ""
	if strings.HasPrefix(rest, "[") {
		inside, after, ok := strings.Cut(rest[1:], "]")
		addr, err := netip.ParseAddr(inside)
		if !ok || err != nil || !addr.Is6() || after != "" && after[0] != ':' {
			return Server{}, fmt.Errorf("%q holds no IPv6 address in brackets", s)
		}
		host, ports = inside, strings.TrimPrefix(after, ":")
		if after == ":" {
			return Server{}, fmt.Errorf("%q ends in a colon", s)
		}
	} else if before, after, colon := strings.Cut(rest, ":"); colon {
		host, ports = before, after
		if after == "" {
			return Server{}, fmt.Errorf("%q ends in a colon", s)
		}
	}
	if host == "" {
		return Server{}, fmt.Errorf("%q names no host", s)
	}
	client, route := defaultClientPort, 0
	if ports != "" {
		first, second, both := strings.Cut(ports, ":")
		var err error
		if client, err = port(first); err == nil && both {
			route, err = port(second)
		}
		if err != nil {
			return Server{}, fmt.Errorf("%q: %w", s, err)
		}
	}
	route = cmp.Or(route, client+routeOffset)
	if route > 65535 {
		return Server{}, fmt.Errorf("%q: there is no port %d for routes; name one: NAME=HOST:PORT:ROUTEPORT", s, route)
	}
	out := Server{Name: name, Client: net.JoinHostPort(host, strconv.Itoa(client)), Route: net.JoinHostPort(host, strconv.Itoa(route))}
	return out, out.check()
}

func port(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is no port", s)
	}
	return int(n), nil
}

// serverName is strict because a folder is called so, and file names must not
// differ in case alone.
var serverName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// dialled takes the hosts that a certificate can name.
var dialled = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (s Server) check() error {
	if !serverName.MatchString(s.Name) {
		return fmt.Errorf("%q is no name of a server: up to 63 letters in lower case, digits and hyphens", clip(s.Name))
	}
	for _, a := range []struct{ key, addr string }{{"client", s.Client}, {"route", s.Route}} {
		host, p, err := net.SplitHostPort(a.addr)
		if err == nil {
			_, err = port(p)
		}
		if err != nil {
			return fmt.Errorf("%s: %q is not host:port", a.key, clip(a.addr))
		}
		ip, err := netip.ParseAddr(host)
		if err == nil && ip.IsUnspecified() {
			return fmt.Errorf("%s: %q is no address that others can reach", a.key, a.addr)
		}
		if err != nil && !dialled.MatchString(host) {
			return fmt.Errorf("%s: %q has no host name in lower case and no address", a.key, clip(a.addr))
		}
	}
	return nil
}

// checkServers is for a cluster: either none is named, or enough are.
func (c Config) checkServers() error {
	all := c.NATS.Servers
	switch n := len(all); {
	case n == 0:
		return nil
	case n < clusterLeast:
		return fmt.Errorf("nats.servers: %d cannot be a cluster: what is stored is kept three times, and of two servers neither could go on without the other; name three or more, or none for a single one", n)
	case n > clusterMost:
		return fmt.Errorf("nats.servers: more than %d servers", clusterMost)
	}
	if c.NATS.Listen != "" || c.NATS.Store != "" || c.NATS.ServerName != "" {
		return errors.New("nats.listen, nats.store and nats.server_name are of a single server: with nats.servers they stand in the nats-server.conf of each")
	}
	names, addresses := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if err := s.check(); err != nil {
			return fmt.Errorf("nats.servers: %w", err)
		}
		if names[s.Name] {
			return fmt.Errorf("nats.servers: two are called %q", s.Name)
		}
		names[s.Name] = true
		for _, a := range []string{s.Client, s.Route} {
			if addresses[a] {
				return fmt.Errorf("nats.servers: %s is named twice", a)
			}
			addresses[a] = true
		}
	}
	if c.Replicas > len(all) {
		return fmt.Errorf("replicas: %d copies do not fit on %d servers", c.Replicas, len(all))
	}
	return nil
}

// single fills in what only a mesh of one nats-server has.
func (n *NATS) single() {
	n.Store = cmp.Or(n.Store, DefaultStore)
	n.ServerName = cmp.Or(n.ServerName, DefaultServerName)
}

// listener is where a server listens that others reach at addr: there if it is a
// loopback address, else on all addresses, because a host may know itself by
// others than those that reach it.
func listener(addr string) string {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr // what is wrong with it, the check says
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() || host == "localhost" {
		return addr
	}
	return net.JoinHostPort("0.0.0.0", p)
}

// cluster lists the URLs and the hosts of all servers.
func cluster(all []Server) (urls, hosts []string) {
	for _, s := range all {
		urls = append(urls, "tls://"+s.Client)
		for _, a := range []string{s.Client, s.Route} {
			if u, err := url.Parse("tls://" + a); err == nil {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	return urls, hosts
}

// ServerConf returns the path of the nats-server configuration; on a cluster, of
// that of the first server.
func (m *Mesh) ServerConf() string { return m.ServerConfs()[0] }

// ServerConfs returns the paths of the configurations of all nats-servers, or, of
// servers that have their own, of the part with the callout.
func (m *Mesh) ServerConfs() []string {
	var out []string
	for _, dir := range m.natsDirs() {
		out = append(out, m.path(dir, m.keysConf()))
	}
	return out
}

// natsDirs are the folders of the nats-servers, relative to the mesh directory.
func (m *Mesh) natsDirs() []string {
	if len(m.Config.NATS.Servers) == 0 {
		return []string{natsDir}
	}
	var out []string
	for _, s := range m.Config.NATS.Servers {
		out = append(out, natsDir+"/"+s.Name)
	}
	return out
}

// member turns the configuration of a single server into that of one of a cluster.
func (m *Mesh) member(c natsconf.Config, s Server) natsconf.Config {
	dir := natsDir + "/" + s.Name
	c.Name, c.Listen, c.Announce, c.StoreDir = s.Name, listener(s.Client), s.Client, m.path(dir, "jetstream")
	c.TLS = natsconf.TLS{Cert: m.path(dir, "server.crt"), Key: m.path(dir, "server.key"), CA: m.path(dir, "ca.crt")}
	c.Cluster = &natsconf.Cluster{
		Name: clusterName, Listen: listener(s.Route), Announce: s.Route, Secret: secretFile,
		TLS: natsconf.TLS{Cert: c.TLS.Cert, Key: c.TLS.Key, CA: m.path(dir, "infra-ca.crt")},
	}
	return c
}

// cluster writes the folder of each server. One certificate is for clients and
// routes, and for the hosts of all servers: who hears of a server by its address
// alone verifies it by a name that it knows.
func (b *builder) cluster() error {
	c := b.mesh.Config
	password := make([]byte, 32)
	rand.Read(password) //nolint:errcheck // it never fails
	defer clear(password)
	var routes []string
	for _, s := range c.NATS.Servers {
		routes = append(routes, s.Route)
	}
	secret, err := natsconf.ClusterSecret(routeUser, base64.RawURLEncoding.EncodeToString(password), routes)
	if err != nil {
		return err
	}
	defer clear(secret)
	confs, err := b.mesh.NATSConfigs()
	if err != nil {
		return err
	}
	_, names := cluster(c.NATS.Servers)
	names = slices.Concat(names, b.options.Hosts)
	for i, dir := range b.mesh.natsDirs() {
		if err := b.mkdir(dir); err != nil {
			return err
		}
		if err := b.server("nats", hosts(names, c.NATS.URLs...), dir, "server"); err != nil {
			return err
		}
		if err := b.public(append(b.agents.Roots(), b.infraCA.Roots()...), dir, "ca.crt"); err != nil {
			return err
		}
		if err := b.public(b.infraCA.Roots(), dir, "infra-ca.crt"); err != nil {
			return err
		}
		if err := b.secret(secret, dir, secretFile); err != nil {
			return err
		}
		if err := b.serverConf(confs[i], dir); err != nil {
			return err
		}
	}
	return nil
}
