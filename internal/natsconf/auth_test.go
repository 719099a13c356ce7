package natsconf_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
)

// The server's greeting: a nonce for everybody, mutual TLS required.
func TestGreeting(t *testing.T) {
	m := natstest.Start(t)
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(m.Server.URL(), "tls://"), wait)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	text, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Nonce       string
		TLSRequired bool `json:"tls_required"`
		TLSVerify   bool `json:"tls_verify"`
		MaxPayload  int  `json:"max_payload"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "INFO ")), &info); err != nil {
		t.Fatalf("greeting %q: %v", text, err)
	}
	if len(info.Nonce) != 15 || !info.TLSRequired || !info.TLSVerify || info.MaxPayload != natsconf.DefaultPayload {
		t.Errorf("greeting: got %+v, want a nonce of 15 characters, TLS required and verified, payload %d", info, natsconf.DefaultPayload)
	}
}

func TestWhoGetsAsFarAsTheCallout(t *testing.T) {
	m := natstest.Start(t)
	stranger := func() nkeys.KeyPair {
		kp, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		return kp
	}
	a := m.NewAgent(t, "reader", nil, nil)
	foreign := natstest.NewCA(t, "foreign").Client(t, a.ID.SPIFFE(natstest.TrustDomain)).TLS(t)
	wrongSignature := nats.Nkey(natstest.Public(t, m.ServiceKey), stranger().Sign)
	wrongSystem := nats.Nkey(natstest.Public(t, m.SystemKey), stranger().Sign)
	tests := []struct {
		name    string
		key     nkeys.KeyPair
		cert    tls.Certificate
		opts    []nats.Option
		callout int // requests that the callout must see
		admit   bool
		tls     bool // refused before the server reads anything
	}{
		{name: "admitted agent", key: a.Key, cert: a.Cert, callout: 1, admit: true},
		{name: "no certificate", key: a.Key, tls: true},
		{name: "certificate of another authority", key: a.Key, cert: foreign, tls: true},
		{name: "TLS 1.2", key: a.Key, cert: a.Cert, opts: []nats.Option{func(o *nats.Options) error {
			o.TLSConfig.MinVersion, o.TLSConfig.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return nil
		}}, tls: true},
		{name: "unknown key", key: stranger(), cert: a.Cert, callout: 1},
		{name: "no credentials", cert: a.Cert, callout: 1},
		{name: "user and password", cert: a.Cert, opts: []nats.Option{nats.UserInfo("admin", "admin")}, callout: 1},
		{name: "the service key's name as user", cert: a.Cert, opts: []nats.Option{nats.UserInfo(m.Config.Service, "x")}, callout: 1},
		{name: "token", cert: a.Cert, opts: []nats.Option{nats.Token("x")}, callout: 1},
		{name: "the service key without its private half", cert: a.Cert, opts: []nats.Option{wrongSignature}},
		{name: "the system key without its private half", cert: a.Cert, opts: []nats.Option{wrongSystem}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(m.Callout.Seen())
			nc, err := m.Dial(tt.key, tt.cert, tt.opts...)
			if err == nil {
				nc.Close()
			}
			switch {
			case tt.admit && err != nil:
				t.Errorf("got %v, want admission", err)
			case !tt.admit && err == nil:
				t.Error("got admission, want a refusal")
			case !tt.admit && !tt.tls && !errors.Is(err, nats.ErrAuthorization):
				t.Errorf("got %v, want %v", err, nats.ErrAuthorization)
			case tt.tls && errors.Is(err, nats.ErrAuthorization):
				t.Errorf("got %v, want a TLS error", err)
			}
			if got := len(m.Callout.Seen()) - before; got != tt.callout {
				t.Errorf("the callout saw %d requests, want %d", got, tt.callout)
			}
		})
	}
}

// A control plane that does not answer looks like a broken server to nats.go:
// the server's first PING goes out after two seconds, whatever the authorization
// timeout, while the client still waits for its PONG. A client must take this
// for an outage, and a callout that answers later answers nobody.
func TestSilentCallout(t *testing.T) {
	t.Parallel()
	m := natstest.Start(t)
	a := m.NewAgent(t, "reader", nil, nil)
	m.Service.Close()
	nc, err := m.Dial(a.Key, a.Cert)
	if err == nil {
		nc.Close()
		t.Fatal("got admission without a callout")
	}
	if got, want := err.Error(), "nats: expected 'PONG', got 'PING'"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What the callout is told about an agent.
func TestCalloutRequest(t *testing.T) {
	m := natstest.Start(t)
	_, a := m.Connect(t, "reader", nil, nil, nats.Token("v1:digest"))
	seen := m.Callout.Seen()
	if len(seen) != 1 {
		t.Fatalf("the callout saw %d requests, want 1", len(seen))
	}
	r := seen[0]
	if got, want := r.Server.ID, m.Server.ID(); got != want {
		t.Errorf("server: got %q, want %q", got, want)
	}
	if got, want := r.ConnectOptions.Nkey, natstest.Public(t, a.Key); got != want {
		t.Errorf("nkey: got %q, want %q", got, want)
	}
	if got, want := r.ConnectOptions.Token, "v1:digest"; got != want {
		t.Errorf("token: got %q, want %q", got, want)
	}
	if len(r.ClientInformation.Nonce) != 15 || r.ConnectOptions.SignedNonce == "" {
		t.Errorf("got nonce %q and signature %q, want both", r.ClientInformation.Nonce, r.ConnectOptions.SignedNonce)
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || r.TLS.Version != "1.3" {
		t.Errorf("got TLS %+v, want version 1.3 and a verified chain", r.TLS)
	}
}

// The callout's traffic is out of the agents' reach, whatever they may do in
// their own account.
func TestCalloutSubjectIsOutOfReach(t *testing.T) {
	m := natstest.Start(t)
	evil, _ := m.Connect(t, "evil", everything, everything)
	taps := []*nats.Subscription{subscribe(t, evil, "$SYS.REQ.USER.AUTH"), subscribe(t, evil, "$SYS.>")}
	queue, err := evil.QueueSubscribeSync("$SYS.REQ.USER.AUTH", "callout")
	if err != nil {
		t.Fatal(err)
	}
	flush(t, evil)
	for range 3 {
		m.Connect(t, "reader", nil, nil)
	}
	if got := len(m.Callout.Seen()); got != 4 {
		t.Errorf("the callout saw %d requests, want 4", got)
	}
	for _, tap := range append(taps, queue) {
		silent(t, tap, "a tap on the callout")
	}
	if err := evil.Publish("$SYS.REQ.USER.AUTH", []byte("forged request")); err != nil {
		t.Fatal(err)
	}
	next(t, taps[0])
	if got := len(m.Callout.Seen()); got != 4 {
		t.Errorf("after a forged request the callout saw %d requests, want 4", got)
	}
}

// An answer without permissions means everything, and nothing in the server's
// configuration changes that: the callout must always give both lists. When this
// test fails, nats-server has become safer.
func TestNoPermissionsMeansEverything(t *testing.T) {
	m := natstest.Start(t)
	a := m.NewAgent(t, "reader", nil, nil)
	m.Callout.Admit(t, a, nil, nil)
	nc, err := m.Dial(a.Key, a.Cert)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	sub := subscribe(t, nc, ">")
	if err := nc.Publish("mesh.feed.agents.bob", []byte("x")); err != nil {
		t.Fatal(err)
	}
	next(t, sub)
}

func TestAccountLimits(t *testing.T) {
	m := natstest.Start(t, func(c *natsconf.Config) {
		c.Limits = natsconf.Limits{Connections: 2, Subscriptions: 3, Payload: 1024}
	})
	tooMany := make(chan error, 8)
	nc, _ := m.Connect(t, "reader", everything, everything, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { tooMany <- err }))
	for i := range 4 {
		subscribe(t, nc, "s"+strconv.Itoa(i))
	}
	select {
	case err := <-tooMany:
		if !strings.Contains(err.Error(), "maximum subscriptions") {
			t.Errorf("fourth subscription: got %v", err)
		}
	case <-time.After(wait):
		t.Error("fourth subscription: got no error")
	}
	big, _ := m.Connect(t, "writer", everything, everything)
	a := m.NewAgent(t, "reader", nil, nil)
	if third, err := m.Dial(a.Key, a.Cert); err == nil {
		third.Close()
		t.Error("third connection: got admission, want a refusal")
	}
	// The greeting names the server's limit, a later INFO the account's.
	flush(t, big)
	if got := big.MaxPayload(); got != 1024 {
		t.Errorf("payload: got %d, want 1024", got)
	}
	if err := big.Publish("mesh.event.writer.a", make([]byte, 1025)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a message past the limit: got %v, want %v", err, nats.ErrMaxPayload)
	}
}

func TestSystemUser(t *testing.T) {
	m := natstest.Start(t)
	denied, onError := collect()
	sys, err := m.Dial(m.SystemKey, m.InfraCA.Client(t, agentid.ServiceSPIFFE(natstest.TrustDomain, "control")).TLS(t),
		nats.CustomInboxPrefix(natsconf.SystemInbox), onError)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	up, down := subscribe(t, sys, "$SYS.ACCOUNT.MESH.CONNECT"), subscribe(t, sys, "$SYS.ACCOUNT.MESH.DISCONNECT")
	closed := make(chan struct{})
	nc, _ := m.Connect(t, "reader", nil, nil, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	var event struct {
		Server struct{ ID string }
		Client struct {
			ID   uint64
			User string
		}
		Reason string
	}
	if err := json.Unmarshal(next(t, up).Data, &event); err != nil {
		t.Fatal(err)
	}
	cid, err := nc.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	if event.Client.ID != cid || event.Client.User != "reader" || event.Server.ID != m.Server.ID() {
		t.Errorf("connect event: got %+v, want client %d, user reader", event, cid)
	}
	var conns struct {
		Data struct {
			Connections []struct {
				CID  uint64
				User string `json:"authorized_user"`
			}
		}
	}
	body := `{"auth":true,"user":"reader","acc":"MESH"}`
	if err := json.Unmarshal(request(t, sys, "$SYS.REQ.SERVER.PING.CONNZ", body).Data, &conns); err != nil {
		t.Fatal(err)
	}
	if c := conns.Data.Connections; len(c) != 1 || c[0].CID != cid || c[0].User != "reader" {
		t.Errorf("CONNZ: got %+v, want connection %d of reader", c, cid)
	}
	one := `{"auth":true,"cid":` + strconv.FormatUint(cid, 10) + `}`
	conns.Data.Connections = nil
	if err := json.Unmarshal(request(t, sys, "$SYS.REQ.SERVER."+m.Server.ID()+".CONNZ", one).Data, &conns); err != nil {
		t.Fatal(err)
	}
	if c := conns.Data.Connections; len(c) != 1 || c[0].CID != cid {
		t.Errorf("CONNZ of one server: got %+v, want connection %d", c, cid)
	}
	if got := request(t, sys, "$SYS.REQ.SERVER.PING.IDZ", "").Data; !strings.Contains(string(got), m.Server.ID()) {
		t.Errorf("IDZ: got %q, want the server's ID", got)
	}
	// The server of this test has no file that a request could have it read; a stock
	// one does it.
	if got := request(t, sys, "$SYS.REQ.SERVER."+m.Server.ID()+".RELOAD", "").Data; !strings.Contains(string(got), "can only reload") {
		t.Errorf("RELOAD: got %q, want the server's own refusal", got)
	}
	denied.want(t, 0, "what the control plane needs")
	for _, subj := range []string{
		"$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.RELOAD.x", "$SYS.REQ.SERVER." + m.Server.ID() + ".LDM",
		"$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.MESH.CONNZ", "$SYS.ACCOUNT.MESH.CONNECT", "$JS.API.INFO", "x",
	} {
		if msg, err := sys.Request(subj, nil, quiet); err == nil {
			t.Errorf("request %s: got %q", subj, msg.Data)
		}
		denied.want(t, 1, subj)
	}
	for _, subj := range []string{">", "$SYS.>", "_INBOX.>", "$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.CTRL.CONNECT"} {
		subscribe(t, sys, subj)
		denied.want(t, 1, subj)
	}
	request(t, sys, "$SYS.REQ.SERVER."+m.Server.ID()+".KICK", `{"cid":`+strconv.FormatUint(cid, 10)+`}`)
	select {
	case <-closed:
	case <-time.After(wait):
		t.Error("the kicked connection is still open")
	}
	if err := json.Unmarshal(next(t, down).Data, &event); err != nil || event.Client.ID != cid {
		t.Errorf("disconnect event: got %+v, %v, want client %d", event, err, cid)
	}
}
