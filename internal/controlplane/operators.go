package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// readyWait bounds what a question for readiness costs.
const readyWait = 2 * time.Second

// operators is the HTTP server for those who look after the control plane. It tells
// how it fares and takes nothing.
type operators struct {
	server *http.Server
	addr   string
	done   chan struct{}
}

// listenForOperators serves metrics and health where sealmesh.yaml says. That the
// address is taken, by another control plane on this host, keeps nobody from being
// admitted: it is logged, and there are no metrics.
func (p *Plane) listenForOperators() {
	at := p.cfg.Mesh.Config.Metrics.Listen
	if at == "" {
		return
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		p.log.Error().Err(err).Msg("metrics.listen: there are no metrics and no /readyz of this control plane")
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "ok\n") //nolint:errcheck // the client may be gone
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := p.ready(r.Context()); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok\n") //nolint:errcheck // the client may be gone
	})
	o := &operators{addr: l.Addr().String(), done: make(chan struct{})}
	o.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: stdlog.New(io.Discard, "", 0),
	}
	p.operators = o
	go func() {
		defer close(o.done)
		if err := o.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error().Err(err).Msg("endpoint of the metrics ended")
		}
	}()
}

func (o *operators) close() {
	if o == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if o.server.Shutdown(ctx) != nil {
		o.server.Close() //nolint:errcheck // nothing is left to do
	}
	<-o.done
}

// MetricsAddr is where metrics and health are served, empty where they are not.
func (p *Plane) MetricsAddr() string {
	if p.operators == nil {
		return ""
	}
	return p.operators.addr
}

// ready says why the control plane could not decide a connection or cut one just now.
// The text names no agent and no key.
func (p *Plane) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	switch {
	case !p.started.Load():
		return errors.New("it is starting")
	case !p.ctrl.IsConnected():
		return errors.New("nats-server cannot be reached")
	case p.sys != nil && !p.sys.IsConnected():
		return errors.New("the system account of nats-server cannot be reached, so connections cannot be closed")
	}
	if lag := p.peers.Silence(); lag > wire.FeedLate {
		return fmt.Errorf("the feed is silent for %s", lag.Round(time.Second))
	}
	if err := p.certificateStands(); err != nil {
		return err
	}
	// By the leader, as for an admission.
	if _, err := p.store.Agent(ctx, agentid.Control); err != nil {
		return errors.New("the registry cannot be read")
	}
	return nil
}

func (p *Plane) certificateStands() error {
	for _, e := range p.allEnds() {
		if !p.clock().Before(e.until) {
			return fmt.Errorf("%s has ended", e.what)
		}
	}
	return nil
}

// tallies counts agents and instances by state. It reads the registry.
func (p *Plane) tallies(ctx context.Context) (map[registry.Status]int, map[registry.State]int, error) {
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	instances, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		return nil, nil, err
	}
	byStatus, byState := tally(agents, instances)
	return byStatus, byState, nil
}

// tally counts all but the control plane's own.
func tally(agents []*registry.Agent, instances []*registry.Instance) (map[registry.Status]int, map[registry.State]int) {
	byStatus, byState := map[registry.Status]int{}, map[registry.State]int{}
	for _, a := range agents {
		if a.Agent != agentid.Control {
			byStatus[a.Status]++
		}
	}
	for _, i := range instances {
		if i.Agent != agentid.Control {
			byState[i.State]++
		}
	}
	return byStatus, byState
}
