package main

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/meshclient"
)

func newCertRenew(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "renew",
		Short: "Renew an agent's certificate and TLS key now",
		Long: `Renew the certificate of the agent that --as names now, with a new TLS key.
Agents do that by themselves at half of their certificate's life; one that runs
takes the new certificate into use by itself.

It is asked for over the mesh, and where no server can be reached by the agent's
key alone, at the control plane. A certificate that ended may be renewed so for
as long as certificate.renew_after_expiry in sealmesh.yaml says.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := a.find("")
			if err != nil {
				return err
			}
			path, err := filepath.Abs(dir.Path)
			if err != nil {
				return err
			}
			ctx, cancel := a.deadline(c.Context(), adminTimeout)
			defer cancel()
			err = meshclient.Renew(ctx, meshclient.As(path), meshclient.MeshDir(a.mesh), meshclient.Log(a.shotLog()))
			if errors.Is(err, meshclient.ErrUnavailable) {
				return &hinted{err, "try again; a mesh is up while nats-server and sealmesh server run, or " + a.suggest("up")}
			}
			if err != nil {
				return err
			}
			list, err := certsOf(dir.File(agentdir.TLSCertFile))
			if err != nil {
				return err
			}
			return a.showCerts(list)
		},
	}
}
