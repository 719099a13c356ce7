package registry

import (
	"context"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Durable is a durable subscription of an agent, shared by its instances. It is
// a wish: what it brings is what the agent may subscribe of it at the time.
type Durable struct {
	Name   string   `json:"name"`   // of the form of an agent ID
	Topics []string `json:"topics"` // sorted
}

func cloneDurables(list []Durable) []Durable {
	out := slices.Clone(list)
	for i := range out {
		out[i].Topics = slices.Clone(out[i].Topics)
	}
	return out
}

// SetDurable records a durable subscription of an agent, or other topics for one
// that it has. It gives no right: no epoch rises.
func (s *Store) SetDurable(ctx context.Context, id agentid.ID, d Durable) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	if _, err := agentid.Parse(d.Name); err != nil {
		return nil, denial.New(denial.BadInput, "name of a durable subscription: %w", err)
	}
	if len(d.Topics) == 0 || len(d.Topics) > limits.DurableTopics {
		return nil, denial.New(denial.BadInput, "a durable subscription has 1 to %d topics", limits.DurableTopics)
	}
	d.Topics = sortTopics(slices.Clone(d.Topics))
	for _, t := range d.Topics {
		if _, err := capability.SubscribeOf(t); err != nil {
			return nil, err
		}
	}
	return s.changeAgent(ctx, id, id.String(), "durable subscription", func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		i := slices.IndexFunc(a.Durables, func(e Durable) bool { return e.Name == d.Name })
		switch {
		case i >= 0 && slices.Equal(a.Durables[i].Topics, d.Topics):
			return errUnchanged
		case i >= 0:
			a.Durables[i] = d
		case len(a.Durables) >= limits.Durables:
			return denial.New(denial.QuotaExceeded, "agent %q has %d durable subscriptions", id, len(a.Durables))
		default:
			a.Durables = append(a.Durables, d)
		}
		return a.checkSize()
	})
}

// EndDurable gives a durable subscription up.
func (s *Store) EndDurable(ctx context.Context, id agentid.ID, name string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, id.String(), "durable subscription ended", func(a *Agent) error {
		i := slices.IndexFunc(a.Durables, func(e Durable) bool { return e.Name == name })
		if i < 0 {
			return errUnchanged
		}
		a.Durables = slices.Delete(a.Durables, i, i+1)
		return nil
	})
}
