package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newLint(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "lint",
		Short: "Prove that no agent reaches what it must not: exit 0 proven, 1 not",
		Long: `Prove over all agents that no grant reaches what it must not: neither another
agent's subjects nor the control plane's, by its lines, across the border between
the accounts, through a stream or through a consumer. What needs somebody to act
is an error or a warning, and the exit code is 1; the rest is information.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := operate[wire.LintReport](c.Context(), a, wire.AdminRequest{Op: wire.OpLint})
			if err != nil {
				return err
			}
			r.Findings = some(r.Findings)
			if err := a.show(r, func(w io.Writer) { writeLint(w, r) }); err != nil {
				return err
			}
			if !r.Clean() {
				return &said{exitFailed}
			}
			return nil
		},
	}
}

func writeLint(w io.Writer, r wire.LintReport) {
	count := map[string]int{}
	for _, f := range r.Findings {
		count[f.Severity]++
		head := f.Severity + " " + f.Code
		if f.Agent != "" {
			head += ": " + f.Agent
		}
		fmt.Fprintln(w, clean(head))
		for _, l := range []struct{ name, text string }{{"in", f.Line}, {"reaches", f.Subject}, {"why", f.Why}, {"remedy", f.Remedy}} {
			if l.text != "" {
				fmt.Fprintf(w, "  %-8s %s\n", l.name, clean(l.text))
			}
		}
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "and %d more\n", r.Omitted)
	}
	c := r.Checked
	fmt.Fprintf(w, "checked %d lines of %d instances of %d agents, %d imports, %d streams, %d consumers: ",
		c.Lines, c.Instances, c.Agents, c.Imports, c.Streams, c.Consumers)
	switch {
	case len(r.Findings) == 0:
		fmt.Fprintln(w, "nothing found")
	default:
		fmt.Fprintf(w, "%d errors, %d warnings, %d notes\n", count["error"], count["warning"], count["info"])
	}
}
