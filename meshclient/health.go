package meshclient

import (
	"time"

	"github.com/sealmesh/sealmesh/internal/agentdir"
)

// Health is how an instance stands, for a program's own monitoring: a probe, a
// metric, a line in a log. It says what the client knows, and asks nobody.
type Health struct {
	// Connected says that a server has let the instance in and the connection is up.
	Connected bool `json:"connected"`
	// Away is why the agent is away from the mesh, as Mesh.Away says; empty when it
	// is not.
	Away string `json:"away,omitempty"`

	// CertificateNotAfter is when the certificate in use ends. Without another one no
	// server lets the instance in after that.
	CertificateNotAfter time.Time `json:"certificate_not_after"`
	// CertificateAlarm says that less than a fifth of the certificate's life is left.
	// It is renewed at half of it, so that has failed for long: somebody should look,
	// at RenewalError first. It is also said in the log, at level error.
	CertificateAlarm bool `json:"certificate_alarm"`
	// RenewalError is why the last try to renew the certificate failed; empty after
	// one that did not.
	RenewalError string `json:"renewal_error,omitempty"`

	// FeedSilentMS is for how many milliseconds nothing was heard from the control
	// plane, which says something every few seconds. While it is silent, who was cut
	// is found out by asking.
	FeedSilentMS int64 `json:"feed_silent_ms"`
	// Rotations is how often the connection was replaced.
	Rotations int64 `json:"rotations"`
}

// Health says how the instance stands. It may be called from anywhere, also of a Mesh
// that is closed, and does not block.
func (m *Mesh) Health() Health {
	leaf, now := m.tls.Leaf(), m.cfg.clock()
	issued, _, _ := agentdir.Life(leaf)
	h := Health{
		CertificateNotAfter: leaf.NotAfter.UTC(),
		CertificateAlarm:    leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(issued)*alarmAt[0]/100,
		FeedSilentMS:        m.peers.Silence().Milliseconds(),
		Rotations:           m.rotations.Load(),
	}
	if l := m.link.Load(); l != nil {
		h.Connected = l.nc.IsConnected()
	}
	if err := m.Away(); err != nil {
		h.Away = err.Error()
	}
	if err := m.renewing.failure(); err != nil {
		h.RenewalError = err.Error()
	}
	return h
}
