package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"crypto/tls"
	"crypto/x509"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// endpoint is the HTTPS server for those that have no connection: to enrol, to learn
// why one was refused, and to renew a certificate that ended. Every request is signed.
// A client certificate proves no more than that the client has its key: it need not be
// valid, and most have none.
type endpoint struct {
	server *http.Server
	url    string
	done   chan struct{}
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}

func (p *Plane) listen() (*endpoint, error) {
	c := p.cfg.Mesh.Config.Control
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	e := &endpoint{url: c.URL, done: make(chan struct{})}
	// With port 0 the address is known only now.
	if u, err := url.Parse(c.URL); err == nil && (u.Port() == "0" || c.URL == "") {
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("controlplane: %w", err)
		}
		host := u.Hostname()
		if host == "" {
			host = "127.0.0.1"
		}
		e.url = "https://" + net.JoinHostPort(host, port)
	}
	limit := newLimiter(sourceRate, sourceBurst)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathSelf, bounded(limit, p.handle(p.serveSelf)))
	mux.HandleFunc("POST "+wire.PathEnroll, bounded(limit, p.handle(p.serveEnroll)))
	mux.HandleFunc("POST "+wire.PathRenew, bounded(limit, p.handle(p.serveRenew)))
	mux.HandleFunc("GET "+wire.PathTrust, bounded(limit, p.serveTrust))
	mux.HandleFunc("GET "+wire.PathHealth, func(w http.ResponseWriter, _ *http.Request) {
		if !p.ctrl.IsConnected() || p.sys != nil && !p.sys.IsConnected() {
			http.Error(w, "nats-server cannot be reached", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n") //nolint:errcheck // the client may be gone
	})
	served := p.metrics.served(mux)
	conf := p.source.ServerTLS()
	conf.ClientAuth = tls.RequestClientCert
	e.server = &http.Server{
		Handler: served, TLSConfig: conf,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: stdlog.New(io.Discard, "", 0), // handshake failures of strangers
	}
	go func() {
		defer close(e.done)
		if err := e.server.Serve(tls.NewListener(newDoor(l), e.server.TLSConfig)); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error().Err(err).Msg("HTTPS endpoint ended")
		}
	}()
	return e, nil
}

func (e *endpoint) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if e.server.Shutdown(ctx) != nil {
		e.server.Close() //nolint:errcheck // nothing is left to do
	}
	<-e.done
}

// caller is who asks over HTTPS.
type caller struct {
	host  string
	shown []*x509.Certificate // the first one's key is the caller's; nothing else is proved
}

// handle reads a bounded body, and writes the answer or the refusal as JSON.
func (p *Plane) handle(f func(ctx context.Context, from caller, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				p.log.Error().Str("path", r.URL.Path).Bytes("stack", debug.Stack()).Msg("control plane panicked")
				p.reply(w, http.StatusServiceUnavailable, wire.Failure{Reason: denial.Internal})
			}
		}()
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limits.HTTPBody))
		if err != nil {
			p.reply(w, http.StatusRequestEntityTooLarge, wire.Failure{Reason: denial.TooLarge})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), workTimeout)
		defer cancel()
		host, _, _ := strings.Cut(r.RemoteAddr, "%")
		if h, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			host = h
		}
		result, err := f(ctx, caller{host: host, shown: r.TLS.PeerCertificates}, body)
		if err == nil {
			p.reply(w, http.StatusOK, result)
			return
		}
		reason := denial.Of(err)
		if reason == "" {
			p.log.Error().Err(err).Str("path", r.URL.Path).Msg("request failed")
			p.reply(w, http.StatusServiceUnavailable, wire.Failure{Reason: denial.Internal})
			return
		}
		p.log.Warn().Str("path", r.URL.Path).Str("host", host).Str("reason", string(reason)).Str("detail", denial.Detail(err)).Msg("request refused")
		p.reply(w, http.StatusForbidden, wire.Failure{Reason: reason, Detail: denial.Detail(err), Hint: denial.Hint(reason)})
	}
}

func (p *Plane) reply(w http.ResponseWriter, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		p.log.Error().Err(err).Msg("answer does not encode")
		code = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(b) //nolint:errcheck // the client may be gone
}

// denialFor is how long the last refusal of a key explains why it is not
// connected.
const denialFor = 2 * time.Minute

// serveSelf tells the holder of a key what the mesh thinks of it, and nobody
// else anything: whoever cannot sign with the key, or whose key is unknown,
// learns the same.
func (p *Plane) serveSelf(ctx context.Context, _ caller, body []byte) (any, error) {
	var c wire.SelfClaims
	u, err := jws.Decode(string(body), wire.KindSelf, &c)
	if err := p.proved(u, err, c.IssuedAt); err != nil {
		return nil, err
	}
	if c.Audience != p.cfg.Mesh.Config.TrustDomain {
		return nil, errStranger
	}
	a, i, err := p.holder(ctx, c.Agent, c.Issuer)
	if err != nil {
		return nil, err
	}
	inst := i.Instance
	s := wire.SelfStatus{
		Schema: wire.SelfSchema, Agent: c.Agent, Instance: inst, Status: string(a.Status), State: string(i.State),
		Epoch: envelope.Epoch{Agent: a.Epoch, Instance: i.Epoch}.String(),
	}
	// One of long ago says nothing about now: the agent may have been let in by
	// another replica since.
	d, denied := p.callout.LastDenial(c.Issuer)
	denied = denied && d.Proved && p.clock().Sub(d.Time) < denialFor
	if denied {
		s.Denial = d.ID
	}
	agentSays, says := a.Admissible(), i.Admissible(a, p.clock())
	switch {
	case agentSays != nil:
		s.Reason = denial.Of(agentSays)
	case says != nil:
		s.Reason = denial.Of(says)
	case denied:
		s.Reason = d.Reason
	}
	if s.Reason == denial.Flapping {
		if _, until := i.Flapping(p.clock()); !until.IsZero() {
			until = until.UTC()
			s.NotBefore = &until
		}
	}
	s.Hint = denial.Hint(s.Reason)
	return s, nil
}

// errStranger is what everybody learns whose key is not an instance of the agent
// it names, whether that agent exists or not.
var errStranger = denial.New(denial.UnlistedKey, "key is not an instance of this agent")

// holder returns the records of the agent and instance that a key proves to be.
func (p *Plane) holder(ctx context.Context, id agentid.ID, key string) (*registry.Agent, *registry.Instance, error) {
	if id.IsZero() {
		return nil, nil, errStranger
	}
	i, err := p.store.Instance(ctx, id, agentid.InstanceOf(key))
	if err != nil {
		if denial.Of(err) == "" {
			return nil, nil, err
		}
		return nil, nil, errStranger
	}
	pass, err := i.Identity(p.store.Ring(), p.clock())
	if err != nil {
		return nil, nil, err
	}
	if pass.Key != key {
		return nil, nil, errStranger
	}
	a, err := p.store.Agent(ctx, id)
	return a, i, err
}

// proved checks a signed request that was just decoded: its signature, and that
// it was made a moment ago.
func (p *Plane) proved(u *jws.Unverified, err error, issued int64) error {
	if err != nil {
		return err
	}
	if err := u.Verify(); err != nil {
		return err
	}
	age := p.clock().Sub(time.Unix(issued, 0))
	if age > wire.ProofAge || -age > wire.ProofAge {
		return denial.New(denial.Stale, "signed %s ago; check this host's clock", age.Truncate(time.Second))
	}
	return nil
}
