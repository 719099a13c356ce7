package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
)

// startTimeout bounds the start of up unless --timeout says otherwise.
const startTimeout = time.Minute

// upDoc is sealmesh.up/v1.
type upDoc struct {
	Schema      string `json:"schema"`
	Mesh        string `json:"mesh"`
	TrustDomain string `json:"trust_domain"`
	NATS        string `json:"nats"`
	Control     string `json:"control"`
	Metrics     string `json:"metrics,omitempty"` // host:port; empty: nowhere
}

func newUp(a *app) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a mesh in one process: nats-server and control plane",
		Long: `Run nats-server and the control plane in one process, until SIGINT or SIGTERM.
Where the mesh directory is empty or missing it is made first, as sealmesh init
does; the flags that decide how are of use only then. --listen also moves the
listener of a mesh that exists; agents find it under nats.urls in sealmesh.yaml.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			mesh, fresh, err := a.openOrMake(c, &f)
			if err != nil {
				return err
			}
			return a.up(c.Context(), mesh, fresh, f.listen)
		},
	}
	f.register(c.Flags())
	return c
}

// openOrMake loads the mesh directory and makes it first where there is none.
func (a *app) openOrMake(c *cobra.Command, f *initFlags) (mesh *meshdir.Mesh, fresh bool, err error) {
	if err := f.check(c); err != nil {
		return nil, false, err
	}
	empty, err := isEmpty(a.mesh)
	if err != nil {
		return nil, false, err
	}
	if empty {
		if err := checkFree(addresses(f, nil)); err != nil {
			return nil, false, err
		}
		mesh, err = f.make(a)
		return mesh, true, err
	}
	for _, name := range []string{"trust-domain", "nats", "control-listen", "control-url", "host"} {
		if c.Flags().Changed(name) {
			return nil, false, &usageError{fmt.Errorf("--%s is decided when a mesh is made, and %s exists", name, a.mesh), "change sealmesh.yaml in " + a.mesh}
		}
	}
	if mesh, err = meshdir.Load(a.mesh); err != nil {
		return nil, false, err
	}
	if n := len(mesh.Config.NATS.Servers); n > 0 {
		return nil, false, &hinted{fmt.Errorf("the mesh in %s has %d nats-servers, each of which runs for itself", a.mesh, n), "run nats-server -c with its file in " + filepath.Join(a.mesh, "nats") + " on each host, and " + a.suggest("server")}
	}
	if mesh.Config.NATS.Existing {
		return nil, false, &hinted{fmt.Errorf("the mesh in %s is on nats-servers that were there before", a.mesh), a.suggest("server") + " runs the control plane beside them"}
	}
	return mesh, false, checkFree(addresses(f, mesh))
}

func (a *app) up(ctx context.Context, mesh *meshdir.Mesh, fresh bool, listen string) error {
	log := a.runLog()
	start, cancel := a.deadline(ctx, startTimeout)
	defer cancel()
	for _, s := range mesh.NATSServers() {
		if err := s.Mend(); err != nil {
			return err
		}
	}
	srv, err := natsserver.Start(start, natsserver.Config{File: mesh.ServerConf(), Listen: listen, Log: log})
	if err != nil {
		return outOfTime(start, err)
	}
	defer srv.Close()
	plane, err := controlplane.Start(start, controlplane.Config{
		Mesh: mesh, Log: log, Embedded: map[string]func() error{srv.Name(): srv.Reload},
	})
	if err != nil {
		return outOfTime(start, err)
	}
	defer plane.Close() //nolint:errcheck // it logs what it could not do
	doc := upDoc{Schema: "sealmesh.up/v1", Mesh: a.mesh, TrustDomain: mesh.Config.TrustDomain, NATS: srv.URL(), Control: plane.URL(), Metrics: plane.MetricsAddr()}
	if err := a.show(doc, func(w io.Writer) {
		fmt.Fprintf(w, "the mesh %s is up\n\n", doc.TrustDomain)
		table(w, []string{"  nats-server", doc.NATS}, []string{"  control plane", doc.Control}, []string{"  metrics", orDash(doc.Metrics)}, []string{"  directory", doc.Mesh})
		next := a.suggest("status")
		if fresh {
			next = a.suggest("agent add reader --handle read:logs --enroll")
		}
		fmt.Fprintf(w, "\nnext, in another shell: %s\n", next)
	}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-srv.Done():
		return errors.New("nats-server stopped by itself; its log says why")
	}
}
