package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// Finding is a field of the role, or a line of the policy, that is not as it has
// to be.
type Finding struct {
	What   string // what is the matter, in one line
	Remedy string // the command or the line that mends it
	// Blocks says that no certificate is issued, or none that lives as long as
	// asked. What does not block lets the token do more than it needs to.
	Blocks bool
}

func (i *Issuer) rolePath() string { return i.cfg.Mount + "/roles/" + i.cfg.Role }

// role reads the role.
func (i *Issuer) role(ctx context.Context) (map[string]any, error) {
	secret, err := i.do(ctx, "reading the role", http.MethodGet, i.rolePath(), nil)
	if err != nil {
		return nil, err
	}
	if secret == nil || len(secret.Data) == 0 {
		return nil, problem(NoRole, "vault write "+i.rolePath()+" "+i.wanted(), "%s: there is no such role", i.rolePath())
	}
	return secret.Data, nil
}

// need is a field of a role and what it has to be.
type need struct {
	field  string
	good   func(v any) bool
	want   string // as the command line has it
	blocks bool
	why    string
}

func (i *Issuer) needs(ttl time.Duration) []need {
	uri := i.uriPattern()
	return []need{
		{"allowed_uri_sans", func(v any) bool { return slices.Contains(list(v), uri) || slices.Contains(list(v), "*") }, uri, true, "agents are named by such URIs"},
		{"allowed_uri_sans", func(v any) bool { return !slices.ContainsFunc(list(v), func(s string) bool { return s != uri }) }, uri, false, "it allows more names than those of agents"},
		{"use_csr_sans", is(true), "true", true, "the name is in the request"},
		{"require_cn", is(false), "false", true, "requests have no common name"},
		{"client_flag", is(true), "true", true, "agents are TLS clients"},
		{"server_flag", is(false), "false", true, "an agent must not pass for a server"},
		{"code_signing_flag", is(false), "false", true, "a certificate for more than TLS clients is refused"},
		{"email_protection_flag", is(false), "false", true, "a certificate for more than TLS clients is refused"},
		{"ext_key_usage", onlyClient, "", true, "a certificate for more than TLS clients is refused"},
		{"ext_key_usage_oids", empty, "", true, "a certificate for more than TLS clients is refused"},
		{"key_usage", noSigner, "DigitalSignature", true, "an agent must not sign certificates"},
		{"key_type", func(v any) bool { return v == "ec" || v == "any" }, "ec", true, "agents' keys are ECDSA on P-256"},
		{"key_bits", func(v any) bool { n, ok := number(v); return ok && n <= 256 }, "256", true, "agents' keys are ECDSA on P-256"},
		{"max_ttl", func(v any) bool { n, ok := number(v); return ok && (n == 0 || time.Duration(n)*time.Second >= ttl) }, short(pki.MaxAgentTTL), true, "certificates are asked for " + short(ttl)},
		{"not_after", func(v any) bool { return v == nil || v == "" }, "", true, "the life is asked for with each request"},
		{"allow_any_name", is(false), "false", false, "it allows more names than those of agents"},
		{"allow_localhost", is(false), "false", false, "it allows more names than those of agents"},
		{"allow_ip_sans", is(false), "false", false, "it allows more names than those of agents"},
		{"allowed_other_sans", empty, "", false, "it allows more names than those of agents"},
		{"generate_lease", is(false), "false", false, "each certificate would be a lease until it ends"},
		{"no_store", is(true), "true", false, "each certificate would stay in Vault's storage until it is tidied"},
	}
}

// wanted are all fields as the command line has them.
func (i *Issuer) wanted() string {
	var out []string
	for _, n := range i.needs(pki.MaxAgentTTL) {
		if f := n.field + "=" + n.want; !slices.Contains(out, f) && n.want != "" {
			out = append(out, f)
		}
	}
	return strings.Join(out, " ")
}

// CheckRole compares the role with what agents need; ttl is the life that
// certificates are asked for. That the role cannot be read is an [*Error].
func (i *Issuer) CheckRole(ctx context.Context, ttl time.Duration) ([]Finding, error) {
	role, err := i.role(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	seen := map[string]bool{}
	for _, n := range i.needs(ttl) {
		v := role[n.field]
		if seen[n.field] || n.good(v) {
			continue
		}
		seen[n.field] = true
		out = append(out, Finding{
			What:   fmt.Sprintf("role %s has %s=%s: %s", i.rolePath(), n.field, clip(v), n.why),
			Remedy: i.patch(n.field + "=" + n.want),
			Blocks: n.blocks,
		})
	}
	return out, nil
}

// CheckPolicy asks Vault what the token may do and finds what it may not.
func (i *Issuer) CheckPolicy(ctx context.Context) ([]Finding, error) {
	const path = "sys/capabilities-self"
	needed := []struct{ path, can string }{{i.signPath(), "update"}, {i.rolePath(), "read"}}
	var paths []string
	for _, n := range needed {
		paths = append(paths, n.path)
	}
	secret, err := i.do(ctx, "asking what the token may do", http.MethodPut, path, map[string]any{"paths": paths})
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, problem(Unreachable, standby, "asking what the token may do: %s gave no answer", i.cfg.Address)
	}
	var out []Finding
	for _, n := range needed {
		have := list(secret.Data[n.path])
		if !slices.Contains(have, n.can) && !slices.Contains(have, "root") {
			out = append(out, Finding{What: "the policy of the token does not allow " + n.path, Remedy: i.policyFor(n.path), Blocks: n.path == i.signPath()})
		}
		if slices.Contains(have, "root") {
			out = append(out, Finding{What: "the token is a root token, which may do anything in Vault", Remedy: "make one with a policy of the two lines of docs/operations.md"})
			break
		}
	}
	return out, nil
}

func is(want bool) func(any) bool { return func(v any) bool { return v == want } }

func empty(v any) bool { return len(list(v)) == 0 }

func onlyClient(v any) bool {
	return !slices.ContainsFunc(list(v), func(s string) bool { return !strings.EqualFold(s, "ClientAuth") })
}

func noSigner(v any) bool {
	return !slices.ContainsFunc(list(v), func(s string) bool {
		return strings.EqualFold(s, "CertSign") || strings.EqualFold(s, "CRLSign")
	})
}

// list reads a field that is a list of strings; anything else in it counts.
func list(v any) []string {
	all, _ := v.([]any)
	var out []string
	for _, one := range all {
		out = append(out, fmt.Sprint(one))
	}
	return out
}

func number(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	out, err := n.Int64()
	return out, err == nil
}

func clip(v any) string {
	if all, ok := v.([]any); ok {
		return clean(fmt.Sprintf("%q", strings.Join(list(all), ",")))
	}
	return clean(fmt.Sprint(v))
}

// short writes a duration as Vault reads it.
func short(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }
