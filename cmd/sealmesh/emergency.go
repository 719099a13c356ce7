package main

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// emergencyTimeout bounds an emergency command unless --timeout says otherwise.
const emergencyTimeout = time.Minute

func newEmergency(a *app) *cobra.Command {
	c := group("emergency", "Break glass: act by the keys of the mesh, without a control plane",
		newEmergencyCut(a), newEmergencyAdmin(a))
	c.Long = c.Short + `.

These commands need sealmesh.yaml, server/ and a nats-server, so they run on the
control plane's host, as its user. They need no control plane, and no agent that
may administer; beside control planes that run they are safe. Whoever can read
server/ can do all of this anyway.`
	return c
}

// glass opens the mesh by its keys.
func (a *app) glass(c *cobra.Command) (context.Context, context.CancelFunc, controlplane.Config, error) {
	ctx, cancel := a.deadline(c.Context(), emergencyTimeout)
	mesh, err := meshdir.Load(a.mesh)
	if err != nil {
		var known interface{ Hint() string }
		if errors.Is(err, fs.ErrPermission) && !errors.As(err, &known) {
			err = &hinted{err, "run this on the control plane's host, as the user that it runs as: it needs the keys in server/"}
		}
		cancel()
		return nil, nil, controlplane.Config{}, err
	}
	return ctx, cancel, controlplane.Config{Mesh: mesh, Log: a.shotLog()}, nil
}
