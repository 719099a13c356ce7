package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// applyDoc is sealmesh.apply/v1. Where the file could not be applied to its end
// it says what was done until then.
type applyDoc struct {
	Schema  string            `json:"schema"`
	File    string            `json:"file"`
	Done    []meshfile.Change `json:"done"`
	Left    []meshfile.Change `json:"left"`
	Surplus surplusDoc        `json:"not_in_file"`
	Pending []agentid.ID      `json:"pending"` // added, and not enrolled yet
	Cuts    []wire.CutResult  `json:"cuts"`
	Error   *failure          `json:"error,omitempty"`
}

// mostNamed is how many agents are named in one line.
const mostNamed = 10

func newApply(a *app) *cobra.Command {
	var f fileFlag
	var o meshfile.Options
	var dry bool
	c := &cobra.Command{
		Use:   "apply [FILE]",
		Short: "Make the mesh what a mesh file says",
		Long: `Make the mesh what a mesh file says it is: add agents, grant and take back
rights, change settings and durable topics. What the file does not list is left
as it is unless --prune is given; then it is removed, and a removed agent is
revoked for ever.

Rights are taken before any are given. New agents are pending until they are
enrolled: sealmesh agent join ID makes a join token. To apply again changes
nothing, and what was interrupted is finished by applying again.

With --dry-run nothing is changed, the connections that would be closed are shown
too, and the exit code is that of sealmesh diff.`,
		Args: takes(0, 1, "[FILE]"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.settle(c, args); err != nil {
				return err
			}
			if dry {
				return a.compare(c.Context(), &f, o, true)
			}
			return a.apply(c.Context(), &f, o)
		},
	}
	f.register(c)
	fl := c.Flags()
	fl.BoolVar(&o.Prune, "prune", false, "remove agents and topics that the file does not list")
	fl.BoolVar(&dry, "dry-run", false, "show what would be changed and change nothing")
	fl.BoolVar(&o.AllowSelf, "allow-self", false, "the agent that applies may lose its own right to apply")
	return c
}

func (a *app) apply(ctx context.Context, f *fileFlag, o meshfile.Options) error {
	ctx, cancel := a.deadline(ctx, 0)
	defer cancel()
	want, w, err := a.wanted(ctx, f)
	if err != nil {
		return err
	}
	defer w.leave()
	o.Self = w.ID()
	doc := applyDoc{Schema: "sealmesh.apply/v1", File: f.path, Pending: []agentid.ID{}, Cuts: []wire.CutResult{}}
	applier := meshfile.Applier{Operate: w.operate, Options: o, Did: func(s meshfile.Step, cut *wire.CutResult) {
		if s.Kind() == meshfile.Add && !s.Agent().IsZero() {
			doc.Pending = append(doc.Pending, s.Agent())
		}
		if cut != nil {
			cut.Delegates = some(cut.Delegates)
			doc.Cuts = append(doc.Cuts, *cut)
		}
		if !a.json {
			a.progress(s, cut)
		}
	}}
	r, err := applier.Apply(ctx, want)
	if err != nil {
		err = outOfTime(ctx, err)
	}
	doc.Done, doc.Left, doc.Surplus = changesOf(r.Done), changesOf(r.Left), surplusOf(r.Surplus)
	if a.json {
		return a.showApplied(doc, r, err)
	}
	return a.sayApplied(doc, r, err)
}

// progress prints what a step has done when it has done it: what comes next may
// fail.
func (a *app) progress(s meshfile.Step, cut *wire.CutResult) {
	var b strings.Builder
	writeChanges(&b, s.Changes)
	if cut != nil && cut.Cut > 0 {
		fmt.Fprintf(&b, "closed %s of agent %s\n", count(cut.Cut, "connection"), cut.Agent)
	}
	if cut != nil && len(cut.Delegates) > 0 {
		fmt.Fprintf(&b, "what agent %s had lent ended too: %s\n", cut.Agent, joinIDs(cut.Delegates))
	}
	io.WriteString(a.stdout, b.String()) //nolint:errcheck // the change is made all the same
}

// showApplied prints everything in one document, the error too.
func (a *app) showApplied(doc applyDoc, r meshfile.Report, err error) error {
	code := exitOK
	switch {
	case err != nil:
		f := failureOf(err)
		doc.Error, code = &f, f.exit
	case len(r.Unconfirmed) > 0:
		code = exitUnavailable
	}
	if err := writeJSON(a.stdout, doc, true); err != nil {
		return err
	}
	if code != exitOK {
		return &said{code}
	}
	return nil
}

// sayApplied says what progress did not.
func (a *app) sayApplied(doc applyDoc, r meshfile.Report, err error) error {
	var b strings.Builder
	defer func() { io.WriteString(a.stderr, b.String()) }() //nolint:errcheck // nowhere left to say it
	if err != nil && len(doc.Done) > 0 {
		left := ""
		if len(doc.Left) > 0 {
			left = ", these not:"
		}
		fmt.Fprintf(&b, "%s made%s\n", count(len(doc.Done), "change"), left)
		writeChanges(&b, doc.Left)
	}
	if err != nil {
		return err
	}
	if len(doc.Pending) > 0 {
		list, more := doc.Pending, ""
		if len(list) > mostNamed {
			list, more = list[:mostNamed], fmt.Sprintf(" and %d more", len(list)-mostNamed)
		}
		fmt.Fprintf(&b, "pending until they are enrolled: %s%s\nnext: %s\n", joinIDs(list), more, a.suggest("agent join %s", list[0]))
	}
	if len(r.Unconfirmed) > 0 {
		fmt.Fprint(&b, "sealmesh: not every server confirmed a cut; the records say no already, and the control plane goes on closing\n")
		return &said{exitUnavailable}
	}
	return a.show(doc, func(w io.Writer) {
		writeSurplus(w, doc.Surplus)
		if len(doc.Done) == 0 {
			fmt.Fprintf(w, "%s and the mesh agree\n", fileName(doc.File))
		}
	})
}
