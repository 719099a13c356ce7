package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/pki"
)

func newCA(a *app) *cobra.Command {
	c := group("ca", "See and replace the two certificate authorities: of agents, and of servers",
		newCAShow(a), newCARotate(a), newCARenew(a), newCADrop(a))
	c.Long = c.Short + `.

The agent CA signs agents' certificates, the infra CA those of nats-servers and of
the control plane. Each has a root, whose key is offline in root/, and an
intermediate in server/, which signs and lives for a year.`
	return c
}

// caRole reads which of the two CAs is meant.
func caRole(c *cobra.Command, arg string) (pki.Role, error) {
	switch r := pki.Role(arg); r {
	case pki.Agent, pki.Infra:
		return r, nil
	}
	return "", usage(c, "%s takes agent or infra, not %q", verb(c), arg)
}
