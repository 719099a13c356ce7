package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// initFlags are what is decided when a mesh is made.
type initFlags struct {
	trustDomain   string
	nats          string
	listen        string
	controlListen string
	controlURL    string
	hosts         []string
}

func (i *initFlags) register(f *pflag.FlagSet) {
	f.StringVar(&i.trustDomain, "trust-domain", "", "name of the mesh in every identity (default mesh.local)")
	f.StringVar(&i.nats, "nats", "", "URL by which agents reach nats-server (default tls:// and the listen address)")
	f.StringVar(&i.listen, "listen", "", "host:port where nats-server listens (default 127.0.0.1:4222)")
	f.StringVar(&i.controlListen, "control-listen", "", "host:port of the control plane's HTTPS endpoint (default 127.0.0.1:4223)")
	f.StringVar(&i.controlURL, "control-url", "", "URL by which agents reach that endpoint (default https:// and its listen address)")
	f.StringSliceVar(&i.hosts, "host", nil, "further host names and addresses for the server certificates")
}

// check finds what can be seen to be wrong before anything is made.
func (i *initFlags) check(c *cobra.Command) error {
	if i.trustDomain != "" {
		if _, err := agentid.ParseTrustDomain(i.trustDomain); err != nil {
			return usage(c, "--trust-domain: %w", err)
		}
	}
	for _, l := range []struct{ flag, value string }{{"listen", i.listen}, {"control-listen", i.controlListen}} {
		if _, _, err := net.SplitHostPort(l.value); l.value != "" && err != nil {
			return usage(c, "--%s %q is not host:port", l.flag, l.value)
		}
	}
	return nil
}

func (i *initFlags) make(a *app) (*meshdir.Mesh, error) {
	return meshdir.Init(a.mesh, meshdir.InitOptions{
		TrustDomain: i.trustDomain, NATSListen: i.listen, NATSURL: i.nats,
		ControlListen: i.controlListen, ControlURL: i.controlURL, Hosts: i.hosts, Now: a.now(),
	})
}

// initDoc is sealmesh.init/v1.
type initDoc struct {
	Schema      string   `json:"schema"`
	Mesh        string   `json:"mesh"`
	TrustDomain string   `json:"trust_domain"`
	NATS        []string `json:"nats"`
	Control     string   `json:"control"`
	ServerConf  string   `json:"server_conf"`
}

func newInit(a *app) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Make a mesh directory: trust roots, configuration, an admin agent",
		Long: `Make the mesh directory that --mesh names: trust roots, sealmesh.yaml, a
configuration for a stock nats-server, server certificates, and the agent admin.
A directory that has anything in it is left alone.

root/ holds the keys that everything rests on. Nothing needs them while the mesh
runs: move them to a place that is offline.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(c); err != nil {
				return err
			}
			empty, err := isEmpty(a.mesh)
			if err != nil {
				return err
			}
			if !empty {
				return &hinted{fmt.Errorf("%s is not empty and will not be overwritten", a.mesh), a.suggest("up") + " runs the mesh that it holds; --mesh DIR names another directory"}
			}
			m, err := f.make(a)
			if err != nil {
				return err
			}
			doc := initDoc{
				Schema: "sealmesh.init/v1", Mesh: a.mesh, TrustDomain: m.Config.TrustDomain, NATS: m.Config.NATS.URLs,
				Control: m.Config.Control.URL, ServerConf: m.ServerConf(),
			}
			return a.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "made the mesh %s in %s\n\n", m.Config.TrustDomain, a.mesh)
				table(w,
					[]string{"  configuration", filepath.Join(a.mesh, meshdir.ConfigFile)},
					[]string{"  for nats-server", m.ServerConf()},
					[]string{"  administrator", filepath.Join(a.mesh, "agents", adminID)},
					[]string{"  keep offline", filepath.Join(a.mesh, "root")},
				)
				fmt.Fprintf(w, "\nnext: %s\n  or: nats-server -c %s, and %s\n", a.suggest("up"), m.ServerConf(), a.suggest("server"))
			})
		},
	}
	f.register(c.Flags())
	return c
}
