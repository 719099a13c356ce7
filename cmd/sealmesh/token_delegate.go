package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/meshclient"
)

// delegationDoc is sealmesh.delegation/v1.
type delegationDoc struct {
	Schema  string             `json:"schema"`
	To      agentid.ID         `json:"to"`
	Scopes  []capability.Scope `json:"scopes"`
	Expires time.Time          `json:"expires"`
	Chains  []string           `json:"chains"`         // digests
	Text    string             `json:"text,omitempty"` // of the chain, where it was not sent
}

const delegationSchema = "sealmesh.delegation/v1"

// lending is what one agent lends another.
type lending struct {
	to     agentid.ID
	scopes []capability.Scope
	onward []capability.Scope
	depth  int
	life   time.Duration
}

func newTokenDelegate(a *app) *cobra.Command {
	var to, parent string
	var scopes, onward []string
	var send bool
	l := lending{life: meshclient.DefaultDelegation}
	c := &cobra.Command{
		Use:   "delegate --to AGENT --scope SCOPE",
		Short: "Lend another agent a part of one's own rights",
		Long: `Sign, as the agent that --as names, a delegation of scopes that it may pass on,
and print the chain. With --parent, or with a chain in the agent's directory
that will do, nothing is asked of anybody; else the agent's own chains are read
from the mesh.

--send stores the delegation in the mesh and hands it to the other agent, whose
next call may use it, and prints the digest that sealmesh token end takes.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			switch {
			case to == "" || len(scopes) == 0:
				return usage(c, "name who gets what: --to AGENT --scope SCOPE")
			case send && parent != "":
				return usage(c, "--send finds the parent by itself; leave --parent out")
			case l.life <= 0:
				return usage(c, "--for must be positive")
			case l.depth < 0:
				return usage(c, "--depth must not be negative")
			}
			if l.to, err = agentArg(c, to); err != nil {
				return err
			}
			if l.scopes, err = scopeArgs(c, scopes); err != nil {
				return err
			}
			if l.onward, err = scopeArgs(c, onward); err != nil {
				return err
			}
			if send {
				return a.lend(c.Context(), l)
			}
			return a.signDelegation(c, l, parent)
		},
	}
	f := c.Flags()
	f.StringVar(&to, "to", "", "agent that gets the rights")
	f.StringSliceVar(&scopes, "scope", nil, "scopes to lend")
	f.StringSliceVar(&onward, "may-delegate", nil, "which of them it may pass on")
	f.IntVar(&l.depth, "depth", 0, "how often those may be passed on (default: as often as the parent allows)")
	f.DurationVar(&l.life, "for", l.life, "how long")
	f.StringVar(&parent, "parent", "", "chain to delegate from: CHAIN, @FILE or -")
	f.BoolVar(&send, "send", false, "store it in the mesh and hand it over")
	return c
}

// lend delegates over the mesh.
func (a *app) lend(ctx context.Context, l lending) error {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, "", log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	g := meshclient.Grant{For: l.life, Depth: l.depth}
	for _, s := range l.scopes {
		g.Scopes = append(g.Scopes, s.String())
	}
	for _, s := range l.onward {
		g.Delegatable = append(g.Delegatable, s.String())
	}
	d, err := m.Delegate(ctx, l.to.String(), g)
	if err != nil {
		return err
	}
	if err := m.Flush(ctx); err != nil {
		return err
	}
	doc := delegationDoc{Schema: delegationSchema, To: l.to, Scopes: l.scopes, Expires: d.Expires.UTC(), Chains: d.Chains()}
	return a.show(doc, func(w io.Writer) {
		for _, digest := range doc.Chains {
			fmt.Fprintln(w, digest)
		}
	})
}

// signDelegation signs a delegation and prints the chain.
func (a *app) signDelegation(c *cobra.Command, l lending, parent string) error {
	dir, err := a.find("")
	if err != nil {
		return err
	}
	ring, err := capability.NewKeyring(dir.Info.Roots, dir.Info.SigningKeys)
	if err != nil {
		return err
	}
	now := a.now()
	from, err := a.parent(c, dir, ring, l, parent, now)
	if err != nil {
		return err
	}
	key, err := dir.Key()
	if err != nil {
		return err
	}
	defer key.Wipe()
	d := capability.Delegation{To: l.to, Scopes: l.scopes, Delegatable: l.onward, Depth: l.depth, Expires: now.Add(l.life)}
	if d.Expires.After(from.Expires()) && !c.Flags().Changed("for") {
		d.Expires = from.Expires()
	}
	if d.Depth == 0 && len(d.Delegatable) > 0 {
		d.Depth = from.Depth() - 1
	}
	text, err := capability.Delegate(from, key, dir.Info.Passport, d, now)
	if err != nil {
		return err
	}
	chain, err := capability.Verify(text, ring, now)
	if err != nil {
		return fmt.Errorf("the chain just signed does not verify: %w", err)
	}
	doc := delegationDoc{
		Schema: delegationSchema, To: l.to, Scopes: chain.Scopes(), Expires: chain.Expires(), Chains: []string{chain.Digest()}, Text: text,
	}
	return a.show(doc, func(w io.Writer) { fmt.Fprintln(w, text) })
}

// parent finds the chain to delegate from: the one that was named, else one in
// the agent's directory, else one that the mesh holds for the agent.
func (a *app) parent(c *cobra.Command, dir *agentdir.Dir, ring *capability.Keyring, l lending, arg string, now time.Time) (*capability.Chain, error) {
	if arg != "" {
		text, err := a.chainArg(c, arg)
		if err != nil {
			return nil, err
		}
		return capability.Verify(text, ring, now)
	}
	texts, err := dir.Chains()
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		if chain, err := capability.Verify(text, ring, now); err == nil && l.fits(chain, dir.Info.Agent) {
			return chain, nil
		}
	}
	ctx, cancel := a.deadline(c.Context(), adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, "", log)
	if err != nil {
		return nil, err
	}
	defer leave(m, log)
	chains, err := m.Chains(ctx)
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		if l.fits(chain, dir.Info.Agent) {
			return chain, nil
		}
	}
	return nil, denial.New(denial.NotDelegatable, "%q holds no chain from which it may pass on %s", dir.Info.Agent, names(l.scopes))
}

// fits reports whether the scopes may be lent from one chain.
func (l lending) fits(c *capability.Chain, holder agentid.ID) bool {
	if c.Holder() != holder || c.Depth() == 0 {
		return false
	}
	may := map[capability.Scope]bool{}
	for _, s := range c.Delegatable() {
		may[s] = true
	}
	for _, s := range l.scopes {
		if !may[s] {
			return false
		}
	}
	return true
}
