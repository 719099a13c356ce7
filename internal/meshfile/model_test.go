package meshfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// mesh is a control plane in a map: the same operations with the same refusals,
// as far as a plan can meet them.
type mesh struct {
	mu     sync.Mutex
	agents map[agentid.ID]*member
	topics map[string]registry.Topic
	log    []wire.AdminRequest // what changed something
	// before is asked before each operation and may fail it; it may also change
	// the mesh, as somebody else would.
	before func(wire.AdminRequest) error
	after  func(wire.AdminRequest) error
}

type member struct {
	registry.NewAgent
	status  registry.Status
	removed bool
	open    int // connections
}

var instance = agentid.InstanceOf("UANYKEY")

func newMesh() *mesh {
	return &mesh{agents: map[agentid.ID]*member{}, topics: map[string]registry.Topic{}}
}

func (m *mesh) operate(_ context.Context, req wire.AdminRequest) (json.RawMessage, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	var r wire.AdminRequest // as it crosses the wire
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	if m.before != nil {
		if err := m.before(r); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	answer, err := m.do(r)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if m.after != nil {
		if err := m.after(r); err != nil {
			return nil, err
		}
	}
	return json.Marshal(answer)
}

func (m *mesh) do(r wire.AdminRequest) (any, error) {
	switch r.Op {
	case wire.OpList:
		var l wire.AgentList
		for _, a := range m.agents {
			if !a.removed {
				l.Agents = append(l.Agents, a.view())
			}
		}
		return l, nil
	case wire.OpTopics:
		var l wire.TopicList
		for _, t := range m.topics {
			l.Topics = append(l.Topics, wire.TopicView{Topic: t.Topic, MaxAgeMS: t.MaxAge * 1000})
		}
		return l, nil
	case wire.OpShow:
		a, err := m.find(r.Target)
		if err != nil {
			return nil, err
		}
		return a.view(), nil
	}
	if r.DryRun {
		a, err := m.find(r.Target)
		if err != nil {
			return nil, err
		}
		return wire.CutResult{Agent: a.Agent, Cut: a.open, DryRun: true}, nil
	}
	m.log = append(m.log, r)
	switch r.Op {
	case wire.OpTopicAdd:
		m.topics[r.Topic.Topic] = *r.Topic
		return wire.TopicList{}, nil
	case wire.OpTopicRemove:
		if _, ok := m.topics[r.Topic.Topic]; !ok {
			return nil, denial.New(denial.NotFound, "no topic")
		}
		delete(m.topics, r.Topic.Topic)
		return wire.TopicList{}, nil
	case wire.OpAdd:
		if !r.NoJoin {
			return nil, errors.New("add makes a join token")
		}
		if _, ok := m.agents[r.New.Agent]; ok {
			return nil, denial.New(denial.AlreadyExists, "exists")
		}
		if _, _, err := r.New.Rights.Scopes(); err != nil {
			return nil, err
		}
		m.agents[r.New.Agent] = &member{NewAgent: *r.New, status: registry.Pending}
		return wire.AddResult{Agent: r.New.Agent}, nil
	}
	a, err := m.find(r.Target)
	if err != nil {
		return nil, err
	}
	if a.status == registry.Revoked && r.Op != wire.OpRemove {
		return nil, denial.New(denial.WrongState, "revoked")
	}
	cut := wire.CutResult{Agent: a.Agent, Confirmed: true}
	switch r.Op {
	case wire.OpGrant:
		union := a.Rights.Union(r.Rights)
		if _, _, err := union.Scopes(); err != nil {
			return nil, err
		}
		a.Rights = union
		return a.view(), nil
	case wire.OpUngrant:
		if !within(r.Rights, a.Rights) {
			return nil, denial.New(denial.NotFound, "does not hold")
		}
		if a.Rights, err = a.Rights.Without(r.Rights); err != nil {
			return nil, err
		}
		cut.Cut, a.open = a.open, 0
		return cut, nil
	case wire.OpSet:
		a.set(*r.Settings)
		return a.view(), nil
	case wire.OpRemove:
		a.status, a.removed = registry.Revoked, true
		cut.Cut, a.open = a.open, 0
		return cut, nil
	}
	return nil, denial.New(denial.BadInput, "no operation %q", string(r.Op))
}

func (m *mesh) find(target string) (*member, error) {
	id, err := agentid.Parse(target)
	if err != nil {
		return nil, denial.New(denial.BadInput, "%w", err)
	}
	a, ok := m.agents[id]
	if !ok {
		return nil, denial.New(denial.UnlistedAgent, "agent %q", id)
	}
	return a, nil
}

func (a *member) set(s wire.Settings) {
	if s.Kind != nil {
		a.Kind = *s.Kind
	}
	if s.Stock != nil {
		if *s.Stock && !a.Stock {
			a.Heartbeat = registry.HeartbeatNone
		}
		a.Stock = *s.Stock
	}
	if s.Heartbeat != nil {
		a.Heartbeat = *s.Heartbeat
	}
	if s.Sessions != nil {
		a.Sessions = *s.Sessions
	}
	if s.Readmit != nil {
		a.Readmit = *s.Readmit
	}
	if s.Depth != nil {
		a.Depth = *s.Depth
	}
	if s.Labels != nil {
		a.Labels = *s.Labels
	}
	if s.Join != nil {
		a.Join = *s.Join
	}
}

func (a *member) view() wire.AgentView {
	v := wire.AgentView{
		Agent: a.Agent, Status: a.status, Kind: a.Kind, Heartbeat: a.Heartbeat, Readmit: a.Readmit, Sessions: a.Sessions, Stock: a.Stock, Depth: a.Depth, Labels: a.Labels, Join: a.Join,
		Call: a.Rights.Call, Handle: a.Rights.Handle, Publish: a.Rights.Publish, Subscribe: a.Rights.Subscribe, MayDelegate: a.Rights.MayDelegate,
		Plain: wire.PlainView{Publish: a.Rights.Plain.Publish, Subscribe: a.Rights.Plain.Subscribe},
	}
	if a.status == registry.Active {
		v.Instances = []wire.InstanceView{{Instance: instance, State: registry.Left, Connections: a.open}}
	}
	return v
}

// within reports whether b has all of a.
func within(a, b registry.Rights) bool {
	for i, l := range lists(a) {
		for _, s := range l {
			if !slices.Contains(lists(b)[i], s) {
				return false
			}
		}
	}
	return true
}

func lists(r registry.Rights) [][]string {
	out := [][]string{r.Publish, r.Subscribe, r.Plain.Publish, r.Plain.Subscribe}
	var call, handle, may []string
	for _, s := range r.Call {
		call = append(call, s.String())
	}
	for _, s := range r.Handle {
		handle = append(handle, s.String())
	}
	for _, s := range r.MayDelegate {
		may = append(may, s.String())
	}
	return append(out, call, handle, may)
}

// copy is a second mesh in the same state.
func (m *mesh) copy() *mesh {
	c := newMesh()
	maps.Copy(c.topics, m.topics)
	for id, a := range m.agents {
		b := *a
		b.Rights = a.Rights.Union(registry.Rights{})
		b.Labels = maps.Clone(a.Labels)
		c.agents[id] = &b
	}
	return c
}

// load puts what a file says into the mesh, all of it enrolled, with two
// connections each.
func (m *mesh) load(t *testing.T, text string) *mesh {
	t.Helper()
	f := mustParse(t, text)
	for _, topic := range f.Topics {
		m.topics[topic.Topic] = topic
	}
	for _, a := range f.Agents {
		m.agents[a.Agent] = &member{NewAgent: a, status: registry.Active, open: 2}
	}
	return m
}

func (m *mesh) plan(t *testing.T, want *meshfile.Mesh, o meshfile.Options) *meshfile.Plan {
	t.Helper()
	have, err := meshfile.Read(t.Context(), m.operate, want)
	if err != nil {
		t.Fatal(err)
	}
	return meshfile.NewPlan(want, have, o)
}

func (m *mesh) text(t *testing.T) string {
	t.Helper()
	s, err := meshfile.Read(t.Context(), m.operate, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(meshfile.Export(s).Text())
}
