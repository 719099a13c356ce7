package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/meshclient"
)

// agent is one of the story, connected.
type agent struct {
	*meshclient.Mesh
	changed chan struct{} // what it may do is no longer what it was
}

func connect(ctx context.Context, m *mesh, id string) (*agent, error) {
	a := &agent{changed: make(chan struct{}, 1)}
	var err error
	a.Mesh, err = meshclient.Connect(ctx, meshclient.As(id), meshclient.MeshDir(m.dir), meshclient.Log(zerolog.Nop()),
		meshclient.OnGrant(func() {
			select {
			case a.changed <- struct{}{}:
			default:
			}
		}))
	if err != nil {
		return nil, fmt.Errorf("connecting as %s: %w", id, err)
	}
	return a, nil
}

func (a *agent) name() string { return a.ID().String() }

// reads asks for the logs.
func (a *agent) reads(ctx context.Context) (string, error) {
	reply, err := a.Call(ctx, logs, []byte("app.log"))
	if err != nil {
		return "", err
	}
	return string(reply.Data), nil
}

// lends hands a right to another and waits until that one has it.
func (a *agent) lends(ctx context.Context, to *agent, g meshclient.Grant) (*meshclient.Delegation, error) {
	lent, err := a.Delegate(ctx, to.name(), g)
	if err != nil {
		return nil, err
	}
	for {
		held, err := to.Scopes(ctx)
		if err != nil || len(held) > 0 {
			return lent, err
		}
		select {
		case <-to.changed:
		case <-time.After(time.Second): // the change came before it was waited for
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// path is the row of agents through which the right came.
func (a *agent) path(ctx context.Context) (string, error) {
	chains, err := a.Chains(ctx)
	switch {
	case err != nil:
		return "", err
	case len(chains) == 0:
		return "", errors.New("holds no chain")
	}
	names := []string{"authority"}
	for _, h := range chains[0].Hops() {
		names = append(names, h.To.String())
	}
	return strings.Join(names, " > "), nil
}
