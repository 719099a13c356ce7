package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

func newToken(a *app) *cobra.Command {
	return group("token", "Read, check, make and take back capability chains",
		newTokenInspect(a), newTokenVerify(a), newTokenDelegate(a), newTokenTake(a), newTokenEnd(a))
}

// chainDoc is sealmesh.chain/v1.
type chainDoc struct {
	Schema      string             `json:"schema"`
	Chain       string             `json:"chain"` // digest
	Valid       bool               `json:"valid"`
	Reason      string             `json:"reason,omitempty"`
	Detail      string             `json:"detail,omitempty"`
	Holder      agentid.ID         `json:"holder"`
	Scopes      []capability.Scope `json:"scopes"`
	Delegatable []capability.Scope `json:"delegatable"`
	Depth       int                `json:"depth"`
	NotBefore   *time.Time         `json:"not_before,omitempty"`
	Expires     *time.Time         `json:"expires,omitempty"`
	Hops        []hopDoc           `json:"hops"`
	Unverified  []any              `json:"unverified,omitempty"` // claims, where nothing vouches for them
}

type hopDoc struct {
	By      string             `json:"by"` // agent, or "authority"
	Key     string             `json:"key"`
	To      agentid.ID         `json:"to"`
	Token   string             `json:"token"`
	Scopes  []capability.Scope `json:"scopes"`
	Expires time.Time          `json:"expires"`
}

const chainSchema = "sealmesh.chain/v1"

func chainOf(c *capability.Chain) chainDoc {
	nb, exp := c.NotBefore(), c.Expires()
	doc := chainDoc{
		Schema: chainSchema, Chain: c.Digest(), Valid: true, Holder: c.Holder(), Scopes: c.Scopes(),
		Delegatable: some(c.Delegatable()), Depth: c.Depth(), NotBefore: &nb, Expires: &exp,
	}
	for _, h := range c.Hops() {
		doc.Hops = append(doc.Hops, hopDoc{cmp.Or(h.By.String(), "authority"), h.Key, h.To, h.Token, h.Scopes, h.Expires})
	}
	return doc
}

func writeChain(w io.Writer, d chainDoc) {
	onward := names(d.Delegatable)
	if len(d.Delegatable) > 0 {
		onward += ", " + count(d.Depth, "time")
	}
	table(w,
		[]string{"chain", d.Chain},
		[]string{"holder", d.Holder.String()},
		[]string{"may", names(d.Scopes)},
		[]string{"may pass on", onward},
		[]string{"valid", "from " + when(d.NotBefore) + " until " + when(d.Expires)},
	)
	fmt.Fprintln(w)
	rows := [][]string{{"", "FROM", "TO", "UNTIL", "SCOPES"}}
	for i, h := range d.Hops {
		from := h.By
		if from != "authority" {
			from += "/" + agentid.InstanceOf(h.Key).String()
		}
		rows = append(rows, []string{strconv.Itoa(i + 1), from, h.To.String(), when(&h.Expires), names(h.Scopes)})
	}
	table(w, rows...)
}

// chainArg reads a chain from the command line.
func (a *app) chainArg(c *cobra.Command, arg string) (string, error) {
	text, err := a.textArg(arg, "the chain", limits.Chain)
	if err == nil && text == "" {
		err = usage(c, "the chain is empty")
	}
	return text, err
}

// trust returns the pinned roots by which chains are verified offline: those of
// the agent that --as names, else those of the mesh directory.
func (a *app) trust() (*capability.Keyring, string, error) {
	if a.as != "" {
		dir, err := a.find("")
		if err != nil {
			return nil, "", err
		}
		ring, err := capability.NewKeyring(dir.Info.Roots, dir.Info.SigningKeys)
		return ring, dir.Path, err
	}
	if _, err := os.Stat(filepath.Join(a.mesh, meshdir.ConfigFile)); errors.Is(err, os.ErrNotExist) {
		return nil, "", &hinted{fmt.Errorf("no roots to verify with: there is no mesh in %s", a.mesh), "--as ID takes those of an agent's directory, --mesh DIR those of a mesh"}
	}
	m, err := meshdir.Load(a.mesh)
	if err != nil {
		return nil, "", err
	}
	ring, err := m.Ring()
	return ring, a.mesh, err
}
