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
	servers       []string      // of a cluster; init alone has the flag
	noSystem      bool          // likewise
	existing      bool          // likewise
	vault         meshdir.Vault // likewise
}

// registerVault adds what makes Vault the issuer of agents' certificates.
func (i *initFlags) registerVault(f *pflag.FlagSet) {
	f.StringVar(&i.vault.Address, "vault-addr", "", "https://host:port of a Vault whose PKI signs agents' certificates, in place of an embedded CA")
	f.StringVar(&i.vault.Namespace, "vault-namespace", "", "namespace in Vault Enterprise")
	f.StringVar(&i.vault.Mount, "vault-mount", "", "where the PKI secrets engine is mounted (default pki)")
	f.StringVar(&i.vault.Role, "vault-role", "", "role of the PKI secrets engine")
	f.StringVar(&i.vault.CAFile, "vault-ca-file", "", "PEM file of the CA that Vault's own certificate chains to")
	f.StringVar(&i.vault.TokenFile, "vault-token-file", "", "file of a Vault token, mode 0600")
	f.StringVar(&i.vault.AppRole.Mount, "vault-approle-mount", "", "where AppRole is mounted (default approle)")
	f.StringVar(&i.vault.AppRole.RoleIDFile, "vault-approle-role-id-file", "", "file of the role ID of an AppRole, mode 0600")
	f.StringVar(&i.vault.AppRole.SecretIDFile, "vault-approle-secret-id-file", "", "file of its secret ID, mode 0600")
}

// issuer is what certificate.issuer becomes. The paths are made absolute, for those
// in sealmesh.yaml are relative to the mesh directory and those on a command line to
// where it is typed.
func (i *initFlags) issuer(c *cobra.Command) error {
	if i.vault == (meshdir.Vault{}) {
		return nil
	}
	for _, need := range []struct{ flag, value string }{
		{"vault-addr", i.vault.Address}, {"vault-role", i.vault.Role}, {"vault-ca-file", i.vault.CAFile},
	} {
		if need.value == "" {
			return usage(c, "--%s is missing", need.flag)
		}
	}
	if (i.vault.TokenFile == "") == (i.vault.AppRole.RoleIDFile == "") {
		return usage(c, "either --vault-token-file or --vault-approle-role-id-file is required")
	}
	if (i.vault.AppRole.RoleIDFile == "") != (i.vault.AppRole.SecretIDFile == "") {
		return usage(c, "--vault-approle-role-id-file and --vault-approle-secret-id-file belong together")
	}
	for _, f := range []*string{&i.vault.CAFile, &i.vault.TokenFile, &i.vault.AppRole.RoleIDFile, &i.vault.AppRole.SecretIDFile} {
		if *f == "" {
			continue
		}
		abs, err := filepath.Abs(*f)
		if err != nil {
			return err
		}
		*f = abs
	}
	return nil
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
	if i.existing {
		switch {
		case i.nats == "":
			return usage(c, "--existing needs --nats: the URLs of the nats-servers that run already")
		case len(i.servers) > 0 || i.listen != "":
			return usage(c, "--existing leaves it to the nats-servers where they listen: neither --listen nor --servers")
		}
	}
	if len(i.servers) > 0 && i.listen != "" {
		return usage(c, "--listen is of a single server: each of --servers listens on its own port")
	}
	if _, err := i.cluster(); err != nil {
		return usage(c, "--servers: %w", err)
	}
	return i.issuer(c)
}

// cluster reads the servers of a cluster, none where there is one server.
func (i *initFlags) cluster() ([]meshdir.Server, error) {
	var out []meshdir.Server
	for _, text := range i.servers {
		s, err := meshdir.ParseServer(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (i *initFlags) make(a *app) (*meshdir.Mesh, error) {
	servers, err := i.cluster()
	if err != nil {
		return nil, err
	}
	var cert meshdir.Certificate
	if i.vault != (meshdir.Vault{}) {
		cert.Issuer = meshdir.IssuerVault
	}
	return meshdir.Init(a.mesh, meshdir.InitOptions{
		Certificate: cert, Vault: i.vault,
		TrustDomain: i.trustDomain, NATSListen: i.listen, NATSURL: i.nats, Servers: servers, NoSystemAccount: i.noSystem, Existing: i.existing,
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
	// Of a cluster, the configurations of all its servers; server_conf is the first.
	ServerConfs []string `json:"server_confs,omitempty"`
}

// writeParts says what goes where in a configuration that was there before.
func writeParts(w io.Writer, m *meshdir.Mesh) {
	callout, accounts, user := m.Parts()
	fmt.Fprintf(w, "\nin the nats-server's own configuration, with what is in %s beside it:\n", filepath.Dir(callout))
	table(w,
		[]string{"  authorization", fmt.Sprintf("include %q, relative to the file that includes it", filepath.Base(callout))},
		[]string{"  accounts", fmt.Sprintf("include %q, likewise", filepath.Base(accounts))},
		[]string{"  users of its system account", "the text of " + orDash(user)},
		[]string{"  tls", "nats/server.crt, nats/server.key, and nats/ca.crt added to ca_file; verify: true"},
	)
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
runs: move them to a place that is offline.

--existing is for nats-servers that run already, with accounts of others: in place of
a configuration it writes the parts that theirs take in, for sealmesh nats check to
look at; docs/operations.md has the steps.

--servers makes a cluster of three or more nats-servers, each with a folder
below nats/ to be taken to its host. What is stored is kept on three of them.

With --vault-addr there is no key of an agent CA: the PKI secrets engine of a
HashiCorp Vault signs agents' certificates. Its root is taken over now and never
again; docs/operations.md has the role and the policy.`,
		Example: `  sealmesh init
  sealmesh init --vault-addr https://vault.example.org:8200 --vault-ca-file ca.pem --vault-role agents --vault-token-file token
  sealmesh init --servers a=n1.example.org,b=n2.example.org,c=n3.example.org`,
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
			if len(f.servers) > 0 {
				doc.ServerConfs = m.ServerConfs()
			}
			return a.show(doc, func(w io.Writer) {
				fmt.Fprintf(w, "made the mesh %s in %s\n\n", m.Config.TrustDomain, a.mesh)
				rows := [][]string{{"  configuration", filepath.Join(a.mesh, meshdir.ConfigFile)}}
				for i, conf := range m.ServerConfs() {
					if i == 0 {
						rows = append(rows, []string{"  for nats-server", conf})
					} else {
						rows = append(rows, []string{"", conf})
					}
				}
				table(w, append(rows,
					[]string{"  administrator", filepath.Join(a.mesh, "agents", adminID)},
					[]string{"  keep offline", filepath.Join(a.mesh, "root")},
				)...)
				if f.existing {
					writeParts(w, m)
					fmt.Fprintf(w, "\nnext: include them, restart nats-server, and look: %s\n", a.suggest("nats check FILE"))
					return
				}
				if len(f.servers) > 0 {
					fmt.Fprintf(w, "\nnext: nats-server -c with its file on each host, and %s\n", a.suggest("server"))
					return
				}
				fmt.Fprintf(w, "\nnext: %s\n  or: nats-server -c %s, and %s\n", a.suggest("up"), m.ServerConf(), a.suggest("server"))
			})
		},
	}
	f.register(c.Flags())
	f.registerVault(c.Flags())
	c.Flags().BoolVar(&f.noSystem, "insecure-no-system-account", false, "no user in the system account: nobody can close the connection of an agent that was cut")
	c.Flags().BoolVar(&f.existing, "existing", false, "for nats-servers that run already: write the parts that their configuration takes in")
	c.Flags().StringSliceVar(&f.servers, "servers", nil, "the nats-servers of a cluster, NAME=HOST[:PORT[:ROUTEPORT]] each (ports 4222 and 2000 above it)")
	return c
}
