package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// dryRun gives a command that cuts the flag that makes it say what it would do.
func dryRun(c *cobra.Command, dry *bool) {
	c.Flags().BoolVar(dry, "dry-run", false, "change nothing: say which connections would be closed, and who would lose what")
}

// showDryRun prints what a cut would do.
func (a *app) showDryRun(r wire.CutResult) error {
	r.Closes, r.Would = some(r.Closes), some(r.Would)
	if err := a.show(r, func(w io.Writer) {
		fmt.Fprintln(w, "dry run: nothing was changed")
		fmt.Fprintf(w, "would close %s%s\n", count(len(r.Closes), "connection"), instancesOf(r.Closes))
		for _, l := range r.Would {
			if len(l.Loses) > 0 {
				fmt.Fprintf(w, "would take %s from %s\n", names(l.Loses), l.Agent)
			}
			if len(l.Keeps) > 0 {
				fmt.Fprintf(w, "would leave %s to %s, which holds it by another chain\n", names(l.Keeps), l.Agent)
			}
		}
	}); err != nil {
		return err
	}
	return a.confirmed(r, "not every server was heard, so there may be more connections")
}

// instancesOf lists whose the connections are: ": lead/7f3c2k9q (2), temp/x4m1q2pd".
func instancesOf(list []wire.ConnectionView) string {
	var order []string
	n := map[string]int{}
	for _, c := range list {
		who := c.Agent.String() + "/" + c.Instance.String()
		if c.Instance == (agentid.Instance{}) {
			who = c.Agent.String() + ", not listed"
		}
		if n[who]++; n[who] == 1 {
			order = append(order, who)
		}
	}
	for i, who := range order {
		if n[who] > 1 {
			order[i] = fmt.Sprintf("%s (%d)", who, n[who])
		}
	}
	if len(order) == 0 {
		return ""
	}
	return ": " + clean(strings.Join(order, ", "))
}
