package meshfile

import (
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Options say what a plan may do.
type Options struct {
	Prune     bool       // remove what the file does not list
	Self      agentid.ID // who applies it
	AllowSelf bool       // it may take from Self the right to apply further ones
}

// Plan is what makes a mesh as a file says it is.
type Plan struct {
	Steps   []Step
	Surplus []Change // what the file does not list and what is left as it is
	Refused error    // why none of it may be done, or nil
}

// The phases of a plan, in their order. Topics come first, so that the first
// event under a new right is stored. Then authority is taken, and only then
// given: a right that moves from one agent to another is held by nobody for a
// moment, and never by both, and a plan that fails half-way leaves less. Topics
// go when nobody is left who may use them. What is taken from the one who applies
// comes last, because it closes the connection that the plan runs on.
const (
	phaseTopics = iota
	phaseRemove
	phaseUngrant
	phaseSet
	phaseAdd
	phaseGrant
	phaseTopicsGone
	phaseSelf
	phases
)

type planner struct {
	Options
	steps   [phases][]Step
	surplus []Change
	revoked []agentid.ID // named in the file
}

// NewPlan compares a file with a state that [Read] returned for it.
func NewPlan(want *Mesh, have *State, o Options) *Plan {
	p := &planner{Options: o}
	if want.Topics != nil {
		p.topics(want, have)
	}
	if want.Agents != nil {
		p.agents(want, have)
	}
	return &Plan{Steps: slices.Concat(p.steps[:]...), Surplus: p.surplus, Refused: p.guard(want, have)}
}

func (p *planner) add(phase int, s Step) { p.steps[phase] = append(p.steps[phase], s) }

func (p *planner) topics(want *Mesh, have *State) {
	had := map[string]registry.Topic{}
	for _, t := range have.Topics {
		had[t.Topic] = t
	}
	for _, t := range want.Topics {
		old, ok := had[t.Topic]
		delete(had, t.Topic)
		c := Change{Topic: t.Topic, Kind: Add, Field: "max_age", To: age(t)}
		switch {
		case ok && old == t:
			continue
		case ok:
			c.Kind, c.From = Edit, age(old)
		}
		p.add(phaseTopics, Step{Request: wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &t}, Changes: []Change{c}})
	}
	for _, t := range have.Topics {
		if _, ok := had[t.Topic]; !ok {
			continue
		}
		c := Change{Topic: t.Topic, Kind: Remove}
		if !p.Prune {
			p.surplus = append(p.surplus, c)
			continue
		}
		p.add(phaseTopicsGone, Step{Request: wire.AdminRequest{Op: wire.OpTopicRemove, Topic: &registry.Topic{Topic: t.Topic}}, Changes: []Change{c}})
	}
}

func (p *planner) agents(want *Mesh, have *State) {
	had := map[agentid.ID]Agent{}
	for _, a := range have.Agents {
		had[a.Agent] = a
	}
	for _, a := range want.Agents {
		old, ok := had[a.Agent]
		switch {
		case !ok:
			p.add(phaseAdd, Step{Request: wire.AdminRequest{Op: wire.OpAdd, New: &a, NoJoin: true}, Changes: begins(a)})
		case old.Status == registry.Revoked:
			p.revoked = append(p.revoked, a.Agent)
		default:
			p.change(old, a)
		}
	}
	for _, a := range have.Agents {
		if _, ok := want.Agent(a.Agent); ok || a.Status == registry.Revoked {
			continue // what is revoked is gone already
		}
		c := Change{Agent: a.Agent, Kind: Remove}
		if !p.Prune {
			p.surplus = append(p.surplus, c)
			continue
		}
		p.add(phaseRemove, Step{
			Request: wire.AdminRequest{Op: wire.OpRemove, Target: a.Agent.String(), Reason: "not in the mesh file"},
			Changes: []Change{c}, Cuts: a.Connections,
		})
	}
}

func (p *planner) change(old Agent, a registry.NewAgent) {
	taking, setting := phaseUngrant, phaseSet
	if a.Agent == p.Self {
		taking, setting = phaseSelf, phaseSelf
	}
	if c := settingChanges(Set, old.NewAgent, a); len(c) > 0 {
		s := settingsOf(old.NewAgent, a)
		step := Step{Request: wire.AdminRequest{Op: wire.OpSet, Target: a.Agent.String(), Settings: &s}, Changes: c}
		if a.Depth < old.Depth || old.Stock && !a.Stock {
			step.Cuts = old.Connections
		}
		p.add(setting, step)
	}
	if r := less(old.Rights, a.Rights); !r.IsZero() {
		p.add(taking, Step{
			Request: wire.AdminRequest{Op: wire.OpUngrant, Target: a.Agent.String(), Rights: r},
			Changes: rightChanges(a.Agent, Ungrant, r), Cuts: old.Connections,
		})
	}
	if r := less(a.Rights, old.Rights); !r.IsZero() {
		p.add(phaseGrant, Step{
			Request: wire.AdminRequest{Op: wire.OpGrant, Target: a.Agent.String(), Rights: r},
			Changes: rightChanges(a.Agent, Grant, r),
		})
	}
}

// settingsOf are the settings that differ. The heartbeat is named wherever a
// client becomes a stock one, because that alone would switch it off.
func settingsOf(from, to registry.NewAgent) wire.Settings {
	var s wire.Settings
	if from.Kind != to.Kind {
		s.Kind = &to.Kind
	}
	if from.Heartbeat != to.Heartbeat || from.Stock != to.Stock {
		s.Heartbeat = &to.Heartbeat
	}
	if from.Readmit != to.Readmit {
		s.Readmit = &to.Readmit
	}
	if from.Sessions != to.Sessions {
		s.Sessions = &to.Sessions
	}
	if from.Stock != to.Stock {
		s.Stock = &to.Stock
	}
	if from.Depth != to.Depth {
		s.Depth = &to.Depth
	}
	if from.Join != to.Join {
		s.Join = &to.Join
	}
	if !sameLabels(from.Labels, to.Labels) {
		l := to.Labels
		if l == nil {
			l = map[string]string{}
		}
		s.Labels = &l
	}
	return s
}

// less are the rights of a that b does not have, each list by itself: a right
// that may no longer be passed on is taken back as one to pass on, and held.
func less(a, b registry.Rights) registry.Rights {
	return registry.Rights{
		Call: without(a.Call, b.Call), Handle: without(a.Handle, b.Handle),
		Publish: without(a.Publish, b.Publish), Subscribe: without(a.Subscribe, b.Subscribe),
		MayDelegate: without(a.MayDelegate, b.MayDelegate),
		Plain:       registry.Plain{Publish: without(a.Plain.Publish, b.Plain.Publish), Subscribe: without(a.Plain.Subscribe, b.Plain.Subscribe)},
	}
}

func without[T string | capability.Scope](a, b []T) []T {
	var out []T
	for _, v := range a {
		if !slices.Contains(b, v) {
			out = append(out, v)
		}
	}
	return out
}
