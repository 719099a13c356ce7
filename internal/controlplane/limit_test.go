package controlplane_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// Who comes under many names does not get rid of its debt by that.
func TestLimiterForgetsWhoOwesNothing(t *testing.T) {
	l := controlplane.NewLimiter(1, 10)
	now := time.Unix(1_700_000_000, 0)
	if !l.Allow("debtor", 10, now) || l.Allow("debtor", 1, now) {
		t.Fatal("the burst is not what was asked for")
	}
	for i := range 2 * controlplane.LimiterMost {
		now = now.Add(time.Microsecond)
		l.Allow(fmt.Sprint("other-", i), 0, now)
	}
	if l.Allow("debtor", 1, now) {
		t.Error("the debt was forgotten")
	}
	if n := l.Len(); n > controlplane.LimiterMost {
		t.Errorf("got %d sources, at most %d", n, controlplane.LimiterMost)
	}
	if !l.Allow("debtor", 5, now.Add(6*time.Second)) {
		t.Error("the debt is not paid by time")
	}
}

func TestSource(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:77":            "192.0.2.1",
		"[::ffff:192.0.2.1]:77":   "192.0.2.1",
		"[2001:db8:1:2:3::9]:77":  "2001:db8:1:2::/64",
		"[2001:db8:1:2:ff::1]:77": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:77":       "fe80::/64",
		"nonsense":                "nonsense",
	} {
		if got := controlplane.Source(remote); got != want {
			t.Errorf("%s: got %q, want %q", remote, got, want)
		}
	}
}

// One source cannot hold every connection that there is, and what it lets go it
// may have again.
func TestDoor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := controlplane.NewDoor(l)
	defer d.Close()
	accepted := make(chan net.Conn, 2*controlplane.DoorSource)
	go func() {
		defer close(accepted)
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var first net.Conn
	for range controlplane.DoorSource {
		dial()
		c := <-accepted
		if first == nil {
			first = c
		}
	}
	over := dial()
	if err := over.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var late net.Error
	if _, err := over.Read(make([]byte, 1)); err == nil || errors.As(err, &late) && late.Timeout() {
		t.Errorf("got %v from one connection too many, want it closed", err)
	}
	first.Close()
	first.Close() // counts once
	dial()
	select {
	case c, ok := <-accepted:
		if !ok {
			t.Fatal("the listener ended")
		}
		c.Close()
	case <-time.After(5 * time.Second):
		t.Error("a connection that was closed still counts")
	}
}

// An agent renews for itself, for nobody else, and not without end.
func TestRenewIsBounded(t *testing.T) {
	m, ctx := start(t, devmesh.Options{})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.ReadSecret(d.File(agentdir.TLSKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(id string) error {
		csr, err := pki.CSR(key, agentid.Require(id), d.Info.TrustDomain)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(wire.Renew{CSR: string(csr)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Call(ctx, wire.SelfRenew, body, meshclient.To("control"))
		return err
	}
	var refused *meshclient.Denied
	if err := ask("admin"); !errors.As(err, &refused) {
		t.Errorf("got %v for another's identity, want a denial", err)
	}
	if err := ask("reader"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err = ask("reader"); err != nil {
			break
		}
	}
	if !errors.Is(err, denial.RateLimited) || !errors.Is(err, meshclient.ErrUnavailable) {
		t.Errorf("got %v from a loop, want %q, which may be tried again", err, denial.RateLimited)
	}
}

// What strangers send stands in the log clipped.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	m, ctx := start(t, devmesh.Options{})
	log := &buffer{}
	other := *m.Dir
	other.Config.Control.Listen, other.Config.Control.URL = "127.0.0.1:0", ""
	second, err := controlplane.Start(ctx, controlplane.Config{Mesh: &other, Log: zerolog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first := m.Plane
	m.Plane = second
	defer func() { m.Plane = first }()
	code, s := post(t, ctx, m, wire.PathEnroll, `{"`+strings.Repeat("x", 60_000)+`":1}`)
	if code != http.StatusForbidden || s.Reason != denial.BadInput {
		t.Fatalf("got %d %+v, want a refusal", code, s.Reason)
	}
	for line := range strings.Lines(log.String()) {
		if len(line) > 2000 {
			t.Errorf("got a line of %d bytes: %.200s", len(line), line)
		}
	}
}

// buffer is a log that is written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
