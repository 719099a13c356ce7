package controlplane

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// operateMonitor asks the monitors of all replicas how they fare, or takes the
// brake off at all of them. An operator decides about the holds that the replicas
// told of right before: one that came on meanwhile stays.
func (p *Plane) operateMonitor(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	switch req.Monitor {
	case wire.MonitorStatusOf:
		return p.monitorStatus(ctx)
	case wire.MonitorRelease, wire.MonitorConfirm:
	default:
		return nil, denial.New(denial.BadInput, "the monitor has no operation %.20q", req.Monitor)
	}
	s, err := p.unbrake(ctx, by, req)
	p.change(by, agentid.Control, agentid.Instance{}, "monitor-"+req.Monitor, req.Reason, err)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (p *Plane) monitorStatus(ctx context.Context) (wire.MonitorStatus, error) {
	return p.tell(ctx, p.newOrder(wire.MonitorStatusOf))
}

func (p *Plane) unbrake(ctx context.Context, by agentid.ID, req wire.AdminRequest) (wire.MonitorStatus, error) {
	seen, err := p.monitorStatus(ctx)
	if err != nil {
		return seen, err
	}
	o := p.newOrder(req.Monitor)
	o.By, o.Reason = by.String(), req.Reason
	for _, r := range seen.Replicas {
		if r.Hold != "" {
			o.Holds = append(o.Holds, r.Hold)
		}
	}
	if len(o.Holds) == 0 {
		return seen, denial.New(denial.WrongState, "the heartbeat monitor is not held: there is nothing to decide")
	}
	s, err := p.tell(ctx, o)
	s.Did = req.Monitor
	return s, err
}

// tell gives an order to all replicas and returns how they fare then.
func (p *Plane) tell(ctx context.Context, o *monitorOrder) (wire.MonitorStatus, error) {
	answers, missing, err := p.order(ctx, o)
	c := p.cfg.Mesh.Config.Heartbeat
	s := wire.MonitorStatus{
		Schema: wire.MonitorSchema, Time: p.clock().UTC(), Replicas: list(answers), Missing: list(missing),
		IntervalMS: c.Interval.Milliseconds(), TimeoutMS: c.Timeout.Milliseconds(),
	}
	s.State = s.Worst()
	return s, err
}

// monitorSummary is how all replicas fare, in the words of `sealmesh status`.
func (p *Plane) monitorSummary(ctx context.Context) wire.MonitorView {
	s, err := p.monitorStatus(ctx)
	if err != nil || len(s.Replicas) == 0 {
		s.Replicas = []wire.MonitorReplica{p.monitorView()}
		s.State = s.Worst()
	}
	v := wire.MonitorView{State: s.State, Replicas: len(s.Replicas), Missing: s.Missing}
	for _, r := range s.Replicas {
		v.Watched, v.Silent = max(v.Watched, r.Watched), max(v.Silent, r.SilentCount)
		if r.HeldSince != nil {
			v.Held = max(v.Held, r.WouldExpire)
			if v.HeldSince == nil || r.HeldSince.Before(*v.HeldSince) {
				v.HeldSince = r.HeldSince
			}
		}
	}
	return v
}
