package controlplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// https is the certificate that the control plane's endpoint shows.
func https(t *testing.T, url string) *x509.Certificate {
	t.Helper()
	d := &net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is only looked at
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0]
}

// Two replicas that share a directory renew its certificates, each once at half of
// its life; servers show the new ones, nobody is disconnected, and status names when
// they end.
func TestServersAreRenewedUnderTheirClients(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) {
		o.Certificate.ServerTTL = 10 * time.Second
		o.Hosts = []string{"old.example"}
	}})
	second, err := m.AddPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("stays"), Heartbeat: registry.HeartbeatNone})
	stays, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	firstNATS, firstControl := presented(stays), https(t, m.Plane.URL())
	// What a server shows is looked at without being let in: on a busy machine a callout
	// takes longer than the two seconds after which nats-server greets with a PING, which
	// nats.go takes for a failure.
	eventually(t, ctx, "a new certificate of nats-server", func() bool {
		shown, err := m.Plane.Shown(ctx, strings.TrimPrefix(m.Server.URL(), "tls://"))
		return err == nil && !shown.Equal(firstNATS)
	})
	for _, url := range []string{m.Plane.URL(), second.URL()} {
		eventually(t, ctx, "a new certificate of "+url, func() bool { return !https(t, url).Equal(firstControl) })
	}
	eventually(t, ctx, "a connection under the new certificate", func() bool {
		late, err := raw(t, dir)
		if err == nil {
			late.Close()
		}
		return err == nil
	})
	now := https(t, m.Plane.URL())
	if err := now.VerifyHostname("old.example"); err != nil {
		t.Errorf("the renewed certificate is not for all hosts of the one before: %v", err)
	}
	if bytes.Equal(now.RawSubjectPublicKeyInfo, firstControl.RawSubjectPublicKeyInfo) {
		t.Error("the key is the old one")
	}
	if !stays.IsConnected() || stays.Stats().Reconnects > 0 {
		t.Errorf("the client of before was disconnected")
	}
	for _, s := range append(m.Dir.NATSServers(), m.Dir.ControlFiles()) {
		eventually(t, ctx, "files that belong together", func() bool {
			_, err := pki.NewSource(s.Cert, s.Key, "", time.Now)
			return err == nil
		})
	}
	found := map[string]bool{}
	for _, e := range status(t, ctx, m).Expires {
		found[e.What+" "+e.Name] = true
	}
	for _, want := range []string{"server certificate control", "server certificate nats-1", "intermediate infra", "intermediate agent"} {
		if !found[want] {
			t.Errorf("status does not say when %s ends: %v", want, found)
		}
	}
}

// presented is the certificate that the server of a connection showed.
func presented(nc *nats.Conn) *x509.Certificate {
	s, err := nc.TLSConnectionState()
	if err != nil || len(s.PeerCertificates) == 0 {
		return &x509.Certificate{}
	}
	return s.PeerCertificates[0]
}

// A server's certificate is for what sealmesh.yaml names and nothing that is asked
// for, and only for a server that it names.
func TestServerCertificateByRequest(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	empty, err := pki.ServerCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	named, err := pki.CSR(key, agentid.Require("admin"), m.Dir.Config.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(server string, csr []byte) (wire.ServerCertificate, error) {
		var out wire.ServerCertificate
		err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpServerCertificate, Server: server, CSR: string(csr)}, &out)
		return out, err
	}
	got, err := ask("nats-1", empty)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates([]byte(got.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	if want := agentid.ServiceSPIFFE(m.Dir.Config.TrustDomain, "nats"); len(chain[0].URIs) != 1 || chain[0].URIs[0].String() != want {
		t.Errorf("got a certificate of %v, want %s", chain[0].URIs, want)
	}
	if chain[0].VerifyHostname("127.0.0.1") != nil || chain[0].VerifyHostname("other.example") == nil {
		t.Errorf("got a certificate for %v and %v", chain[0].DNSNames, chain[0].IPAddresses)
	}
	for name, c := range map[string]struct {
		server string
		csr    []byte
		want   denial.Reason
	}{
		"of an agent":    {"nats-1", named, denial.BadInput},
		"unknown server": {"nats-2", empty, denial.NotFound},
		"control plane":  {"control", empty, denial.NotFound},
		"no request":     {"nats-1", nil, denial.BadInput},
		"no server":      {"", empty, denial.NotFound},
	} {
		if _, err := ask(c.server, c.csr); denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// Who rolls and dies keeps others from it for a while only; who says that he is there
// keeps them from it for as long.
func TestRollOfADeadReplica(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	m.Plane.LeasesEnd(5 * time.Second)
	store := m.Plane.Store()
	beat := uint64(0)
	alive := func() {
		t.Helper()
		_, seq, err := store.Lease(ctx, "roll")
		if err != nil {
			t.Fatal(err)
		}
		beat++
		if won, err := store.PutLease(ctx, "roll", registry.Lease{Holder: "other", Beat: beat}, seq); err != nil || !won {
			t.Fatalf("got %v, %v", won, err)
		}
	}
	alive()
	done := make(chan error, 1)
	go func() { done <- m.Plane.Roll(ctx, "a test") }()
	for range 28 {
		select {
		case err := <-done:
			t.Fatalf("it rolled while another replica does: %v", err)
		case <-time.After(250 * time.Millisecond):
			alive()
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("the roll of a replica that died is never taken over")
	}
}

// A roll stops at the server whose clients do not come back, and says so; one at a
// time is under way.
func TestRollStops(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Nodes: 3})
	m.Plane.SettleFor(2 * time.Second)
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("lost"), Heartbeat: registry.HeartbeatNone})
	if err := m.Place(dir, 1); err != nil {
		t.Fatal(err)
	}
	nc, err := raw(t, dir) // it does not reconnect
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	// A call that is under way to a control plane whose own server is reloaded may be
	// lost.
	operate := func(verb string, out *wire.Roll) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: verb}, out)
	}
	var begun wire.Roll
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "start"}, &begun); err != nil {
		t.Fatal(err)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "start"}, nil); err == nil {
		t.Error("two rolls are under way")
	}
	var roll wire.Roll
	eventually(t, ctx, "the end of the roll", func() bool {
		return operate("status", &roll) == nil && roll.State != wire.RollRunning
	})
	if roll.State != wire.RollFailed || roll.Error == "" || len(roll.Servers) != 3 {
		t.Fatalf("got %+v, want one that failed", roll)
	}
	for i, want := range []string{wire.ServerDone, wire.ServerFailed, wire.ServerWaiting} {
		if roll.Servers[i].State != want {
			t.Errorf("server %d: got %+v, want %s", i, roll.Servers[i], want)
		}
	}
	// The next one begins with nothing left of it, and is told of a change once.
	if err := m.Plane.Roll(ctx, "a test"); err != nil {
		t.Fatal(err)
	}
	if err := operate("status", &roll); err != nil || roll.State != wire.RollDone {
		t.Fatalf("got %+v, %v, want it done", roll, err)
	}
	id := roll.ID
	if err := m.Plane.Roll(ctx, "the same files"); err != nil {
		t.Fatal(err)
	}
	if err := operate("status", &roll); err != nil || roll.ID != id {
		t.Errorf("got %+v, %v, want nothing done for files that were rolled", roll, err)
	}
}

// otherRolls has another replica begin a roll and never end it, until ctx does.
func otherRolls(t *testing.T, ctx context.Context, store *registry.Store) {
	t.Helper()
	say := func(beat uint64) error {
		_, seq, err := store.Lease(ctx, "roll")
		if err == nil {
			_, err = store.PutLease(ctx, "roll", registry.Lease{Holder: "other", Beat: beat}, seq)
		}
		return err
	}
	if err := say(1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for beat := uint64(2); ctx.Err() == nil; beat++ {
			_ = say(beat)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { <-ended })
}

// A roll waits for others as long as they need; certificates end meanwhile.
func TestRenewalGoesOnBesideARoll(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.Certificate.ServerTTL = 4 * time.Second }})
	run, stop := context.WithCancel(ctx)
	defer stop()
	otherRolls(t, run, m.Plane.Store())
	m.Plane.RollDue()
	for range 3 {
		now := https(t, m.Plane.URL())
		eventually(t, ctx, "the next certificate", func() bool { return !https(t, m.Plane.URL()).Equal(now) })
		if left := time.Until(now.NotAfter); left <= 0 {
			t.Errorf("it was renewed %s after its end", -left)
		}
	}
}

// A server whose file changed in what nats-server takes only when it starts refuses all
// of it. That is said, the others are reloaded, and once it has been restarted it is
// reloaded as well.
func TestRollNeedsARestart(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Nodes: 3})
	conf := m.Dir.ServerConfs()[0]
	was, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	other, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	now := regexp.MustCompile(`(issuer:\s*)"A[A-Z0-9]+"`).ReplaceAll(was, []byte(`${1}"`+other+`"`))
	if bytes.Equal(now, was) {
		t.Fatal("the file names no issuer")
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(conf, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status := func() (roll wire.Roll) {
		t.Helper()
		eventually(t, ctx, "an answer", func() bool {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "status"}, &roll) == nil
		})
		return roll
	}
	write(now)
	err = m.Plane.Roll(ctx, "a test")
	if err == nil || !strings.Contains(err.Error(), "restarted") {
		t.Errorf("got %v, want that a server has to be restarted", err)
	}
	roll := status()
	if roll.State != wire.RollFailed || len(roll.Servers) != 3 {
		t.Fatalf("got %+v, want one that failed", roll)
	}
	for i, want := range []string{wire.ServerRestart, wire.ServerDone, wire.ServerDone} {
		if roll.Servers[i].State != want {
			t.Errorf("server %d: got %+v, want %s", i, roll.Servers[i], want)
		}
	}
	if d := roll.Servers[0].Detail; !strings.Contains(d, "AuthCallout") || strings.Contains(d, other) {
		t.Errorf("got detail %q, want which setting and not its value", d)
	}
	// The callout is asked by the old issuer again: this mesh has no other.
	write(was)
	m.StopNode(0)
	if err := m.StartNode(ctx, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "that it is known to be restarted", func() bool { return status().State == wire.RollDone })
	if s := status().Servers[0]; s.State != wire.ServerDone {
		t.Errorf("got %+v, want it done", s)
	}
}

// A command ends, and nobody waits for it: neither for the one that began the roll, nor
// for one that said goodbye meanwhile.
func TestRollWaitsForNoCommand(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	m.Plane.SettleFor(10 * time.Second)
	for _, leaves := range []string{"admin", "brief"} {
		dir := m.AgentDir("admin")
		if leaves != "admin" {
			dir = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(leaves), Heartbeat: registry.HeartbeatNone})
		}
		nc, err := raw(t, dir) // it does not reconnect
		if err != nil {
			t.Fatal(err)
		}
		var roll wire.Roll
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "start"}, &roll); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, "the end of its connection", nc.IsClosed)
		if leaves != "admin" {
			inst := show(t, ctx, m, leaves).Instances[0].Instance
			if err := m.Plane.Store().Leave(ctx, agentid.Require(leaves), inst); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, ctx, "the end of the roll", func() bool {
			now, _, err := m.Plane.Rolled(ctx)
			roll = now
			return err == nil && roll.State != wire.RollRunning
		})
		if roll.State != wire.RollDone {
			t.Errorf("%s: got %+v, want it done", leaves, roll)
		}
	}
}
