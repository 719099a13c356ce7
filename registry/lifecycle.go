package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// DefaultDepth is how often a root token's rights may be passed on unless the
// operator says otherwise.
const DefaultDepth = 3

// NewAgent is what an operator says of a new agent. Zero fields take defaults:
// kind service, heartbeat session, readmit by attestation.
type NewAgent struct {
	Agent     agentid.ID        `json:"agent"`
	Kind      Kind              `json:"kind,omitempty"`
	Heartbeat Heartbeat         `json:"heartbeat,omitempty"`
	Readmit   Readmit           `json:"readmit,omitempty"`
	Stock     bool              `json:"stock,omitempty"`
	Rights    Rights            `json:"rights"`
	Depth     int               `json:"depth,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
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
	if n.Heartbeat == "" {
		n.Heartbeat = HeartbeatSession
	}
	if n.Readmit == "" {
		n.Readmit = ReadmitAttestation
	}
	if !slices.Contains([]Kind{Service, Person, Job}, n.Kind) {
		return denial.New(denial.BadInput, "kind %q is not service, person or job", n.Kind)
	}
	if !slices.Contains([]Heartbeat{HeartbeatSession, HeartbeatAlways, HeartbeatNone}, n.Heartbeat) {
		return denial.New(denial.BadInput, "heartbeat %q is not session, always or none", n.Heartbeat)
	}
	if n.Readmit != ReadmitAttestation && n.Readmit != ReadmitManual {
		return denial.New(denial.BadInput, "readmit %q is not attestation or manual", n.Readmit)
	}
	if n.Depth < 0 || n.Depth > limits.Depth {
		return denial.New(denial.DepthExceeded, "depth %d is not 0 to %d", n.Depth, limits.Depth)
	}
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	return checkLabels(n.Labels)
}

// Add registers an agent as pending: it is admitted when its first instance
// enrols. A name that exists is refused, a revoked one too unless Replace is
// set; then it starts again above the old epoch, with no key and no token of
// before.
func (s *Store) Add(ctx context.Context, n NewAgent, by string) (*Agent, error) {
	if err := n.defaults(); err != nil {
		return nil, err
	}
	rights := n.Rights.Union(Rights{})
	if _, _, err := rights.Scopes(); err != nil {
		return nil, err
	}
	a := &Agent{
		Agent: n.Agent, Status: Pending, Epoch: 1, Revision: 1,
		AgentKind: n.Kind, Heartbeat: n.Heartbeat, Readmit: n.Readmit, Stock: n.Stock,
		Rights: rights, Depth: n.Depth, Labels: n.Labels,
	}
	old, seq, err := s.readAgent(ctx, n.Agent)
	switch {
	case err == nil && old.Status == Revoked && n.Replace:
		if err := s.revokeInstances(ctx, n.Agent, by, "replaced"); err != nil {
			return nil, err
		}
		a.Epoch, a.Revision = old.Epoch+1, old.Revision+1
	case err == nil && old.Status == Revoked:
		return nil, denial.New(denial.AlreadyExists, "agent %q was revoked; --replace gives the name new keys", n.Agent)
	case err == nil:
		return nil, denial.New(denial.AlreadyExists, "agent %q exists already", n.Agent)
	case !errors.Is(err, denial.UnlistedAgent):
		return nil, err
	}
	token, err := s.issueRoot(ctx, n.Agent, rights, n.Depth)
	if err != nil {
		return nil, err
	}
	if token != "" {
		a.Tokens = []string{token}
	}
	s.stamp(&a.Changed, by, "added")
	if err := s.writeAgent(ctx, a, seq); err != nil {
		if errors.Is(err, denial.Conflict) {
			return nil, denial.New(denial.AlreadyExists, "agent %q exists already", n.Agent)
		}
		return nil, err
	}
	return a, nil
}

// issueRoot signs and stores a root token over the rights; it returns the empty
// digest where there are none.
func (s *Store) issueRoot(ctx context.Context, id agentid.ID, r Rights, depth int) (string, error) {
	caps, may, err := r.Scopes()
	if err != nil {
		return "", err
	}
	if len(caps) == 0 {
		return "", nil
	}
	switch {
	case len(may) == 0:
		depth = 0
	case depth == 0:
		depth = DefaultDepth
	}
	now := s.cfg.Clock()
	text, err := capability.IssueRoot(s.cfg.Tokens, capability.Root{
		Agent: id, Capabilities: caps, Delegatable: may, Depth: depth,
		NotBefore: now.Add(-limits.Ahead), Expires: now.Add(s.cfg.TokenTTL),
	}, now)
	if err != nil {
		return "", err
	}
	c, err := capability.Verify(text, s.cfg.Ring, now)
	if err != nil {
		return "", fmt.Errorf("registry: token just issued does not verify: %w", err)
	}
	return c.Digest(), s.PutChain(ctx, c)
}

// Grant adds rights under a further root token, so that what was delegated
// under the older ones lives on.
func (s *Store) Grant(ctx context.Context, id agentid.ID, r Rights, depth int, by string) (*Agent, error) {
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	if a.Status == Revoked {
		return nil, denial.New(denial.WrongState, "agent %q is revoked for ever", id)
	}
	union := a.Rights.Union(r)
	if _, _, err := union.Scopes(); err != nil {
		return nil, err
	}
	// The new token must stand alone: what it may pass on it must itself hold.
	own := r.Union(Rights{})
	for _, m := range r.MayDelegate {
		own = own.Union(holding(m, a.Rights))
	}
	if depth == 0 {
		depth = a.Depth
	}
	token, err := s.issueRoot(ctx, id, own, depth)
	if err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, "granted", func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		if token != "" {
			if len(a.Tokens) >= limits.LiveTokens {
				return denial.New(denial.QuotaExceeded, "agent %q has %d root tokens; ungrant some first", id, len(a.Tokens))
			}
			a.Tokens = append(a.Tokens, token)
		}
		a.Rights = a.Rights.Union(r)
		return nil
	})
}

// holding returns the part of r that gives the scope.
func holding(s capability.Scope, r Rights) Rights {
	one := Rights{}
	if h, ok := s.Handled(); ok && slices.Contains(r.Handle, h) {
		one.Handle = []capability.Scope{h}
	}
	if slices.Contains(r.Call, s) {
		one.Call = []capability.Scope{s}
	}
	if s.Verb() == "publish" && slices.Contains(r.Publish, s.Dotted()) {
		one.Publish = []string{s.Dotted()}
	}
	if s.Verb() == "subscribe" && slices.Contains(r.Subscribe, s.Dotted()) {
		one.Subscribe = []string{s.Dotted()}
	}
	return one
}

// Ungrant takes rights back: every root token that holds one of them ends, what
// is left of it is issued anew, and the epoch rises, which cuts open sessions.
func (s *Store) Ungrant(ctx context.Context, id agentid.ID, r Rights, by string) (*Agent, error) {
	gone, _, err := Rights{Call: r.Call, Handle: r.Handle, Publish: r.Publish, Subscribe: r.Subscribe}.Scopes()
	if err != nil {
		return nil, err
	}
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, err
	}
	held, _, err := a.Rights.Scopes()
	if err != nil {
		return nil, err
	}
	for _, g := range gone {
		if !slices.Contains(held, g) {
			return nil, denial.New(denial.NotFound, "agent %q does not hold %q", id, g)
		}
	}
	left, err := a.Rights.Without(r)
	if err != nil {
		return nil, err
	}
	drop := map[string]bool{}
	for _, digest := range a.Tokens {
		c, err := s.Chain(ctx, digest)
		if err != nil || touches(c, gone, r.MayDelegate) {
			drop[digest] = true
		}
	}
	token, err := s.issueRoot(ctx, id, left, a.Depth)
	if err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, "ungranted", func(a *Agent) error {
		var err error
		if a.Rights, err = a.Rights.Without(r); err != nil {
			return err
		}
		a.Tokens = slices.DeleteFunc(a.Tokens, func(t string) bool { return drop[t] })
		if token != "" {
			a.Tokens = append(a.Tokens, token)
		}
		a.Epoch++
		return nil
	})
}

func touches(c *capability.Chain, held, delegatable []capability.Scope) bool {
	for _, s := range held {
		if c.Has(s) {
			return true
		}
	}
	for _, s := range delegatable {
		if slices.Contains(c.Delegatable(), s) {
			return true
		}
	}
	return false
}

// Suspend takes an agent out until Resume. The epoch rises, so that everything
// it holds is cut.
func (s *Store) Suspend(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	return s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		switch a.Status {
		case Suspended:
			return errUnchanged
		case Active, Expired:
		default:
			return denial.New(denial.WrongState, "agent %q is %s", id, a.Status)
		}
		a.Status = Suspended
		a.Epoch++
		return nil
	})
}

// Resume brings a suspended or expired agent back.
func (s *Store) Resume(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	return s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		switch a.Status {
		case Active:
			return errUnchanged
		case Suspended, Expired:
		default:
			return denial.New(denial.WrongState, "agent %q is %s", id, a.Status)
		}
		a.Status = Active
		return nil
	})
}

// Revoke ends an agent for ever: its keys, tokens and epochs. Only the
// tombstone stays.
func (s *Store) Revoke(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	a, err := s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		if a.Status == Revoked {
			return errUnchanged
		}
		a.Status = Revoked
		a.Tokens, a.Voided = nil, nil
		a.Epoch++
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, s.revokeInstances(ctx, id, by, reason)
}

// Remove revokes an agent and hides it from lists. The tombstone stays: a name
// that could be forgotten could be taken again under an old epoch.
func (s *Store) Remove(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if _, err := s.Revoke(ctx, id, by, reason); err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		if a.Removed {
			return errUnchanged
		}
		a.Removed = true
		return nil
	})
}

func (s *Store) revokeInstances(ctx context.Context, id agentid.ID, by, reason string) error {
	list, err := s.Instances(ctx, id)
	if err != nil {
		return err
	}
	for _, i := range list {
		if _, err := s.RevokeInstance(ctx, id, i.Instance, by, reason); err != nil {
			return err
		}
	}
	return nil
}

// RevokeInstance ends one instance's key for ever; the others work on.
func (s *Store) RevokeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string) (*Instance, error) {
	return s.changeInstance(ctx, id, inst, by, reason, func(i *Instance) error {
		if i.State == InstanceRevoked {
			return errUnchanged
		}
		i.State = InstanceRevoked
		i.Epoch++
		return nil
	})
}

// ExpireInstance is the monitor's verdict on an instance whose beats stopped.
// It is a compare-and-set on the epochs that the monitor watched: an instance
// that was readmitted meanwhile is left alone (denial.Conflict). When the last
// instance that had not left is gone, the agent expires with it.
func (s *Store) ExpireInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, epoch uint64, reason string) error {
	const by = "monitor"
	_, err := s.changeInstance(ctx, id, inst, by, reason, func(i *Instance) error {
		if i.State != Online || i.Epoch != epoch {
			return denial.New(denial.Conflict, "%s/%s is %s in epoch %d", id, inst, i.State, i.Epoch)
		}
		i.State = InstanceExpired
		i.Epoch++
		return nil
	})
	if err != nil {
		return err
	}
	_, err = s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		if a.Status != Active {
			return errUnchanged
		}
		list, err := s.Instances(ctx, id)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(i *Instance) bool { return i.State == Online && i.Instance != inst }) {
			return errUnchanged
		}
		a.Status = Expired
		a.Epoch++
		return nil
	})
	return err
}

// Leave records a polite exit: no alarm, no epoch.
func (s *Store) Leave(ctx context.Context, id agentid.ID, inst agentid.Instance) error {
	_, err := s.changeInstance(ctx, id, inst, id.String(), "left", func(i *Instance) error {
		if i.State != Online {
			return errUnchanged
		}
		i.State = Left
		return nil
	})
	return err
}

// Attest records that an instance proved itself in full (key, certificate,
// tokens) and is online. From expired it comes back under a new epoch, unless
// the agent's readmission is manual.
func (s *Store) Attest(ctx context.Context, id agentid.ID, inst agentid.Instance, host string) (*Agent, *Instance, error) {
	by := id.String()
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	i, err := s.Instance(ctx, id, inst)
	if err != nil {
		return nil, nil, err
	}
	if err := i.State.Standing(); err != nil && i.State != InstanceExpired {
		return nil, nil, denial.New(denial.Of(err), "instance %s/%s is %s", id, inst, i.State)
	}
	switch {
	case a.Status == Expired && a.Readmit == ReadmitManual:
		return nil, nil, denial.New(denial.Expired, "agent %q is expired and comes back by an operator only", id)
	case a.Status == Expired:
		a, err = s.changeAgent(ctx, id, by, "readmitted by attestation", func(a *Agent) error {
			if a.Status != Expired {
				return errUnchanged
			}
			a.Status = Active
			a.Epoch++
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	if err := a.Status.Standing(); err != nil {
		return nil, nil, denial.New(denial.Of(err), "agent %q is %s", id, a.Status)
	}
	if i.State == Online && i.Host == host {
		return a, i, nil
	}
	i, err = s.changeInstance(ctx, id, inst, by, "attested", func(i *Instance) error {
		switch i.State {
		case Online, Enrolled, Left:
		case InstanceExpired:
			i.Epoch++
		default:
			return denial.New(denial.Revoked, "instance %s/%s is %s", id, inst, i.State)
		}
		i.State, i.Host = Online, host
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return a, i, nil
}

// EndDelegation voids a delegation that the agent itself signed, until it would
// have ended anyway.
func (s *Store) EndDelegation(ctx context.Context, issuer agentid.ID, token string, expires time.Time) (*Agent, error) {
	return s.changeAgent(ctx, issuer, issuer.String(), "ended a delegation", func(a *Agent) error {
		now := s.cfg.Clock().Unix()
		a.Voided = slices.DeleteFunc(a.Voided, func(v Void) bool { return v.Expires < now })
		if a.NotVoided(token) != nil {
			return errUnchanged
		}
		if len(a.Voided) >= limits.Voided {
			return denial.New(denial.QuotaExceeded, "agent %q has ended %d delegations that still run", issuer, len(a.Voided))
		}
		a.Voided = append(a.Voided, Void{Token: token, Expires: expires.Unix()})
		return nil
	})
}

// RenewTokens issues the root tokens of active agents anew whose life is half
// over, and drops those that ended. The old ones run on to their own end, so
// that what was delegated under them does too.
func (s *Store) RenewTokens(ctx context.Context) error {
	agents, err := s.Agents(ctx, false)
	if err != nil {
		return err
	}
	now := s.cfg.Clock()
	for _, a := range agents {
		if a.Status == Revoked || len(a.Tokens) == 0 {
			continue
		}
		ended, fresh := map[string]bool{}, false
		for _, digest := range a.Tokens {
			c, err := s.Chain(ctx, digest)
			switch {
			case denial.Of(err) == denial.UnknownChain, denial.Of(err) == denial.TokenExpired:
				ended[digest] = true
			case err != nil:
				return err
			case c.Expires().Sub(now) > s.cfg.TokenTTL/2 && covers(c, a.Rights):
				fresh = true
			}
		}
		if fresh && len(ended) == 0 {
			continue
		}
		token := ""
		if !fresh {
			if token, err = s.issueRoot(ctx, a.Agent, a.Rights, a.Depth); err != nil {
				return err
			}
		}
		if _, err := s.changeAgent(ctx, a.Agent, "control", "tokens renewed", func(a *Agent) error {
			a.Tokens = slices.DeleteFunc(a.Tokens, func(t string) bool { return ended[t] })
			if token != "" && len(a.Tokens) < limits.LiveTokens {
				a.Tokens = append(a.Tokens, token)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// covers reports whether the token alone gives all the rights.
func covers(c *capability.Chain, r Rights) bool {
	caps, may, err := r.Scopes()
	if err != nil {
		return false
	}
	for _, s := range caps {
		if !c.Has(s) {
			return false
		}
	}
	return !slices.ContainsFunc(may, func(s capability.Scope) bool { return !slices.Contains(c.Delegatable(), s) })
}

// ExpireAgent is the monitor's verdict on an agent that must always have a live
// instance and has none.
func (s *Store) ExpireAgent(ctx context.Context, id agentid.ID, epoch uint64, reason string) error {
	_, err := s.changeAgent(ctx, id, "monitor", reason, func(a *Agent) error {
		if a.Status != Active || a.Epoch != epoch {
			return denial.New(denial.Conflict, "%q is %s in epoch %d", id, a.Status, a.Epoch)
		}
		a.Status = Expired
		a.Epoch++
		return nil
	})
	return err
}
