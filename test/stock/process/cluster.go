//go:build unix

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Cluster is a mesh of several nats-servers, and control planes with directories
// of their own, as on hosts of their own.
type Cluster struct {
	*Mesh
	Clients []string // host:port for clients, by server
	Routes  []string // host:port for the other servers
}

// NewCluster picks addresses for a mesh of n servers. Nothing is made yet. Control
// is the address by which agents reach a control plane; who listens there is the
// caller's matter.
func NewCluster(t testing.TB, p Programs, n int) *Cluster {
	t.Helper()
	c := &Cluster{Mesh: NewMesh(t, p)}
	for range n {
		c.Clients, c.Routes = append(c.Clients, address(t)), append(c.Routes, address(t))
	}
	c.NATS = c.Clients[0]
	return c
}

// Address finds one more free address.
func (m *Mesh) Address() string {
	m.t.Helper()
	return address(m.t)
}

// Name is that of a server.
func (c *Cluster) Name(i int) string { return fmt.Sprintf("n%d", i+1) }

// URL is where clients reach a server.
func (c *Cluster) URL(i int) string { return "tls://" + c.Clients[i] }

// Init makes the mesh.
func (c *Cluster) Init() {
	c.t.Helper()
	var servers []string
	for i, client := range c.Clients {
		_, port, _ := strings.Cut(c.Routes[i], ":")
		servers = append(servers, c.Name(i)+"="+client+":"+port)
	}
	c.Must("init", "--servers", strings.Join(servers, ","), "--control-listen", c.Control, "--control-url", "https://"+c.Control)
}

// Folder is that of one server's files.
func (c *Cluster) Folder(i int) string { return filepath.Join(c.Dir(), "nats", c.Name(i)) }

// Node starts one stock nats-server and returns when it listens.
func (c *Cluster) Node(i int) *Process {
	c.t.Helper()
	return c.Server(filepath.Join(c.Folder(i), "nats-server.conf"))
}

// Edit replaces text in a file, which must be there once at least.
func (m *Mesh) Edit(path, old, text string) {
	m.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		m.t.Fatalf("%s has no %q", path, old)
	}
	info, err := os.Stat(path)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), old, text)), info.Mode().Perm()); err != nil {
		m.t.Fatal(err)
	}
}

// Replica makes the directory of a control plane: what such a host has, with an
// address of its own to listen on, and the servers in another order. It returns
// the address.
func (c *Cluster) Replica(name string, first int) (listen string) {
	c.t.Helper()
	dir := c.replica(name)
	if err := os.MkdirAll(filepath.Join(dir, "server"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(c.Dir(), "server", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(dir, "sealmesh.yaml")
	for _, f := range append(files, filepath.Join(c.Dir(), "sealmesh.yaml")) {
		b, err := os.ReadFile(f)
		if err != nil {
			c.t.Fatal(err)
		}
		rel, err := filepath.Rel(c.Dir(), f)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, rel), b, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	listen = address(c.t)
	c.Edit(path, "listen: \""+c.Control+"\"", "listen: \""+listen+"\"")
	// The client of the control plane learns of the others from the first.
	for i := range c.Clients {
		if i != first {
			c.Edit(path, "    - \""+c.URL(i)+"\"\n", "")
		}
	}
	return listen
}

func (c *Cluster) replica(name string) string { return filepath.Join(c.Work, "replica-"+name) }

// StartReplica starts the control plane of a directory that Replica made.
func (c *Cluster) StartReplica(name string) *Process {
	c.t.Helper()
	return Start(c.t, c.Work, c.programs.Path("sealmesh"), "server", "--mesh", c.replica(name))
}
