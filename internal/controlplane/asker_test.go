package controlplane_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Who takes authority from itself gets its answer, and its connections are closed
// all the same, whichever replica is asked.
func TestAskerIsAnswered(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	other := *m.Dir
	other.Config.Control.Listen, other.Config.Control.URL = "127.0.0.1:0", ""
	second, err := controlplane.Start(ctx, controlplane.Config{Mesh: &other, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() }) //nolint:errcheck // the test is over
	for name, req := range map[string]func(*meshclient.Mesh) wire.AdminRequest{
		"ungrant": func(*meshclient.Mesh) wire.AdminRequest {
			return wire.AdminRequest{Op: wire.OpUngrant, Rights: registry.Rights{Call: scopes(wire.AdminScope)}}
		},
		"suspend": func(*meshclient.Mesh) wire.AdminRequest { return wire.AdminRequest{Op: wire.OpSuspend} },
		"revoke":  func(*meshclient.Mesh) wire.AdminRequest { return wire.AdminRequest{Op: wire.OpRevoke} },
		"remove":  func(*meshclient.Mesh) wire.AdminRequest { return wire.AdminRequest{Op: wire.OpRemove} },
		"instance": func(c *meshclient.Mesh) wire.AdminRequest {
			return wire.AdminRequest{Op: wire.OpRevoke, Target: c.ID().String() + "/" + c.Instance().String()}
		},
		"settings": func(*meshclient.Mesh) wire.AdminRequest {
			return wire.AdminRequest{Op: wire.OpSet, Settings: &wire.Settings{Stock: ptr(false)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := agentid.Require("ops-" + name)
			rights := registry.Rights{Call: scopes(wire.AdminScope, "read:logs")}
			dir := add(t, ctx, m, registry.NewAgent{Agent: id, Stock: name == "settings", Rights: rights})
			silent, err := raw(t, dir) // leaves by nothing but force
			if err != nil {
				t.Fatal(err)
			}
			c := connect(t, ctx, m, dir)
			r := req(c)
			if r.Target == "" {
				r.Target = id.String()
			}
			body, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			reply, err := c.Call(ctx, wire.AdminScope, body)
			if err != nil {
				t.Fatal(err)
			}
			var cut wire.CutResult
			if err := json.Unmarshal(reply.Data, &cut); err != nil {
				t.Fatal(err)
			}
			if name != "settings" && (cut.Cut != 2 || !cut.Confirmed) {
				t.Errorf("got %+v, want a confirmed cut of both connections", cut)
			}
			eventually(t, ctx, "the end of the connection", silent.IsClosed)
		})
	}
}
