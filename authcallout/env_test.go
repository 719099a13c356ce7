package authcallout_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const trustDomain = "mesh.test"

// ca is a throwaway CA that signs whatever it is asked to, good or bad.
type ca struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newCA(t testing.TB, name string) *ca {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{key, cert}
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

func (c *ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// sign issues a leaf: an agent's certificate, changed by edit.
func (c *ca) sign(t testing.TB, agent string, edit func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if agent != "" {
		tmpl.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/agent/" + agent}}
	}
	if edit != nil {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// user makes an nkey user key.
func user(t testing.TB) nkeys.KeyPair { return must(t)(nkeys.CreateUser()) }

func must(t testing.TB) func(nkeys.KeyPair, error) nkeys.KeyPair {
	return func(kp nkeys.KeyPair, err error) nkeys.KeyPair {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return kp
	}
}

func public(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	s, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// authority issues chains.
type authority struct {
	tokens, records nkeys.KeyPair
	ring            *capability.Keyring
	now             time.Time
}

func newAuthority(t testing.TB, now time.Time) *authority {
	t.Helper()
	root := must(t)(nkeys.CreateAccount())
	a := &authority{tokens: must(t)(nkeys.CreateAccount()), records: must(t)(nkeys.CreateAccount()), now: now}
	var certs []string
	for key, p := range map[nkeys.KeyPair]capability.Purpose{a.tokens: capability.ForTokens, a.records: capability.ForRecords} {
		c, err := capability.CertifyKey(root, public(t, key), p, now.Add(-time.Hour), now.Add(90*24*time.Hour), now)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	var err error
	if a.ring, err = capability.NewKeyring([]string{public(t, root)}, certs); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) verify(t testing.TB, text string, err error) *capability.Chain {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	c, err := capability.Verify(text, a.ring, a.now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// chain issues a root token to agent for ttl; every scope that can be is
// delegatable.
func (a *authority) chain(t testing.TB, agent agentid.ID, ttl time.Duration, list ...string) *capability.Chain {
	t.Helper()
	r := capability.Root{Agent: agent, Capabilities: scopes(list...), Depth: 2, NotBefore: a.now, Expires: a.now.Add(ttl)}
	for _, s := range r.Capabilities {
		if s.MayDelegate() {
			r.Delegatable = append(r.Delegatable, s)
		}
	}
	text, err := capability.IssueRoot(a.tokens, r, a.now)
	return a.verify(t, text, err)
}

// delegate hands scopes of parent, held by the instance with key, on to another.
func (a *authority) delegate(t testing.TB, parent *capability.Chain, key nkeys.KeyPair, to agentid.ID, ttl time.Duration, list ...string) *capability.Chain {
	t.Helper()
	curve := must(t)(nkeys.CreateCurveKeys())
	passport, err := capability.IssuePassport(a.records, parent.Holder(), public(t, key), public(t, curve), a.now)
	if err != nil {
		t.Fatal(err)
	}
	text, err := capability.Delegate(parent, key, passport, capability.Delegation{
		To: to, Scopes: scopes(list...), NotBefore: a.now, Expires: a.now.Add(ttl),
	}, a.now)
	return a.verify(t, text, err)
}

// fakeRegistry is a Registry in memory.
type fakeRegistry struct {
	mu       sync.Mutex
	agents   map[agentid.ID]authcallout.Admission
	keys     map[string]agentid.ID
	sessions []authcallout.Session
	asked    [][]string
	admit    func(context.Context) error // before the look-up
	open     func(context.Context) error // after the write
}

func newFakeRegistry() *fakeRegistry {
	return &fakeRegistry{agents: map[agentid.ID]authcallout.Admission{}, keys: map[string]agentid.ID{}}
}

func (r *fakeRegistry) add(agent agentid.ID, key string, adm authcallout.Admission) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if adm.Epoch == "" {
		adm.Epoch = "1.1"
	}
	if adm.Instance.IsZero() {
		adm.Instance = agentid.InstanceOf(key)
	}
	r.agents[agent], r.keys[key] = adm, agent
}

func (r *fakeRegistry) Admit(ctx context.Context, agent agentid.ID, key string, presented []string) (authcallout.Admission, error) {
	if r.admit != nil {
		if err := r.admit(ctx); err != nil {
			return authcallout.Admission{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, presented)
	adm, ok := r.agents[agent]
	switch owner, listed := r.keys[key]; {
	case !ok:
		return adm, denial.New(denial.UnlistedAgent, "agent %q is not in the registry", agent)
	case !listed:
		return authcallout.Admission{}, denial.New(denial.UnlistedKey, "the key is not one of agent %q", agent)
	case owner != agent:
		return authcallout.Admission{}, denial.New(denial.IdentityMismatch, "the key is one of agent %q", owner)
	}
	return adm, nil
}

func (r *fakeRegistry) Open(ctx context.Context, s authcallout.Session) error {
	r.mu.Lock()
	r.sessions = append(r.sessions, s)
	r.mu.Unlock()
	if r.open != nil {
		return r.open(ctx)
	}
	return nil
}

func (r *fakeRegistry) opened() []authcallout.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]authcallout.Session(nil), r.sessions...)
}

// mesh is a nats-server with auth callout, both CAs and a service behind it.
type mesh struct {
	srv                   *server.Server
	agents, infra         *ca
	issuer, xkey, service nkeys.KeyPair
	authority             *authority
	registry              *fakeRegistry
	decisions             chan authcallout.Decision
	conn                  *nats.Conn
}

// newMesh starts the server and connects as the control plane.
func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{
		agents: newCA(t, "agents"), infra: newCA(t, "infra"),
		issuer: must(t)(nkeys.CreateAccount()), xkey: must(t)(nkeys.CreateCurveKeys()), service: user(t),
		authority: newAuthority(t, time.Now()), registry: newFakeRegistry(), decisions: make(chan authcallout.Decision, 1024),
	}
	system := user(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	crt := m.infra.sign(t, "", func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	der, err := x509.MarshalPKCS8PrivateKey(crt.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	tlsBlock := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 5 }",
		write("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: crt.Certificate[0]})),
		write("server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		write("ca.crt", append(m.agents.pem(), m.infra.pem()...)))
	conf := write("nats-server.conf", []byte(fmt.Sprintf(`
		listen: 127.0.0.1:-1
		%s
		websocket { listen: "127.0.0.1:-1", %s }
		authorization {
			timeout: 5
			auth_callout { issuer: %s, account: AUTH, auth_users: [%s, %s], xkey: %s }
		}
		accounts { AUTH { users: [{nkey: %s}] }, MESH {}, SYS { users: [{nkey: %s}] } }
		system_account: SYS
	`, tlsBlock, tlsBlock, public(t, m.issuer), public(t, m.service), public(t, system), public(t, m.xkey), public(t, m.service), public(t, system))))
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	if m.srv, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	m.srv.Start()
	t.Cleanup(func() { m.srv.Shutdown(); m.srv.WaitForShutdown() })
	if !m.srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server did not start")
	}
	m.conn, err = nats.Connect(m.srv.ClientURL(), nats.Nkey(public(t, m.service), m.service.Sign), nats.Secure(m.tls(m.infra.sign(t, "", nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.conn.Close)
	return m
}

func (m *mesh) tls(cert tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.infra.pool(), Certificates: []tls.Certificate{cert}}
}

func (m *mesh) config() authcallout.Config {
	return authcallout.Config{
		Conn: m.conn, Issuers: keys(m.issuer), XKeys: keys(m.xkey), Account: "MESH", Space: subject.Default(), TrustDomain: trustDomain,
		Roots: m.agents.pool, Registry: m.registry, Clock: time.Now, Workers: 4, Log: zerolog.Nop(),
		Audit: func(d authcallout.Decision) { m.decisions <- d },
	}
}

func (m *mesh) start(t testing.TB, edit func(*authcallout.Config)) *authcallout.Service {
	t.Helper()
	cfg := m.config()
	if edit != nil {
		edit(&cfg)
	}
	s, err := authcallout.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// decision waits for the next reported decision.
func (m *mesh) decision(t testing.TB) authcallout.Decision {
	t.Helper()
	select {
	case d := <-m.decisions:
		return d
	case <-time.After(10 * time.Second):
		t.Fatal("no decision was reported")
		panic("unreachable")
	}
}

// connect opens a connection as an agent would.
func (m *mesh) connect(cert tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	return m.connectTo(m.srv.ClientURL(), cert, opts...)
}

func (m *mesh) connectTo(url string, cert tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(url, append([]nats.Option{nats.Secure(m.tls(cert)), nats.Timeout(8 * time.Second), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)...)
}

func nkey(t testing.TB, kp nkeys.KeyPair) nats.Option { return nats.Nkey(public(t, kp), kp.Sign) }

// keys is a list that does not change.
func keys(all ...nkeys.KeyPair) func() []nkeys.KeyPair {
	return func() []nkeys.KeyPair { return all }
}
