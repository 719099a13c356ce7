package meshclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// clientVersion is what the heartbeats and operators see of this client.
var clientVersion = func() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "meshclient " + info.Main.Version
	}
	return "meshclient"
}()

// ask asks the control plane something about this agent itself, as a signed
// call.
func (m *Mesh) ask(ctx context.Context, scope string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	reply, err := m.call(ctx, outgoingCall{
		scope: capability.RequireScope(scope), to: agentid.Control, data: body, contentType: "application/json",
	})
	if err != nil {
		return err
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Data, resp); err != nil {
		return fmt.Errorf("meshclient: answer of the control plane: %w", err)
	}
	return nil
}

// sendBeat signs and publishes a heartbeat.
func (m *Mesh) sendBeat(_ context.Context, b heartbeat.Beat) error {
	data, err := b.Encode()
	if err != nil {
		return err
	}
	msg, _, _, err := m.speaker.Message(m.space.Beat(m.info.Agent, m.info.Instance), envelope.Fields{}, nil, data, nil)
	if err != nil {
		return err
	}
	return m.conn().PublishMsg(msg)
}

// selfTimeout bounds a question to the control plane's HTTPS endpoint.
const selfTimeout = 5 * time.Second

// askWhy finds out, once at a time, why the server refuses to let the agent
// back in.
func (m *Mesh) askWhy() {
	if !m.asking.CompareAndSwap(false, true) {
		return
	}
	if !m.background(func() {
		defer m.asking.Store(false)
		ctx, cancel := context.WithTimeout(m.ctx, selfTimeout)
		defer cancel()
		err := m.why(ctx)
		if m.ctx.Err() != nil || m.link.Load().nc.IsConnected() {
			return
		}
		m.setAway(err)
		m.announce()
		if m.link.Load().nc.IsConnected() {
			m.poke("reconnected meanwhile") // what was just said is out of date
		}
	}) {
		m.asking.Store(false)
	}
}

// why asks the control plane for the agent's own status: *Denied where it is
// refused, an error wrapping ErrUnavailable where that could not be found out
// or the control plane sees nothing wrong.
func (m *Mesh) why(ctx context.Context) error {
	s, err := m.selfStatus(ctx)
	if err != nil {
		return fmt.Errorf("%w: refused by the server, and the control plane does not say why: %w", ErrUnavailable, err)
	}
	switch s.Reason {
	case denial.Flapping:
		if s.NotBefore != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, denial.New(s.Reason, "not let in again before %s", s.NotBefore.UTC().Format(time.RFC3339)))
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, s.Reason)
	case denial.SessionTaken:
		return fmt.Errorf("%w: %w", ErrUnavailable, denial.New(s.Reason, "another connection of %s/%s is open", s.Agent, s.Instance))
	}
	if s.Reason == "" || s.Reason == denial.Internal || transient(s.Reason) {
		return fmt.Errorf("%w: refused by the server; the control plane sees no reason in the agent's record", ErrUnavailable)
	}
	return &Denied{Reason: s.Reason, Hint: s.Hint, ID: s.Denial}
}

func (m *Mesh) selfStatus(ctx context.Context) (wire.SelfStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	proof, err := jws.Sign(&wire.SelfClaims{
		Head:  jws.Head{Kind: wire.KindSelf, IssuedAt: m.cfg.clock().Unix()},
		Agent: m.info.Agent, Audience: m.info.TrustDomain,
	}, documentSigner{m.key})
	if err != nil {
		return wire.SelfStatus{}, err
	}
	var s wire.SelfStatus
	err = m.post(ctx, wire.PathSelf, []byte(proof), &s)
	var d *Denied
	if errors.As(err, &d) {
		return wire.SelfStatus{Reason: d.Reason, Hint: d.Hint, Denial: d.ID}, nil
	}
	return s, err
}

// post sends a signed request to the control plane's HTTPS endpoint, whose
// certificate must be of the mesh's own authority for servers. A refusal is a
// *Denied.
func (m *Mesh) post(ctx context.Context, path string, body []byte, into any) error {
	err := m.postOnce(ctx, path, body, into)
	var d *Denied
	if err == nil || errors.As(err, &d) || !doubtful(err) {
		return err
	}
	if changed, e := m.fetchTrust(ctx); e != nil || !changed {
		return err
	}
	return m.postOnce(ctx, path, body, into)
}

func (m *Mesh) postOnce(ctx context.Context, path string, body []byte, into any) error {
	u, err := url.Parse(m.info.Control)
	if err != nil {
		return err
	}
	// The certificate is shown although it may have ended: whoever renews it by its
	// nkey has to have the TLS key too.
	transport := &http.Transport{TLSClientConfig: m.tls.ClientTLS(u.Hostname())}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(io.LimitReader(resp.Body, limits.HTTPBody))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var f wire.Failure
		if json.Unmarshal(text, &f) == nil && f.Reason != "" && f.Reason != denial.Internal && f.Reason != denial.RateLimited {
			return &Denied{Reason: f.Reason, Detail: f.Detail, Hint: f.Hint, ID: f.Denial}
		}
		return fmt.Errorf("control plane answered %s", resp.Status)
	}
	return json.Unmarshal(text, into)
}

// documentSigner lets the instance's key sign documents. Their signed bytes
// begin with a JWT header, those of an envelope with its own line, and a
// connection nonce is shorter than either: none can be taken for another.
type documentSigner struct{ key *envelope.Key }

func (s documentSigner) PublicKey() (string, error)        { return s.key.PublicKey(), nil }
func (s documentSigner) Sign(input []byte) ([]byte, error) { return s.key.Sign(input) }
