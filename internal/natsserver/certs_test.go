package natsserver_test

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/internal/natstest"
)

func leaf(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(text)
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connected is an agent that is told when its connection ends.
func connected(t *testing.T, m *natstest.Mesh, id string) (*nats.Conn, <-chan struct{}) {
	t.Helper()
	ended := make(chan struct{})
	nc, _ := m.Connect(t, id, nil, nil, nats.ClosedHandler(func(*nats.Conn) { close(ended) }))
	return nc, ended
}

func wantShown(t *testing.T, nc *nats.Conn, want natstest.Pair) {
	t.Helper()
	s, err := nc.TLSConnectionState()
	if err != nil {
		t.Fatal(err)
	}
	if !s.PeerCertificates[0].Equal(leaf(t, want.Cert)) {
		t.Errorf("the server showed %s, want %s", s.PeerCertificates[0].SerialNumber, leaf(t, want.Cert).SerialNumber)
	}
}

// A renewed certificate and a new root count at the next handshake, and nobody who
// is connected notices.
func TestCertificatesAreFollowed(t *testing.T) {
	m := natstest.Start(t)
	early, ended := connected(t, m, "early")
	next := m.InfraCA.Server(t)
	next.Write(t, m.Dir, "server")
	late, lateEnded := connected(t, m, "late")
	wantShown(t, late, next)

	other := natstest.NewCA(t, "agent of tomorrow")
	stranger := m.NewAgent(t, "stranger", nil, nil)
	cert := other.Client(t, stranger.ID.SPIFFE(natstest.TrustDomain)).TLS(t)
	if nc, err := m.Dial(stranger.Key, cert, nats.CustomInboxPrefix(stranger.Inbox())); err == nil {
		nc.Close()
		t.Fatal("a certificate of an unknown root was taken")
	}
	natstest.WriteFile(t, m.Dir, "ca.crt", append(append(m.AgentCA.PEM(), m.InfraCA.PEM()...), other.PEM()...))
	// Who the agent is, the callout says; the handshake is over when it is asked.
	if nc, err := m.Dial(stranger.Key, cert, nats.CustomInboxPrefix(stranger.Inbox())); err == nil {
		nc.Close()
	} else if !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("after the root was added: got %v, want at most a refusal by the callout", err)
	}
	natstest.WriteFile(t, m.Dir, "ca.crt", append(m.AgentCA.PEM(), m.InfraCA.PEM()...))
	if nc, err := m.Dial(stranger.Key, cert, nats.CustomInboxPrefix(stranger.Inbox())); err == nil {
		nc.Close()
		t.Error("a certificate of a root that was removed was taken")
	}

	for name, nc := range map[string]*nats.Conn{"early": early, "late": late} {
		if err := nc.FlushTimeout(wait); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	select {
	case <-ended:
		t.Error("a connection of before ended")
	case <-lateEnded:
		t.Error("a connection ended")
	default:
	}
}

// A reload reads the configuration as a stock server does, with what that costs, and
// certificates are followed after it as before.
func TestReload(t *testing.T) {
	m := natstest.Start(t)
	_, ended := connected(t, m, "early")
	if err := m.Server.Reload(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(wait):
		t.Error("the connection outlived a reload: then nobody needs to roll servers any more")
	}
	next := m.InfraCA.Server(t)
	next.Write(t, m.Dir, "server")
	nc, _ := connected(t, m, "late")
	wantShown(t, nc, next)

	text := natstest.WriteFile(t, m.Dir, "nats-server.conf", []byte("no_such_setting: 1\n"))
	if err := m.Server.Reload(); err == nil {
		t.Errorf("a reload of a broken %s succeeded", text)
	}
	if err := nc.FlushTimeout(wait); err != nil {
		t.Errorf("after a reload that failed: %v", err)
	}
}

const wait = 30 * time.Second
