package controlplane

import (
	"context"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

var adminScope = capability.RequireScope(wire.AdminScope)

// governable refuses what would leave nobody to undo it: the last administrator
// taking itself out. Whoever is taken out by another leaves that one.
func (p *Plane) governable(ctx context.Context, by, id agentid.ID, inst agentid.Instance, req wire.AdminRequest) error {
	switch req.Op {
	case wire.OpSuspend, wire.OpRevoke, wire.OpRemove:
	case wire.OpUngrant:
		if !slices.Contains(req.Rights.Call, adminScope) {
			return nil
		}
	default:
		return nil
	}
	if by != id {
		return nil
	}
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return err
	}
	instances, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		return err
	}
	for _, a := range agents {
		if a.Status.Standing() != nil || !slices.Contains(a.Rights.Call, adminScope) || a.Agent == id && inst.IsZero() {
			continue
		}
		if slices.ContainsFunc(instances, func(i *registry.Instance) bool {
			return i.Agent == a.Agent && i.State.Standing() == nil && (a.Agent != id || i.Instance != inst)
		}) {
			return nil
		}
	}
	return denial.New(denial.WrongState, "%q is the last that can administer the mesh; give another enrolled agent %s first", id, adminScope)
}
