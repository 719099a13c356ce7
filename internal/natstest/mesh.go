package natstest

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// TrustDomain is that of every mesh of this package.
const TrustDomain = "test.example"

// Mesh is one running server with the control plane's two connections.
type Mesh struct {
	AgentCA, InfraCA *CA
	Dir              string
	Config           natsconf.Config
	File             string // the configuration file
	Log              *Log
	Server           *natsserver.Server
	Space            subject.Space
	Service          *nats.Conn // in CTRL
	System           *nats.Conn // in SYS
	Callout          *Callout

	// The control plane's keys.
	IssuerKey, XKey, ServiceKey, SystemKey nkeys.KeyPair
}

// Start runs a server on a free port until the test ends. The edits change the
// configuration before it is written.
func Start(t testing.TB, edits ...func(*natsconf.Config)) *Mesh {
	t.Helper()
	m := Prepare(t, edits...)
	m.Run(t)
	return m
}

// Prepare writes the configuration of a mesh and starts nothing.
func Prepare(t testing.TB, edits ...func(*natsconf.Config)) *Mesh {
	t.Helper()
	m := &Mesh{
		AgentCA: NewCA(t, "agent"), InfraCA: NewCA(t, "infra"), Dir: t.TempDir(),
		Log: &Log{}, Space: subject.Default(),
		IssuerKey: key(t, nkeys.CreateAccount), XKey: key(t, nkeys.CreateCurveKeys),
		ServiceKey: key(t, nkeys.CreateUser), SystemKey: key(t, nkeys.CreateUser),
	}
	cert, keyFile := m.InfraCA.Server(t).Write(t, m.Dir, "server")
	m.Config = natsconf.Config{
		Name: "n1", Listen: "127.0.0.1:-1", StoreDir: t.TempDir(), Space: m.Space,
		TLS: natsconf.TLS{
			Cert: cert, Key: keyFile,
			CA: WriteFile(t, m.Dir, "ca.crt", append(m.AgentCA.PEM(), m.InfraCA.PEM()...)),
		},
		Issuer: Public(t, m.IssuerKey), XKey: Public(t, m.XKey),
		Service: Public(t, m.ServiceKey), System: Public(t, m.SystemKey),
	}
	for _, edit := range edits {
		edit(&m.Config)
	}
	m.Space = m.Config.Space
	text, err := m.Config.Text()
	if err != nil {
		t.Fatalf("writing the configuration: %v", err)
	}
	m.File = WriteFile(t, m.Dir, "nats-server.conf", text)
	return m
}

// Run starts the server of a prepared mesh and attaches to it.
func (m *Mesh) Run(t testing.TB) {
	t.Helper()
	srv, err := natsserver.Start(t.Context(), natsserver.Config{File: m.File, Log: m.Log.Logger()})
	if err != nil {
		t.Fatalf("starting the server: %v", err)
	}
	t.Cleanup(srv.Close)
	m.Attach(t, srv)
}

// Attach connects the control plane to a running server and starts the callout.
func (m *Mesh) Attach(t testing.TB, srv *natsserver.Server) {
	t.Helper()
	m.Server = srv
	m.Service = m.ServiceConn(t)
	m.System = m.control(t, m.SystemKey, nats.CustomInboxPrefix(natsconf.SystemInbox))
	m.Callout = startCallout(t, m)
}

// ServiceConn opens one more connection in CTRL, as a replica of the control
// plane would.
func (m *Mesh) ServiceConn(t testing.TB) *nats.Conn {
	t.Helper()
	return m.control(t, m.ServiceKey)
}

func (m *Mesh) control(t testing.TB, kp nkeys.KeyPair, opts ...nats.Option) *nats.Conn {
	t.Helper()
	cert := m.InfraCA.Client(t, agentid.ServiceSPIFFE(TrustDomain, "control")).TLS(t)
	nc, err := m.Dial(kp, cert, opts...)
	if err != nil {
		t.Fatalf("connecting the control plane: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Dial connects with a key and a certificate; the certificate may be the zero
// value for none, the key nil. The caller closes the connection.
func (m *Mesh) Dial(kp nkeys.KeyPair, cert tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	return m.DialServer(m.Server, kp, cert, opts...)
}

// DialServer is Dial to one server of a cluster.
func (m *Mesh) DialServer(srv *natsserver.Server, kp nkeys.KeyPair, cert tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.InfraCA.Pool()}
	if cert.Certificate != nil {
		// Shown whichever authorities the server names: left alone, Go would
		// keep a foreign certificate back and a test of it would show nothing.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	all := []nats.Option{nats.Secure(conf), nats.Timeout(12 * time.Second), nats.NoReconnect()}
	if kp != nil {
		pub, err := kp.PublicKey()
		if err != nil {
			return nil, err
		}
		all = append(all, nats.Nkey(pub, kp.Sign))
	}
	return nats.Connect(srv.URL(), append(all, opts...)...)
}

// Agent is one instance that the callout admits.
type Agent struct {
	ID       agentid.ID
	Instance agentid.Instance
	Key      nkeys.KeyPair
	Cert     tls.Certificate
}

// NewAgent makes keys and a certificate and has them admitted with exactly the
// given permissions; its own inbox is added to what it may subscribe.
func (m *Mesh) NewAgent(t testing.TB, id string, publish, subscribe []string) *Agent {
	t.Helper()
	a := &Agent{ID: agentid.Require(id), Key: key(t, nkeys.CreateUser)}
	a.Instance = agentid.InstanceOf(Public(t, a.Key))
	a.Cert = m.AgentCA.Client(t, a.ID.SPIFFE(TrustDomain)).TLS(t)
	m.Callout.Admit(t, a, publish, append(subscribe, a.Inbox()+".>"))
	return a
}

// Inbox is the agent's inbox prefix.
func (a *Agent) Inbox() string { return subject.InboxPrefix(a.ID, a.Instance) }

// Connect makes an agent with the permissions and connects it until the test
// ends.
func (m *Mesh) Connect(t testing.TB, id string, publish, subscribe []string, opts ...nats.Option) (*nats.Conn, *Agent) {
	t.Helper()
	a := m.NewAgent(t, id, publish, subscribe)
	nc, err := m.Dial(a.Key, a.Cert, append([]nats.Option{nats.CustomInboxPrefix(a.Inbox())}, opts...)...)
	if err != nil {
		t.Fatalf("connecting %s: %v", id, err)
	}
	t.Cleanup(nc.Close)
	return nc, a
}

// Public is the public half of a key.
func Public(t testing.TB, kp nkeys.KeyPair) string {
	t.Helper()
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func key(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatalf("generating an nkey: %v", err)
	}
	return kp
}
