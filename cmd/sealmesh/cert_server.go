package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// certServerDoc is sealmesh.cert-server/v1.
type certServerDoc struct {
	Schema      string    `json:"schema"`
	Server      string    `json:"server"`
	Certificate string    `json:"certificate"` // file
	Key         string    `json:"key"`         // file
	Hosts       []string  `json:"hosts"`
	NotAfter    time.Time `json:"not_after"`
}

func newCertServer(a *app) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "server NAME",
		Short: "Make a new key and certificate for a nats-server, on its host",
		Long: `Make a new key and certificate for a nats-server that sealmesh.yaml names. The key
is made here and stays here. The certificate is signed by the infra CA where the mesh
directory has it, else by the control plane, which is asked as an agent that may call
admin:registry. The server shows it after sealmesh nats reload.

Where nats-server's files are on the host of the control plane, nobody needs this:
it renews them by itself.`,
		Args: takes(1, 1, "the name of a nats-server"),
		RunE: func(c *cobra.Command, args []string) error {
			doc, err := a.certServer(c, args[0], to)
			if err != nil {
				return err
			}
			return a.show(doc, func(w io.Writer) {
				table(w, []string{"server", clean(doc.Server)}, []string{"certificate", doc.Certificate}, []string{"key", doc.Key},
					[]string{"for", listed(doc.Hosts)}, []string{"until", when(&doc.NotAfter)})
				fmt.Fprintf(w, "\nthe server shows it after: %s\n", a.suggest("nats reload --wait"))
			})
		},
	}
	c.Flags().StringVar(&to, "to", "", "folder of server.crt and server.key (default: that of the server below nats/ in the mesh directory)")
	return c
}

func (a *app) certServer(c *cobra.Command, name, to string) (certServerDoc, error) {
	doc := certServerDoc{Schema: "sealmesh.cert-server/v1", Server: name}
	mesh, err := meshdir.Load(a.mesh)
	if err != nil {
		if to == "" {
			return doc, usage(c, "there is no mesh directory here, so --to has to name the folder of the server's files")
		}
		return a.certServerRemotely(c, name, to, doc)
	}
	for _, s := range mesh.NATSServers() {
		if s.Name != name {
			continue
		}
		if to != "" {
			s = s.At(to)
		}
		ca, err := mesh.InfraCA()
		if err != nil {
			return doc, err
		}
		if _, err := mesh.Renew(ca, s, true, time.Now()); err != nil {
			return doc, err
		}
		return doc.filled(s.Cert, s.Key)
	}
	var names []string
	for _, s := range mesh.NATSServers() {
		names = append(names, s.Name)
	}
	return doc, &hinted{fmt.Errorf("sealmesh.yaml names no nats-server %q", name), "it names " + listed(names)}
}

// certServerRemotely has the control plane sign.
func (a *app) certServerRemotely(c *cobra.Command, name, to string, doc certServerDoc) (certServerDoc, error) {
	key, err := pki.NewTLSKey()
	if err != nil {
		return doc, err
	}
	csr, err := pki.ServerCSR(key)
	if err != nil {
		return doc, err
	}
	got, err := operate[wire.ServerCertificate](c.Context(), a, wire.AdminRequest{Op: wire.OpServerCertificate, Server: name, CSR: string(csr)})
	if err != nil {
		return doc, err
	}
	if got.Server != name {
		return doc, errors.New("the answer is about another server")
	}
	files := meshdir.ServerFiles{Cert: filepath.Join(to, "server.crt"), Key: filepath.Join(to, "server.key")}
	if err := files.Place(key, []byte(got.Certificate)); err != nil {
		return doc, err
	}
	return doc.filled(files.Cert, files.Key)
}

func (d certServerDoc) filled(cert, key string) (certServerDoc, error) {
	var err error
	if d.Certificate, err = filepath.Abs(cert); err != nil {
		return d, err
	}
	if d.Key, err = filepath.Abs(key); err != nil {
		return d, err
	}
	chain, err := meshdir.ServerFiles{Cert: cert}.Chain()
	if err != nil {
		return d, err
	}
	d.Hosts, d.NotAfter = chain[0].DNSNames, chain[0].NotAfter.UTC()
	for _, ip := range chain[0].IPAddresses {
		d.Hosts = append(d.Hosts, ip.String())
	}
	return d, nil
}
