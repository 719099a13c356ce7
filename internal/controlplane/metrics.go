package controlplane

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// What is read of nats-server for the metrics is that old at most, and a scrape waits
// that long for it at most.
const (
	metricsEvery = 15 * time.Second
	metricsWait  = time.Second
	metricsRead  = 10 * time.Second
)

// metrics is what the control plane counts of itself. Labels are states, reasons and
// kinds, of which there are few: no name of an agent, no key and no address.
type metrics struct {
	registry *prometheus.Registry
	records  *prometheus.CounterVec
	took     *prometheus.HistogramVec
	cuts     *prometheus.CounterVec
	cutTook  prometheus.Histogram
	requests *prometheus.CounterVec
}

func newMetrics(p *Plane) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealmesh_decisions_total",
			Help: "What the control plane decided, by kind (connect: of the auth callout; call: of what it was asked; change: of the registry), verdict and reason.",
		}, []string{"kind", "verdict", "reason"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sealmesh_decision_duration_seconds", Help: "How long a decision took, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}, []string{"kind"}),
		cuts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealmesh_cuts_total", Help: "Agents whose connections were cut on an operator's word, by whether every server confirmed it.",
		}, []string{"confirmed"}),
		cutTook: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sealmesh_cut_duration_seconds", Help: "From an operator's word to the answer that nothing is left of a connection.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 14),
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealmesh_http_requests_total", Help: "Requests at the HTTPS endpoint, by path and status code.",
		}, []string{"path", "code"}),
	}
	m.registry.MustRegister(
		m.records, m.took, m.cuts, m.cutTook, m.requests, &state{p: p},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// decided counts a record of the control plane's own.
func (m *metrics) decided(r audit.Record) {
	m.records.WithLabelValues(string(r.Kind), string(r.Verdict), string(r.Reason)).Add(float64(1 + r.Suppressed))
	if r.Duration > 0 {
		m.took.WithLabelValues(string(r.Kind)).Observe(r.Duration.Seconds())
	}
}

// cut counts what an operator had cut.
func (m *metrics) cut(confirmed bool, took time.Duration) {
	m.cuts.WithLabelValues(strconv.FormatBool(confirmed)).Inc()
	m.cutTook.Observe(took.Seconds())
}

// served counts requests. A path that there is not counts as "other": strangers choose
// it.
func (m *metrics) served(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := "other"
		if _, pattern := mux.Handler(r); pattern != "" {
			path = r.URL.Path
		}
		c := &coded{ResponseWriter: w, code: http.StatusOK}
		mux.ServeHTTP(c, r)
		m.requests.WithLabelValues(path, strconv.Itoa(c.code)).Inc()
	})
}

// coded remembers the status code.
type coded struct {
	http.ResponseWriter
	code int
}

func (c *coded) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (c *coded) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// state tells at each scrape how things are: what the control plane has in memory, and
// what it read of nats-server not long ago.
type state struct {
	p *Plane

	mu     sync.Mutex
	read   *standing
	reads  bool // one is under way
	update chan struct{}
}

// standing is what was read of nats-server.
type standing struct {
	at        time.Time
	agents    map[registry.Status]int
	instances map[registry.State]int
	streams   []wire.StreamView
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sealmesh_"+name, help, labels, nil)
}

var (
	descUp        = desc("connected", "Whether the control plane is connected to nats-server, by account.", "account")
	descSessions  = desc("sessions", "Sessions of agents: connections that were admitted and have not ended.")
	descServers   = desc("servers", "nats-servers that were heard of within a minute and a half.")
	descFeed      = desc("feed_lag_seconds", "Since when no tick of the control plane was heard; one comes every five seconds.")
	descMonitor   = desc("monitor_state", "1 for the state in which the heartbeat monitor of this replica is.", "state")
	descWatched   = desc("monitor_instances", "Instances as the heartbeat monitor sees them: watched, silent (beats are missing) and held (kept from expiring by the brake).", "state")
	descPending   = desc("cuts_pending", "Cuts that not every server has confirmed.")
	descUnlisted  = desc("unlisted_connections_cut_total", "Connections that were closed because no control plane had admitted them.")
	descNonces    = desc("replay_nonces", "Nonces in the store of used ones.")
	descNoncesMax = desc("replay_nonces_max", "Nonces for which the store of used ones has room.")
	descRaises    = desc("replay_raises_total", "How often calls that were signed earlier were refused because the store may have forgotten some.")
	descAudit     = desc("audit_waiting_records", "Records of the control plane that wait to be stored.")
	descAuditLost = desc("audit_missing_records", "Records of the control plane that were left out since the last batch because too many waited.")
	descEnds      = desc("expiry_timestamp_seconds", "When the first of its kind ends: certificates, intermediates, roots, signing keys.", "what")
	descOlder     = desc("older_records", "Records that are older than one that was seen, and are refused.")
	descAgents    = desc("agents", "Agents, by status.", "status")
	descInstances = desc("instances", "Instances, by state.", "state")
	descCopies    = desc("stream_copies", "Copies of a stream that there are to be (wanted) and that are there and complete (current).", "stream", "state")
	descRead      = desc("state_age_seconds", "How old agents, instances and stream copies are in this scrape.")
	descBuild     = desc("build_info", "1, with the version of the program.", "version")
)

// Describe implements prometheus.Collector.
func (s *state) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descUp, descSessions, descServers, descFeed, descMonitor, descWatched, descPending, descUnlisted, descNonces, descNoncesMax, descRaises,
		descAudit, descAuditLost, descEnds, descOlder, descAgents, descInstances, descCopies, descRead, descBuild,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *state) Collect(ch chan<- prometheus.Metric) {
	p := s.p
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	total := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge(descBuild, 1, version())
	if !p.started.Load() {
		return
	}
	gauge(descUp, flag(p.ctrl.IsConnected()), "CTRL")
	if p.sys != nil {
		gauge(descUp, flag(p.sys.IsConnected()), "SYS")
	}
	gauge(descSessions, float64(len(p.sessions.all())))
	gauge(descServers, float64(len(p.servers.all())))
	gauge(descFeed, p.peers.Silence().Seconds())
	m := p.monitorView()
	for _, name := range []string{"grace", "judging", "blind", "held"} {
		gauge(descMonitor, flag(m.State == name), name)
	}
	gauge(descWatched, float64(m.Watched), "watched")
	gauge(descWatched, float64(m.SilentCount), "silent")
	held := 0
	if m.HeldSince != nil {
		held = m.WouldExpire
	}
	gauge(descWatched, float64(held), "held")
	gauge(descPending, float64(len(p.cutting.pendingCuts())))
	total(descUnlisted, p.arrivals.unlisted.Load())
	r := p.replay.view()
	gauge(descNonces, float64(r.Nonces))
	gauge(descNoncesMax, float64(r.Most))
	total(descRaises, uint64(r.Raises))
	waiting, missing := p.spool.Waiting()
	gauge(descAudit, float64(waiting))
	gauge(descAuditLost, float64(missing))
	first := map[string]time.Time{}
	for _, e := range p.allEnds() {
		if at, ok := first[e.what]; !ok || e.until.Before(at) {
			first[e.what] = e.until
		}
	}
	for what, at := range first {
		gauge(descEnds, float64(at.Unix()), what)
	}
	gauge(descOlder, float64(len(p.olderRecords())))
	if read := s.latest(); read != nil {
		for k, n := range read.agents {
			gauge(descAgents, float64(n), string(k))
		}
		for k, n := range read.instances {
			gauge(descInstances, float64(n), string(k))
		}
		for _, v := range read.streams {
			gauge(descCopies, float64(v.Copies), v.Stream, "wanted")
			gauge(descCopies, float64(max(0, v.Online-len(v.Behind))), v.Stream, "current")
		}
		gauge(descRead, time.Since(read.at).Seconds())
	}
}

// latest is what was read of nats-server not long ago. Where that is too old it is
// read anew, beside the scrape if it takes long: who scrapes must not wait for a server
// that does not answer, nor have the registry read as often as he likes.
func (s *state) latest() *standing {
	s.mu.Lock()
	if (s.read == nil || time.Since(s.read.at) >= metricsEvery) && !s.reads {
		s.reads, s.update = true, make(chan struct{})
		s.p.wg.Go(s.refresh)
	}
	update, under := s.update, s.reads
	s.mu.Unlock()
	if under {
		select {
		case <-update:
		case <-time.After(metricsWait):
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

func (s *state) refresh() {
	ctx, cancel := context.WithTimeout(s.p.ctx, metricsRead)
	defer cancel()
	var out *standing
	agents, instances, err := s.p.tallies(ctx)
	if err == nil {
		out = &standing{agents: agents, instances: instances, streams: s.p.streamViews(ctx), at: time.Now()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if out != nil {
		s.read = out
	}
	s.reads = false
	close(s.update)
}
