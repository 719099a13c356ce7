//go:build unix

package stock_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

// tenants are two others on a nats-server, each with an account of its own: one with a
// password and a stream, one with an nkey.
type tenants struct {
	t     *testing.T
	url   string
	ca    *natstest.CA
	roots *x509.CertPool
	key   nkeys.KeyPair
}

const ordersPassword = "of-the-orders-department"

func (o *tenants) connect(opts ...nats.Option) (*nats.Conn, error) {
	o.t.Helper()
	cert := o.ca.Client(o.t, "spiffe://tenants.example/x").TLS(o.t)
	return nats.Connect(o.url, append([]nats.Option{
		nats.Secure(&tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: o.roots, MinVersion: tls.VersionTLS13}),
		nats.Timeout(12 * time.Second), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
	}, opts...)...)
}

func (o *tenants) orders(password string) (*nats.Conn, error) {
	return o.connect(nats.UserInfo("orders", password))
}

func (o *tenants) billing() (*nats.Conn, error) {
	pub, err := o.key.PublicKey()
	if err != nil {
		return nil, err
	}
	return o.connect(nats.Nkey(pub, o.key.Sign))
}

// A mesh comes to a nats-server that others have, who notice nothing of it, reach
// nothing of it, and of whom it reaches nothing.
func TestExistingServer(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	m.Must("init", "--existing", "--nats", "tls://"+m.NATS, "--control-listen", m.Control)
	nats2 := filepath.Join(m.Dir(), "nats")
	if _, err := os.Stat(filepath.Join(nats2, "nats-server.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("there is a whole configuration: %v", err)
	}
	o := &tenants{t: t, url: "tls://" + m.NATS, ca: natstest.NewCA(t, "tenants"), roots: x509.NewCertPool()}
	infra, err := os.ReadFile(filepath.Join(m.Dir(), "server", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	o.roots.AppendCertsFromPEM(infra)
	if o.key, err = nkeys.CreateUser(); err != nil {
		t.Fatal(err)
	}
	billing, err := o.key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	user, err := os.ReadFile(filepath.Join(nats2, "sealmesh-system-user.conf"))
	if err != nil {
		t.Fatal(err)
	}
	meshCAs, err := os.ReadFile(filepath.Join(nats2, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	cas := filepath.Join(m.Work, "clients.pem")
	if err := os.WriteFile(cas, append(meshCAs, o.ca.PEM()...), 0o600); err != nil {
		t.Fatal(err)
	}

	// The server as it was, and as it is with the mesh.
	file := filepath.Join(m.Work, "theirs.conf")
	write := func(callout, accounts, system, more string) {
		text := fmt.Sprintf(`
server_name: theirs
listen: %q
max_control_line: 16384
tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, min_version: "1.3", timeout: 5 }
jetstream { store_dir: %q }
system_account: SYS
authorization { %s }
accounts {
  %s
  SYS { users: [
    { user: ops, password: "operations" }
    %s
  ] }
  ORDERS { jetstream: enabled, users: [ { user: orders, password: %q } ] }
  BILLING { users: [ { nkey: %s } ] }
}
%s`, m.NATS, filepath.Join(nats2, "server.crt"), filepath.Join(nats2, "server.key"), cas, filepath.Join(m.Work, "store"),
			callout, accounts, system, ordersPassword, billing, more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("timeout: 2", "", "", "")
	server := m.Server(file)
	orders, err := o.orders(ordersPassword)
	if err != nil {
		t.Fatal(err)
	}
	defer orders.Close()
	js, err := jetstream.New(orders)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "orders.one", []byte("ten apples")); err != nil {
		t.Fatal(err)
	}

	// What is not there yet is found before anything is restarted.
	r := m.Do("nats", "check", file)
	for _, missing := range []string{"there is no auth_callout", "there is no account CTRL", "control plane's user is not in the system account"} {
		if r.Code != 1 || !strings.Contains(r.Stdout, missing) {
			t.Errorf("check of what it was: exit code %d, want 1 and %q\n%s", r.Code, missing, r.Stdout)
		}
	}
	if strings.Contains(r.Stdout+r.Stderr, ordersPassword) {
		t.Error("a tenant's password is shown")
	}
	// nats-server takes the name of what it includes as relative to the file, always.
	const callout, accounts = `include "mesh/nats/sealmesh-callout.conf"`, `include "mesh/nats/sealmesh-accounts.conf"`
	for what, c := range map[string][4]string{
		"nats-server would refuse it":     {callout, accounts + "\n MESH { users: [ { user: mallory, password: x } ] }", string(user), ""},
		"the account MESH is not the one": {callout, strings.Replace(readText(t, filepath.Join(nats2, "sealmesh-accounts.conf")), "max_leafnodes:     0", "max_leafnodes: 9", 1), string(user), ""},
		"is in an account of the mesh":    {callout, strings.Replace(readText(t, filepath.Join(nats2, "sealmesh-accounts.conf")), "users: [", "users: [\n { user: mallory, password: x }", 1), string(user), ""},
		"no_auth_user lets in":            {callout, accounts, string(user), `no_auth_user: orders`},
		"allowed_accounts is":             {strings.ReplaceAll(readText(t, filepath.Join(nats2, "sealmesh-callout.conf")), "allowed_accounts: [ MESH ]", ""), accounts, string(user), ""},
	} {
		write(c[0], c[1], c[2], c[3])
		if r := m.Do("nats", "check", file); r.Code != 1 || !strings.Contains(r.Stdout, what) {
			t.Errorf("got exit code %d, want 1 and %q\n%s", r.Code, what, r.Stdout)
		}
	}
	write(callout, accounts, string(user), "")
	if r := m.Do("nats", "check", file); r.Code != 0 || !strings.Contains(r.Stdout, "has what the mesh needs") {
		t.Fatalf("check: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	server.Terminate(ending)
	m.Server(file)
	m.Plane().Await(process.PlaneUp)

	// The mesh works, and so do the others, whose connections came back by themselves.
	m.Must("agent", "add", "reader", "--handle", "read:logs", "--enroll")
	m.Must("agent", "add", "asker", "--call", "read:logs", "--enroll", "--plain-subscribe", "orders.one")
	handler := m.Run("handle", "read:logs", "--as", "reader", "--", "cat")
	handler.AwaitLog(`"message":"handling"`)
	if got := m.Must("call", "read:logs", "hello", "--as", "asker"); got != "hello" {
		t.Errorf("call: got %q", got)
	}
	if err := orders.FlushTimeout(process.Soon); err != nil {
		t.Errorf("a tenant's connection did not come back: %v", err)
	}
	stream, err := js.Stream(t.Context(), "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := stream.GetLastMsgForSubject(t.Context(), "orders.one"); err != nil || string(msg.Data) != "ten apples" {
		t.Errorf("a tenant's stream: got %v, %v", msg, err)
	}
	bill, err := o.billing()
	if err != nil {
		t.Fatalf("a tenant with an nkey: %v", err)
	}
	defer bill.Close()
	if nc, err := o.orders("wrong"); err == nil {
		nc.Close()
		t.Error("a tenant with a wrong password was let in")
	}

	// Nothing crosses over: everything that either side says is heard on its own alone.
	taps := map[string]*nats.Subscription{}
	for name, nc := range map[string]*nats.Conn{"orders": orders, "billing": bill} {
		sub, err := nc.SubscribeSync(">")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		taps[name] = sub
	}
	m.Must("call", "read:logs", "secret of the mesh", "--as", "asker")
	for _, subj := range []string{"mesh.feed.tick", "$SYS.REQ.USER.AUTH", "mesh.call.asker.read.logs"} {
		if err := bill.Publish(subj, []byte("of billing")); err != nil {
			t.Fatal(err)
		}
	}
	m.Must("call", "read:logs", "again", "--as", "asker")
	for name, sub := range taps {
		for {
			msg, err := sub.NextMsg(200 * time.Millisecond)
			if err != nil {
				break
			}
			if name != "billing" || string(msg.Data) != "of billing" {
				t.Errorf("%s heard %s: %.60q", name, msg.Subject, msg.Data)
			}
		}
	}

	// A cut closes the agent's connection and nobody else's.
	before := orders.Stats().Reconnects + bill.Stats().Reconnects
	if r := m.Do("agent", "revoke", "asker", "--reason", "a test"); r.Code != 0 && r.Code != 4 {
		t.Errorf("revoke: exit code %d\n%s", r.Code, r.Stderr)
	}
	if r := m.Do("call", "read:logs", "x", "--as", "asker"); r.Code != 3 {
		t.Errorf("a revoked agent: exit code %d, want 3", r.Code)
	}
	if err := errors.Join(orders.Flush(), bill.Flush()); err != nil || orders.Stats().Reconnects+bill.Stats().Reconnects != before {
		t.Errorf("a tenant's connection was closed: %v", err)
	}
	m.Must("lint")
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
