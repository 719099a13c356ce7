package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/doctor"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

func newNATSCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Look whether a configuration that was there before has what the mesh needs",
		Long: `Read the configuration of a nats-server as nats-server does, with all that it
includes, and look whether it has taken in what sealmesh init --existing wrote, and
lets nobody around it: the callout, the accounts, the control plane's users, TLS and
whom it believes, limits. What other accounts have is their own. Nothing is changed,
and nothing of the file is shown.

Exit code 0: nothing is wrong, though there may be warnings; 1: something is.`,
		Args: takes(1, 1, "FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			mesh, err := meshdir.Load(a.mesh)
			if err != nil {
				return err
			}
			r := doctor.Report{Groups: []doctor.Group{doctor.CheckConf(mesh, args[0], a.now())}}
			doc := doctorDoc{
				Schema: "sealmesh.doctor/v1", Mesh: a.mesh, Healthy: r.Healthy(), Problems: r.Problems(), Warnings: r.Warnings(), Groups: r.Groups,
			}
			if err := a.show(doc, func(w io.Writer) { writeDoctor(w, doc) }); err != nil {
				return err
			}
			if !doc.Healthy {
				return &said{exitFailed}
			}
			return nil
		},
	}
}
