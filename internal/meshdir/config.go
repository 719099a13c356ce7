package meshdir

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/pki"
)

// The defaults of the settings that have one.
const (
	DefaultTrustDomain     = "mesh.local"
	DefaultNATSListen      = "127.0.0.1:4222"
	DefaultStore           = "nats/jetstream"
	DefaultServerName      = "nats-1"
	DefaultControlListen   = "127.0.0.1:4223"
	DefaultMetricsListen   = "127.0.0.1:4224"
	DefaultInterval        = 30 * time.Second
	DefaultTimeout         = 90 * time.Second
	DefaultMassExpiryShare = 0.3
	DefaultSessionTTL      = time.Hour
	DefaultTokenTTL        = 720 * time.Hour
	DefaultReplicas        = 1
	DefaultState           = serverDir
	DefaultAuditAge        = 7 * 24 * time.Hour
	DefaultAuditBytes      = 1 << 30
)

// maxSession bounds how long a user JWT may live: until it ends, its connection
// is kept open by nothing but the control plane's cut.
const maxSession = 24 * time.Hour

// maxReplicas is JetStream's own limit.
const maxReplicas = 5

// Config is sealmesh.yaml. The comments in the file that [Init] writes say what
// each setting does.
type Config struct {
	TrustDomain string      `yaml:"trust_domain"`
	Prefix      string      `yaml:"prefix"`
	NATS        NATS        `yaml:"nats"`
	Control     Control     `yaml:"control"`
	Heartbeat   Heartbeat   `yaml:"heartbeat"`
	Session     Session     `yaml:"session"`
	Certificate Certificate `yaml:"certificate"`
	Vault       Vault       `yaml:"vault"`
	Token       Token       `yaml:"token"`
	Audit       Audit       `yaml:"audit"`
	Metrics     Metrics     `yaml:"metrics"`
	OIDC        []OIDC      `yaml:"oidc"` // platforms whose identities may enrol
	Replicas    int         `yaml:"replicas"`
	State       string      `yaml:"state"` // where the control plane keeps what must not be forgotten; relative to the mesh directory
}

// NATS is how the nats-servers are reached, and what Init wrote into their
// configuration.
type NATS struct {
	URLs    []string `yaml:"urls"`    // tls://host:port
	Servers []Server `yaml:"servers"` // of a cluster; none: there is one server, and the rest is about it

	NoSystemAccount bool `yaml:"insecure_no_system_account"`
	// Existing: the servers have configurations of their own, which take in what Init
	// wrote for them.
	Existing bool `yaml:"existing"`

	Listen     string `yaml:"listen"` // host:port
	Store      string `yaml:"store"`  // JetStream's directory; relative to the mesh directory
	ServerName string `yaml:"server_name"`
}

// Control is the control plane's HTTPS endpoint.
type Control struct {
	Listen string `yaml:"listen"` // host:port
	URL    string `yaml:"url"`    // what join tokens name
}

// Heartbeat is when silence counts as death.
type Heartbeat struct {
	Interval        time.Duration `yaml:"interval"`
	Timeout         time.Duration `yaml:"timeout"`
	MassExpiryShare float64       `yaml:"mass_expiry_share"`
}

// Session is the life of a user JWT.
type Session struct {
	TTL time.Duration `yaml:"ttl"`
}

// Certificate is the life of an agent's certificate.
type Certificate struct {
	Issuer string        `yaml:"issuer"` // IssuerEmbedded or IssuerVault
	TTL    time.Duration `yaml:"ttl"`

	RenewAfterExpiry RenewAfterExpiry `yaml:"renew_after_expiry"`

	ServerTTL   time.Duration `yaml:"server_ttl"`   // of the certificates of nats-server and control plane
	ServerHosts []string      `yaml:"server_hosts"` // that these are for, besides the hosts in URLs and the loopback ones
}

// Token is the life of a root capability token.
type Token struct {
	TTL time.Duration `yaml:"ttl"`
}

// Audit is what is kept of the records of who did what.
type Audit struct {
	MaxAge   time.Duration `yaml:"max_age"`
	MaxBytes int64         `yaml:"max_bytes"` // on each server that has a copy
}

// Metrics is where the control plane tells operators how it fares.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; empty: nowhere
	// NotLoopback lets it be an address that others than this host reach.
	NotLoopback bool `yaml:"insecure_not_loopback"`
}

func (m Metrics) check() error {
	if m.Listen == "" {
		return nil
	}
	if err := checkListen(m.Listen); err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(m.Listen)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); !m.NotLoopback && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is no loopback address, and whoever reaches it may ask without saying who he is; insecure_not_loopback: true allows it", host)
	}
	return nil
}

// minAuditBytes keeps the audit from being a formality.
const minAuditBytes = 1 << 20

// defaults are the settings that a file may leave out. The trust domain and the
// addresses are not among them: guessed ones would be of another mesh.
func defaults() Config {
	return Config{
		Prefix:      subject.DefaultPrefix,
		Heartbeat:   Heartbeat{Interval: DefaultInterval, Timeout: DefaultTimeout, MassExpiryShare: DefaultMassExpiryShare},
		Session:     Session{TTL: DefaultSessionTTL},
		Certificate: Certificate{RenewAfterExpiry: RenewAfterExpiry{Person: DefaultRenewAfter, Job: DefaultRenewAfter}, Issuer: IssuerEmbedded, TTL: pki.DefaultAgentTTL, ServerTTL: pki.DefaultServerTTL},
		Token:       Token{TTL: DefaultTokenTTL},
		Audit:       Audit{MaxAge: DefaultAuditAge, MaxBytes: DefaultAuditBytes},
		Replicas:    DefaultReplicas,
		State:       DefaultState,
	}
}

// Insecure names the settings that are on and that take protection away.
func (c Config) Insecure() []string {
	var out []string
	if c.NATS.NoSystemAccount {
		out = append(out, "nats.insecure_no_system_account")
	}
	if c.Metrics.NotLoopback {
		out = append(out, "metrics.insecure_not_loopback")
	}
	return out
}

// check names the first setting that cannot be used.
func (c Config) check() error {
	if _, err := agentid.ParseTrustDomain(c.TrustDomain); err != nil {
		return fmt.Errorf("trust_domain: %w", err)
	}
	if _, err := subject.New(c.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if len(c.NATS.URLs) == 0 {
		return errors.New("nats.urls: at least one nats-server is required")
	}
	for _, u := range c.NATS.URLs {
		if _, err := checkURL("tls", u); err != nil {
			return fmt.Errorf("nats.urls: %w", err)
		}
	}
	if err := c.checkServers(); err != nil {
		return err
	}
	if len(c.NATS.Servers) == 0 {
		if err := checkListen(c.NATS.Listen); err != nil {
			return fmt.Errorf("nats.listen: %w", err)
		}
	}
	if err := checkListen(c.Control.Listen); err != nil {
		return fmt.Errorf("control.listen: %w", err)
	}
	if _, err := checkURL("https", c.Control.URL); err != nil {
		return fmt.Errorf("control.url: %w", err)
	}
	if err := c.Metrics.check(); err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	if err := c.checkIssuer(); err != nil {
		return err
	}
	if err := c.checkOIDC(); err != nil {
		return err
	}
	return c.checkTimes()
}

func (c Config) checkTimes() error {
	switch h := c.Heartbeat; {
	case h.Interval <= 0:
		return errors.New("heartbeat.interval: must be longer than 0s")
	case h.Timeout < 2*h.Interval:
		// With less, one lost message kills an agent.
		return fmt.Errorf("heartbeat.timeout: must be at least twice the interval, %s", 2*h.Interval)
	case !(h.MassExpiryShare > 0 && h.MassExpiryShare <= 1): // so that NaN fails
		return errors.New("heartbeat.mass_expiry_share: must be above 0 and at most 1")
	}
	if c.Session.TTL <= 0 || c.Session.TTL > maxSession {
		return fmt.Errorf("session.ttl: must be above 0s and at most %s", short(maxSession))
	}
	if c.Certificate.TTL <= 0 || c.Certificate.TTL > pki.MaxAgentTTL {
		return fmt.Errorf("certificate.ttl: must be above 0s and at most %s", short(pki.MaxAgentTTL))
	}
	if err := c.Certificate.RenewAfterExpiry.check(); err != nil {
		return err
	}
	if c.Certificate.ServerTTL <= 0 {
		return errors.New("certificate.server_ttl: must be above 0s")
	}
	if c.Token.TTL <= 0 {
		return errors.New("token.ttl: must be longer than 0s")
	}
	if c.Audit.MaxAge < time.Minute {
		return errors.New("audit.max_age: must be at least 1m")
	}
	if c.Audit.MaxBytes < minAuditBytes {
		return fmt.Errorf("audit.max_bytes: must be at least %d", minAuditBytes)
	}
	if c.State == "" {
		return errors.New("state: must not be empty")
	}
	if c.Replicas < 1 || c.Replicas > maxReplicas {
		return fmt.Errorf("replicas: must be 1 to %d", maxReplicas)
	}
	return nil
}

// checkURL takes scheme://host:port and nothing more. A user or a password in
// it would end in logs, and a scheme without TLS would look as if it were
// possible.
func checkURL(scheme, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL", s)
	}
	if u.User != nil {
		return nil, errors.New("a URL must not hold a user or a password")
	}
	if u.Scheme != scheme {
		return nil, fmt.Errorf("%q must begin with %s://", s, scheme)
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || (u.Path != "" && u.Path != "/") {
		return nil, fmt.Errorf("%q is not %s://host:port", s, scheme)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%q has no valid port", s)
		}
	}
	return u, nil
}

// checkListen takes host:port; port 0 or -1 takes a free one.
func checkListen(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < -1 || n > 65535 {
		return fmt.Errorf("%q has no valid port", s)
	}
	return nil
}
