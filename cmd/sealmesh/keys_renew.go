package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// keysDoc is sealmesh.keys-changed/v1.
type keysDoc struct {
	Schema  string               `json:"schema"`
	What    string               `json:"what"`
	Leaked  bool                 `json:"leaked"`
	Root    string               `json:"root,omitempty"` // the new authority root
	Servers []meshdir.ConfChange `json:"servers"`        // of the nats-servers' configuration
}

const keysSchema = "sealmesh.keys-changed/v1"

func newKeysRenew(a *app) *cobra.Command {
	var life time.Duration
	c := &cobra.Command{
		Use:   "renew",
		Short: "Certify the present signing keys for another 90 days, in the mesh directory",
		Long: `Have the authority root certify the keys that sign root tokens and records for
another while. It needs root/, which is otherwise offline, and no connection. A
control plane that runs takes it over by itself; nothing is signed anew.`,
		Args: takes(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			m, err := meshdir.Load(a.mesh)
			if err != nil {
				return err
			}
			if err := m.ChangeSigningKeys(meshdir.KeyChange{For: life, Now: a.now()}); err != nil {
				return err
			}
			doc := keysDoc{Schema: keysSchema, What: "renewed", Servers: []meshdir.ConfChange{}}
			return a.show(doc, func(w io.Writer) {
				fmt.Fprintln(w, "the signing keys are certified for another while")
				fmt.Fprintf(w, "take root/ offline again; %s says until when\n", a.suggest("keys show"))
			})
		},
	}
	c.Flags().DurationVar(&life, "for", 0, "how long they are certified (default 2160h)")
	return c
}
