package controlplane

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/registry"
)

// staggers is the share of an interval by which a replica waits longer than the
// others at most: with beats every 30 s three quarters of a second.
const staggers = 40

// startMonitor watches the beats of all instances.
func (p *Plane) startMonitor(ctx context.Context, service nkeys.KeyPair) error {
	c := p.cfg.Mesh.Config.Heartbeat
	prompt := make(chan struct{}, 1)
	if err := p.startBrakes(service); err != nil {
		return err
	}
	var err error
	p.monitor, err = heartbeat.NewMonitor(heartbeat.Config{
		Registry: verdicts{p}, Clock: p.clock, Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
		Share: c.MassExpiryShare, Stagger: time.Duration(c.Interval) / staggers, Log: p.log,
		Probe: func() {
			select {
			case prompt <- struct{}{}:
			default:
			}
		},
		Alarm: func(a heartbeat.Alarm) {
			if a.Kind == heartbeat.AlarmMassExpiry {
				p.tellHold(a)
			}
		},
	})
	if err != nil {
		return err
	}
	p.canary = heartbeat.NewCanary(p.monitor)
	if err := p.listenForBeats(ctx, service); err != nil {
		return err
	}
	p.wg.Go(p.watch)
	p.pulse, err = heartbeat.NewSender(heartbeat.SenderConfig{
		Agent: agentid.Control, Instance: agentid.InstanceOf(p.speaker.Key.PublicKey()), Epoch: p.epoch.Load().String(),
		Client: "control", Interval: time.Duration(c.Interval), Prompt: prompt, Send: p.canary.Wrap(p.sendBeat), Log: p.log,
	})
	if err != nil {
		return err
	}
	return p.shareBrakes()
}

// gap says that documents of the feed may have been missed on this side, and
// words of other replicas.
func (p *Plane) gap() {
	if p.started.Load() {
		p.monitor.Gap()
		p.missed()
	}
}

// missed says that documents of the feed may have been missed because something
// on this connection was too slow. Beats have a connection of their own: whoever
// asks so much that he is not heard must not put off every judgement by it.
func (p *Plane) missed() {
	if p.started.Load() {
		p.gate.Peers().Gap()
		p.replay.soon()
	}
}

// watch follows the registry: who has to be watched, who lost authority, and
// what the ticks have to say.
func (p *Plane) watch() {
	for p.ctx.Err() == nil {
		w := watcher{p: p, agents: map[agentid.ID]*registry.Agent{}, instances: map[agentid.ID]map[agentid.Instance]*registry.Instance{}}
		ctx, done := p.older.watching(p.ctx)
		err := p.store.Watch(ctx, w.event)
		done()
		if p.ctx.Err() != nil {
			return
		}
		p.log.Warn().Err(err).Msg("watching the registry again")
		select {
		case <-p.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

type watcher struct {
	p         *Plane
	agents    map[agentid.ID]*registry.Agent
	instances map[agentid.ID]map[agentid.Instance]*registry.Instance
}

func (w *watcher) event(e registry.Event) error {
	switch {
	case e.Older != "":
		w.p.checkSoon(e.Older)
	case e.Agent != nil:
		old := w.agents[e.Agent.Agent]
		w.agents[e.Agent.Agent] = e.Agent
		w.p.epochs.note(e.Agent, e.Current)
		cut := old != nil && e.Agent.Epoch > old.Epoch
		if cut {
			w.p.cutting.tell(e.Agent)
		}
		shrank := cut || old != nil && voidedMore(old, e.Agent)
		if e.Current && shrank && !w.p.cutting.busy(e.Agent.Agent, e.Agent.Revision) {
			if cut && e.Agent.Changed.By != e.Agent.Agent.String() {
				w.p.cutSoon(e.Agent.Agent)
			} else {
				w.p.cutLater(e.Agent.Agent) // it may wait for the answer of another replica
			}
		}
		if e.Current || len(e.Agent.Durables) > 0 {
			w.p.durables.changed(e.Agent)
		}
		w.always(old, e.Agent)
		if e.Agent.Status == registry.Expired {
			w.elsewhere(e.Agent.Agent, agentid.Instance{}, envelope.Epoch{Agent: e.Agent.Epoch}.String())
		}
		for _, i := range w.instances[e.Agent.Agent] {
			w.observe(i)
		}
	case e.Topics != nil:
		if e.Current {
			w.p.durables.soonAll()
		}
	case e.Instance != nil:
		all := w.instances[e.Instance.Agent]
		if all == nil {
			all = map[agentid.Instance]*registry.Instance{}
			w.instances[e.Instance.Agent] = all
		}
		old := all[e.Instance.Instance]
		all[e.Instance.Instance] = e.Instance
		if e.Current && old != nil && e.Instance.Epoch > old.Epoch && !w.p.cutting.busy(e.Instance.Agent, 0) {
			if e.Instance.Changed.By != e.Instance.Agent.String() {
				w.p.cutSoon(e.Instance.Agent)
			} else {
				w.p.cutLater(e.Instance.Agent)
			}
		}
		w.observe(e.Instance)
	default:
		// Everything that was there is known now. What was cut while nobody
		// watched, or was left half done by a replica that died, is cut here.
		agents, instances := maps.Clone(w.agents), make(map[agentid.ID]map[agentid.Instance]*registry.Instance, len(w.instances))
		for id, all := range w.instances {
			instances[id] = maps.Clone(all)
		}
		w.p.wg.Go(func() { w.p.lookThrough(agents, instances) })
		w.p.recallBeats(instances)
		w.p.durables.soon(everybody)
	}
	return nil
}

// voidedMore reports whether a delegation was taken back. Ended ones leave the
// list at the same time, so its length tells nothing.
func voidedMore(old, now *registry.Agent) bool {
	return slices.ContainsFunc(now.Voided, func(v registry.Void) bool { return !slices.Contains(old.Voided, v) })
}

// always has an agent watched that must have a live instance, also while it has
// none, and no longer where an operator took that back or took it out: several at
// once that are not let in would look like as many who fell silent together.
func (w *watcher) always(old, a *registry.Agent) {
	switch is := a.Heartbeat == registry.HeartbeatAlways; {
	case a.Status != registry.Active && a.Status != registry.Expired:
		w.p.monitor.Forget(a.Agent, agentid.Instance{})
		return
	case is && a.Status == registry.Active:
	case !is && old != nil && old.Heartbeat == registry.HeartbeatAlways:
	default:
		return
	}
	epoch := envelope.Epoch{Agent: a.Epoch}.String()
	policy, err := heartbeat.ParsePolicy(string(a.Heartbeat))
	if err == nil {
		err = w.p.monitor.Watch(a.Agent, agentid.Instance{}, epoch, policy)
	}
	if err != nil {
		w.p.log.Debug().Err(err).Str("agent", a.Agent.String()).Msg("agent is not watched")
	}
}

// observe puts an instance under the monitor's watch. One that left or expired
// stays known there, so that an old beat of it is still refused; one that an
// operator took out is not to be judged by its silence.
func (w *watcher) observe(i *registry.Instance) {
	a := w.agents[i.Agent]
	if a == nil || i.Agent == agentid.Control {
		return
	}
	if i.State == registry.InstanceRevoked || a.Status != registry.Active && a.Status != registry.Expired {
		w.p.monitor.Forget(i.Agent, i.Instance)
		return
	}
	if i.State == registry.InstanceExpired {
		w.elsewhere(i.Agent, i.Instance, epochText(a, i))
	}
	if i.State != registry.Online || a.Status != registry.Active {
		return
	}
	policy, err := heartbeat.ParsePolicy(string(a.Heartbeat))
	if err == nil {
		err = w.p.monitor.Watch(i.Agent, i.Instance, epochText(a, i), policy)
	}
	if err != nil {
		w.p.log.Debug().Err(err).Str("agent", i.Agent.String()).Msg("instance is not watched")
	}
}

// elsewhere tells the monitor that another replica was the first to judge.
func (w *watcher) elsewhere(id agentid.ID, inst agentid.Instance, epoch string) {
	if err := w.p.monitor.Expired(id, inst, epoch); err != nil {
		w.p.log.Debug().Err(err).Str("agent", id.String()).Msg("expiry of another replica not noted")
	}
}

// verdicts carries the monitor's judgements to the registry.
type verdicts struct{ p *Plane }

// Expire implements heartbeat.Registry.
func (v verdicts) Expire(ctx context.Context, id agentid.ID, inst agentid.Instance, epoch, reason string) error {
	e, err := envelope.ParseEpoch(epoch)
	if err != nil {
		return err
	}
	if !inst.IsZero() {
		if err := v.p.heardElsewhere(ctx, id, inst); err != nil {
			return err
		}
	}
	if inst.IsZero() {
		err = v.p.store.ExpireAgent(ctx, id, e.Agent, reason)
	} else {
		err = v.p.store.ExpireInstance(ctx, id, inst, e.Instance, reason)
	}
	if err == nil {
		v.p.change(agentid.Control, id, inst, "expire", reason, nil)
		v.p.cutSoon(id)
	}
	return err
}

// Left implements heartbeat.Registry.
func (v verdicts) Left(ctx context.Context, id agentid.ID, inst agentid.Instance, _ string) error {
	err := v.p.store.Leave(ctx, id, inst)
	if err == nil {
		v.p.change(id, id, inst, "leave", "", nil)
	}
	return err
}

// change logs one change of the control plane.
func (p *Plane) change(by, id agentid.ID, inst agentid.Instance, what, reason string, err error) {
	rec := audit.Record{
		Kind: audit.Change, Verdict: audit.Accepted, Sender: by, Peer: id, Instance: inst, Scope: what, Detail: reason,
	}
	if err != nil {
		rec.Verdict, rec.Reason, rec.Detail = audit.Refused, denial.Of(err), denial.Detail(err)
	}
	p.audited(rec)
}

func (p *Plane) refusedMessage(kind audit.Kind, scope string, msg *nats.Msg, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	rec := audit.Record{Kind: kind, Verdict: audit.Refused, Peer: agentid.Control, Reason: denial.Of(err), Detail: denial.Detail(err), Scope: scope, Size: len(msg.Data)}
	if s, e := p.space.Parse(msg.Subject); e == nil {
		rec.Sender, rec.Subject = s.Sender, msg.Subject
	}
	p.audited(rec)
}
