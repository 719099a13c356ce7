package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// caRenewDoc is sealmesh.ca-renewed/v1.
type caRenewDoc struct {
	Schema   string    `json:"schema"`
	Role     string    `json:"role"`
	NotAfter time.Time `json:"not_after"`
}

func newCARenew(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "renew agent|infra",
		Short: "Make a new intermediate under the root that there is",
		Long: `Make a new intermediate for the agents' CA or the servers', for a year, under the
root that there is, and put it into the mesh directory. It needs root/, which is
otherwise offline. A control plane that runs signs with it at once; what the one
before signed goes on to its own end.`,
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
			end, err := m.RenewCA(role, a.now())
			if err != nil {
				return err
			}
			end = end.UTC()
			return a.show(caRenewDoc{"sealmesh.ca-renewed/v1", string(role), end}, func(w io.Writer) {
				fmt.Fprintf(w, "the %s CA has a new intermediate until %s; take root/ offline again\n", role, when(&end))
			})
		},
	}
}
