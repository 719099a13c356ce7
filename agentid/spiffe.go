package agentid

import (
	"errors"
	"fmt"
	"strings"
)

// The path under which the trust domain names agents, and the one under which
// it names its servers and the control plane.
const (
	spiffeScheme   = "spiffe://"
	agentSegment   = "/agent/"
	serviceSegment = "/sealmesh/"
)

// MaxTrustDomainLen is the length limit of a trust domain in bytes.
const MaxTrustDomainLen = 253

// ParseTrustDomain checks a trust domain: lower-case DNS labels joined by dots.
// It returns s itself, so that call sites read as a conversion.
func ParseTrustDomain(s string) (string, error) {
	if s == "" || len(s) > MaxTrustDomainLen {
		return "", fmt.Errorf("%w trust domain %q: must have 1 to %d characters", ErrInvalid, clip(s), MaxTrustDomainLen)
	}
	for label := range strings.SplitSeq(s, ".") {
		if err := checkLabel(label); err != nil {
			return "", fmt.Errorf("%w trust domain %q: %w", ErrInvalid, clip(s), err)
		}
	}
	return s, nil
}

// SPIFFE returns the agent's SPIFFE ID in the trust domain, the only URI that a
// certificate of this agent carries.
func (id ID) SPIFFE(trustDomain string) string {
	return spiffeScheme + trustDomain + agentSegment + id.s
}

// ServiceSPIFFE returns the SPIFFE ID of a server or of the control plane; such
// a name can never be read as an agent's.
func ServiceSPIFFE(trustDomain, service string) string {
	return spiffeScheme + trustDomain + serviceSegment + service
}

// FromSPIFFE reads an agent out of a SPIFFE ID. Only the exact spelling that
// [ID.SPIFFE] gives for the trust domain is accepted: no other scheme, case,
// port, user, query, fragment, escape or path.
func FromSPIFFE(trustDomain, uri string) (ID, error) {
	rest, ok := strings.CutPrefix(uri, spiffeScheme+trustDomain+agentSegment)
	if !ok || trustDomain == "" {
		return ID{}, fmt.Errorf("%w SPIFFE ID %q: %w", ErrInvalid, clip(uri), errors.New("not an agent of trust domain "+trustDomain))
	}
	return Parse(rest)
}
