package meshfile

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Operate asks the control plane for one admin operation and returns its answer,
// or the refusal, of which [denial.Of] gives the reason.
type Operate func(ctx context.Context, req wire.AdminRequest) (json.RawMessage, error)

// Agent is what a mesh says of an agent.
type Agent struct {
	registry.NewAgent
	Status      registry.Status
	Standing    bool // has an instance whose key counts
	Connections int  // open ones
}

// State is what a mesh says of itself, as far as a file can speak of it. Its
// lists are sorted.
type State struct {
	Topics []registry.Topic
	Agents []Agent
}

// Read asks the control plane for the state that want is about; for all of it
// where want is nil. Names in want that were removed are in the state as revoked.
func Read(ctx context.Context, operate Operate, want *Mesh) (*State, error) {
	s := &State{}
	if want == nil || want.Topics != nil {
		var list wire.TopicList
		if err := ask(ctx, operate, wire.AdminRequest{Op: wire.OpTopics}, &list); err != nil {
			return nil, fmt.Errorf("meshfile: reading the topics: %w", err)
		}
		for _, t := range list.Topics {
			s.Topics = append(s.Topics, registry.Topic{Topic: t.Topic, MaxAge: t.MaxAgeMS / 1000})
		}
	}
	if want == nil || want.Agents != nil {
		if err := s.readAgents(ctx, operate, want); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.Topics, func(a, b registry.Topic) int { return strings.Compare(a.Topic, b.Topic) })
	slices.SortFunc(s.Agents, func(a, b Agent) int { return byID(a.Agent, b.Agent) })
	return s, nil
}

func (s *State) readAgents(ctx context.Context, operate Operate, want *Mesh) error {
	list, err := wire.ListAgents(ctx, func(ctx context.Context, req wire.AdminRequest) (page wire.AgentList, err error) {
		return page, ask(ctx, operate, req, &page)
	})
	if err != nil {
		return fmt.Errorf("meshfile: reading the agents: %w", err)
	}
	listed := map[agentid.ID]bool{}
	for _, v := range list.Agents {
		if !v.Agent.Reserved() {
			listed[v.Agent] = true
			s.Agents = append(s.Agents, agentOf(v))
		}
	}
	if want == nil {
		return nil
	}
	// A removed agent is in no list, and its name cannot simply be added again.
	for _, a := range want.Agents {
		if listed[a.Agent] {
			continue
		}
		var v wire.AgentView
		err := ask(ctx, operate, wire.AdminRequest{Op: wire.OpShow, Target: a.Agent.String()}, &v)
		switch r := denial.Of(err); {
		case r == denial.UnlistedAgent || r == denial.NotFound:
		case err != nil:
			return fmt.Errorf("meshfile: reading agent %q: %w", a.Agent, err)
		default:
			s.Agents = append(s.Agents, agentOf(v))
		}
	}
	return nil
}

func ask(ctx context.Context, operate Operate, req wire.AdminRequest, answer any) error {
	b, err := operate(ctx, req)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("answer to %s: %w", req.Op, err)
	}
	return nil
}

func agentOf(v wire.AgentView) Agent {
	a := Agent{
		NewAgent: registry.NewAgent{
			Agent: v.Agent, Kind: v.Kind, Heartbeat: v.Heartbeat, Readmit: v.Readmit, Sessions: v.Sessions, Stock: v.Stock, Depth: v.Depth, Labels: v.Labels, Join: v.Join,
			Rights: registry.Rights{
				Call: v.Call, Handle: v.Handle, Publish: v.Publish, Subscribe: v.Subscribe, MayDelegate: v.MayDelegate,
				Plain: registry.Plain{Publish: v.Plain.Publish, Subscribe: v.Plain.Subscribe},
			},
		},
		Status: v.Status,
	}
	for _, i := range v.Instances {
		a.Connections += i.Connections
		a.Standing = a.Standing || i.State.Standing() == nil
	}
	settle(&a.NewAgent)
	return a
}

// Export is the file that says what the mesh is. Revoked agents are not in it:
// what is over for ever is nothing to bring about.
func Export(s *State) *Mesh {
	m := &Mesh{Topics: slices.Clone(s.Topics), Agents: []registry.NewAgent{}}
	if m.Topics == nil {
		m.Topics = []registry.Topic{}
	}
	for _, a := range s.Agents {
		if a.Status != registry.Revoked {
			m.Agents = append(m.Agents, a.NewAgent)
		}
	}
	return m
}

// administers reports whether the agent, with these rights, can change the
// registry now.
func (a Agent) administers(r registry.Rights) bool {
	return a.Status == registry.Active && a.Standing && slices.Contains(r.Call, adminScope)
}

var adminScope = capability.RequireScope(wire.AdminScope)
