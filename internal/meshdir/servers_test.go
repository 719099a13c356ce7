package meshdir_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/pki"
)

func three(t testing.TB, addrs ...string) []meshdir.Server {
	t.Helper()
	if addrs == nil {
		addrs = []string{"n1.example", "n2.example", "n3.example"}
	}
	var out []meshdir.Server
	for i, a := range addrs {
		s, err := meshdir.ParseServer(string(rune('a'+i)) + "=" + a)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]meshdir.Server{
		"a=h":                    {Name: "a", Client: "h:4222", Route: "h:6222"},
		"a-1=n1.example:5000":    {Name: "a-1", Client: "n1.example:5000", Route: "n1.example:7000"},
		"a=10.0.0.1:5000:5001":   {Name: "a", Client: "10.0.0.1:5000", Route: "10.0.0.1:5001"},
		"a=[2001:db8::1]":        {Name: "a", Client: "[2001:db8::1]:4222", Route: "[2001:db8::1]:6222"},
		"a=[2001:db8::1]:80:81":  {Name: "a", Client: "[2001:db8::1]:80", Route: "[2001:db8::1]:81"},
		"a=127.0.0.1:65000:6000": {Name: "a", Client: "127.0.0.1:65000", Route: "127.0.0.1:6000"},
	} {
		if got, err := meshdir.ParseServer(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "a", "=h", "a=", "a=:4222", "a=h:", "a=h:0", "a=h:04222", "a=h:+1", "a=h:x", "a=h:1:", "a=h:1:2:3", "a=h:65536", "a=h:63536",
		"A=h", "-a=h", "a-=h", "a.b=h", "../a=h", "a/b=h", "a b=h", strings.Repeat("a", 64) + "=h",
		"a=H", "a=h_1", "a=u:p@h", "a=h/x", "a=h?x", "a=0.0.0.0", "a=[::]", "a=::1", "a=[h]", "a=[::1", "a=[::1]x", "a=[::1]:", "a=[10.0.0.1]", "a=h\n", "a=-h",
	} {
		if got, err := meshdir.ParseServer(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error has two lines", text)
		}
	}
}

// What is taken names two addresses that can be dialled, and has one spelling of
// its ports.
func FuzzParseServer(f *testing.F) {
	for _, s := range []string{"a=h", "a=h:1:2", "a=[::1]:5", "b-1=10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := meshdir.ParseServer(text)
		if err != nil {
			return
		}
		host, client, err := net.SplitHostPort(s.Client)
		other, route, err2 := net.SplitHostPort(s.Route)
		if err != nil || err2 != nil || host != other || host == "" {
			t.Fatalf("%q: got %+v", text, s)
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		again, err := meshdir.ParseServer(s.Name + "=" + host + ":" + client + ":" + route)
		if err != nil || again != s {
			t.Fatalf("%q: got %+v, written out %+v, %v", text, s, again, err)
		}
	})
}

// Every file of a cluster with its mode; what is not below nats/ is as in a mesh of
// one server.
func TestClusterFilesAndModes(t *testing.T) {
	const secret, public, folder = fs.FileMode(0o600), fs.FileMode(0o644), fs.ModeDir | 0o700
	one := tree(t, newMesh(t).Dir)
	m := newMesh(t, func(o *meshdir.InitOptions) { o.Servers = three(t) })
	want := maps.Clone(one)
	maps.DeleteFunc(want, func(path string, _ fs.FileMode) bool { return strings.HasPrefix(path, "nats/") })
	for _, n := range []string{"nats/a", "nats/b", "nats/c"} {
		want[n] = folder
		for file, mode := range map[string]fs.FileMode{
			"nats-server.conf": public, "server.key": secret, "server.crt": public,
			"ca.crt": public, "infra-ca.crt": public, "cluster-secret.conf": secret,
		} {
			want[n+"/"+file] = mode
		}
	}
	if got := tree(t, m.Dir); !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	keys := map[string]bool{}
	for _, n := range []string{"a", "b", "c"} {
		b, err := os.ReadFile(filepath.Join(m.Dir, "nats", n, "server.key"))
		if err != nil {
			t.Fatal(err)
		}
		keys[string(b)] = true
	}
	if len(keys) != 3 {
		t.Error("two servers have one key")
	}
	again, err := meshdir.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.Config.NATS.Servers, three(t)) || again.Config.Replicas != 3 ||
		!slices.Equal(again.Config.NATS.URLs, []string{"tls://n1.example:4222", "tls://n2.example:4222", "tls://n3.example:4222"}) {
		t.Errorf("got %+v", again.Config)
	}
	if confs := again.ServerConfs(); len(confs) != 3 || confs[2] != filepath.Join(m.Dir, "nats", "c", "nats-server.conf") || again.ServerConf() != confs[0] {
		t.Errorf("got configurations %q", confs)
	}
}

// The written configurations start servers that find each other.
func TestWrittenConfigurationsMakeACluster(t *testing.T) {
	var addrs []string
	for range 3 {
		_, client, _ := net.SplitHostPort(freeAddr(t))
		addrs = append(addrs, freeAddr(t)+":"+client)
	}
	m := newMesh(t, func(o *meshdir.InitOptions) { o.Servers = three(t, addrs...) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all []*natsserver.Server
	for _, conf := range m.ServerConfs() {
		srv, err := natsserver.Start(ctx, natsserver.Config{File: conf})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Close)
		all = append(all, srv)
	}
	for i, srv := range all {
		if err := srv.Ready(ctx); err != nil {
			t.Fatalf("%s: %v", srv.Name(), err)
		}
		if srv.Name() != m.Config.NATS.Servers[i].Name || srv.URL() != m.Config.NATS.URLs[i] || srv.ClusterAddr() != m.Config.NATS.Servers[i].Route {
			t.Errorf("got %s at %s and %s", srv.Name(), srv.URL(), srv.ClusterAddr())
		}
	}
}

func TestClusterListensWhereItIsReached(t *testing.T) {
	m := newMesh(t, func(o *meshdir.InitOptions) {
		o.Servers = three(t, "127.0.0.1", "localhost:5222", "n3.example:6000:6001")
	})
	confs, err := m.NATSConfigs()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][2]string{{"127.0.0.1:4222", "127.0.0.1:6222"}, {"localhost:5222", "localhost:7222"}, {"0.0.0.0:6000", "0.0.0.0:6001"}} {
		if got := [2]string{confs[i].Listen, confs[i].Cluster.Listen}; got != want {
			t.Errorf("server %d listens on %q, want %q", i, got, want)
		}
		text, err := confs[i].Text()
		if err != nil {
			t.Fatal(err)
		}
		if written, err := os.ReadFile(m.ServerConfs()[i]); err != nil || !bytes.Equal(written, text) {
			t.Errorf("server %d: nats-server.conf is not what NATSConfigs gives (%v)", i, err)
		}
	}
}

func TestInitRefusesServers(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*meshdir.InitOptions)
		want string
	}{
		"one":              {func(o *meshdir.InitOptions) { o.Servers = o.Servers[:1] }, "1 cannot be a cluster"},
		"two":              {func(o *meshdir.InitOptions) { o.Servers = o.Servers[:2] }, "2 cannot be a cluster"},
		"sixteen":          {func(o *meshdir.InitOptions) { o.Servers = slices.Repeat(o.Servers, 6) }, "more than 15"},
		"one name":         {func(o *meshdir.InitOptions) { o.Servers[2].Name = "a" }, `two are called "a"`},
		"one address":      {func(o *meshdir.InitOptions) { o.Servers[2].Client = o.Servers[0].Client }, "named twice"},
		"route is client":  {func(o *meshdir.InitOptions) { o.Servers[2].Route = o.Servers[2].Client }, "named twice"},
		"a path":           {func(o *meshdir.InitOptions) { o.Servers[2].Name = ".." }, "no name of a server"},
		"no route":         {func(o *meshdir.InitOptions) { o.Servers[2].Route = "" }, "route"},
		"listener as well": {func(o *meshdir.InitOptions) { o.NATSListen = "127.0.0.1:4222" }, "nats.listen"},
		"name as well":     {func(o *meshdir.InitOptions) { o.ServerName = "n1" }, "nats.server_name"},
		"five copies":      {func(o *meshdir.InitOptions) { o.Replicas = 5 }, "5 copies do not fit on 3 servers"},
	} {
		t.Run(name, func(t *testing.T) {
			o := meshdir.InitOptions{Servers: three(t)}
			tt.edit(&o)
			dir := filepath.Join(t.TempDir(), "m")
			if _, err := meshdir.Init(dir, o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error about %q", err, tt.want)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("something was made")
			}
		})
	}
}

func TestLoadLooksAtTheSecretsOfAllServers(t *testing.T) {
	for _, name := range []string{"nats/a/server.key", "nats/b/cluster-secret.conf", "nats/c/server.key"} {
		m := newMesh(t, func(o *meshdir.InitOptions) { o.Servers = three(t) })
		path := filepath.Join(m.Dir, name)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		var mode *pki.ModeError
		if _, err := meshdir.Load(m.Dir); !errors.As(err, &mode) || mode.Path != path {
			t.Errorf("got %v, want the mode of %s", err, path)
		}
		// It may as well be on its own host.
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		if _, err := meshdir.Load(m.Dir); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadRefusesServers(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"misspelt key":         {"route: \"n2", "rute: \"n2", `unknown key "rute"`},
		"single as well":       {"  servers:", "  listen: 127.0.0.1:4222\n  servers:", "nats.listen"},
		"name twice":           {`name: "b"`, `name: "a"`, "two are called"},
		"no port":              {`"n2.example:4222"` + "\n      route", `"n2.example"` + "\n      route", "client"},
		"more copies than fit": {"replicas: 3", "replicas: 4", "do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, func(o *meshdir.InitOptions) { o.Servers = three(t) })
			edit(t, filepath.Join(m.Dir, meshdir.ConfigFile), func(s string) string { return strings.Replace(s, tt.old, tt.new, 1) })
			var e *meshdir.Error
			if _, err := meshdir.Load(m.Dir); !errors.As(err, &e) || !strings.Contains(e.Problem, tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
