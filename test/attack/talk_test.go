package attack_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// serverInfo is what of a server's INFO an attacker needs.
type serverInfo struct {
	Nonce string `json:"nonce"`
}

// talk speaks the protocol itself, for what no client library does.
type talk struct {
	t      *testing.T
	nc     net.Conn
	in     *bufio.Reader
	server serverInfo
}

func newTalk(t *testing.T, nc net.Conn) *talk {
	t.Helper()
	t.Cleanup(func() { _ = nc.Close() }) // closed twice where TLS came over it
	return &talk{t: t, nc: nc, in: bufio.NewReader(nc)}
}

func (w *talk) line() (string, error) {
	if err := w.nc.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	s, err := w.in.ReadString('\n')
	return strings.TrimSpace(s), err
}

func (w *talk) info() serverInfo {
	w.t.Helper()
	s, err := w.line()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(s, "INFO ")), &w.server); err != nil {
		w.t.Fatal(err)
	}
	return w.server
}

func (w *talk) send(format string, args ...any) {
	// A server that hung up is an answer, which reading gives.
	_, _ = fmt.Fprintf(w.nc, format+"\r\n", args...)
}

func (w *talk) connect(identity map[string]any) {
	w.t.Helper()
	b, err := json.Marshal(identity)
	if err != nil {
		w.t.Fatal(err)
	}
	w.send("CONNECT %s", b)
}

// settle returns what the server said until it answers a PING, and whether it
// still does.
func (w *talk) settle() (lines []string, alive bool) {
	w.send("PING")
	return w.until()
}

// until returns what the server said until it answered a PING.
func (w *talk) until() (lines []string, alive bool) {
	for {
		s, err := w.line()
		if err != nil {
			return lines, false
		}
		switch {
		case s == "PONG":
			return lines, true
		case s == "PING":
			w.send("PONG")
		default:
			lines = append(lines, s)
		}
	}
}
