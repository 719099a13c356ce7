package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
)

func newCAShow(a *app) *cobra.Command {
	var offline bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the CAs: roots and their hashes, when they end, how far a rotation is",
		Long: `Show both CAs as the control plane has them: which roots count, the hash that join
tokens and enroll --ca pin, when roots and intermediates end, and of a rotation that
is under way what it waits for. Where no control plane can be reached, the mesh
directory alone says it, without who is waited for.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if !offline {
				s, err := operate[wire.CAStatus](c.Context(), a, wire.AdminRequest{Op: wire.OpCA})
				if err == nil || !errors.Is(err, meshclient.ErrUnavailable) {
					if err != nil {
						return err
					}
					return a.showCAs(s, true)
				}
			}
			s, err := caFiles(c.Context(), a.mesh)
			if err != nil {
				return err
			}
			return a.showCAs(s, false)
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "read the mesh directory and ask nobody")
	return c
}

// caFiles is what the mesh directory says.
func caFiles(ctx context.Context, dir string) (wire.CAStatus, error) {
	s := wire.CAStatus{Schema: wire.CASchema}
	m, err := meshdir.Load(dir)
	if err != nil {
		return s, err
	}
	issuer, err := m.AgentIssuer(ctx)
	if err != nil {
		return s, err
	}
	agents, err := m.AgentRoots(issuer)
	if err != nil {
		return s, err
	}
	servers, err := m.InfraRoots()
	if err != nil {
		return s, err
	}
	infra, err := m.InfraCA()
	if err != nil {
		return s, err
	}
	_, doc, err := m.Trust()
	if err != nil {
		return s, err
	}
	if doc != nil {
		s.Trust = doc.Version
	}
	agent := caView(pki.Agent, agents)
	if ca, ok := issuer.(*pki.CA); ok {
		agent.Intermediate = ca.NotAfter().UTC()
	}
	server := caView(pki.Infra, servers)
	server.Intermediate = infra.NotAfter().UTC()
	s.CAs = []wire.CAView{agent, server}
	r, err := m.Rotation()
	if r != nil {
		s.Rotation = &wire.CARotation{Role: string(r.Role), Old: r.Old, New: r.New, Started: r.Started, Waits: []string{}, Behind: []wire.CABehind{}}
	}
	return s, err
}

func caView(role pki.Role, roots []*x509.Certificate) wire.CAView {
	v := wire.CAView{Role: string(role)}
	for _, c := range roots {
		v.Roots = append(v.Roots, wire.CARoot{Hash: pki.RootHash(c), NotAfter: c.NotAfter.UTC()})
	}
	return v
}

// showCAs prints the CAs; live says that a control plane told.
func (a *app) showCAs(s wire.CAStatus, live bool) error {
	s.CAs = some(s.CAs)
	return a.show(s, func(w io.Writer) {
		rows := [][]string{{"CA", "ROOT", "ROOT ENDS", "INTERMEDIATE ENDS"}}
		for _, ca := range s.CAs {
			for i, r := range ca.Roots {
				middle := ""
				if i == 0 {
					middle = when(&ca.Intermediate)
				}
				rows = append(rows, []string{clean(ca.Role), clean(r.Hash), when(&r.NotAfter), orDash(middle)})
			}
		}
		table(w, rows...)
		fmt.Fprintf(w, "trust document %d\n", s.Trust)
		writeCARotation(w, s.Rotation, live)
	})
}

func writeCARotation(w io.Writer, r *wire.CARotation, live bool) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "\nthe root of the %s CA is being replaced since %s\n", clean(r.Role), when(&r.Started))
	fmt.Fprintf(w, "old %s\nnew %s\n", clean(r.Old), clean(r.New))
	if !live {
		fmt.Fprintln(w, "no control plane says what it waits for")
		return
	}
	if len(r.Waits) == 0 {
		fmt.Fprintln(w, "nobody needs the old root any more: it is about to be dropped")
	}
	for _, wait := range r.Waits {
		fmt.Fprintln(w, "waits: "+clean(wait))
	}
	if len(r.Behind) == 0 {
		return
	}
	rows := [][]string{{"INSTANCE", "TRUST", "CERTIFICATE", "ENDS"}}
	for _, b := range r.Behind {
		of := "of the new root"
		if b.OldRoot {
			of = "of the old root"
		}
		rows = append(rows, []string{clean(fmt.Sprintf("%s/%s", b.Agent, b.Instance)), strconv.FormatUint(b.Trust, 10), of, when(&b.NotAfter)})
	}
	table(w, rows...)
	if more := r.Left - len(r.Behind); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
}
