package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func newTokenInspect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect CHAIN|@FILE|-",
		Short: "Show what a chain says and whether that is true, offline",
		Long: `Show a capability chain: who gave what to whom, until when. It is verified
against the roots of the agent that --as names, else of the mesh directory. What
does not verify is shown too, marked as unverified: believe none of it.

Whether everybody in the chain is still active is known to the registry alone.`,
		Args: takes(1, 1, "CHAIN, @FILE or -"),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := a.chainArg(c, args[0])
			if err != nil {
				return err
			}
			ring, from, err := a.trust()
			if err != nil {
				return err
			}
			chain, err := capability.Verify(text, ring, a.now())
			if err == nil {
				doc := chainOf(chain)
				return a.show(doc, func(w io.Writer) {
					writeChain(w, doc)
					fmt.Fprintf(w, "\nverified offline by the roots in %s; whether its agents are active was not asked\n", from)
				})
			}
			claims, ok := unverified(text)
			if !ok {
				return err
			}
			doc := chainDoc{
				Schema: chainSchema, Chain: jws.Digest(text), Reason: string(denial.Of(err)), Detail: denial.Detail(err),
				Scopes: []capability.Scope{}, Delegatable: []capability.Scope{}, Hops: []hopDoc{}, Unverified: claims,
			}
			return a.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "NOT VALID: %s\n\nwhat it claims, unverified:\n", clean(err.Error()))
				for _, claim := range claims {
					if b, err := json.MarshalIndent(claim, "  ", "  "); err == nil {
						fmt.Fprintf(w, "  %s\n", b)
					}
				}
			})
		},
	}
}

// unverified decodes the claims of a chain's documents for people to look at.
// Nothing is checked, and nothing but a screen may use them.
func unverified(text string) ([]any, bool) {
	if len(text) > limits.Chain {
		return nil, false
	}
	var out []any
	for part := range strings.SplitSeq(text, "~") {
		fields := strings.Split(part, ".")
		if len(fields) != 3 {
			return nil, false
		}
		b, err := base64.RawURLEncoding.DecodeString(fields[1])
		if err != nil {
			return nil, false
		}
		var claims map[string]any
		if json.Unmarshal(b, &claims) != nil {
			return nil, false
		}
		out = append(out, claims)
	}
	return out, true
}
