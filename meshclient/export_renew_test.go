package meshclient

import (
	"crypto/x509"
	"time"

	"github.com/nats-io/nats.go"
)

// Ordered is when the control plane wants a rotation, or zero.
func (m *Mesh) Ordered() time.Time { return m.ordered() }

// TakeNote is what happens with a note that the broker let through.
func (m *Mesh) TakeNote(msg *nats.Msg) { m.onNote(m.link.Load(), msg) }

// Waits is how long is waited between so many tries to renew a certificate.
func Waits(leaf *x509.Certificate, tries int) (out []time.Duration) {
	var r renewal
	r.follow(leaf)
	for range tries {
		out = append(out, r.wait())
		r.failed++
	}
	return out
}

// Due is when a certificate is renewed, as one program decides it.
func Due(leaf *x509.Certificate) time.Time {
	var r renewal
	r.follow(leaf)
	return r.due
}
