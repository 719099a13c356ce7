package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// serverDoc is sealmesh.server/v1.
type serverDoc struct {
	Schema      string   `json:"schema"`
	Mesh        string   `json:"mesh"`
	TrustDomain string   `json:"trust_domain"`
	NATS        []string `json:"nats"`
	Control     string   `json:"control"`
	Metrics     string   `json:"metrics,omitempty"` // host:port; empty: nowhere
}

func newServer(a *app) *cobra.Command {
	probe := false
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane against the nats-servers in sealmesh.yaml",
		Long: `Run the control plane until SIGINT or SIGTERM, against the nats-servers that
sealmesh.yaml names. It waits for them to be there, as long as --timeout says or
for ever. Any number of them may run on one mesh.

With --probe it runs none: it asks the one that runs on this host with this
directory whether it does its work, and ends with 0, or with 4 if not.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			empty, err := isEmpty(a.mesh)
			if err != nil {
				return err
			}
			if empty {
				return &hinted{errors.New("there is no mesh in " + a.mesh), a.suggest("init") + " makes one"}
			}
			mesh, err := meshdir.Load(a.mesh)
			if err != nil {
				return err
			}
			if probe {
				return a.probe(c.Context(), mesh)
			}
			ctx := c.Context()
			start, cancel := a.deadline(ctx, 0)
			defer cancel()
			plane, err := controlplane.Start(start, controlplane.Config{Mesh: mesh, Log: a.runLog()})
			if err != nil {
				return outOfTime(start, err)
			}
			defer plane.Close() //nolint:errcheck // it logs what it could not do
			doc := serverDoc{
				Schema: "sealmesh.server/v1", Mesh: a.mesh, TrustDomain: mesh.Config.TrustDomain,
				NATS: mesh.Config.NATS.URLs, Control: plane.URL(), Metrics: plane.MetricsAddr(),
			}
			if err := a.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "the control plane of %s is up\n\n", doc.TrustDomain)
				table(w, []string{"  nats-server", listed(doc.NATS)}, []string{"  listens on", doc.Control}, []string{"  metrics", orDash(doc.Metrics)}, []string{"  directory", doc.Mesh})
			}); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		},
	}
	c.Flags().BoolVar(&probe, "probe", false, "ask the control plane of this directory whether it does its work")
	return c
}
