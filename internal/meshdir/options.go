package meshdir

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// InitOptions say how a new mesh differs from the default one. The zero value
// is a mesh on one host that listens on the loopback address.
type InitOptions struct {
	TrustDomain string // DefaultTrustDomain where empty
	Prefix      string // first token of every subject; "mesh" where empty

	NATSListen string // host:port; DefaultNATSListen where empty
	NATSURL    string // tls://host:port, several joined with commas; of NATSListen where empty
	NATSStore  string // JetStream's directory, relative to the mesh directory; DefaultStore where empty
	ServerName string // DefaultServerName where empty

	// NoSystemAccount leaves the control plane without a user in the account SYS:
	// it cannot close connections.
	NoSystemAccount bool

	// Existing is a mesh on nats-servers that run already: in place of a configuration
	// there are the parts that theirs take in.
	Existing bool

	// Servers are those of a cluster; the four settings above are then left empty,
	// but for NATSURL, which is that of all of them where empty.
	Servers []Server

	ControlListen string // host:port; DefaultControlListen where empty
	ControlURL    string // https://host:port; of ControlListen where empty

	// Hosts are names and addresses besides those of the URLs and of the
	// loopback interface that the certificates of nats-server and of the
	// control plane are for. DNS names are in lower case.
	Hosts []string

	Heartbeat   Heartbeat   // zero fields take the defaults; a timeout, three intervals
	Session     Session     // DefaultSessionTTL where zero
	Certificate Certificate // pki.DefaultAgentTTL where zero
	// Vault signs the agents' certificates where Certificate.Issuer is IssuerVault,
	// and is asked for its roots and for the first certificate by Init.
	Vault Vault
	Token Token // DefaultTokenTTL where zero
	Audit Audit // zero fields take the defaults

	MetricsListen string // host:port; DefaultMetricsListen where empty, nowhere where it is NoMetrics

	Replicas int // DefaultReplicas where zero, on a cluster three

	SigningKeys time.Duration // how long the signing keys are certified; 90 days where zero

	Now time.Time // the wall clock where zero
}

func (o InitOptions) config() (Config, error) {
	c := defaults()
	c.TrustDomain = cmp.Or(o.TrustDomain, DefaultTrustDomain)
	c.Prefix = cmp.Or(o.Prefix, c.Prefix)
	c.NATS = NATS{Servers: o.Servers, Listen: o.NATSListen, Store: o.NATSStore, ServerName: o.ServerName}
	c.Replicas = DefaultReplicas
	if o.Existing && strings.Count(o.NATSURL, ",") >= clusterReplicas-1 {
		c.Replicas = clusterReplicas
	}
	if len(o.Servers) > 0 {
		c.Replicas = clusterReplicas
		urls, _ := cluster(o.Servers)
		c.NATS.URLs = urls
	} else {
		c.NATS.single()
		c.NATS.Listen = cmp.Or(o.NATSListen, DefaultNATSListen)
		c.NATS.URLs = []string{"tls://" + dialable(c.NATS.Listen)}
	}
	c.NATS.NoSystemAccount, c.NATS.Existing = o.NoSystemAccount, o.Existing
	if o.NATSURL != "" {
		c.NATS.URLs = strings.Split(o.NATSURL, ",")
	}
	c.Control.Listen = cmp.Or(o.ControlListen, DefaultControlListen)
	c.Control.URL = cmp.Or(o.ControlURL, "https://"+dialable(c.Control.Listen))
	if o.Heartbeat.Interval != 0 {
		c.Heartbeat.Timeout = 3 * o.Heartbeat.Interval
	}
	c.Heartbeat.Interval = cmp.Or(o.Heartbeat.Interval, c.Heartbeat.Interval)
	c.Heartbeat.Timeout = cmp.Or(o.Heartbeat.Timeout, c.Heartbeat.Timeout)
	c.Heartbeat.MassExpiryShare = cmp.Or(o.Heartbeat.MassExpiryShare, c.Heartbeat.MassExpiryShare)
	c.Session.TTL = cmp.Or(o.Session.TTL, c.Session.TTL)
	c.Certificate.Issuer = cmp.Or(o.Certificate.Issuer, c.Certificate.Issuer)
	c.Vault = o.Vault
	c.Certificate.TTL = cmp.Or(o.Certificate.TTL, c.Certificate.TTL)
	c.Certificate.ServerTTL = cmp.Or(o.Certificate.ServerTTL, c.Certificate.ServerTTL)
	c.Certificate.ServerHosts = o.Hosts
	c.Certificate.RenewAfterExpiry = o.Certificate.RenewAfterExpiry.or(c.Certificate.RenewAfterExpiry)
	c.Token.TTL = cmp.Or(o.Token.TTL, c.Token.TTL)
	c.Audit.MaxAge = cmp.Or(o.Audit.MaxAge, c.Audit.MaxAge)
	c.Audit.MaxBytes = cmp.Or(o.Audit.MaxBytes, c.Audit.MaxBytes)
	c.Metrics.Listen = cmp.Or(o.MetricsListen, DefaultMetricsListen)
	if o.MetricsListen == NoMetrics {
		c.Metrics.Listen = ""
	}
	c.Replicas = cmp.Or(o.Replicas, c.Replicas)
	return c, c.check()
}

// NoMetrics as the address of the metrics: there are none.
const NoMetrics = "none"

// dialable names a listener on all addresses by the loopback one.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // what is wrong with it, the check says
	}
	if addr, err := netip.ParseAddr(host); host == "" || (err == nil && addr.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// hosts lists what a server's certificate is for, sorted and unique.
func hosts(extra []string, urls ...string) []string {
	out := append([]string{"localhost", "127.0.0.1", "::1"}, extra...)
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			out = append(out, u.Hostname())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
