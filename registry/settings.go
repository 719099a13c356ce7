package registry

import (
	"context"
	"maps"
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Settings are what an operator may change of an agent besides its rights; what
// is nil stays.
type Settings struct {
	Kind      *Kind              `json:"kind,omitempty"`
	Heartbeat *Heartbeat         `json:"heartbeat,omitempty"`
	Readmit   *Readmit           `json:"readmit,omitempty"`
	Sessions  *Sessions          `json:"sessions,omitempty"`
	Stock     *bool              `json:"stock,omitempty"`
	Depth     *int               `json:"depth,omitempty"`  // DefaultDepth where zero
	Labels    *map[string]string `json:"labels,omitempty"` // all of them
	Join      *JoinRule          `json:"join,omitempty"`   // the zero rule takes it away
}

// Set changes an agent's settings; what they are already changes nothing.
//
// The epoch rises where authority shrinks. That is so where a stock client
// becomes one that has to come back every hour: its open connection was let in
// for as long as its certificate lives, and is closed to come back for less. And
// where rights may be passed on less often than root tokens say that are out:
// those tokens end, with what was delegated under them, and what they gave is
// issued anew. That there may be one session at a time takes no right away: it
// is for the next admission to obey.
func (s *Store) Set(ctx context.Context, id agentid.ID, set Settings, by string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	if set == (Settings{}) {
		return nil, denial.New(denial.BadInput, "no setting to change is named")
	}
	issue := s.rootIssuer(ctx, id)
	return s.changeAgent(ctx, id, by, "settings changed", func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		old := a.clone()
		set.apply(a)
		if err := a.checkSettings(); err != nil {
			return err
		}
		if err := a.checkSize(); err != nil {
			return err
		}
		shrinks := old.Stock && !a.Stock
		if set.Depth != nil {
			ended, err := s.setDepth(ctx, a, old.Depth, issue)
			if err != nil {
				return err
			}
			shrinks = shrinks || ended
		}
		if a.sameSettings(old) && !shrinks {
			return errUnchanged
		}
		if shrinks {
			a.Epoch++
		}
		return nil
	})
}

func (set Settings) apply(a *Agent) {
	if set.Kind != nil {
		a.AgentKind = *set.Kind
	}
	if set.Stock != nil {
		if *set.Stock && !a.Stock {
			a.Heartbeat = HeartbeatNone // as for a new one: it sends no beats
		}
		a.Stock = *set.Stock
	}
	if set.Heartbeat != nil {
		a.Heartbeat = *set.Heartbeat
	}
	if set.Readmit != nil {
		a.Readmit = *set.Readmit
	}
	if set.Sessions != nil {
		a.Sessions = set.Sessions.written()
	}
	if set.Depth != nil {
		a.Depth = *set.Depth
	}
	if set.Labels != nil {
		a.Labels = maps.Clone(*set.Labels)
	}
	if set.Join != nil {
		a.Join = *set.Join
	}
}

// checkSettings refuses settings that no agent may have, and leaves one spelling
// of having no labels.
func (a *Agent) checkSettings() error {
	if !slices.Contains([]Kind{Service, Person, Job}, a.AgentKind) {
		return denial.New(denial.BadInput, "kind %q is not service, person or job", a.AgentKind)
	}
	if !slices.Contains([]Heartbeat{HeartbeatSession, HeartbeatAlways, HeartbeatNone}, a.Heartbeat) {
		return denial.New(denial.BadInput, "heartbeat %q is not session, always or none", a.Heartbeat)
	}
	if a.Readmit != ReadmitAttestation && a.Readmit != ReadmitManual {
		return denial.New(denial.BadInput, "readmit %q is not attestation or manual", a.Readmit)
	}
	if a.Sessions != "" && a.Sessions != SessionsSingle {
		return denial.New(denial.BadInput, "sessions %q is not any or single", a.Sessions)
	}
	if a.Depth < 0 || a.Depth > limits.Depth {
		return denial.New(denial.DepthExceeded, "depth %d is not 0 to %d", a.Depth, limits.Depth)
	}
	if len(a.Labels) == 0 {
		a.Labels = nil
	}
	if err := a.Join.Check(); err != nil {
		return err
	}
	return checkLabels(a.Labels)
}

// written is how a policy stands in a record, where the usual one has one spelling.
func (s Sessions) written() Sessions {
	if s == SessionsAny {
		return ""
	}
	return s
}

func (a *Agent) sameSettings(o *Agent) bool {
	return a.AgentKind == o.AgentKind && a.Heartbeat == o.Heartbeat && a.Readmit == o.Readmit && a.Sessions == o.Sessions &&
		a.Stock == o.Stock && a.Depth == o.Depth && a.Join == o.Join && maps.Equal(a.Labels, o.Labels)
}

// setDepth brings the root tokens in line with the depth that the record now
// has. More depth than before comes with a further token, so that what was
// delegated lives on. Less ends every token that has more, and that is reported.
func (s *Store) setDepth(ctx context.Context, a *Agent, before int, issue func(Rights, int) (string, error)) (ended bool, err error) {
	depth := tokenDepth(a.Rights, a.Depth)
	var keep []string
	for _, digest := range a.Tokens {
		c, err := s.Chain(ctx, digest)
		if err != nil && denial.Of(err) == "" {
			return false, err // unknown is not ended: another try may read it
		}
		if err == nil && c.Depth() > depth {
			ended = true
			continue
		}
		keep = append(keep, digest)
	}
	if !ended && depth <= tokenDepth(a.Rights, before) {
		return false, nil
	}
	if len(keep) >= limits.LiveTokens {
		return false, denial.New(denial.QuotaExceeded, "agent %q has %d root tokens; ungrant some first", a.Agent, len(keep))
	}
	token, err := issue(a.Rights, a.Depth)
	if err != nil {
		return false, err
	}
	if token != "" {
		keep = append(keep, token)
	}
	a.Tokens = keep
	return ended, nil
}
