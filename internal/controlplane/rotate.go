package controlplane

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// What a rotation is spread over unless the operator says otherwise: each costs the
// control plane a certificate, and every server a connection or two.
const (
	rotatePace  = time.Second / 20 // for each instance
	rotateLeast = 5 * time.Second
)

// rotate has the instances of an agent, one instance, or all of them replace their
// certificates and connections.
func (p *Plane) rotate(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	var id agentid.ID
	var inst agentid.Instance
	if req.Target != "" {
		var err error
		if id, inst, err = agentid.ParseTarget(req.Target); err != nil {
			return nil, denial.New(denial.BadInput, "%w", err)
		}
	}
	r, err := p.tellAll(ctx, id, inst, req)
	p.change(by, id, inst, string(wire.OpRotate), req.Reason, err)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// turn is one instance and when it is to rotate.
type turn struct {
	agent    *registry.Agent
	instance *registry.Instance
	there    bool
	delay    time.Duration
}

func (p *Plane) tellAll(ctx context.Context, id agentid.ID, inst agentid.Instance, req wire.AdminRequest) (wire.Rotation, error) {
	r := wire.Rotation{Schema: wire.RotationSchema, Told: []wire.RotationView{}, Away: []wire.AwayView{}}
	if req.Over < 0 || req.Over > wire.RotateMost {
		return r, denial.New(denial.BadInput, "a rotation is spread over 0s to %s", wire.RotateMost)
	}
	if id.Reserved() {
		return r, denial.New(denial.ReservedName, "%q belongs to the mesh itself", id)
	}
	turns, err := p.turns(ctx, id, inst)
	if err != nil {
		return r, err
	}
	r.OverMS = spread(turns, req.Over).Milliseconds()
	room := p.ctrl.MaxPayload() / 2
	var last agentid.ID
	for _, t := range turns {
		if t.agent.Agent.String() <= req.After.String() {
			continue
		}
		if room < 0 && t.agent.Agent != last {
			r.Next = last // all instances of an agent are on one page
			break
		}
		last = t.agent.Agent
		room -= roomOfTurn
		if !t.there {
			r.Away = append(r.Away, wire.AwayView{Agent: last, Instance: t.instance.Instance, State: t.instance.State})
			continue
		}
		if err := p.tellToRotate(t); err != nil {
			return r, err
		}
		r.Told = append(r.Told, wire.RotationView{
			Agent: last, Instance: t.instance.Instance, Serial: t.instance.Serial, DelayMS: t.delay.Milliseconds(), Stock: t.agent.Stock,
		})
	}
	if err := p.ctrl.FlushWithContext(ctx); err != nil {
		return r, fmt.Errorf("controlplane: %w", err)
	}
	return r, nil
}

// roomOfTurn is what one instance takes of an answer at most, in bytes: two names,
// a serial number and the rest.
const roomOfTurn = 320

// turns lists who is concerned, in order of the names, and who of them is connected.
func (p *Plane) turns(ctx context.Context, id agentid.ID, inst agentid.Instance) ([]turn, error) {
	agents := map[agentid.ID]*registry.Agent{}
	if id.IsZero() {
		list, err := p.store.Agents(ctx, false)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			agents[a.Agent] = a
		}
	} else {
		a, err := p.store.Agent(ctx, id)
		if err != nil {
			return nil, err
		}
		agents[id] = a
	}
	if !inst.IsZero() {
		if _, err := p.store.Instance(ctx, id, inst); err != nil {
			return nil, err
		}
	}
	instances, err := p.store.Instances(ctx, id)
	if err != nil {
		return nil, err
	}
	sessions, err := p.store.Sessions(ctx, id)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, s := range sessions {
		there[registry.InstanceKey(s.Agent, s.Instance)] = true
	}
	var out []turn
	for _, i := range instances {
		a := agents[i.Agent]
		if a == nil || i.Agent.Reserved() || a.Status == registry.Revoked || i.State == registry.InstanceRevoked ||
			!inst.IsZero() && i.Instance != inst {
			continue
		}
		out = append(out, turn{agent: a, instance: i, there: there[registry.InstanceKey(i.Agent, i.Instance)]})
	}
	slices.SortFunc(out, func(a, b turn) int {
		return cmp.Or(cmp.Compare(a.agent.Agent.String(), b.agent.Agent.String()), cmp.Compare(a.instance.Instance.String(), b.instance.Instance.String()))
	})
	return out, nil
}

// spread gives each that is there a moment of its own: evenly, so that no server gets
// all of them at once, and somewhere within its share. It returns over how long.
func spread(turns []turn, over time.Duration) time.Duration {
	n := 0
	for _, t := range turns {
		if t.there {
			n++
		}
	}
	if over == 0 {
		over = max(rotateLeast, time.Duration(n)*rotatePace)
	}
	k := 0
	for i := range turns {
		if turns[i].there {
			share := over / time.Duration(n)
			turns[i].delay = time.Duration(k)*share + rand.N(share+1)
			k++
		}
	}
	return over
}

func (p *Plane) tellToRotate(t turn) error {
	body, err := json.Marshal(wire.RotateNote{Instance: t.instance.Instance, DelayMS: t.delay.Milliseconds()})
	if err != nil {
		return err
	}
	msg, _, _, err := p.speaker.Message(p.space.Note(agentid.Control, t.agent.Agent, wire.NoteRotate),
		envelope.Fields{ContentType: "application/json"}, nil, body, nil)
	if err != nil {
		return err
	}
	if err := p.ctrl.PublishMsg(msg); err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	return nil
}
