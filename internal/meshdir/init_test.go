package meshdir_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// Every file that Init writes, with its mode; one that is missing here or there
// is a change of what operators mount and back up.
func TestInitFilesAndModes(t *testing.T) {
	const secret, public, folder = fs.FileMode(0o600), fs.FileMode(0o644), fs.ModeDir | 0o700
	want := map[string]fs.FileMode{
		".": folder, "sealmesh.yaml": public,
		"root": folder, "root/authority.nk": secret,
		"root/agent-ca.key": secret, "root/agent-ca.crt": public,
		"root/infra-ca.key": secret, "root/infra-ca.crt": public,
		"server": folder, "server/tokens.nk": secret, "server/records.nk": secret, "server/issuer.nk": secret,
		"server/xkey.nk": secret, "server/service.nk": secret, "server/system.nk": secret,
		"server/agent-ca.key": secret, "server/agent-ca.crt": public,
		"server/infra-ca.key": secret, "server/infra-ca.crt": public,
		"server/control.key": secret, "server/control.crt": public, "server/ca.crt": public,
		"server/signing-keys.json": public, "server/bootstrap.json": public, "server/trust.jws": public,
		"nats": folder, "nats/nats-server.conf": public, "nats/server.key": secret, "nats/server.crt": public, "nats/ca.crt": public,
		"agents": folder, "agents/admin": folder, "agents/admin/agent.json": public, "agents/admin/nats-context.json": public,
		"agents/admin/agent.nk": secret, "agents/admin/curve.nk": secret,
		"agents/admin/tls.key": secret, "agents/admin/tls.crt": public, "agents/admin/ca.crt": public,
	}
	m := newMesh(t)
	if got := tree(t, m.Dir); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// No seed and no private key stands in a file that others may read.
func TestSecretsStandInSecretFilesOnly(t *testing.T) {
	m := newMesh(t)
	var seeds []string
	for path, mode := range tree(t, m.Dir) {
		if mode.IsRegular() && strings.HasSuffix(path, ".nk") {
			b, err := os.ReadFile(filepath.Join(m.Dir, path))
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, strings.TrimSpace(string(b)))
		}
	}
	if len(seeds) != 9 {
		t.Fatalf("got %d seeds, want 9", len(seeds))
	}
	for path, mode := range tree(t, m.Dir) {
		if !mode.IsRegular() || mode.Perm() == 0o600 {
			continue
		}
		b, err := os.ReadFile(filepath.Join(m.Dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "PRIVATE KEY") {
			t.Errorf("%s holds a private key", path)
		}
		for _, s := range seeds {
			if strings.Contains(string(b), s) {
				t.Errorf("%s holds a seed", path)
			}
		}
	}
}

// The written configuration starts a server that takes the control plane's two
// users, each in its account, over TLS with a certificate.
func TestWrittenConfigurationServesTheControlPlane(t *testing.T) {
	addr := freeAddr(t)
	m := newMesh(t, func(o *meshdir.InitOptions) { o.NATSListen = addr })
	t.Chdir(t.TempDir()) // paths in the configuration must not depend on it
	srv, err := natsserver.Start(t.Context(), natsserver.Config{File: m.ServerConf()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	if got, want := srv.URL(), m.Config.NATS.URLs[0]; got != want {
		t.Errorf("the server is at %s, the configuration says %s", got, want)
	}
	source, err := m.ControlSource()
	if err != nil {
		t.Fatal(err)
	}
	connect := func(key nkeys.KeyPair, opts ...nats.Option) (*nats.Conn, error) {
		pub, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		nc, err := nats.Connect(m.Config.NATS.URLs[0], append(opts,
			nats.Nkey(pub, key.Sign), nats.Secure(source.ClientTLS("")), nats.NoReconnect(), nats.Timeout(5*time.Second))...)
		if err == nil {
			t.Cleanup(nc.Close)
		}
		return nc, err
	}

	service, err := m.ServiceKey()
	if err != nil {
		t.Fatal(err)
	}
	ctrl, err := connect(service)
	if err != nil {
		t.Fatalf("connecting with the service key: %v", err)
	}
	js, err := jetstream.New(ctrl)
	if err != nil {
		t.Fatal(err)
	}
	// Only in CTRL is there both a JetStream of one's own and that of MESH.
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: natsconf.AgentsBucket}); err != nil {
		t.Errorf("the service user makes no bucket: %v", err)
	}
	mesh, err := jetstream.NewWithAPIPrefix(ctrl, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mesh.AccountInfo(t.Context()); err != nil {
		t.Errorf("the service user does not reach JetStream of MESH: %v", err)
	}
	if _, err := os.Stat(m.Store()); err != nil {
		t.Errorf("JetStream stores elsewhere: %v", err)
	}

	system, err := m.SystemKey()
	if err != nil {
		t.Fatal(err)
	}
	sys, err := connect(system, nats.CustomInboxPrefix(natsconf.SystemInbox))
	if err != nil {
		t.Fatalf("connecting with the system key: %v", err)
	}
	reply, err := sys.Request("$SYS.REQ.SERVER.PING.IDZ", nil, 5*time.Second)
	if err != nil || !strings.Contains(string(reply.Data), srv.ID()) {
		t.Errorf("the system user does not find the server: %v", err)
	}

	// The seed alone, without the certificate, opens nothing.
	pub, err := service.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	bare := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: source.Roots()}
	if nc, err := nats.Connect(m.Config.NATS.URLs[0], nats.Nkey(pub, service.Sign), nats.Secure(bare), nats.NoReconnect()); err == nil {
		nc.Close()
		t.Error("the service key was admitted without a certificate")
	}
}

// The service certificate serves HTTPS for the host of the URL and is pinned by
// what the agents' directories hold.
func TestControlSource(t *testing.T) {
	m := newMesh(t, func(o *meshdir.InitOptions) {
		o.ControlURL, o.Hosts = "https://control.test.example:4223", []string{"other.test.example"}
	})
	source, err := m.ControlSource()
	if err != nil {
		t.Fatal(err)
	}
	leaf := source.Leaf()
	for _, host := range []string{"control.test.example", "other.test.example", "localhost", "127.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Errorf("certificate is not for %s: %v", host, err)
		}
	}
	if err := leaf.VerifyHostname("elsewhere.test.example"); err == nil {
		t.Error("certificate is for any host")
	}
	if got, want := leaf.URIs[0].String(), agentid.ServiceSPIFFE("test.example", "control"); len(leaf.URIs) != 1 || got != want {
		t.Errorf("certificate names %v, want %s", leaf.URIs, want)
	}
	d, err := agentdir.Open(m.AgentDir("admin"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", source.ServerTLS())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			_ = c.Close()
		}
	}()
	pinned, err := pki.PinnedTLS(d.Info.CA, "control.test.example", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.Dial("tcp", l.Addr().String(), pinned)
	if err != nil {
		t.Fatalf("the pin in agent.json does not fit: %v", err)
	}
	_ = c.Close()
}

// The admin's directory is what an enrolled agent has, and the registry is told
// the same keys.
func TestAdmin(t *testing.T) {
	m := newMesh(t)
	now := time.Now()
	d, err := agentdir.Find("admin", m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	info, admin := d.Info, agentid.Require("admin")
	if info.Agent != admin || info.TrustDomain != "test.example" || info.Prefix != "mesh" ||
		info.NATS[0] != "tls://127.0.0.1:4222" || info.Control != "https://127.0.0.1:4223" {
		t.Errorf("got %+v", info)
	}
	key, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	// By the pinned roots of the directory alone, as a client would.
	ring, err := capability.NewKeyring(info.Roots, info.SigningKeys)
	if err != nil {
		t.Fatal(err)
	}
	passport, err := capability.VerifyPassport(info.Passport, ring, now)
	if err != nil {
		t.Fatal(err)
	}
	if passport.Agent != admin || passport.Key != pub || passport.Instance() != info.Instance {
		t.Errorf("passport is for %s %s", passport.Agent, passport.Key)
	}
	if passport.Curve != curveOf(t, d) {
		t.Error("passport names another curve key")
	}
	source, err := d.Source()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := m.AgentCA()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := pki.ParsePool(ca.Roots())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.VerifyAgent(chainOf(t, d), roots, "test.example", now)
	if err != nil {
		t.Fatal(err)
	}
	if cert.ID != admin || !cert.NotAfter.Equal(source.NotAfter()) {
		t.Errorf("certificate is %+v", cert)
	}
	founders, err := m.Founders()
	if err != nil {
		t.Fatal(err)
	}
	if len(founders) != 1 {
		t.Fatalf("got %d founders, want 1", len(founders))
	}
	f := founders[0]
	if f.Agent.Agent != admin || f.Agent.Kind != registry.Person || f.Agent.Heartbeat != registry.HeartbeatNone ||
		f.Key != pub || f.Curve != passport.Curve || f.Serial != cert.Serial || !f.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("founder is %+v", f)
	}
	scopes, delegatable, err := f.Agent.Rights.Scopes()
	if err != nil || len(scopes) != 1 || scopes[0].String() != "admin:registry" || len(delegatable) != 0 {
		t.Errorf("founder's rights are %v, %v, %v", scopes, delegatable, err)
	}
	var context map[string]string
	b, err := os.ReadFile(d.File(agentdir.ContextFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &context); err != nil || context["nkey"] != d.File(agentdir.KeyFile) {
		t.Errorf("nats-context.json: %v, %v", context, err)
	}
}

func curveOf(t *testing.T, d *agentdir.Dir) string {
	t.Helper()
	b, err := pki.ReadSecret(d.File(agentdir.CurveFile))
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.FromCurveSeed([]byte(strings.TrimSpace(string(b))))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func chainOf(t *testing.T, d *agentdir.Dir) []*x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(d.File(agentdir.TLSCertFile))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(b)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestInitRefusesWhatIsNotEmpty(t *testing.T) {
	made := newMesh(t)
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "notes"), []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ dir, hint string }{
		"a mesh":         {made.Dir, "sealmesh up"},
		"somebody's":     {other, "absent or empty"},
		"a file":         {filepath.Join(other, "notes"), ""},
		"below a file":   {filepath.Join(other, "notes", "mesh"), ""},
		"hidden content": {hidden(t), "absent or empty"},
	} {
		t.Run(name, func(t *testing.T) {
			before := tree(t, filepath.Dir(other))
			_, err := meshdir.Init(tt.dir, meshdir.InitOptions{})
			if err == nil {
				t.Fatal("got a mesh, want an error")
			}
			var e *meshdir.Error
			if tt.hint != "" && (!errors.Is(err, fs.ErrExist) || !errors.As(err, &e) || !strings.Contains(e.Hint(), tt.hint)) {
				t.Errorf("got %v, want fs.ErrExist with a hint of %q", err, tt.hint)
			}
			if after := tree(t, filepath.Dir(other)); !maps.Equal(before, after) {
				t.Errorf("got %v, want %v", after, before)
			}
		})
	}
	if _, err := meshdir.Load(made.Dir); err != nil {
		t.Errorf("the existing mesh is damaged: %v", err)
	}
}

func hidden(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A failure at any step leaves the file system as it was.
func TestFailedInitLeavesNothing(t *testing.T) {
	tests := map[string]struct {
		name    string // of the mesh directory
		options meshdir.InitOptions
	}{
		"bad option":                    {"mesh", meshdir.InitOptions{TrustDomain: "UPPER"}},
		"certificates cannot be made":   {"mesh", meshdir.InitOptions{Hosts: []string{"*.test.example"}}},
		"configuration cannot be made":  {"me\nsh", meshdir.InitOptions{}},
		"configuration, some way down":  {"a/b/me\nsh", meshdir.InitOptions{}},
		"trust domain of an IP address": {"mesh", meshdir.InitOptions{TrustDomain: "10.0.0.1"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, tt.name)
			before := tree(t, parent)
			if _, err := meshdir.Init(dir, tt.options); err == nil {
				t.Fatal("got a mesh, want an error")
			}
			if after := tree(t, parent); !maps.Equal(before, after) {
				t.Errorf("absent directory: got %v, want %v", after, before)
			}
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			before = tree(t, parent)
			if _, err := meshdir.Init(dir, tt.options); err == nil {
				t.Fatal("got a mesh, want an error")
			}
			if after := tree(t, parent); !maps.Equal(before, after) {
				t.Errorf("empty directory: got %v, want %v", after, before)
			}
		})
	}
}

// Of several at once, one makes the mesh and the others leave it alone.
func TestInitTwiceAtOnce(t *testing.T) {
	dir := t.TempDir()
	const n = 4
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := meshdir.Init(dir, meshdir.InitOptions{})
			errs <- err
		}()
	}
	made := 0
	for range n {
		if <-errs == nil {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d made a mesh, want 1", made)
	}
	if _, err := meshdir.Load(dir); err != nil {
		t.Error(err)
	}
}

func TestInitOptions(t *testing.T) {
	o := meshdir.InitOptions{
		TrustDomain: "prod.example", Prefix: "fleet",
		NATSListen: "0.0.0.0:4333", NATSURL: "tls://n1.example:4333,tls://n2.example:4333", NATSStore: "/var/lib/nats", ServerName: "n1",
		ControlListen: ":4444",
		Heartbeat:     meshdir.Heartbeat{Interval: 90 * time.Second, MassExpiryShare: 0.5},
		Session:       meshdir.Session{TTL: 10 * time.Minute}, Certificate: meshdir.Certificate{TTL: 36 * time.Hour},
		Token: meshdir.Token{TTL: 24*time.Hour + 30*time.Second}, Replicas: 3,
		Audit: meshdir.Audit{MaxAge: 720 * time.Hour, MaxBytes: 1 << 32},
	}
	m, err := meshdir.Init(filepath.Join(t.TempDir(), "m"), o)
	if err != nil {
		t.Fatal(err)
	}
	c := m.Config
	if c.TrustDomain != "prod.example" || c.Prefix != "fleet" || len(c.NATS.URLs) != 2 || c.NATS.URLs[1] != "tls://n2.example:4333" ||
		c.NATS.Listen != "0.0.0.0:4333" || m.Store() != "/var/lib/nats" || c.NATS.ServerName != "n1" ||
		c.Control.Listen != ":4444" || c.Control.URL != "https://127.0.0.1:4444" ||
		c.Heartbeat != (meshdir.Heartbeat{Interval: 90 * time.Second, Timeout: 270 * time.Second, MassExpiryShare: 0.5}) ||
		c.Session != o.Session || c.Certificate.TTL != o.Certificate.TTL || c.Token != o.Token || c.Audit != o.Audit || c.Replicas != 3 {
		t.Errorf("got %+v", c)
	}
	conf, err := m.NATSConfig()
	if err != nil {
		t.Fatal(err)
	}
	if conf.Space.Prefix() != "fleet" || conf.StoreDir != "/var/lib/nats" {
		t.Errorf("got %+v", conf)
	}
	text, err := conf.Text()
	if err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(m.ServerConf()); err != nil || string(written) != string(text) {
		t.Errorf("nats-server.conf is not what NATSConfig gives (%v)", err)
	}
}

func TestInitRefusesOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		o    meshdir.InitOptions
		want string
	}{
		"no TLS to nats-server": {meshdir.InitOptions{NATSURL: "nats://n1:4222"}, "nats.urls"},
		"password in a URL":     {meshdir.InitOptions{NATSURL: "tls://u:hunter2@n1:4222"}, "nats.urls"},
		"no free port in a URL": {meshdir.InitOptions{NATSListen: "127.0.0.1:-1"}, "nats.urls"},
		"control without TLS":   {meshdir.InitOptions{ControlURL: "http://c:4223"}, "control.url"},
		"listen without a port": {meshdir.InitOptions{NATSListen: "127.0.0.1", NATSURL: "tls://n1:4222"}, "nats.listen"},
		"prefix of two tokens":  {meshdir.InitOptions{Prefix: "a.b"}, "prefix"},
		"timeout too short":     {meshdir.InitOptions{Heartbeat: meshdir.Heartbeat{Interval: 30 * time.Second, Timeout: 40 * time.Second}}, "heartbeat.timeout"},
		"share above 1":         {meshdir.InitOptions{Heartbeat: meshdir.Heartbeat{MassExpiryShare: 1.5}}, "heartbeat.mass_expiry_share"},
		"session too long":      {meshdir.InitOptions{Session: meshdir.Session{TTL: 25 * time.Hour}}, "session.ttl"},
		"certificate too long":  {meshdir.InitOptions{Certificate: meshdir.Certificate{TTL: 169 * time.Hour}}, "certificate.ttl"},
		"negative token":        {meshdir.InitOptions{Token: meshdir.Token{TTL: -time.Hour}}, "token.ttl"},
		"metrics for all":       {meshdir.InitOptions{MetricsListen: "0.0.0.0:4224"}, "metrics.listen"},
		"metrics at a name":     {meshdir.InitOptions{MetricsListen: "metrics.example.org:4224"}, "metrics.listen"},
		"audit for a second":    {meshdir.InitOptions{Audit: meshdir.Audit{MaxAge: time.Second}}, "audit.max_age"},
		"audit of a kilobyte":   {meshdir.InitOptions{Audit: meshdir.Audit{MaxBytes: 1024}}, "audit.max_bytes"},
		"six replicas":          {meshdir.InitOptions{Replicas: 6}, "replicas"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := meshdir.Init(filepath.Join(t.TempDir(), "m"), tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want an error about %s", err, tt.want)
			}
		})
	}
}
