package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Session is one issued user JWT: the connection it admitted and what its grant
// rests on. It is the index by which connections are found and cut.
type Session struct {
	Agent       agentid.ID       `json:"agent"`
	Instance    agentid.Instance `json:"instance"`
	AgentEpoch  uint64           `json:"agent_epoch"`
	Epoch       uint64           `json:"epoch"`
	ServerID    string           `json:"server_id"`
	ClientID    uint64           `json:"client_id"`
	Host        string           `json:"host"`
	UserKey     string           `json:"user_key"`
	Issued      time.Time        `json:"issued"`
	Expires     time.Time        `json:"expires"`
	Chains      []string         `json:"chains,omitempty"`  // digests that the grant rests on
	Via         []agentid.ID     `json:"via,omitempty"`     // agents whose delegations it rests on
	Footing     string           `json:"footing,omitempty"` // of the agent's record when it was admitted
	Certificate string           `json:"certificate"`       // serial
}

// Older reports whether the session was admitted before the records' epochs.
func (s *Session) Older(agentEpoch, instanceEpoch uint64) bool {
	return s.AgentEpoch < agentEpoch || s.Epoch < instanceEpoch
}

func sessionKey(s *Session) string {
	return s.Agent.String() + "." + s.Instance.String() + "." + s.ServerID + "." + strconv.FormatUint(s.ClientID, 10)
}

// PutSession records a session before its connection is admitted. One
// connection may authenticate again, so the key is the connection's and the
// newer session takes the place of the older in one step: at no moment is an
// admitted connection unlisted.
func (s *Store) PutSession(ctx context.Context, sess Session) error {
	if err := sess.check(); err != nil {
		return err
	}
	b, err := json.Marshal(sess)
	if err != nil {
		return fmt.Errorf("registry: session: %w", err)
	}
	ttl := ttlUntil(sess.Expires, s.cfg.Clock())
	if ttl <= 0 {
		return fmt.Errorf("registry: session of %s/%s has ended", sess.Agent, sess.Instance)
	}
	return s.publish(ctx, SessionsBucket, sessionKey(&sess), b, ttl)
}

// check refuses what would make a key of another form: the key is a subject.
func (s *Session) check() error {
	if s.Agent.IsZero() || s.Instance.IsZero() || s.ServerID == "" || strings.ContainsFunc(s.ServerID, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '_' && r != '-'
	}) {
		return denial.New(denial.BadInput, "a session needs an agent, an instance and a server ID")
	}
	return nil
}

// DropSession forgets a session whose connection is known to be gone.
func (s *Store) DropSession(ctx context.Context, sess Session) error {
	if err := sess.check(); err != nil {
		return err
	}
	return s.remove(ctx, SessionsBucket, sessionKey(&sess))
}

// Sessions lists the open sessions of an agent, or of all where id is zero.
func (s *Store) Sessions(ctx context.Context, id agentid.ID) ([]Session, error) {
	filter := ">"
	if !id.IsZero() {
		filter = id.String() + ".>"
	}
	var out []Session
	err := s.each(ctx, SessionsBucket, filter, func(key string, value []byte) error {
		var sess Session
		if err := json.Unmarshal(value, &sess); err != nil {
			s.cfg.Log.Error().Err(err).Str("key", key).Msg("session record refused")
			return nil
		}
		out = append(out, sess)
		return nil
	})
	return out, err
}
