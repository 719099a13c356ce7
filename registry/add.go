package registry

import (
	"context"
	"errors"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// DefaultDepth is how often a root token's rights may be passed on unless the
// operator says otherwise.
const DefaultDepth = 3

// NewAgent is what an operator says of a new agent. Zero fields take defaults:
// kind service, heartbeat session, readmit by attestation, any sessions.
type NewAgent struct {
	Agent     agentid.ID        `json:"agent"`
	Kind      Kind              `json:"kind,omitempty"`
	Heartbeat Heartbeat         `json:"heartbeat,omitempty"`
	Readmit   Readmit           `json:"readmit,omitempty"`
	Sessions  Sessions          `json:"sessions,omitempty"`
	Stock     bool              `json:"stock,omitempty"`
	Rights    Rights            `json:"rights"`
	Depth     int               `json:"depth,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Join      JoinRule          `json:"join,omitzero"`
	Replace   bool              `json:"replace,omitempty"` // new keys for a revoked name
}

func (n *NewAgent) defaults() error {
	if n.Agent.IsZero() {
		return denial.New(denial.BadInput, "an agent needs an ID")
	}
	if n.Agent.Reserved() {
		return denial.New(denial.ReservedName, "%q belongs to the mesh itself", n.Agent)
	}
	if n.Kind == "" {
		n.Kind = Service
	}
	if n.Heartbeat == "" && n.Stock {
		n.Heartbeat = HeartbeatNone // a stock client sends no beats
	}
	if n.Heartbeat == "" {
		n.Heartbeat = HeartbeatSession
	}
	if n.Readmit == "" {
		n.Readmit = ReadmitAttestation
	}
	return nil
}

// Add registers an agent as pending: it is admitted when its first instance
// enrols. A name that exists is refused, a revoked one too unless Replace is
// set; then it starts again above the old epoch, with no key, no token and no
// join token of before.
func (s *Store) Add(ctx context.Context, n NewAgent, by string) (*Agent, error) {
	if err := n.defaults(); err != nil {
		return nil, err
	}
	a := &Agent{
		Agent: n.Agent, Status: Pending, Epoch: 1, Revision: 1,
		AgentKind: n.Kind, Heartbeat: n.Heartbeat, Readmit: n.Readmit, Sessions: n.Sessions.written(), Stock: n.Stock,
		Rights: n.Rights.Union(Rights{}), Depth: n.Depth, Labels: n.Labels, Join: n.Join,
	}
	if err := a.checkSettings(); err != nil {
		return nil, err
	}
	if err := s.checkRights(a.Rights); err != nil {
		return nil, err
	}
	if err := a.checkSize(); err != nil {
		return nil, err
	}
	old, seq, err := s.readAgent(ctx, n.Agent)
	switch {
	case err == nil && old.Status != Revoked:
		return nil, denial.New(denial.AlreadyExists, "agent %q exists already", n.Agent)
	case err == nil && !n.Replace:
		return nil, denial.New(denial.AlreadyExists, "agent %q was revoked; --replace gives the name new keys", n.Agent)
	case err == nil:
		a.Epoch, a.Revision = old.Epoch+1, old.Revision+1
	case errors.Is(err, errDeleted) && n.Replace:
		// The tombstone is gone, and with it the epoch to start above. Each rise
		// of an epoch was a write into this stream, so none can have reached the
		// stream's sequence.
		least := s.floor(n.Agent.String())
		a.Epoch, a.Revision = max(seq, least.Epoch)+1, max(seq, least.Revision)+1
	case !errors.Is(err, denial.UnlistedAgent):
		return nil, err
	}
	a.Since = a.Epoch
	if a.Epoch > 1 {
		if err := s.revokeInstances(ctx, n.Agent, by, "replaced"); err != nil {
			return nil, err
		}
	}
	if a.Tokens, err = s.firstTokens(ctx, a); err != nil {
		return nil, err
	}
	s.stamp(&a.Changed, by, "added")
	if err := s.writeAgent(ctx, a, seq); errors.Is(err, errLost) {
		return nil, denial.New(denial.AlreadyExists, "agent %q exists already", n.Agent)
	} else if err != nil {
		return nil, err
	}
	s.settle(a.Agent)
	return a, s.keep(ctx, a.Epoch > 1)
}

// checkRights refuses what no token may hold, and plain rights that are not
// plain.
func (s *Store) checkRights(r Rights) error {
	if _, _, err := r.Scopes(); err != nil {
		return err
	}
	return s.cfg.Space.CheckPlain(r.Plain.Publish, r.Plain.Subscribe)
}

func (s *Store) firstTokens(ctx context.Context, a *Agent) ([]string, error) {
	token, err := s.issueRoot(ctx, a.Agent, a.Rights, a.Depth)
	if err != nil || token == "" {
		return nil, err
	}
	return []string{token}, nil
}
