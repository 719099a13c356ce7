package registry

import (
	"context"
	"fmt"

	"github.com/sealmesh/sealmesh/agentid"
)

// StandingPage is how many instances one page of [Store.Standing] looks at: no
// more records are read for one question.
const StandingPage = 64

// Standing returns the signed records of those instances of an agent whose keys
// count, by page: of those behind after, in their order. next is where the list
// goes on, and zero where it ended; a page may be empty and not the last. All are
// read from the leader. Where the agent is not registered it is
// denial.UnlistedAgent.
func (s *Store) Standing(ctx context.Context, id agentid.ID, after agentid.Instance) (records map[agentid.Instance]string, next agentid.Instance, err error) {
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, next, err
	}
	all, err := s.keys(ctx, AgentsBucket, id.String()+".*")
	if err != nil {
		return nil, next, err
	}
	page := make([]string, 0, StandingPage)
	least := map[string]Floor{}
	for _, key := range all {
		_, inst, ok := splitInstanceKey(key)
		if !ok || inst.String() <= after.String() || s.isGone(key) {
			continue
		}
		if len(page) == StandingPage {
			_, next, _ = splitInstanceKey(page[len(page)-1])
			break
		}
		page = append(page, key)
		least[key] = s.floor(key)
	}
	records = map[agentid.Instance]string{}
	err = s.eachOf(ctx, AgentsBucket, page, func(key string, value []byte) error {
		agent, inst, _ := splitInstanceKey(key)
		i, err := DecodeInstance(string(value), agent, inst, s.Ring(), s.cfg.Clock())
		if err == nil {
			err = s.raise(key, floorOfInstance(i), least[key])
		}
		switch {
		case err != nil:
			return fmt.Errorf("registry: record of %s: %w", key, err)
		case i.State == InstanceRevoked || i.Since < a.Since:
			s.noteGone(key)
		case i.State.Standing() == nil && i.Belongs(a) == nil:
			records[inst] = string(value)
		}
		return nil
	})
	if err != nil {
		return nil, agentid.Instance{}, err
	}
	return records, next, nil
}

// isGone reports whether an instance is known to be revoked, or of a name's former
// holder. Neither ever ends, and their records stay for ever: an agent whose
// instances come and go has many of them, which nobody should read again and again.
func (s *Store) isGone(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone[key]
}

func (s *Store) noteGone(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone[key] = true
}
