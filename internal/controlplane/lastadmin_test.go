package controlplane_test

import (
	"errors"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Nobody locks everybody out by taking itself out.
func TestLastAdministratorStays(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	admin := show(t, ctx, m, "admin")
	rights := registry.Rights{Call: scopes(wire.AdminScope)}
	// An agent that is not enrolled helps nobody.
	if _, err := m.Plane.Store().Add(ctx, registry.NewAgent{Agent: agentid.Require("pending"), Rights: rights}, "test"); err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]wire.AdminRequest{
		"suspend":  {Op: wire.OpSuspend, Target: "admin"},
		"revoke":   {Op: wire.OpRevoke, Target: "admin"},
		"instance": {Op: wire.OpRevoke, Target: "admin/" + admin.Instances[0].Instance.String()},
		"remove":   {Op: wire.OpRemove, Target: "admin"},
		"ungrant":  {Op: wire.OpUngrant, Target: "admin", Rights: rights},
		"dry run":  {Op: wire.OpSuspend, Target: "admin", DryRun: true},
	} {
		if err := m.Operate(ctx, req, nil); !errors.Is(err, denial.WrongState) {
			t.Fatalf("%s: got %v, want %q", name, err, denial.WrongState)
		}
	}
	if v := show(t, ctx, m, "admin"); v.Epoch != admin.Epoch || v.Status != registry.Active {
		t.Errorf("got %+v: a refused operation changed something", v)
	}
	add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("second"), Rights: rights})
	var cut wire.CutResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "admin"}, &cut); err != nil || cut.Status != registry.Suspended {
		t.Errorf("with another one: got %+v, %v", cut, err)
	}
}
