package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// ErrUnavailable is wrapped by an [Issuer] that cannot sign at the moment, for a
// reason that is not the request's: asking again later may help.
var ErrUnavailable = errors.New("certificates cannot be issued at the moment")

// Issuer signs agents' certificates. The embedded [CA] is one.
type Issuer interface {
	// SignAgent returns the PEM chain, leaf first and without the root (unless
	// the root itself signed the leaf), of a certificate for exactly this agent
	// and the request's key, valid for ttl (zero: DefaultAgentTTL) from now or
	// shorter. It MUST refuse what [CheckCSR] refuses and give a certificate that
	// [VerifyAgent] accepts.
	SignAgent(ctx context.Context, csr *x509.CertificateRequest, agent agentid.ID, ttl time.Duration, now time.Time) (chainPEM []byte, err error)
	// Roots returns the PEM bundle of the roots that its certificates chain to.
	Roots() []byte
}

var _ Issuer = (*CA)(nil)
