package controlplane

import (
	"time"
)

// sessionBound is how long a session lasts at most where nobody can end it
// before. It is what a revocation takes there at the broker; receivers do not wait
// for it.
const sessionBound = 5 * time.Minute

// sessionTTL is how long a user JWT lives, before jitter.
func (p *Plane) sessionTTL() time.Duration {
	ttl := time.Duration(p.cfg.Mesh.Config.Session.TTL)
	if p.sys == nil {
		ttl = min(ttl, sessionBound)
	}
	return ttl
}

// revocationBound is how long a cut connection may go on at the broker: nothing
// where it is closed, else the longest session, with what a user JWT may be
// longer than it should, and what nats-server takes longer to end it.
func (p *Plane) revocationBound() time.Duration {
	if p.sys != nil {
		return 0
	}
	return p.sessionTTL()*11/10 + endsLate
}

// endsLate is how much later than its user JWT nats-server ends a connection.
const endsLate = time.Second

// bound is by when the last of the connections of a cut ends by itself. Where none
// is listed that is now.
func (p *Plane) bound(r *cutReport) *time.Time {
	r.mu.Lock()
	at := r.bound
	r.mu.Unlock()
	if at.IsZero() {
		at = p.clock()
	} else {
		at = at.Add(endsLate)
	}
	at = at.UTC()
	return &at
}

// over reports whether there is nothing to be tried again: every server said that
// nothing is left, or, where there is nobody to ask, nothing is listed any more.
func (r *cutReport) over(nobody bool) bool {
	if !nobody {
		return r.complete()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed == nil && r.open == 0
}
