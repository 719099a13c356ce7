package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// caRotateDoc is sealmesh.ca-rotated/v1.
type caRotateDoc struct {
	Schema  string `json:"schema"`
	Role    string `json:"role"`
	Old     string `json:"old"`
	New     string `json:"new"`
	Leaked  bool   `json:"leaked"`
	Overlap uint64 `json:"overlap"` // version of the trust document with both roots; 0: there is none
	After   uint64 `json:"after"`   // of the one without the old
}

func newCARotate(a *app) *cobra.Command {
	var leaked bool
	c := &cobra.Command{
		Use:   "rotate agent|infra",
		Short: "Replace a CA's root and intermediate, in the mesh directory",
		Long: `Make a new root and intermediate for the agents' CA or the servers', sign what
tells everybody, and put it all into the mesh directory. It needs root/, which is
otherwise offline, and no connection. A run that was interrupted is finished by
running it again.

A control plane that runs takes the change over by itself, signs with the new CA at
once, and lets both roots count until nobody needs the old one: sealmesh ca show
says what that waits for. Nobody has to be restarted. What is of the new root is
certified by the old one as well, so that it is taken also by who knows only that.

--leaked is for a root or an intermediate whose key may be in the wrong hands: the
old root counts no more from now on. Agents come back by themselves: they prove
themselves by their keys and get new certificates.`,
		Example: `  sealmesh ca rotate infra
  sealmesh ca rotate agent --leaked`,
		Args: takes(1, 1, "agent or infra"),
		RunE: func(c *cobra.Command, args []string) error {
			role, err := caRole(c, args[0])
			if err != nil {
				return err
			}
			m, err := meshdir.Load(a.mesh)
			if err != nil {
				return err
			}
			r, err := m.RotateCA(role, leaked, a.now())
			if err != nil {
				return err
			}
			doc := caRotateDoc{"sealmesh.ca-rotated/v1", string(r.Role), r.Old, r.New, r.Overlap == 0, r.Overlap, r.After}
			return a.show(doc, func(w io.Writer) {
				table(w, []string{"old root", doc.Old}, []string{"new root", doc.New})
				if doc.Leaked {
					fmt.Fprintf(w, "the old root of the %s CA counts no more; trust document %d says so\n", doc.Role, doc.After)
				} else {
					fmt.Fprintf(w, "both roots of the %s CA count by trust document %d; %d follows without the old one\n", doc.Role, doc.Overlap, doc.After)
				}
				fmt.Fprintf(w, "take root/ offline again; %s says how far it is\n", a.suggest("ca show"))
			})
		},
	}
	c.Flags().BoolVar(&leaked, "leaked", false, "the old root's key, or its intermediate's, leaked: no overlap")
	return c
}
