package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// adminID is who administers where --as says nothing.
const adminID = "admin"

// adminTimeout bounds an admin operation unless --timeout says otherwise. A cut
// asks every server twice, so it takes its time.
const adminTimeout = 30 * time.Second

// find opens the directory of the agent to act as: the one that --as names, else
// usual. There is no other fallback.
func (a *app) find(usual string) (*agentdir.Dir, error) {
	as := a.as
	if as == "" {
		as = usual
	}
	if as == "" {
		return nil, &usageError{errors.New("no agent named to act as"), "give --as ID, or set SEALMESH_AS"}
	}
	dir, err := agentdir.Find(as, a.mesh)
	if err == nil {
		return dir, nil
	}
	hint := "on the mesh's host, " + a.suggest("agent add %s --enroll", quoted(as)) + "; elsewhere, sealmesh enroll"
	if _, e := os.Stat(a.mesh); errors.Is(e, os.ErrNotExist) {
		hint = "there is no mesh directory " + a.mesh + "; sealmesh up makes one, --mesh DIR names another"
	}
	return nil, &hinted{err, hint}
}

// connect connects as the agent that --as names, else usual.
func (a *app) connect(ctx context.Context, usual string, log zerolog.Logger, opts ...meshclient.Option) (*meshclient.Mesh, error) {
	dir, err := a.find(usual)
	if err != nil {
		return nil, err
	}
	path, err := filepath.Abs(dir.Path) // an ID has no slash, a path must
	if err != nil {
		return nil, err
	}
	m, err := meshclient.Connect(ctx, append([]meshclient.Option{
		meshclient.As(path), meshclient.MeshDir(a.mesh), meshclient.Log(log),
	}, opts...)...)
	if errors.Is(err, meshclient.ErrUnavailable) {
		return nil, &hinted{err, "try again; a mesh is up while nats-server and sealmesh server run, or " + a.suggest("up")}
	}
	return m, err
}

// leave says goodbye. The work is done, so a failure is for the log alone.
func leave(m *meshclient.Mesh, log zerolog.Logger) {
	if err := m.Close(); err != nil {
		log.Warn().Err(err).Msg("closing")
	}
}

// operate asks the control plane for one admin operation, as a signed call.
func operate[T any](ctx context.Context, a *app, req wire.AdminRequest) (T, error) {
	var out T
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, adminID, log)
	if err != nil {
		return out, err
	}
	defer leave(m, log)
	return operateOn[T](ctx, m, req)
}

func operateOn[T any](ctx context.Context, m *meshclient.Mesh, req wire.AdminRequest) (T, error) {
	var out T
	body, err := json.Marshal(req)
	if err != nil {
		return out, err
	}
	reply, err := m.Call(ctx, wire.AdminScope, body, meshclient.ContentType("application/json"))
	if err != nil {
		switch denial.Of(err) {
		case denial.ScopeNotHeld:
			return out, &hinted{err, fmt.Sprintf("%s may not administer this mesh; --as names one that may", m.ID())}
		case denial.UnlistedAgent, denial.UnlistedKey:
			return out, &absent{err} // whoever asks was admitted, so it is the other one
		}
		return out, err
	}
	if err := json.Unmarshal(reply.Data, &out); err != nil {
		return out, fmt.Errorf("the control plane's answer: %w", err)
	}
	return out, nil
}
