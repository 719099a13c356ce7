package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

var (
	// ErrUnreachable is wrapped where no answer of the control plane was had.
	// Running Enrol again later may help.
	ErrUnreachable = errors.New("enrol: the control plane cannot be reached")
	// ErrWrongServer is wrapped where the server at that address is not the control
	// plane that is pinned. Nothing was sent to it. The join token, or the hash, is
	// of another mesh, or somebody is in between.
	ErrWrongServer = errors.New("enrol: the server is not the control plane that is pinned")
)

// answerLimit is the longest answer in bytes. It holds a certificate chain, CA
// roots and signed documents, so more than a request.
const answerLimit = 4 * limits.HTTPBody

// The first and the longest pause after a connection was closed without a word.
const (
	hungUpFirst = 200 * time.Millisecond
	hungUpLast  = 2 * time.Second
)

// endpoint is the control plane's HTTPS endpoint.
type endpoint struct {
	url         *url.URL
	tls         *tls.Config
	transport   *http.Transport
	trustDomain string // known after meet
}

func newEndpoint(text, ca string) (*endpoint, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, denial.New(denial.BadJoinToken, "the control plane is not named by an https:// URL")
	}
	e := &endpoint{url: u}
	if e.tls, err = pki.PinnedTLS(ca, u.Hostname(), time.Now); err != nil {
		return nil, denial.New(denial.BadJoinToken, "the control plane is not pinned by the hash of a CA: %w", err)
	}
	pinned := e.tls.VerifyConnection
	e.tls.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := pinned(cs); err != nil {
			return fmt.Errorf("%w: %w", ErrWrongServer, err)
		}
		return e.know(cs)
	}
	// No proxy from the environment: the address is the token's.
	e.transport = &http.Transport{TLSClientConfig: e.tls}
	return e, nil
}

func (e *endpoint) close() { e.transport.CloseIdleConnections() }

// know runs on every handshake after the pin was verified. The infra CA also
// signs nats-servers, whose hosts are not trusted with join secrets, so the
// certificate must name the control plane; it names the trust domain besides,
// which must stay the same.
func (e *endpoint) know(cs tls.ConnectionState) error {
	uris := cs.PeerCertificates[0].URIs
	if len(uris) != 1 {
		return fmt.Errorf("%w: its certificate is of another service", ErrWrongServer)
	}
	td, err := agentid.ParseTrustDomain(uris[0].Host)
	if err != nil || uris[0].String() != agentid.ServiceSPIFFE(td, agentid.Control.String()) {
		return fmt.Errorf("%w: its certificate is of another service", ErrWrongServer)
	}
	if e.trustDomain != "" && e.trustDomain != td {
		return fmt.Errorf("%w: its trust domain changed", ErrWrongServer)
	}
	return nil
}

// meet opens a connection, sends nothing, and learns the trust domain.
func (e *endpoint) meet(ctx context.Context) error {
	port := e.url.Port()
	if port == "" {
		port = "443"
	}
	nc, err := (&tls.Dialer{Config: e.tls}).DialContext(ctx, "tcp", net.JoinHostPort(e.url.Hostname(), port))
	if err != nil {
		return e.failed(err)
	}
	defer func() { _ = nc.Close() }()
	c, ok := nc.(*tls.Conn)
	if !ok {
		return fmt.Errorf("%w at %s: no TLS", ErrUnreachable, e.url.Host)
	}
	e.trustDomain = c.ConnectionState().PeerCertificates[0].URIs[0].Host // know checked it
	return nil
}

// patiently tries again where the connection was closed without a word, as a control
// plane does with those of an address that has many open: fifty hosts behind one
// address may enrol at once. The same request may come twice, it is answered as before.
func patiently(ctx context.Context, try func() error) error {
	for pause := hungUpFirst; ; pause *= 2 {
		err := try()
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) || pause > hungUpLast {
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return err
		}
	}
}

func (e *endpoint) failed(err error) error {
	if errors.Is(err, ErrWrongServer) {
		return fmt.Errorf("%w (at %s)", err, e.url.Host)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, e.url.Host, err)
}

func (e *endpoint) post(ctx context.Context, r wire.EnrollRequest) (wire.EnrollResponse, error) {
	var out wire.EnrollResponse
	body, err := json.Marshal(r)
	if err != nil {
		return out, fmt.Errorf("enrol: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.JoinPath(wire.PathEnroll).String(), bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("enrol: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{
		Transport: e.transport,
		// A redirect would carry the secret to where it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return out, e.failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return out, e.failed(err)
	}
	if len(text) > answerLimit {
		return out, fmt.Errorf("enrol: the answer of the control plane is longer than %d bytes", answerLimit)
	}
	if resp.StatusCode != http.StatusOK {
		return out, refusal(resp, text)
	}
	// Fields that this program does not know are left out: a newer control
	// plane may say more.
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("enrol: the answer of the control plane: %w", err)
	}
	return out, nil
}

// refusal returns the denial in a failed answer. What cannot be one is an
// outage, such as that of a proxy in between.
func refusal(resp *http.Response, text []byte) error {
	var f wire.Failure
	if json.Unmarshal(text, &f) != nil || !isReason(f.Reason) {
		return fmt.Errorf("%w: it answered %d %s", ErrUnreachable, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	switch f.Reason {
	case denial.Internal, denial.Overloaded, denial.RegistryUnavailable:
		return fmt.Errorf("%w: %w", ErrUnreachable, denial.New(f.Reason, "%s", clean(f.Detail)))
	}
	return denial.New(f.Reason, "%s", clean(f.Detail))
}

func isReason(r denial.Reason) bool {
	return r != "" && len(r) <= limits.ErrorCode && strings.Trim(string(r), "abcdefghijklmnopqrstuvwxyz-") == ""
}

// clean bounds text of the other side and keeps control characters off the
// terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
	if len(s) > limits.Reason {
		s = strings.ToValidUTF8(s[:limits.Reason], "") + "…"
	}
	return s
}
