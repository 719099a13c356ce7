package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	dialWait = 5 * time.Second
	// callWait is how long a server takes to refuse whom its callout does not know:
	// authorization.timeout in its configuration, where nobody answers.
	callWait = 12 * time.Second
	// greetingMost bounds the line that a server begins with, in bytes.
	greetingMost = 64 << 10
)

// greeting is what a nats-server says to whoever comes.
type greeting struct {
	ID          string `json:"server_id"`
	Name        string `json:"server_name"`
	Version     string `json:"version"`
	Nonce       string `json:"nonce"`
	JetStream   bool   `json:"jetstream"`
	TLSRequired bool   `json:"tls_required"`
	TLSVerify   bool   `json:"tls_verify"`
}

// greeted dials a nats-server that speaks first.
func greeted(ctx context.Context, addr string, wait time.Duration) (net.Conn, greeting, error) {
	var g greeting
	conn, err := dial(ctx, addr, wait)
	if err != nil {
		return nil, g, err
	}
	// Nothing may be read past the line: what follows is TLS.
	line, err := readLine(conn)
	if err == nil {
		rest, ok := strings.CutPrefix(line, "INFO ")
		if !ok {
			err = fmt.Errorf("it is no nats-server: it says %.60q", line)
		} else if err = json.Unmarshal([]byte(rest), &g); err != nil {
			err = fmt.Errorf("its greeting does not parse: %w", err)
		}
	}
	if err != nil {
		conn.Close() //nolint:errcheck // nothing was said
		return nil, g, err
	}
	return conn, g, nil
}

func dial(ctx context.Context, addr string, wait time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		conn.Close() //nolint:errcheck // nothing was said
		return nil, err
	}
	return conn, nil
}

// readLine reads byte by byte, so that nothing behind the line is lost.
func readLine(r io.Reader) (string, error) {
	var b strings.Builder
	one := make([]byte, 1)
	for b.Len() < greetingMost {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return strings.TrimSpace(b.String()), nil
		}
		b.WriteByte(one[0])
	}
	return "", errors.New("it says too much")
}

// entry is what became of an attempt to come in.
type entry int

const (
	refused entry = iota // by TLS
	open                 // TLS took us, and the server spoke
	unclear              // neither of the two
	plainly              // there is no TLS at all
)

// enter begins TLS and says what came of it. In TLS 1.3 the server's opinion of a
// certificate comes behind the handshake. said is the first line that it said.
func enter(ctx context.Context, conn net.Conn, conf *tls.Config, say string) (got entry, said string) {
	c := tls.Client(conn, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		var record tls.RecordHeaderError
		switch {
		case errors.As(err, &record):
			return plainly, ""
		case timeout(err):
			return unclear, ""
		}
		return refused, ""
	}
	if say != "" {
		if _, err := io.WriteString(c, say); err != nil {
			return refused, ""
		}
	}
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		line = strings.TrimSpace(line)
		switch {
		case say != "" && strings.HasPrefix(line, "INFO "):
			continue // the server says it again to clients that it hears of others
		case line != "":
			return open, line
		case timeout(err):
			return unclear, ""
		case err != nil:
			return refused, ""
		}
	}
}

func timeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
