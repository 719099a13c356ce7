package registry

import (
	"context"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// JoinRule says which identity of a platform enrols instances of an agent without a
// join token. The zero rule takes nobody.
type JoinRule struct {
	OIDC OIDCRule `json:"oidc,omitzero"`
}

// OIDCRule is one identity at one OpenID Connect issuer. All three must be what the
// platform's token says, byte for byte; there are no patterns.
type OIDCRule struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	Subject  string `json:"subject"`
}

// IsZero reports whether the rule takes nobody.
func (r JoinRule) IsZero() bool { return r == JoinRule{} }

// Check refuses a rule that is incomplete, or of which somebody may think that it
// takes more than it does.
func (r JoinRule) Check() error {
	if r.IsZero() {
		return nil
	}
	o := r.OIDC
	if err := CheckIssuer(o.Issuer); err != nil {
		return err
	}
	for _, v := range []struct{ name, text string }{{"audience", o.Audience}, {"subject", o.Subject}} {
		switch {
		case v.text == "" || len(v.text) > limits.JoinRuleText:
			return denial.New(denial.BadInput, "join rule: the %s must have 1 to %d bytes", v.name, limits.JoinRuleText)
		case !utf8.ValidString(v.text) || strings.ContainsFunc(v.text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
			return denial.New(denial.BadInput, "join rule: the %s must have no spaces and no control characters", v.name)
		case strings.ContainsRune(v.text, '*'):
			return denial.New(denial.BadInput, "join rule: the %s is compared as it is; * stands for nothing", v.name)
		}
	}
	return nil
}

// CheckIssuer takes the https:// URL of an OpenID Connect issuer.
func CheckIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || len(issuer) > limits.JoinRuleText || u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || strings.ContainsAny(issuer, "#* ") || u.String() != issuer {
		return denial.New(denial.BadInput, "OIDC issuer %q is not https://host with a path at most", fmt80(issuer))
	}
	return nil
}

func fmt80(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

// EnrolByRule registers the instance of a host that proved to its caller to be the
// platform identity proven, where that is the agent's rule at the moment. It costs no
// use of anything and is bounded by limits.Instances. Nothing about the agent is told
// to whoever is not the one whom its rule names.
func (s *Store) EnrolByRule(ctx context.Context, e Enrolment, proven JoinRule) (*Agent, *Instance, error) {
	r, err := e.registration()
	if err != nil {
		return nil, nil, err
	}
	// Counting and writing are two steps: of many pods that start at once the last
	// ones would all find the one free place.
	s.entering.Lock()
	defer s.entering.Unlock()
	a, err := s.Agent(ctx, e.Agent)
	if denial.Of(err) == denial.UnlistedAgent {
		return nil, nil, errNoRule
	}
	if err != nil {
		return nil, nil, err
	}
	if err := a.takes(proven); err != nil {
		return nil, nil, err
	}
	r.since = a.Since
	if err := s.registrable(ctx, r); err != nil {
		return nil, nil, err
	}
	return s.enter(ctx, r, func(a *Agent) error { return a.takes(proven) })
}

var errNoRule = denial.New(denial.BadJoinToken, "the agent takes no such platform identity")

// takes refuses a platform identity that is not the one of the agent's rule, and that
// one while the agent is not let in.
func (a *Agent) takes(proven JoinRule) error {
	if proven.IsZero() || a.Join != proven {
		return errNoRule
	}
	if a.Status == Pending {
		return nil
	}
	return a.Admissible()
}
