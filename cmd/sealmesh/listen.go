package main

import (
	"cmp"
	"fmt"
	"net"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// checkFree refuses addresses that cannot be listened on, before anything is
// made or started: an up that fails must not leave half a mesh behind.
func checkFree(nats, control string) error {
	for _, l := range []struct{ addr, hint string }{
		{nats, "stop what listens there, or name another address with --listen"},
		{control, "stop what listens there, or name another address: --control-listen for a new mesh, control.listen in sealmesh.yaml for one that exists"},
	} {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return &hinted{fmt.Errorf("cannot listen on %s: %w", l.addr, cause(err)), l.hint}
		}
		if err := ln.Close(); err != nil {
			return fmt.Errorf("cannot listen on %s: %w", l.addr, err)
		}
	}
	return nil
}

// cause is what the operating system said, without the address once more.
func cause(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return op.Err
	}
	return err
}

// addresses are where up is about to listen.
func addresses(f *initFlags, mesh *meshdir.Mesh) (nats, control string) {
	if mesh == nil {
		return cmp.Or(f.listen, meshdir.DefaultNATSListen), cmp.Or(f.controlListen, meshdir.DefaultControlListen)
	}
	return cmp.Or(f.listen, mesh.Config.NATS.Listen), mesh.Config.Control.Listen
}
