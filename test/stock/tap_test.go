//go:build unix

package stock_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// tap hears everything in one account. No configuration of Sealmesh has one; the
// test adds its users to a copy.
type tap struct {
	t       *testing.T
	account string
	conn    *nats.Conn
	sub     *nats.Subscription
	key     nkeys.KeyPair
	public  string
}

var accounts = []string{"MESH", "STORE", "CTRL", "SYS"}

// tapped copies a nats-server configuration and adds a user to each account.
func tapped(t *testing.T, conf string) (string, map[string]*tap) {
	t.Helper()
	b, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	insert := func(after, what string) {
		t.Helper()
		if n := strings.Count(text, after); n != 1 {
			t.Fatalf("%s has %q %d times, want 1", conf, after, n)
		}
		text = strings.Replace(text, after, after+what, 1)
	}
	taps := map[string]*tap{}
	for _, account := range accounts {
		key, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		public, err := key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		taps[account] = &tap{t: t, account: account, key: key, public: public}
		insert("auth_users: [", "\n"+public)
		user := "{ nkey: " + public + " }"
		switch account {
		case "MESH":
			insert("\n  MESH {\n", "    users: ["+user+"]\n")
		case "STORE":
			insert("\n  STORE {\n    jetstream: enabled\n", "    users: ["+user+"]\n")
		case "CTRL":
			insert("\n  CTRL {\n    jetstream: enabled\n    users: [", "\n"+user)
		case "SYS":
			insert("\n  SYS {\n    users: [", "\n"+user)
		}
	}
	file := filepath.Join(filepath.Dir(conf), "tapped.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, taps
}

// listen connects with the certificate of c and hears everything from now on.
func (p *tap) listen(c cliContext) {
	p.t.Helper()
	var err error
	p.conn, err = nats.Connect(c.URL, nats.Nkey(p.public, p.key.Sign), nats.ClientCert(c.Cert, c.Key), nats.RootCAs(c.CA))
	if err != nil {
		p.t.Fatalf("tap of %s: %v", p.account, err)
	}
	p.t.Cleanup(p.conn.Close)
	if p.sub, err = p.conn.SubscribeSync(">"); err != nil {
		p.t.Fatal(err)
	}
	if err := p.sub.SetPendingLimits(-1, -1); err != nil {
		p.t.Fatal(err)
	}
	if err := p.conn.Flush(); err != nil {
		p.t.Fatal(err)
	}
}

// heard returns what came since it was asked last, all that the server had
// delivered when it was asked.
func (p *tap) heard() []*nats.Msg {
	p.t.Helper()
	if err := p.conn.Flush(); err != nil {
		p.t.Fatal(err)
	}
	n, _, err := p.sub.Pending()
	if err != nil {
		p.t.Fatal(err)
	}
	out := make([]*nats.Msg, 0, n)
	for range n {
		m, err := p.sub.NextMsg(ending)
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}
