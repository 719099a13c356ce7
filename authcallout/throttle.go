package authcallout

import (
	"net/netip"
	"sync"
	"time"
)

// Failing requests of one source: a burst, then a steady rate. What is refused
// on the throttle costs no signature check and no look-up in the registry.
const (
	failureBurst = 32
	failureEvery = 250 * time.Millisecond
	maxSources   = 4096
	maxKnown     = 16384
	reportEvery  = time.Second
)

// throttle keeps sources that fail a lot from starving the others. A key that
// was admitted from a source is let past that source's empty bucket, up to the
// signature check: so a broken neighbour behind one address does not lock out
// agents that work, and who borrows a known key's name pays for nothing more
// than one verification.
type throttle struct {
	mu      sync.Mutex
	sources map[string]*bucket
	known   map[[2]string]struct{} // source, key
}

type bucket struct {
	tokens     int
	filled     time.Time // when tokens was last brought up to date
	reported   time.Time
	suppressed uint64
}

func newThrottle() *throttle {
	return &throttle{sources: make(map[string]*bucket), known: make(map[[2]string]struct{})}
}

// source is what is counted together: an IPv4 address, or the /64 of an IPv6
// one, since a single host commonly has all of it.
func source(host string) string {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return clip(host)
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	p, _ := addr.Prefix(64)
	return p.String()
}

// refill brings b up to date. A clock that stepped back refills nothing.
func (b *bucket) refill(now time.Time) {
	n := now.Sub(b.filled) / failureEvery
	switch {
	case n <= 0:
	case n >= time.Duration(failureBurst-b.tokens):
		b.tokens, b.filled = failureBurst, now
	default:
		b.tokens += int(n)
		b.filled = b.filled.Add(n * failureEvery)
	}
}

// admits reports whether a request of key from src may be looked at. If not,
// report says whether this refusal is to be reported, with how many before it
// were not.
func (t *throttle) admits(src, key string, now time.Time) (ok, report bool, suppressed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.sources[src]
	if b == nil {
		return true, false, 0
	}
	b.refill(now)
	if b.tokens > 0 {
		return true, false, 0
	}
	if _, ok := t.known[[2]string{src, key}]; ok {
		return true, false, 0
	}
	if now.Sub(b.reported) < reportEvery && !now.Before(b.reported) {
		b.suppressed++
		return false, false, 0
	}
	suppressed, b.suppressed, b.reported = b.suppressed, 0, now
	return false, true, suppressed
}

// failed takes a token from src.
func (t *throttle) failed(src string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.sources[src]
	if b == nil {
		t.makeRoom(now)
		b = &bucket{tokens: failureBurst, filled: now}
		t.sources[src] = b
	}
	b.refill(now)
	if b.tokens > 0 {
		b.tokens--
	}
}

// succeeded notes that key works from src.
func (t *throttle) succeeded(src, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := [2]string{src, key}
	if _, ok := t.known[k]; ok {
		return
	}
	if len(t.known) >= maxKnown {
		for old := range t.known {
			delete(t.known, old)
			break
		}
	}
	t.known[k] = struct{}{}
}

// makeRoom keeps the map bounded. It looks at a few sources only, in the map's
// random order, and drops the one that says least: the fullest bucket. A search
// through all of them would be work that a flood from many addresses can ask for.
func (t *throttle) makeRoom(now time.Time) {
	if len(t.sources) < maxSources {
		return
	}
	const sample = 16
	var (
		fullest string
		most    = -1
		seen    int
	)
	for src, b := range t.sources {
		if b.refill(now); b.tokens > most {
			fullest, most = src, b.tokens
		}
		if seen++; seen == sample {
			break
		}
	}
	delete(t.sources, fullest)
}
