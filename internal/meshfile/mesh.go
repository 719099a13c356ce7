package meshfile

import (
	"cmp"
	"maps"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// version is that of the file's format.
const version = 1

// Mesh is what a file says. Its lists are sorted and every setting has its
// value, also where the file relies on the default. A nil list is a section that
// the file does not have.
type Mesh struct {
	Topics []registry.Topic
	Agents []registry.NewAgent
}

// Agent returns what the file says of an agent.
func (m *Mesh) Agent(id agentid.ID) (registry.NewAgent, bool) {
	i, ok := slices.BinarySearchFunc(m.Agents, id, func(a registry.NewAgent, id agentid.ID) int { return byID(a.Agent, id) })
	if !ok {
		return registry.NewAgent{}, false
	}
	return m.Agents[i], true
}

func byID(a, b agentid.ID) int { return cmp.Compare(a.String(), b.String()) }

// settle gives every setting its value and every list its order.
func settle(a *registry.NewAgent) {
	if a.Kind == "" {
		a.Kind = registry.Service
	}
	if a.Heartbeat == "" {
		a.Heartbeat = usualHeartbeat(a.Stock)
	}
	if a.Readmit == "" {
		a.Readmit = registry.ReadmitAttestation
	}
	if a.Sessions == "" {
		a.Sessions = registry.SessionsAny
	}
	if a.Depth == 0 {
		a.Depth = registry.DefaultDepth
	}
	if len(a.Labels) == 0 {
		a.Labels = nil
	}
	a.Rights = a.Rights.Union(registry.Rights{})
}

// usualHeartbeat is the default: a stock client sends no beats.
func usualHeartbeat(stock bool) registry.Heartbeat {
	if stock {
		return registry.HeartbeatNone
	}
	return registry.HeartbeatSession
}

func sameLabels(a, b map[string]string) bool { return maps.Equal(a, b) }
