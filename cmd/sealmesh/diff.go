package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// diffDoc is sealmesh.diff/v1.
type diffDoc struct {
	Schema  string            `json:"schema"`
	File    string            `json:"file"`
	Changes []meshfile.Change `json:"changes"` // in the order in which apply makes them
	Surplus surplusDoc        `json:"not_in_file"`
	Cuts    []wire.CutResult  `json:"cuts,omitempty"` // of apply --dry-run: what the changes would cut
	Refused *failure          `json:"refused,omitempty"`
}

const diffSchema = "sealmesh.diff/v1"

func newDiff(a *app) *cobra.Command {
	var f fileFlag
	var prune bool
	var against string
	c := &cobra.Command{
		Use:   "diff [FILE]",
		Short: "Show how the mesh differs from a mesh file",
		Long: `Show what sealmesh apply would change: exit 0 nothing, 1 something. What the
mesh has and the file does not list is no difference unless --prune is given.`,
		Args: takes(0, 1, "[FILE]"),
		RunE: func(c *cobra.Command, args []string) error {
			if against != "" {
				return &hinted{
					errors.New("--against needs a history of rights, and this version keeps none"),
					"keep what sealmesh export writes under version control, and name an older file",
				}
			}
			if err := f.settle(c, args); err != nil {
				return err
			}
			// Whether one's own rights may shrink is decided when it is applied.
			return a.compare(c.Context(), &f, meshfile.Options{Prune: prune, AllowSelf: true}, false)
		},
	}
	f.register(c)
	c.Flags().BoolVar(&prune, "prune", false, "count what the file does not list, too")
	c.Flags().StringVar(&against, "against", "", "compare with the mesh as it was then (not in this version)")
	return c
}

// compare shows what applying the file would change and, with preview, what that
// would cut.
func (a *app) compare(ctx context.Context, f *fileFlag, o meshfile.Options, preview bool) error {
	ctx, cancel := a.deadline(ctx, 0)
	defer cancel()
	want, w, err := a.wanted(ctx, f)
	if err != nil {
		return err
	}
	defer w.leave()
	have, err := meshfile.Read(ctx, w.operate, want)
	if err != nil {
		return err
	}
	o.Self = w.ID()
	p := meshfile.NewPlan(want, have, o)
	doc := diffDoc{File: f.path}
	if preview && p.Refused == nil {
		if doc.Cuts, err = meshfile.Preview(ctx, w.operate, p); err != nil {
			return err
		}
		for i := range doc.Cuts {
			doc.Cuts[i].Delegates = some(doc.Cuts[i].Delegates)
		}
	}
	return a.showDiff(doc, p)
}

// showDiff prints a plan that is not carried out.
func (a *app) showDiff(doc diffDoc, p *meshfile.Plan) error {
	doc.Schema, doc.Changes, doc.Surplus = diffSchema, changesOf(p.Steps), surplusOf(p.Surplus)
	if p.Refused != nil {
		refused := failureOf(p.Refused)
		doc.Refused = &refused
	}
	if err := a.show(doc, func(w io.Writer) {
		writeChanges(w, doc.Changes)
		for _, c := range doc.Cuts {
			writePreview(w, c)
		}
		writeSurplus(w, doc.Surplus)
		if len(doc.Changes) == 0 && p.Refused == nil {
			fmt.Fprintf(w, "%s and the mesh agree\n", fileName(doc.File))
		}
	}); err != nil {
		return err
	}
	switch {
	case p.Refused != nil && !a.json:
		return p.Refused
	case p.Refused != nil || len(doc.Changes) > 0:
		return &said{exitFailed}
	}
	return nil
}

// writePreview says what taking something from an agent would cut.
func writePreview(w io.Writer, c wire.CutResult) {
	if c.Cut > 0 {
		fmt.Fprintf(w, "! agent %s: %s would be closed\n", c.Agent, count(c.Cut, "connection"))
	}
	for _, l := range c.Would {
		if l.Agent != c.Agent && len(l.Loses) > 0 {
			fmt.Fprintf(w, "! agent %s would lose what was lent to it: %s\n", l.Agent, names(l.Loses))
		}
	}
}
