package natstest

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// Callout answers the server's auth callout from a table.
type Callout struct {
	issuer, xkey nkeys.KeyPair

	mu       sync.Mutex
	admitted map[string]admitted // by public nkey
	seen     []jwt.AuthorizationRequest
}

type admitted struct {
	name        string
	permissions jwt.Permissions
}

func startCallout(t testing.TB, m *Mesh) *Callout {
	t.Helper()
	c := &Callout{issuer: m.IssuerKey, xkey: m.XKey, admitted: map[string]admitted{}}
	sub, err := m.Service.QueueSubscribe("$SYS.REQ.USER.AUTH", "callout", func(msg *nats.Msg) {
		answer, err := c.answer(msg)
		if err != nil {
			t.Errorf("answering an auth callout: %v", err)
			return
		}
		if err := msg.Respond(answer); err != nil {
			t.Errorf("answering an auth callout: %v", err)
		}
	})
	if err != nil {
		t.Fatalf("subscribing to the auth callout: %v", err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := m.Service.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

// Admit lets the agent in with exactly these permissions; two nil lists give a
// user without any permission claims.
func (c *Callout) Admit(t testing.TB, a *Agent, publish, subscribe []string) {
	t.Helper()
	pub := Public(t, a.Key)
	c.mu.Lock()
	defer c.mu.Unlock()
	var p jwt.Permissions
	p.Pub.Allow.Add(publish...)
	p.Sub.Allow.Add(subscribe...)
	if publish == nil && subscribe != nil {
		p.Pub.Deny.Add(">")
	}
	c.admitted[pub] = admitted{a.ID.String(), p}
}

// Seen are the requests answered so far.
func (c *Callout) Seen() []jwt.AuthorizationRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]jwt.AuthorizationRequest(nil), c.seen...)
}

func (c *Callout) answer(msg *nats.Msg) ([]byte, error) {
	server := msg.Header.Get("Nats-Server-Xkey")
	plain, err := c.xkey.Open(msg.Data, server)
	if err != nil {
		return nil, err
	}
	req, err := jwt.DecodeAuthorizationRequestClaims(string(plain))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.seen = append(c.seen, req.AuthorizationRequest)
	who, ok := c.admitted[req.ConnectOptions.Nkey]
	c.mu.Unlock()

	resp := jwt.NewAuthorizationResponseClaims(req.UserNkey)
	resp.Audience = req.Server.ID
	if ok {
		user := jwt.NewUserClaims(req.UserNkey)
		user.Name = who.name
		user.Audience = natsconf.Mesh
		user.Expires = time.Now().Add(time.Hour).Unix()
		user.Permissions = who.permissions
		if resp.Jwt, err = user.Encode(c.issuer); err != nil {
			return nil, err
		}
	} else {
		resp.Error = "not admitted"
	}
	text, err := resp.Encode(c.issuer)
	if err != nil {
		return nil, err
	}
	return c.xkey.Seal([]byte(text), server)
}
