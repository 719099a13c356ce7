package meshclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// trust is what the client knows of the roots that count in its mesh, besides those
// in its directory.
type trust struct {
	mu     sync.Mutex
	agents []*x509.Certificate // of agents, by the newest document; none: it is not known
	of     uint64              // version of that document
	tried  time.Time           // when the document was asked for last, over a connection that proves nothing
	failed int                 // how often in a row that brought nothing
	doubt  bool                // something was refused as roots that are out of date would be
}

// The least time between two tries to get the trust document from somebody who cannot
// prove who he is: it doubles from one to the other.
const (
	trustLeast = 2 * time.Second
	trustMost  = time.Minute
)

// takeTrust takes over a trust document, from wherever it came: it must be signed by a
// pinned authority root, and newer than all before it. It does not use the network.
func (m *Mesh) takeTrust(text string) error {
	if text == "" {
		return nil
	}
	doc, err := capability.VerifyTrust(text, m.peers.Ring().Roots(), m.info.TrustDomain)
	if err != nil {
		return err
	}
	infra, err := doc.InfraRoots()
	if err != nil {
		return err
	}
	agents, err := doc.AgentRoots()
	if err != nil {
		return err
	}
	if doc.Version < m.floors.Trust() {
		return fmt.Errorf("meshclient: trust document of version %d, older than %d", doc.Version, m.floors.Trust())
	}
	m.trust.mu.Lock()
	defer m.trust.mu.Unlock()
	if doc.Version < m.trust.of {
		return fmt.Errorf("meshclient: trust document of version %d, older than %d", doc.Version, m.trust.of)
	}
	taken := false
	if doc.Version > m.floors.Trust() {
		if taken, err = m.dir.TakeTrust(m.floors, doc.Version, pki.EncodeCertificates(infra...)); err != nil {
			return err
		}
		if doc.Version < m.floors.Trust() {
			return nil // another process that shares the directory is ahead
		}
	}
	if m.trust.of == doc.Version {
		return nil
	}
	m.trust.of, m.trust.agents, m.trust.failed = doc.Version, agents, 0
	if taken {
		if err := m.tls.Reload(); err != nil {
			return err
		}
		m.log.Info().Uint64("version", doc.Version).Int("roots", len(infra)).Msg("trust document taken over")
	}
	m.poke("trust document changed")
	return nil
}

// onTrust is takeTrust for the registry's feed.
func (m *Mesh) onTrust(text string) {
	if err := m.takeTrust(text); err != nil {
		m.log.Warn().Err(err).Msg("trust document refused")
	}
}

// uprooted reports whether the instance's own certificate is of a root that does not
// count any more, as after that root leaked: then it is worth nothing, however long it
// would last.
func (m *Mesh) uprooted() bool {
	m.trust.mu.Lock()
	roots := m.trust.agents
	m.trust.mu.Unlock()
	if len(roots) == 0 {
		return false
	}
	text, err := pki.ReadFile(m.dir.File(agentdir.TLSCertFile))
	if err != nil {
		return false
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		return false
	}
	for _, c := range chain {
		for _, root := range roots {
			if c.CheckSignatureFrom(root) == nil {
				return false
			}
		}
	}
	return true
}

// doubtful reports whether an error is one that roots out of date would cause, the
// own or the other side's.
func doubtful(err error) bool {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) || isAuthError(err) {
		return true
	}
	// What the other side thinks of one's certificate comes as an alert, after the
	// handshake.
	var alert tls.AlertError
	text := ""
	if err != nil {
		text = err.Error()
	}
	return errors.As(err, &alert) || strings.Contains(text, "remote error: tls:") || strings.Contains(text, "pki: verifying the server")
}

// regain does what can be done where a server and this instance do not trust each
// other, and reports whether anything changed, so that it is worth trying again: it
// gets the newest trust document, and a certificate that counts by it.
func (m *Mesh) regain(ctx context.Context) bool {
	changed, err := m.fetchTrust(ctx)
	if err != nil {
		m.log.Debug().Err(err).Msg("trust document could not be had")
	}
	if !m.uprooted() {
		return changed
	}
	if err := m.renewBy(ctx, m.renewOverHTTPS); err != nil {
		m.log.Warn().Err(err).Msg("certificate of a root that does not count any more could not be replaced yet")
		return changed
	}
	return true
}

// fetchTrust asks the control plane for the trust document, without knowing that it is
// the control plane: the document proves itself, and nothing is sent. It reports
// whether it brought a newer one.
func (m *Mesh) fetchTrust(ctx context.Context) (bool, error) {
	now := time.Now()
	m.trust.mu.Lock()
	wait := min(trustLeast<<min(m.trust.failed, 6), trustMost)
	if since := now.Sub(m.trust.tried); since >= 0 && since < wait {
		m.trust.mu.Unlock()
		return false, nil
	}
	m.trust.tried = now
	m.trust.failed++
	before := m.trust.of
	m.trust.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	u, err := url.Parse(m.info.Control)
	if err != nil {
		return false, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // what comes is signed by the authority, or it is not taken
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath(wire.PathTrust).String(), nil)
	if err != nil {
		return false, err
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close() //nolint:errcheck // read as far as it is wanted
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2*limits.Document+1))
	if err != nil {
		return false, err
	}
	if len(text) > 2*limits.Document || resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("meshclient: no trust document in the answer %s", resp.Status)
	}
	var r wire.TrustResponse
	if err := json.Unmarshal(text, &r); err != nil {
		return false, fmt.Errorf("meshclient: trust document: %w", err)
	}
	if err := m.takeTrust(r.Trust); err != nil {
		return false, err
	}
	m.trust.mu.Lock()
	defer m.trust.mu.Unlock()
	return m.trust.of != before, nil
}

// doubted notes an error of a connection that comes back by itself; the tending
// goroutine does something about it.
func (m *Mesh) doubted(err error) {
	if !doubtful(err) {
		return
	}
	m.trust.mu.Lock()
	m.trust.doubt = true
	m.trust.mu.Unlock()
	m.poke("a server and this instance do not trust each other")
}

// mendTrust is called by the tending goroutine while there is no connection.
func (m *Mesh) mendTrust(ctx context.Context) {
	m.trust.mu.Lock()
	doubt := m.trust.doubt
	m.trust.doubt = false
	m.trust.mu.Unlock()
	if (doubt || m.uprooted()) && m.regain(ctx) {
		m.log.Info().Msg("what the mesh trusts had changed")
	}
}

// readRoots has nats.go ask for the roots at each attempt to connect.
func (m *Mesh) readRoots(o *nats.Options) error {
	o.RootCAsCB = func() (*x509.CertPool, error) { return m.tls.Roots(), nil }
	return nil
}
