package natsserver_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/natstest"
)

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

func start(t *testing.T, cfg natsserver.Config) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// JetStream answers when Start returns, and what it stored is there after a
// restart under another server ID.
func TestRestartKeepsStreams(t *testing.T) {
	m := natstest.Start(t)
	js, err := jetstream.New(m.Service)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), natsconf.Beats(m.Space, 1)); err != nil {
		t.Fatalf("creating a stream right after Start: %v", err)
	}
	m.Server.Close()
	m.Server.Close()
	select {
	case <-m.Server.Done():
	case <-time.After(5 * time.Second):
		t.Error("a closed server is not done")
	}
	again := start(t, natsserver.Config{File: m.File})
	if again.ID() == m.Server.ID() {
		t.Error("a restarted server has its old ID")
	}
	m.Attach(t, again)
	if js, err = jetstream.New(m.Service); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Stream(t.Context(), natsconf.BeatsStream); err != nil {
		t.Errorf("reading the stream right after a restart: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	m := natstest.Prepare(t)
	s, err := natsserver.Start(t.Context(), natsserver.Config{File: m.File})
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(s.URL(), "tls://")
	if c, err := net.Dial("tcp", addr); err != nil {
		t.Errorf("connecting to %s: %v", addr, err)
	} else {
		_ = c.Close()
	}
	s.Close()
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("a closed server still listens")
	}
}

func TestStartFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m := natstest.Prepare(t)
	notADirectory := natstest.WriteFile(t, m.Dir, "file", nil)
	write := func(name, text string) string { return natstest.WriteFile(t, m.Dir, name, []byte(text)) }
	tests := map[string]natsserver.Config{
		"no file":        {},
		"missing file":   {File: m.File + "x"},
		"unknown field":  {File: write("unknown.conf", "no_such_setting: 1\n")},
		"port in use":    {File: m.File, Listen: l.Addr().String()},
		"listen garbage": {File: m.File, Listen: "127.0.0.1"},
		"listen zero":    {File: m.File, Listen: "127.0.0.1:0"},
		"store is a file": {File: write("store.conf",
			"listen: \"127.0.0.1:-1\"\njetstream { store_dir: \""+notADirectory+"\" }\n")},
	}
	for name, cfg := range tests {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			s, err := natsserver.Start(t.Context(), cfg)
			if err == nil {
				s.Close()
				t.Fatal("got a server, want an error")
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the cause", err)
			}
			if !strings.HasPrefix(err.Error(), "natsserver: ") || strings.Count(err.Error(), "natsserver: ") != 1 {
				t.Errorf("got %q, want the package's prefix once", err)
			}
		})
	}
	t.Run("context is over", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s, err := natsserver.Start(ctx, natsserver.Config{File: m.File}); err == nil {
			s.Close()
			t.Error("got a server, want an error")
		}
	})
}

func TestListenReplacesTheFile(t *testing.T) {
	m := natstest.Prepare(t, func(c *natsconf.Config) { c.Listen = "192.0.2.1:4222" })
	s := start(t, natsserver.Config{File: m.File, Listen: "0.0.0.0:-1"})
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL(), "tls://"))
	if err != nil || (host != "127.0.0.1" && host != "localhost") || port == "4222" {
		t.Errorf("got URL %q, %v, want a loopback address and a free port", s.URL(), err)
	}
	if s.ClusterAddr() != "" {
		t.Errorf("got route listener %q, want none", s.ClusterAddr())
	}
}

// Errors show at the usual level; nothing that a client presents shows at any,
// even where the file asks for the protocol trace.
func TestLog(t *testing.T) {
	const secret = "v1-a-token-that-must-not-be-logged"
	m := natstest.Prepare(t)
	text, err := os.ReadFile(m.File)
	if err != nil {
		t.Fatal(err)
	}
	file := natstest.WriteFile(t, m.Dir, "trace.conf", append(text, "\ntrace: true\ndebug: true\n"...))
	var all, usual buffer
	for _, b := range []struct {
		to    *buffer
		level zerolog.Level
	}{{&all, zerolog.TraceLevel}, {&usual, zerolog.InfoLevel}} {
		srv := start(t, natsserver.Config{File: file, Log: zerolog.New(b.to).Level(b.level)})
		m.Attach(t, srv)
		a := m.NewAgent(t, "reader", nil, nil)
		nc, err := m.Dial(a.Key, a.Cert, nats.Token(secret))
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
		if nc, err := m.Dial(nil, a.Cert, nats.Token(secret)); err == nil {
			nc.Close()
			t.Error("a stranger was admitted")
		}
		srv.Close()
	}
	if got := all.String(); !strings.Contains(got, `"nats_level":"debug"`) || !strings.Contains(got, "authentication error") {
		t.Errorf("the full log lacks debug lines or the refusal: %s", got)
	}
	if got := usual.String(); !strings.Contains(got, "authentication error") || strings.Contains(got, `"level":"debug"`) {
		t.Errorf("at the usual level got %s, want errors only", got)
	}
	if strings.Contains(all.String()+usual.String(), secret) {
		t.Error("the log shows a client's token")
	}
}
