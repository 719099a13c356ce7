package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// joinHandle begins the handles of join tokens. No agent's name has a dot, so that a
// handle is never taken for one.
const joinHandle = "j."

// Join is a join token that is out, without its secret.
type Join struct {
	Handle  string     `json:"handle"` // a name for people: "j.7f3c2k9q"
	Agent   agentid.ID `json:"agent"`
	Uses    int        `json:"uses"` // how many hosts may use it
	Used    int        `json:"used"` // how many did
	Expires time.Time  `json:"expires"`
	By      string     `json:"by"`
}

// IsJoinHandle reports whether s has the form of a join token's handle.
func IsJoinHandle(s string) bool { return strings.HasPrefix(s, joinHandle) }

// HandleOfJoin is the handle of the token with that secret.
func HandleOfJoin(secret string) string { return handleOf(JoinHash(secret)) }

func handleOf(hash string) string { return joinHandle + agentid.ShortHash([]byte(hash)) }

// Joins lists the join tokens that still let somebody in, of one agent, or of all
// where id is zero, by agent and end.
func (s *Store) Joins(ctx context.Context, id agentid.ID) ([]Join, error) {
	found, err := s.joins(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]Join, 0, len(found))
	for _, f := range found {
		out = append(out, f.Join)
	}
	return out, nil
}

type foundJoin struct {
	Join
	key string
}

func (s *Store) joins(ctx context.Context, id agentid.ID) ([]foundJoin, error) {
	var out []foundJoin
	since := map[agentid.ID]uint64{} // of those that may enrol
	now := s.cfg.Clock()
	err := s.each(ctx, JoinsBucket, joinKey("*"), func(key string, value []byte) error {
		var j joinRecord
		if err := json.Unmarshal(value, &j); err != nil {
			return fmt.Errorf("registry: join record: %w", err)
		}
		ends := time.Unix(j.Expires, 0)
		if !id.IsZero() && j.Agent != id || !now.Before(ends) {
			return nil
		}
		if _, known := since[j.Agent]; !known {
			a, err := s.Agent(ctx, j.Agent)
			if err != nil && denial.Of(err) == "" {
				return err
			}
			if err == nil && a.Status != Revoked {
				since[j.Agent] = a.Since
			} else {
				since[j.Agent] = 0
			}
		}
		if j.Since != since[j.Agent] {
			return nil // of a name's former holder, or revoked: it lets nobody in
		}
		out = append(out, foundJoin{Join{
			Handle: handleOf(strings.TrimPrefix(key, joinKey(""))), Agent: j.Agent, Uses: j.Uses, Used: len(j.Keys), Expires: ends.UTC(), By: j.By,
		}, key})
		return nil
	})
	slices.SortFunc(out, func(a, b foundJoin) int {
		return cmp.Or(cmp.Compare(a.Agent.String(), b.Agent.String()), a.Expires.Compare(b.Expires), cmp.Compare(a.Handle, b.Handle))
	})
	return out, err
}

// CancelJoin ends the join token with that handle, for ever and at once: an
// enrolment that has not taken its use yet is refused. It returns what it was.
func (s *Store) CancelJoin(ctx context.Context, handle string) (Join, error) {
	list, err := s.cancelJoins(ctx, agentid.ID{}, func(j Join) bool { return j.Handle == handle })
	if err != nil {
		return Join{}, err
	}
	if len(list) == 0 {
		return Join{}, denial.New(denial.NotFound, "no join token %q is out", fmt80(handle))
	}
	return list[0], nil
}

// CancelJoins ends all join tokens of an agent.
func (s *Store) CancelJoins(ctx context.Context, id agentid.ID) ([]Join, error) {
	if id.IsZero() {
		return nil, denial.New(denial.BadInput, "no agent is named")
	}
	return s.cancelJoins(ctx, id, func(Join) bool { return true })
}

func (s *Store) cancelJoins(ctx context.Context, id agentid.ID, which func(Join) bool) ([]Join, error) {
	found, err := s.joins(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []Join
	var errs []error
	for _, f := range found {
		if !which(f.Join) {
			continue
		}
		// Whatever is there, not what was read: an enrolment under way writes its use
		// by compare-and-set, and loses against this.
		if err := s.remove(ctx, JoinsBucket, f.key); err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, f.Join)
	}
	return out, errors.Join(errs...)
}
