package natsconf_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/natstest"
)

const (
	routeUser     = "routes"
	routePassword = "correct horse battery staple \"\\$%&/"
)

// clusterOf turns a prepared configuration into a member of a cluster.
func clusterOf(t *testing.T, m *natstest.Mesh, dir, name, listen string, routes ...string) natsconf.Config {
	t.Helper()
	secret, err := natsconf.ClusterSecret(routeUser, routePassword, routes)
	if err != nil {
		t.Fatal(err)
	}
	natstest.WriteFile(t, dir, "cluster-secret.conf", secret)
	cert, key := m.InfraCA.Server(t).Write(t, dir, "route")
	c := m.Config
	c.Name, c.StoreDir = name, t.TempDir()
	c.Cluster = &natsconf.Cluster{
		Name: "mesh", Listen: listen, Secret: "cluster-secret.conf",
		TLS: natsconf.TLS{Cert: cert, Key: key, CA: natstest.WriteFile(t, dir, "infra-ca.crt", m.InfraCA.PEM())},
	}
	return c
}

func startMember(t *testing.T, c natsconf.Config, dir string, log zerolog.Logger) *natsserver.Server {
	t.Helper()
	text, err := c.Text()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(routePassword[:7])) {
		t.Error("the configuration shows the cluster's password")
	}
	srv, err := natsserver.Start(t.Context(), natsserver.Config{File: natstest.WriteFile(t, dir, "nats-server.conf", text), Log: log})
	if err != nil {
		t.Fatalf("starting %s: %v", c.Name, err)
	}
	t.Cleanup(srv.Close)
	return srv
}

// Members find each other, JetStream elects a leader, and a control plane on
// one server serves agents and callouts of another.
func TestCluster(t *testing.T) {
	m := natstest.Prepare(t)
	log := &natstest.Log{}
	dir1, dir2 := t.TempDir(), t.TempDir()
	routes := natstest.FreeAddrs(t, 2)
	n1 := startMember(t, clusterOf(t, m, dir1, "n1", routes[0], routes...), dir1, log.Logger())
	n2 := startMember(t, clusterOf(t, m, dir2, "n2", routes[1], routes...), dir2, log.Logger())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, n := range []*natsserver.Server{n1, n2} {
		if err := n.Ready(ctx); err != nil {
			t.Fatalf("%s: %v", n.Name(), err)
		}
		if n.Routes() == 0 {
			t.Errorf("%s has no routes", n.Name())
		}
	}
	m.Attach(t, n1)
	admin := m.NewAgent(t, "admin", []string{"mesh.call.admin.admin.registry"}, nil)
	infra := m.InfraCA.Server(t).TLS(t)

	const calls = 200
	all := make(chan string, 2*calls)
	var got [2]atomic.Int32
	for i, srv := range []*natsserver.Server{n1, n2} {
		nc := dial(t, m, srv, m.ServiceKey, infra)
		if _, err := nc.QueueSubscribe("mesh.call.*.admin.registry", "control", func(msg *nats.Msg) {
			got[i].Add(1)
			all <- string(msg.Data)
		}); err != nil {
			t.Fatal(err)
		}
		flush(t, nc)
	}
	nc := dial(t, m, n2, admin.Key, admin.Cert)
	checkOnce(t, nc, "mesh.call.admin.admin.registry", calls, all)
	t.Logf("calls answered on the agent's server and on the other: %d, %d", got[1].Load(), got[0].Load())
	if c := log.Complaints("Error trying to connect to route", "Waiting for routing", "not established contact with a meta leader"); len(c) > 0 {
		t.Errorf("the servers complain: %q", c)
	}
}

// Three copies of the replay store take each nonce once, from whichever server it
// comes and however many bring it at the same moment, and nothing but an empty
// message. An event of the largest size is stored.
func TestStoresOnACluster(t *testing.T) {
	t.Parallel()
	m := natstest.Prepare(t)
	routes := natstest.FreeAddrs(t, 3)
	var nodes []*natsserver.Server
	for i, name := range []string{"n1", "n2", "n3"} {
		dir := t.TempDir()
		nodes = append(nodes, startMember(t, clusterOf(t, m, dir, name, routes[i], routes...), dir, zerolog.Nop()))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, n := range nodes {
		if err := n.Ready(ctx); err != nil {
			t.Fatalf("%s: %v", n.Name(), err)
		}
	}
	m.Attach(t, nodes[0])
	stored, err := jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.StreamConfig{natsconf.Replay(5*time.Minute, 3), natsconf.Events(m.Space, []string{"news"}, time.Hour, 3)} {
		eventually(t, c.Name, func() bool { // the third server may be a moment late
			_, err = stored.CreateStream(ctx, c)
			return err == nil
		})
	}
	const burnable, news = "$KV.MESH_REPLAY.read.logs.bob.", "mesh.event.bob.news"
	agent := m.NewAgent(t, "bob", []string{burnable + "*", news}, nil)
	var conns []*nats.Conn
	for _, n := range nodes {
		conns = append(conns, dialAs(t, m, n, agent))
	}
	write := func(nc *nats.Conn, msg *nats.Msg) string {
		reply, err := nc.RequestMsgWithContext(ctx, msg)
		if err != nil {
			t.Error(err)
			return ""
		}
		return string(reply.Data)
	}
	for nonce := range 50 {
		took := make(chan bool)
		const each = 4
		for i := range each * len(conns) {
			go func() {
				answer := write(conns[i%len(conns)], nats.NewMsg(burnable+strconv.Itoa(nonce)))
				took <- strings.Contains(answer, `"seq"`) && !strings.Contains(answer, "error")
			}()
		}
		first := 0
		for range each * len(conns) {
			if <-took {
				first++
			}
		}
		if first != 1 {
			t.Errorf("nonce %d was taken %d times, want once", nonce, first)
		}
	}
	full := nats.NewMsg(burnable + "full")
	full.Data = make([]byte, 100)
	if answer := write(conns[1], full); !strings.Contains(answer, "10054") {
		t.Errorf("a nonce with a payload: got %s, want that it is too large", answer)
	}
	id := nats.NewMsg(burnable + "id")
	id.Header = nats.Header{"Nats-Msg-Id": {strings.Repeat("x", 60)}}
	if answer := write(conns[2], id); !strings.Contains(answer, "10054") {
		t.Errorf("a nonce with a header: got %s, want that it is too large", answer)
	}
	event := nats.NewMsg(news)
	event.Header = nats.Header{"Nats-Msg-Id": {"n"}}
	event.Data = make([]byte, limits.EventBytes-len("NATS/1.0\r\nNats-Msg-Id: n\r\n\r\n"))
	for _, nc := range conns {
		if answer := write(nc, event); !strings.Contains(answer, `"seq"`) {
			t.Errorf("the largest event: got %s", answer)
		}
	}
	stream, err := stored.Stream(ctx, natsconf.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	got, err := stream.GetMsg(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Header) != 1 || len(got.Data) != len(event.Data) || stream.CachedInfo().State.Msgs != 1 {
		t.Errorf("stored: %d bytes, %d headers, %d messages; want what was sent, once", len(got.Data), len(got.Header), stream.CachedInfo().State.Msgs)
	}
}

func dialAs(t *testing.T, m *natstest.Mesh, srv *natsserver.Server, a *natstest.Agent) *nats.Conn {
	t.Helper()
	nc, err := m.DialServer(srv, a.Key, a.Cert, nats.CustomInboxPrefix(a.Inbox()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// A stock nats-server that holds an agent's certificate would join as a route
// and own the bus. It takes both a certificate of the infra CA and the password.
func TestWhoMayJoinAsRoute(t *testing.T) {
	m := natstest.Prepare(t)
	dir := t.TempDir()
	log := &natstest.Log{}
	addr := natstest.FreeAddrs(t, 1)[0]
	// Both routes are its own, so that it has none of itself.
	own := startMember(t, clusterOf(t, m, dir, "n1", addr, addr, strings.Replace(addr, "127.0.0.1", "localhost", 1)), dir, log.Logger())
	agent := m.AgentCA.Client(t, "spiffe://test.example/agent/evil")
	// For both sides, as a careless agent CA would issue it: not even that may
	// help.
	both := m.AgentCA.Server(t)
	tests := []struct {
		name     string
		pair     natstest.Pair
		user     string
		password string
		joins    bool
	}{
		{"agent certificate, no password", agent, "", "", false},
		{"agent certificate, the password", agent, routeUser, routePassword, false},
		{"server certificate of the agent CA, the password", both, routeUser, routePassword, false},
		{"infra certificate, no password", m.InfraCA.Server(t), "", "", false},
		{"infra certificate, wrong password", m.InfraCA.Server(t), routeUser, "not the password at all", false},
		{"infra certificate, the password", m.InfraCA.Server(t), routeUser, routePassword, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			refusals := len(log.Complaints())
			evil := startStock(t, own.ClusterAddr(), tt.pair, tt.user, tt.password)
			if tt.joins {
				eventually(t, "the route", func() bool { return own.Routes() > 0 })
			} else {
				eventually(t, "a refusal", func() bool { return len(log.Complaints()) > refusals })
				t.Logf("the member says %q", log.Complaints()[refusals])
				if own.Routes() > 0 {
					t.Error("joined, want a refusal")
				}
			}
			evil.Shutdown()
			eventually(t, "the end of the route", func() bool { return own.Routes() == 0 })
		})
	}
}

// startStock runs a server that nobody in the mesh configured: it believes any
// certificate, shows its own whomever the other side asks for (left alone, Go
// would keep an agent's certificate back and the test would show nothing), and
// dials the route.
func startStock(t *testing.T, route string, pair natstest.Pair, user, password string) *server.Server {
	t.Helper()
	u := &url.URL{Scheme: "nats-route", Host: route}
	if user != "" {
		u.User = url.UserPassword(user, password)
	}
	cert := pair.TLS(t)
	opts := &server.Options{
		ServerName: "evil", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, Routes: []*url.URL{u},
		Cluster: server.ClusterOpts{
			Name: "mesh", Host: "127.0.0.1", Port: -1, TLSTimeout: 5,
			TLSConfig: &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
			},
		},
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatalf("making the stock server: %v", err)
	}
	t.Cleanup(srv.WaitForShutdown)
	t.Cleanup(srv.Shutdown)
	srv.Start()
	return srv
}

func dial(t *testing.T, m *natstest.Mesh, srv *natsserver.Server, kp nkeys.KeyPair, cert tls.Certificate) *nats.Conn {
	t.Helper()
	nc, err := m.DialServer(srv, kp, cert)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 2000 {
		if ok() {
			return
		}
		<-tick.C
	}
	t.Fatalf("%s did not come", what)
}
