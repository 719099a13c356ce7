package registry

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// InstanceSessions lists the open sessions of one instance, as the leader has
// them: of two connections that are admitted at the same time, and each of which
// was written before the other's list is asked for, at least one sees the other.
func (s *Store) InstanceSessions(ctx context.Context, id agentid.ID, inst agentid.Instance) ([]Session, error) {
	if id.IsZero() || inst.IsZero() {
		return nil, denial.New(denial.BadInput, "the empty name is nobody's")
	}
	var out []Session
	err := s.each(ctx, SessionsBucket, InstanceKey(id, inst)+".>", func(key string, value []byte) error {
		if sess := s.decodeSession(key, value); sess != nil {
			out = append(out, *sess)
		}
		return nil
	})
	return out, err
}
