package registry

import (
	"context"
	"encoding/json"
	"errors"
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

// Key names the connection among all sessions.
func (s *Session) Key() string {
	return s.Agent.String() + "." + s.Instance.String() + "." + s.ServerID + "." + strconv.FormatUint(s.ClientID, 10)
}

// listedLonger is how much longer than its JWT a session is listed: nats-server
// closes the connection up to a second late, and one that is open and not listed
// looks like one that nobody admitted.
const listedLonger = 2 * time.Second

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
	return s.publish(ctx, SessionsBucket, sess.Key(), b, ttl+listedLonger)
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
	return s.remove(ctx, SessionsBucket, sess.Key())
}

// Sessions lists the open sessions of an agent, or of all where id is zero.
func (s *Store) Sessions(ctx context.Context, id agentid.ID) ([]Session, error) {
	filter := ">"
	if !id.IsZero() {
		filter = id.String() + ".>"
	}
	var out []Session
	err := s.each(ctx, SessionsBucket, filter, func(key string, value []byte) error {
		if sess := s.decodeSession(key, value); sess != nil {
			out = append(out, *sess)
		}
		return nil
	})
	return out, err
}

// decodeSession returns nil, and logs it, where a value is no session of its key.
func (s *Store) decodeSession(key string, value []byte) *Session {
	var sess Session
	err := json.Unmarshal(value, &sess)
	if err == nil && sess.Key() != key {
		err = errOtherKey
	}
	if err != nil {
		s.cfg.Log.Error().Err(err).Str("key", key).Msg("session record refused")
		return nil
	}
	return &sess
}

var errOtherKey = errors.New("registry: a session under the key of another")
