package controlplane

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// joins lists the join tokens that are out, or cancels some of them.
func (p *Plane) joins(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	var id agentid.ID
	handle := registry.IsJoinHandle(req.Target)
	if req.Target != "" && !handle {
		var err error
		if id, err = agentid.Parse(req.Target); err != nil {
			return nil, denial.New(denial.BadInput, "%w", err)
		}
		if _, err := p.store.Agent(ctx, id); err != nil {
			return nil, err
		}
	}
	if req.Op == wire.OpJoins {
		if handle {
			return nil, denial.New(denial.BadInput, "joins works on an agent")
		}
		list, err := p.store.Joins(ctx, id)
		return joinList(list), err
	}
	var list []registry.Join
	var err error
	if handle {
		var one registry.Join
		if one, err = p.store.CancelJoin(ctx, req.Target); err == nil {
			list = append(list, one)
		}
	} else {
		list, err = p.store.CancelJoins(ctx, id)
	}
	for _, j := range list {
		p.change(by, j.Agent, agentid.Instance{}, string(req.Op), req.Reason, nil)
	}
	if err != nil {
		p.change(by, id, agentid.Instance{}, string(req.Op), req.Reason, err)
		return nil, err
	}
	return joinList(list), nil
}

func joinList(list []registry.Join) wire.JoinList {
	out := wire.JoinList{Schema: wire.JoinsSchema, Joins: []registry.Join{}}
	most := min(len(list), wire.JoinsMost)
	out.Joins, out.More = append(out.Joins, list[:most]...), len(list)-most
	return out
}
