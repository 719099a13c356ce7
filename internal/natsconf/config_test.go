package natsconf_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func valid(t *testing.T) natsconf.Config {
	t.Helper()
	public := func(create func() (nkeys.KeyPair, error)) string {
		kp, err := create()
		if err != nil {
			t.Fatal(err)
		}
		return natstest.Public(t, kp)
	}
	return natsconf.Config{
		Name: "n1", Listen: "0.0.0.0:4222", StoreDir: "/var/lib/nats", Space: subject.Default(),
		TLS:    natsconf.TLS{Cert: "server.crt", Key: "server.key", CA: "ca.crt"},
		Issuer: public(nkeys.CreateAccount), XKey: public(nkeys.CreateCurveKeys),
		Service: public(nkeys.CreateUser), System: public(nkeys.CreateUser),
		Cluster: &natsconf.Cluster{
			Name: "mesh", Listen: "0.0.0.0:6222", Secret: "cluster-secret.conf",
			TLS: natsconf.TLS{Cert: "route.crt", Key: "route.key", CA: "infra-ca.crt"},
		},
	}
}

func TestTextRefuses(t *testing.T) {
	tests := map[string]func(*natsconf.Config){
		"no space":                 func(c *natsconf.Config) { c.Space = subject.Space{} },
		"no name":                  func(c *natsconf.Config) { c.Name = "" },
		"name with a line break":   func(c *natsconf.Config) { c.Name = "n1\nno_auth_user: x" },
		"no listener":              func(c *natsconf.Config) { c.Listen = "" },
		"listener without port":    func(c *natsconf.Config) { c.Listen = "localhost" },
		"listener on port zero":    func(c *natsconf.Config) { c.Listen = "localhost:0" },
		"listener on port 65536":   func(c *natsconf.Config) { c.Listen = "localhost:65536" },
		"listener with a quote":    func(c *natsconf.Config) { c.Listen = `lo"cal:4222` },
		"no store":                 func(c *natsconf.Config) { c.StoreDir = "" },
		"store with a line break":  func(c *natsconf.Config) { c.StoreDir = "/a\nno_auth_user: x" },
		"no certificate":           func(c *natsconf.Config) { c.TLS.Cert = "" },
		"no key":                   func(c *natsconf.Config) { c.TLS.Key = "" },
		"no CA":                    func(c *natsconf.Config) { c.TLS.CA = "" },
		"issuer is a user key":     func(c *natsconf.Config) { c.Issuer = c.Service },
		"xkey is a user key":       func(c *natsconf.Config) { c.XKey = c.Service },
		"service is an account":    func(c *natsconf.Config) { c.Service = c.Issuer },
		"system is missing":        func(c *natsconf.Config) { c.System = "" },
		"system without a user":    func(c *natsconf.Config) { c.NoSystem = true },
		"service and system equal": func(c *natsconf.Config) { c.System = c.Service },
		"negative limit":           func(c *natsconf.Config) { c.Limits.Connections = -1 },
		"limit past 32 bits":       func(c *natsconf.Config) { c.Limits.Connections = 1 << 31 },
		"payload past the format":  func(c *natsconf.Config) { c.Limits.Payload = 8<<20 + 1 },
		"monitor without port":     func(c *natsconf.Config) { c.Monitor = "localhost" },
		"announced everywhere":     func(c *natsconf.Config) { c.Announce = ":4222" },
		"announced without port":   func(c *natsconf.Config) { c.Announce = "n1.example" },
		"route to any port":        func(c *natsconf.Config) { c.Cluster.Announce = "n1.example:-1" },
		"cluster without name":     func(c *natsconf.Config) { c.Cluster.Name = "" },
		"cluster without CA":       func(c *natsconf.Config) { c.Cluster.TLS.CA = "" },
		"cluster with clients' CA": func(c *natsconf.Config) { c.Cluster.TLS.CA = c.TLS.CA },
		"cluster without secret":   func(c *natsconf.Config) { c.Cluster.Secret = "" },
		"secret file with a quote": func(c *natsconf.Config) { c.Cluster.Secret = `a"b` },
	}
	for name, edit := range tests {
		t.Run(name, func(t *testing.T) {
			c := valid(t)
			if _, err := c.Text(); err != nil {
				t.Fatalf("the unedited configuration: %v", err)
			}
			edit(&c)
			if text, err := c.Text(); err == nil {
				t.Errorf("got a configuration of %d bytes, want an error", len(text))
			}
		})
	}
}

func TestTextIsDeterministicAndPublic(t *testing.T) {
	c := valid(t)
	one, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same configuration gave two texts")
	}
	for _, never := range []string{"handshake_first:", "verify_and_map:", "no_auth_user:", "allow_responses", "http:", "insecure", "password:", `"SU`, `"SA`, `"SX`} {
		if bytes.Contains(one, []byte(never)) {
			t.Errorf("the configuration contains %q", never)
		}
	}
	c.Monitor = "127.0.0.1:8222"
	monitored, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(monitored, []byte(`http: "127.0.0.1:8222"`)) {
		t.Error("the monitoring page is not in the configuration that asks for it")
	}
}

// Another prefix moves every subject of the mesh's own and nothing else.
func TestPrefix(t *testing.T) {
	m := natstest.Prepare(t, func(c *natsconf.Config) {
		space, err := subject.New("acme")
		if err != nil {
			t.Fatal(err)
		}
		c.Space = space
	})
	text, err := m.Config.Text()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(`"mesh.`)) || bytes.Count(text, []byte(`"acme.`)) < 10 {
		t.Error("the configuration mixes prefixes")
	}
	m.Run(t)
	nc, _ := m.Connect(t, "reader", nil, []string{"acme.feed.>"})
	feed := subscribe(t, nc, "acme.feed.>")
	if err := m.Service.Publish("acme.feed.tick", nil); err != nil {
		t.Fatal(err)
	}
	next(t, feed)
}

// A path with quotes, backslashes, dollars and spaces comes out as it went in.
func TestQuoting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `a "b" \n $HOME 'c' # d {e} ünïcode`)
	m := natstest.Prepare(t, func(c *natsconf.Config) { c.StoreDir = dir })
	opts := &server.Options{}
	if err := opts.ProcessConfigFile(m.File); err != nil {
		t.Fatal(err)
	}
	if opts.StoreDir != dir {
		t.Errorf("got %q, want %q", opts.StoreDir, dir)
	}
}

func TestClusterSecret(t *testing.T) {
	routes := []string{"a.example:6222", "[::1]:6222"}
	text, err := natsconf.ClusterSecret("routes", routePassword, routes)
	if err != nil {
		t.Fatal(err)
	}
	m := natstest.Prepare(t)
	dir := t.TempDir()
	natstest.WriteFile(t, dir, "s.conf", text)
	opts := &server.Options{}
	file := natstest.WriteFile(t, dir, "c.conf", []byte("server_name: x\ncluster {\n  name: c\n  include \"s.conf\"\n}\n"))
	if err := opts.ProcessConfigFile(file); err != nil {
		t.Fatal(err)
	}
	if opts.Cluster.Username != "routes" || opts.Cluster.Password != routePassword {
		t.Errorf("got %q and %q, want the user and the password", opts.Cluster.Username, opts.Cluster.Password)
	}
	for i, r := range opts.Routes {
		if pass, _ := r.User.Password(); r.Host != routes[i] || r.User.Username() != "routes" || pass != routePassword {
			t.Errorf("route %d: got %s", i, r.Redacted())
		}
	}
	if len(opts.Routes) != len(routes) {
		t.Errorf("got %d routes, want %d", len(opts.Routes), len(routes))
	}

	bad := map[string]struct {
		user, password string
		routes         []string
	}{
		"no user":                  {"", routePassword, routes},
		"short password":           {"routes", strings.Repeat("x", 19), routes},
		"password with line break": {"routes", routePassword + "\n", routes},
		"bcrypt password":          {"routes", "$2a$11$" + strings.Repeat("x", 53), routes},
		"one route":                {"routes", routePassword, routes[:1]},
		"route with a user":        {"routes", routePassword, []string{"u@a:1", "b:1"}},
	}
	for name, b := range bad {
		_, err := natsconf.ClusterSecret(b.user, b.password, b.routes)
		if err == nil {
			t.Errorf("%s: got no error", name)
		} else if b.password != "" && strings.Contains(err.Error(), b.password[:10]) {
			t.Errorf("%s: the error shows the password", name)
		}
	}

	// A configuration whose secret file is missing does not start without one.
	c := clusterOf(t, m, m.Dir, "n1", "127.0.0.1:-1", routes...)
	c.Cluster.Secret = "missing.conf"
	conf, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	if srv, err := natsserver.Start(t.Context(), natsserver.Config{File: natstest.WriteFile(t, m.Dir, "c.conf", conf)}); err == nil {
		srv.Close()
		t.Error("a server started without its cluster secret")
	}
}
