package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// probeWait is how long a control plane has to say how it is.
const probeWait = 5 * time.Second

// probe asks the control plane that runs on this host with this mesh directory
// whether it does its work. It is there for health checks in images that have no
// other program.
func (a *app) probe(ctx context.Context, m *meshdir.Mesh) error {
	ctx, cancel := a.deadline(ctx, probeWait)
	defer cancel()
	source, err := m.ControlSource()
	if err != nil {
		return err
	}
	at, err := url.Parse(m.Config.Control.URL)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(m.Config.Control.Listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	conf := source.ClientTLS(at.Hostname())
	client := http.Client{Transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&tls.Dialer{Config: conf}).DialContext(ctx, network, net.JoinHostPort(host, port))
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+at.Host+wire.PathHealth, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", meshclient.ErrUnavailable, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	said, err := io.ReadAll(io.LimitReader(resp.Body, 256))
	if err != nil {
		return fmt.Errorf("%w: %w", meshclient.ErrUnavailable, err)
	}
	text := clean(strings.TrimSpace(string(said)))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %w", meshclient.ErrUnavailable, errors.New(text))
	}
	return a.show(probeDoc{Schema: "sealmesh.probe/v1", OK: true}, func(w io.Writer) { fmt.Fprintln(w, text) })
}

// probeDoc is sealmesh.probe/v1.
type probeDoc struct {
	Schema string `json:"schema"`
	OK     bool   `json:"ok"`
}
