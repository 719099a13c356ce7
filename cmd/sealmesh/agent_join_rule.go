package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// ruleFlags say which platform identity enrols instances of an agent.
type ruleFlags struct{ oidc registry.OIDCRule }

func (r *ruleFlags) register(f *pflag.FlagSet) {
	f.StringVar(&r.oidc.Issuer, "join-oidc-issuer", "", "enrol without a join token whoever has a token of this OIDC issuer, listed in sealmesh.yaml,")
	f.StringVar(&r.oidc.Audience, "join-oidc-audience", "", "… for this audience,")
	f.StringVar(&r.oidc.Subject, "join-oidc-subject", "", "… of this subject; all three are compared as they are")
}

// given reports whether a rule was named, which is all of it or nothing.
func (r *ruleFlags) given(c *cobra.Command) (bool, error) {
	n := 0
	for _, name := range []string{"join-oidc-issuer", "join-oidc-audience", "join-oidc-subject"} {
		if c.Flags().Changed(name) {
			n++
		}
	}
	o := r.oidc
	if n == 0 || n == 3 && (o == registry.OIDCRule{} || o.Issuer != "" && o.Audience != "" && o.Subject != "") {
		return n != 0, nil
	}
	return false, usage(c, "--join-oidc-issuer, --join-oidc-audience and --join-oidc-subject go together; '' for all three takes the rule away")
}

func (r *ruleFlags) rule() registry.JoinRule { return registry.JoinRule{OIDC: r.oidc} }

// ruleOf says whom an agent takes without a join token; empty: nobody.
func ruleOf(v wire.AgentView) string {
	o := v.Join.OIDC
	if v.Join.IsZero() {
		return ""
	}
	return clean(o.Subject) + " of " + clean(o.Issuer) + ", for " + clean(o.Audience)
}
