package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/sealmesh/sealmesh/pki"
)

// Kind says what stands in the way.
type Kind string

// The kinds of [Error].
const (
	Sealed       Kind = "sealed"        // Vault runs and was not unsealed
	Unreachable  Kind = "unreachable"   // no answer, or none that makes sense
	Forbidden    Kind = "forbidden"     // the token lives, its policy lacks a line
	TokenEnded   Kind = "token-ended"   // or was revoked, or the login is refused
	NoCredential Kind = "no-credential" // the file of the token or of the AppRole cannot be used
	NoRole       Kind = "no-role"       // neither role nor mount is there
	BadRole      Kind = "bad-role"      // the role refuses what agents need, or gives what they must not have
	BadIssuer    Kind = "bad-issuer"    // the CA in Vault cannot sign
	OtherRoot    Kind = "other-root"    // the certificate chains to a root that is not pinned
)

// Error says what Vault refused, in one line, and what helps. It wraps
// [pki.ErrUnavailable], for nobody judged the agent, and the end of a context.
type Error struct {
	Kind Kind

	problem string
	hint    string
	cause   error // nil, or one that can hold no secret
}

// Error implements error.
func (e *Error) Error() string { return "vault: " + e.problem }

// Hint returns what helps.
func (e *Error) Hint() string { return e.hint }

// Unwrap implements errors.Is for pki.ErrUnavailable and for the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{pki.ErrUnavailable}
	}
	return []error{pki.ErrUnavailable, e.cause}
}

func problem(k Kind, hint, format string, args ...any) *Error {
	return &Error{Kind: k, problem: fmt.Sprintf(format, args...), hint: hint}
}

// invalidToken stands in Vault's answer to a token that it does not know; older
// servers say no more than "permission denied".
const invalidToken = "invalid token"

// explain turns what the client returned into an Error. The client's own text
// has several lines and repeats the URL, and only what Vault itself said is
// taken from it.
func (i *Issuer) explain(did, path string, err error) *Error {
	var r *api.ResponseError
	if !errors.As(err, &r) {
		e := problem(Unreachable, "check vault.address and vault.ca_file, and that Vault runs", "%s: no answer from %s: %s", did, i.cfg.Address, clean(err.Error()))
		for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
			if errors.Is(err, end) {
				e.cause = end
			}
		}
		return e
	}
	said := clean(strings.Join(r.Errors, "; "))
	switch {
	case r.StatusCode == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		return problem(Sealed, "vault operator unseal", "%s: Vault at %s is sealed", did, i.cfg.Address)
	case r.StatusCode == http.StatusForbidden:
		return i.forbidden(did, path, said)
	case r.StatusCode == http.StatusNotFound, strings.Contains(said, "unknown role"):
		return problem(NoRole, i.roleHint(), "%s: %s: there is no such role or mount (%s)", did, path, said)
	case r.StatusCode == http.StatusBadRequest || strings.Contains(said, "issuer"):
		return i.refused(did, said)
	}
	return problem(Unreachable, "look into Vault's own log", "%s: %s answered %d %s: %s", did, i.cfg.Address, r.StatusCode, http.StatusText(r.StatusCode), said)
}

// forbidden is refined by whoever knows whether the token still lives.
func (i *Issuer) forbidden(did, path, said string) *Error {
	if strings.Contains(said, invalidToken) {
		return i.tokenEnded(did)
	}
	return problem(Forbidden, "the token's policy needs: "+i.policyFor(path), "%s: the policy of the token does not allow %s", did, path)
}

func (i *Issuer) tokenEnded(did string) *Error {
	hint := "write a new token to " + i.cfg.TokenFile
	if i.cfg.AppRole != nil {
		hint = "write a new secret ID to " + i.cfg.AppRole.SecretIDFile
	}
	return problem(TokenEnded, hint, "%s: the token has ended, was revoked, or is not known there", did)
}

// policyFor is the line of a policy that allows path.
func (i *Issuer) policyFor(path string) string {
	can := "read"
	if strings.HasPrefix(path, i.cfg.Mount+"/sign/") || strings.HasPrefix(path, "auth/") {
		can = "update"
	}
	return fmt.Sprintf(`path %q { capabilities = [%q] }`, path, can)
}

// refused explains a request that the role, or the CA behind it, does not take.
func (i *Issuer) refused(did, said string) *Error {
	for _, r := range []struct{ part, fields string }{
		{"URI Subject Alternative Name", "allowed_uri_sans=" + i.uriPattern()},
		{"common_name", "require_cn=false"},
		{"role requires keys of type", "key_type=ec key_bits=256"},
		{"role requires a minimum of a", "key_type=ec key_bits=256"},
		{"not_after", "not_after="},
		{"not allowed by this role", "allowed_uri_sans=" + i.uriPattern() + " require_cn=false"},
	} {
		if strings.Contains(said, r.part) {
			return problem(BadRole, i.patch(r.fields), "%s: the role %q is too narrow: %s", did, i.cfg.Role, said)
		}
	}
	if strings.Contains(said, "issuer") || strings.Contains(said, "CA ") || strings.Contains(said, "expiration") {
		return problem(BadIssuer, "look at: vault read "+i.cfg.Mount+"/issuer/default", "%s: the CA in Vault cannot sign: %s", did, said)
	}
	return problem(BadRole, i.roleHint(), "%s: the role %q refuses the request: %s", did, i.cfg.Role, said)
}

// patch is the command that changes fields of the role and leaves the others;
// vault write would set those back to their defaults.
func (i *Issuer) patch(fields string) string {
	return fmt.Sprintf("vault patch %s/roles/%s %s", i.cfg.Mount, i.cfg.Role, fields)
}

func (i *Issuer) roleHint() string { return "sealmesh doctor compares the role with what agents need" }

// clean bounds foreign text and makes it one line.
func clean(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0)
	}), " ")
	if s == "" {
		return "nothing was said"
	}
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
