//go:build unix

package kill_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// state is what an agent is known to be. In the zero state it is not there.
type state struct {
	status registry.Status
	epoch  uint64
}

// after is the state that an operation leads to.
func (s state) after(op wire.Op) state {
	switch op {
	case wire.OpAdd:
		return state{registry.Pending, 1}
	case wire.OpSuspend:
		return state{registry.Suspended, s.epoch + 1}
	case wire.OpResume:
		return state{registry.Active, s.epoch}
	case wire.OpRevoke:
		return state{registry.Revoked, s.epoch + 1}
	}
	return s
}

// opEnrol is the operation that is not an admin's: the agent's first instance
// comes, and the agent becomes active.
const opEnrol wire.Op = "enrol"

// model is what the registry has to hold.
type model struct {
	mu     sync.Mutex
	agents map[string]state
	// underway are the operations that were not acknowledged when the program
	// died, each agent one at most.
	underway map[string]wire.Op
}

func newModel() *model {
	return &model{agents: map[string]state{}, underway: map[string]wire.Op{}}
}

func (m *model) begin(id string, op wire.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underway[id] = op
}

// acknowledged records that the operation was answered.
func (m *model) acknowledged(id string, op wire.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.underway, id)
	m.agents[id] = m.expect(id, op)
}

func (m *model) expect(id string, op wire.Op) state {
	if op == opEnrol {
		return state{registry.Active, m.agents[id].epoch}
	}
	return m.agents[id].after(op)
}

// ids are the agents that are known.
func (m *model) ids() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.agents))
}

func (m *model) state(id string) state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.agents[id]
}

// check compares the registry with what it has to hold, and takes over what was
// under way and happened.
func (m *model) check(list []wire.AgentView) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var wrong []string
	there := map[string]state{}
	for _, v := range list {
		there[v.Agent.String()] = state{v.Status, v.Epoch}
	}
	ids := map[string]bool{}
	for id := range m.agents {
		ids[id] = true
	}
	for id := range m.underway {
		ids[id] = true
	}
	for id := range ids {
		want := []state{m.agents[id]}
		if op, ok := m.underway[id]; ok {
			want = append(want, m.expect(id, op))
		}
		got := there[id]
		if !slices.Contains(want, got) {
			wrong = append(wrong, fmt.Sprintf("%s: got %v, want one of %v", id, got, want))
			continue
		}
		delete(there, id)
		if got != (state{}) {
			m.agents[id] = got
		}
	}
	delete(there, "admin")
	for id, s := range there {
		if _, known := ids[id]; !known {
			wrong = append(wrong, fmt.Sprintf("%s: got %v, and nobody added it", id, s))
		}
	}
	clear(m.underway)
	slices.Sort(wrong)
	return wrong
}

// count is how many agents there are in a status.
func (m *model) count(s registry.Status) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, a := range m.agents {
		if a.status == s {
			n++
		}
	}
	return n
}
