package natsconf

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// The limits of the account MESH unless configured.
const (
	DefaultConnections   = 16384
	DefaultSubscriptions = 2048
	DefaultPayload       = 1 << 20
)

// minPassword is the shortest password that routes may have, in bytes. The
// certificate is the first lock; the second should not be a formality.
const minPassword = 20

// Config is what differs between one mesh's servers and another's.
//
// nats-server resolves relative paths against its working directory (but the
// cluster's secret file against the configuration file): give absolute ones.
type Config struct {
	Name     string        // server_name, unique in a cluster
	Listen   string        // host:port for clients; port -1 takes a free one (tests)
	Announce string        // host:port by which clients hear of this server from others of a cluster; empty: where it listens
	StoreDir string        // JetStream's directory
	TLS      TLS           // CA: agent CA and infra CA in one file
	Space    subject.Space // the zero Space is an error

	Issuer  string // public account nkey ("A…") that signs user JWTs
	XKey    string // public curve key ("X…") that callout traffic is sealed to
	Service string // public user nkey ("U…") of the control plane in CTRL
	System  string // public user nkey ("U…") of the control plane in SYS; empty with NoSystem alone

	// NoSystem: the control plane has no user in SYS and cannot close connections.
	NoSystem bool

	Limits  Limits   // of the account MESH; zero fields take the defaults
	Cluster *Cluster // nil: a single server
	Monitor string   // host:port of the HTTP monitoring page; empty: off
}

// TLS names the files of one listener, PEM.
type TLS struct {
	Cert string // certificate and intermediates; server and client authentication
	Key  string
	CA   string // whom the listener believes
}

// Limits bound what agents may use, per account because the server ignores such
// limits in the user JWTs of a callout.
type Limits struct {
	Connections   int // of the account, in the whole cluster
	Subscriptions int // of one connection
	Payload       int // bytes of one message
}

// Cluster is the route listener of one server.
type Cluster struct {
	Name     string // the same on every server
	Listen   string // host:port
	Announce string // host:port by which servers hear of this one from each other; empty: where they saw it
	TLS      TLS    // CA: the infra CA alone
	Secret   string // file with the text of ClusterSecret, mode 0600, relative to the configuration file
}

//go:embed nats-server.conf.tmpl
var source string

// Text returns the configuration file. It is deterministic and holds no
// secrets. Whatever could end in a configuration that is weaker than it looks is
// an error: a missing file name, keys of the wrong kind, one key for both users,
// the same CA file for clients and routes.
func (c Config) Text() ([]byte, error) { return c.part(whole) }

// The parts that a configuration which was there before takes in. Accounts go into its
// accounts block, Callout into its authorization block, and SystemUser among the users
// of its system account.

// Accounts returns CTRL, STORE and MESH.
func (c Config) Accounts() ([]byte, error) { return c.part("accounts") }

// Callout returns who decides about connections, and how long that may take.
func (c Config) Callout() ([]byte, error) { return c.part("callout") }

// SystemUser returns the control plane's user in the system account.
func (c Config) SystemUser() ([]byte, error) { return c.part("system user") }

const whole = "nats-server.conf"

func (c Config) part(name string) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.Limits = c.Limits.orDefault()
	t, err := template.New(whole).Funcs(template.FuncMap{"q": quote}).Parse(source)
	if err != nil {
		return nil, fmt.Errorf("natsconf: template: %w", err)
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, name, view{c}); err != nil {
		return nil, fmt.Errorf("natsconf: %w", err)
	}
	return out.Bytes(), nil
}

func (c Config) check() error {
	if c.Space.Prefix() == "" {
		return errors.New("natsconf: a subject space is required")
	}
	if err := checkName("server name", c.Name); err != nil {
		return err
	}
	if err := checkListen("client listener", c.Listen); err != nil {
		return err
	}
	if err := checkAnnounce("client listener", c.Announce); err != nil {
		return err
	}
	if err := checkPath("JetStream directory", c.StoreDir); err != nil {
		return err
	}
	if err := c.TLS.check("client listener"); err != nil {
		return err
	}
	switch {
	case !nkeys.IsValidPublicAccountKey(c.Issuer):
		return errors.New("natsconf: the issuer is not a public account nkey")
	case !nkeys.IsValidPublicCurveKey(c.XKey):
		return errors.New("natsconf: the xkey is not a public curve key")
	case !nkeys.IsValidPublicUserKey(c.Service):
		return errors.New("natsconf: the service user is not a public user nkey")
	case c.NoSystem && c.System != "":
		return errors.New("natsconf: a control plane without a user in SYS has no key for one")
	case !c.NoSystem && !nkeys.IsValidPublicUserKey(c.System):
		return errors.New("natsconf: the system user is not a public user nkey")
	case c.Service == c.System:
		return errors.New("natsconf: the service user and the system user must have keys of their own")
	}
	l := c.Limits.orDefault()
	if l.Connections < 0 || l.Subscriptions < 0 || l.Payload < 0 || l.Payload > limits.Payload ||
		l.Connections > maxLimit || l.Subscriptions > maxLimit {
		return fmt.Errorf("natsconf: limits must be positive, a payload at most %d bytes", limits.Payload)
	}
	if c.Monitor != "" {
		if err := checkListen("monitoring page", c.Monitor); err != nil {
			return err
		}
	}
	if c.Cluster == nil {
		return nil
	}
	if err := checkName("cluster name", c.Cluster.Name); err != nil {
		return err
	}
	if err := checkListen("route listener", c.Cluster.Listen); err != nil {
		return err
	}
	if err := checkAnnounce("route listener", c.Cluster.Announce); err != nil {
		return err
	}
	if err := c.Cluster.TLS.check("route listener"); err != nil {
		return err
	}
	if c.Cluster.TLS.CA == c.TLS.CA {
		return errors.New("natsconf: routes must not trust the CA file of the client listener: whoever holds an agent's certificate could join the cluster")
	}
	return checkInclude(c.Cluster.Secret)
}

// maxLimit keeps a limit inside the server's 32 bits; one that overflows there
// would come out negative, which the server reads as unlimited.
const maxLimit = 1<<31 - 1

func (l Limits) orDefault() Limits {
	if l.Connections == 0 {
		l.Connections = DefaultConnections
	}
	if l.Subscriptions == 0 {
		l.Subscriptions = DefaultSubscriptions
	}
	if l.Payload == 0 {
		l.Payload = DefaultPayload
	}
	return l
}

func (t TLS) check(of string) error {
	for _, f := range []struct{ what, path string }{{"certificate", t.Cert}, {"key", t.Key}, {"CA", t.CA}} {
		if err := checkPath(of+"'s "+f.what+" file", f.path); err != nil {
			return err
		}
	}
	return nil
}

// ClusterSecret returns the text of a cluster's secret file: the user and the
// password by which servers know each other, and the routes to dial, which
// carry them.
//
// Routes are the host:port of ALL servers, the same list on each: a server
// recognises itself, and JetStream takes the length of the list for the size of
// the cluster when it first elects a leader. At least two are required, because
// a server without routes does not start JetStream and one alone elects nobody.
func ClusterSecret(user, password string, routes []string) ([]byte, error) {
	if err := checkName("cluster user", user); err != nil {
		return nil, err
	}
	if len(password) < minPassword {
		return nil, fmt.Errorf("natsconf: the cluster password must have at least %d characters", minPassword)
	}
	// A password that looks like a bcrypt hash would be compared as one, and
	// could not be sent to another server.
	quoted, err := quote(password)
	if err != nil || strings.HasPrefix(password, "$2") {
		return nil, errors.New("natsconf: the cluster password has characters that it must not have")
	}
	if len(routes) < 2 {
		return nil, errors.New("natsconf: a cluster needs the routes of all its servers, at least two")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The routes' user and password, the same on every server. Secret: mode 0600.\n")
	fmt.Fprintf(&b, "authorization { user: %q, password: %s, timeout: 5 }\n", user, quoted)
	b.WriteString("routes: [\n")
	for _, r := range routes {
		if err := checkListen("route", r); err != nil {
			return nil, err
		}
		u := url.URL{Scheme: "nats-route", User: url.UserPassword(user, password), Host: r}
		q, err := quote(u.String())
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "  %s\n", q)
	}
	b.WriteString("]\n")
	return []byte(b.String()), nil
}

func checkName(what, s string) error {
	if s == "" || len(s) > agentid.MaxLen {
		return fmt.Errorf("natsconf: the %s must have 1 to %d characters", what, agentid.MaxLen)
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.' {
			return fmt.Errorf("natsconf: %s %q: only letters, digits, '-', '_' and '.' are allowed", what, s)
		}
	}
	return nil
}

func checkListen(what, s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("natsconf: %s address %q is not host:port", what, s)
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"'\/@?#`, r) }) {
		return fmt.Errorf("natsconf: %s address %q has a malformed host", what, s)
	}
	// Zero is refused because the server reads it as its default port.
	n, err := strconv.Atoi(port)
	if err != nil || n < -1 || n == 0 || n > 65535 || port[0] == '+' {
		return fmt.Errorf("natsconf: %s address %q has no valid port", what, s)
	}
	return nil
}

// checkAnnounce takes what others can dial, or nothing.
func checkAnnounce(what, s string) error {
	if s == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(s); err == nil && (host == "" || port == "-1") {
		return fmt.Errorf("natsconf: announced address %q of the %s has no host or no port", s, what)
	}
	return checkListen("announced "+what, s)
}

func checkPath(what, s string) error {
	if s == "" {
		return fmt.Errorf("natsconf: a %s is required", what)
	}
	_, err := quote(s)
	return err
}

// checkInclude is stricter than checkPath, because nats-server's include
// directive knows no escapes.
func checkInclude(s string) error {
	if s == "" {
		return errors.New("natsconf: a cluster needs a secret file: without a password the certificate would be its only lock")
	}
	if strings.ContainsAny(s, `"'\`) {
		return fmt.Errorf("natsconf: secret file %q: quotes and backslashes are not allowed", s)
	}
	_, err := quote(s)
	return err
}

// quote writes s as a string of the configuration language. Control characters
// are refused, since a line break in a file name could begin a setting.
func quote(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", fmt.Errorf("natsconf: %q has control characters", s)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, nil
}
