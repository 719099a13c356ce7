package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
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
	Chains      []string         `json:"chains,omitempty"` // digests that the grant rests on
	Via         []agentid.ID     `json:"via,omitempty"`    // agents whose delegations it rests on
	Certificate string           `json:"certificate"`      // serial
	Grant       string           `json:"-"`
}

// Older reports whether the session was admitted before the records' epochs.
func (s *Session) Older(agentEpoch, instanceEpoch uint64) bool {
	return s.AgentEpoch < agentEpoch || s.Epoch < instanceEpoch
}

func sessionKey(s *Session) string {
	return s.Agent.String() + "." + s.Instance.String() + "." + s.ServerID + "." + strconv.FormatUint(s.ClientID, 10)
}

// PutSession records a session before its connection is admitted. One
// connection may authenticate again, so the key is the connection's.
func (s *Store) PutSession(ctx context.Context, sess Session) error {
	b, err := json.Marshal(sess)
	if err != nil {
		return fmt.Errorf("registry: session: %w", err)
	}
	ttl := ttlUntil(sess.Expires, s.cfg.Clock())
	if ttl <= 0 {
		return fmt.Errorf("registry: session of %s/%s has ended", sess.Agent, sess.Instance)
	}
	key := sessionKey(&sess)
	// A connection that authenticates again replaces its session, for which the
	// key must be free: a plain put would lose the time to live.
	if _, err := s.sessions.Create(ctx, key, b, jetstream.KeyTTL(ttl)); err == nil {
		return nil
	} else if !isConflict(err) {
		return fmt.Errorf("registry: writing session: %w", err)
	}
	if err := s.sessions.Purge(ctx, key); err != nil {
		return fmt.Errorf("registry: replacing session: %w", err)
	}
	if _, err := s.sessions.Create(ctx, key, b, jetstream.KeyTTL(ttl)); err != nil {
		return fmt.Errorf("registry: writing session: %w", err)
	}
	return nil
}

// DropSession forgets a session whose connection is known to be gone.
func (s *Store) DropSession(ctx context.Context, sess Session) error {
	if err := s.sessions.Purge(ctx, sessionKey(&sess), jetstream.PurgeTTL(time.Minute)); err != nil {
		return fmt.Errorf("registry: dropping session: %w", err)
	}
	return nil
}

// Sessions lists the open sessions of an agent, or of all where id is zero.
func (s *Store) Sessions(ctx context.Context, id agentid.ID) ([]Session, error) {
	filter := ">"
	if !id.IsZero() {
		filter = id.String() + ".>"
	}
	var out []Session
	err := s.each(ctx, s.sessions, filter, func(key string, value []byte) error {
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
