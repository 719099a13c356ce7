package controlplane

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/sealmesh/sealmesh/denial"
)

// What one source address may ask over HTTPS.
const (
	sourceRate  = 20 // requests a second
	sourceBurst = 60
)

// What one instance may ask the control plane about itself, in units of the
// cheapest question: the workers are everybody's, and what is written into the
// registry is told to everybody.
const (
	askRate  = 50 // a second
	askBurst = 200

	askCost          = 1
	askCostEnd       = 2  // a cut
	askCostStored    = 2  // an event of up to 64 KiB, and a signature
	askCostDurable   = 5  // a record on the feed, and consumers
	askCostInstances = 10 // a page of records, each read by itself
	askCostRenew     = 25 // a certificate, and a record on the feed
)

// limiterMost bounds how many sources are told apart.
const limiterMost = 4096

// limiter bounds what each of many may do.
type limiter struct {
	rate  rate.Limit
	burst int

	mu      sync.Mutex
	sources map[string]*rate.Limiter
}

func newLimiter(r rate.Limit, burst int) *limiter {
	return &limiter{rate: r, burst: burst, sources: map[string]*rate.Limiter{}}
}

// allow reports whether a source may do something of that cost now.
func (l *limiter) allow(source string, cost int, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sources[source]
	if s == nil {
		if len(l.sources) >= limiterMost {
			l.forget(now)
		}
		s = rate.NewLimiter(l.rate, l.burst)
		l.sources[source] = s
	}
	return s.AllowN(now, cost)
}

// forget drops whoever owes nothing, and all only where everybody owes: a source
// must not get rid of its own debt by coming under many names.
func (l *limiter) forget(now time.Time) {
	for source, s := range l.sources {
		if s.TokensAt(now) >= float64(l.burst) {
			delete(l.sources, source)
		}
	}
	if len(l.sources) >= limiterMost {
		clear(l.sources)
	}
}

func bounded(l *limiter, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !l.allow(source(r.RemoteAddr), 1, time.Now()) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusTooManyRequests)
			w.Write([]byte(`{"reason":"` + string(denial.RateLimited) + `"}`)) //nolint:errcheck // the client may be gone
			return
		}
		next(w, r)
	}
}

// source is what of a remote address is one source: the address, and of IPv6 the
// network of 64 bits, all of which one host may use.
func source(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if a = a.Unmap().WithZone(""); a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// How many connections the HTTPS endpoint keeps open at a time, in all and of one
// source. Each request is short; who keeps many connections open and says nothing
// keeps others out until his time is over.
const (
	doorMost   = 1024
	doorSource = 64
)

// door is a listener that closes what comes in beyond its bounds.
type door struct {
	net.Listener
	mu   sync.Mutex
	open map[string]int
	all  int
}

func newDoor(l net.Listener) *door { return &door{Listener: l, open: map[string]int{}} }

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := source(c.RemoteAddr().String())
		if d.enter(from) {
			return &doorConn{Conn: c, leave: sync.OnceFunc(func() { d.leave(from) })}, nil
		}
		c.Close() //nolint:errcheck // nobody listens to it
	}
}

func (d *door) enter(from string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= doorMost || d.open[from] >= doorSource {
		return false
	}
	d.all++
	d.open[from]++
	return true
}

func (d *door) leave(from string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.open[from]--; d.open[from] == 0 {
		delete(d.open, from)
	}
}

type doorConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *doorConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
