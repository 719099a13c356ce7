package controlplane

import (
	"cmp"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// Of what is left of a life, the parts below which it is said.
const (
	endingSoon  = 5  // a fifth: a warning
	endingAlarm = 20 // a twentieth: an alarm
)

// ending is something that ends at a time unless it is renewed.
type ending struct {
	what, name   string
	since, until time.Time
}

// certificateEnds is that of a certificate.
func certificateEnds(what, name string, c *x509.Certificate) ending {
	return ending{what, name, c.NotBefore.Add(pki.Backdate), c.NotAfter}
}

// less reports whether less than one part of so many is left of its life.
func (e ending) less(parts time.Duration, now time.Time) bool {
	return e.until.Sub(now) < e.until.Sub(e.since)/parts
}

// endings remembers what was said of what ends.
type endings struct {
	mu   sync.Mutex
	more []func() []ending
	said map[ending]int
}

// alsoEnds adds to what ends. f is called often and from any goroutine, and must wait
// for nothing: certificates are renewed in the same loop.
func (p *Plane) alsoEnds(f func() []ending) {
	p.endings.mu.Lock()
	defer p.endings.mu.Unlock()
	p.endings.more = append(p.endings.more, f)
}

// allEnds lists what ends, the first first.
func (p *Plane) allEnds() []ending {
	p.endings.mu.Lock()
	more := slices.Clone(p.endings.more)
	p.endings.mu.Unlock()
	all := p.serverEnds()
	for _, f := range more {
		all = append(all, f()...)
	}
	slices.SortStableFunc(all, func(a, b ending) int {
		return cmp.Or(a.until.Compare(b.until), cmp.Compare(a.what, b.what), cmp.Compare(a.name, b.name))
	})
	return all
}

// serverEnds are the certificates of the servers and the intermediate that signs
// them. What a nats-server shows counts, not what is in its files: it may not have
// read them.
func (p *Plane) serverEnds() []ending {
	out := []ending{certificateEnds("server certificate", "control", p.source.Leaf())}
	c := &p.certs
	c.mu.Lock()
	for _, s := range p.cfg.Mesh.NATSServers() {
		if leaf := cmp.Or(c.seen[s.Name], c.own[s.Name]); leaf != nil {
			out = append(out, certificateEnds("server certificate", s.Name, leaf))
		}
	}
	c.mu.Unlock()
	a := p.authorities()
	out = append(out, certificateEnds("intermediate", "infra", a.infra.Certificate()))
	if ca, ok := a.issuer.(*pki.CA); ok {
		out = append(out, certificateEnds("intermediate", "agent", ca.Certificate()))
	}
	return out
}

// ends is what ends as operators see it.
func (p *Plane) ends() []wire.Ending {
	out := []wire.Ending{}
	for _, e := range p.allEnds() {
		out = append(out, wire.Ending{What: e.what, Name: e.name, NotAfter: e.until.UTC(), Soon: e.less(endingSoon, p.clock())})
	}
	return out
}

// warnEnds logs what ends soon, once each as it comes closer.
func (p *Plane) warnEnds() {
	now := p.clock()
	said := map[ending]int{}
	for _, e := range p.allEnds() {
		level := 0
		switch {
		case e.less(endingAlarm, now):
			level = 2
		case e.less(endingSoon, now):
			level = 1
		}
		said[e] = level
		if level <= p.endings.said[e] {
			continue
		}
		log := p.log.Warn()
		text := "it ends soon and has not been renewed"
		if level == 2 {
			log, text = p.log.Error(), "ALARM: it is about to end, or has ended, and has not been renewed"
		}
		log.Str("what", e.what).Str("name", e.name).Time("not_after", e.until).Dur("left", e.until.Sub(now)).Msg(text)
	}
	p.endings.said = said
}
