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
	"github.com/sealmesh/sealmesh/internal/jws"
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

// mayOperate refuses operations on the names of the mesh itself: a join token
// for control would make its holder the control plane.
func mayOperate(id agentid.ID) error {
	if id.Reserved() {
		return denial.New(denial.ReservedName, "%q belongs to the mesh itself", id)
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
		AgentKind: n.Kind, Heartbeat: n.Heartbeat, Readmit: n.Readmit, Stock: n.Stock,
		Rights: n.Rights.Union(Rights{}), Depth: n.Depth, Labels: n.Labels,
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
		a.Epoch, a.Revision = max(seq, least.epoch)+1, max(seq, least.revision)+1
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
	return a, nil
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
	now := s.cfg.Clock()
	text, err := capability.IssueRoot(s.cfg.Tokens, capability.Root{
		Agent: id, Capabilities: caps, Delegatable: may, Depth: tokenDepth(r, depth),
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

// tokenDepth is how often a root token over the rights may be passed on, for the
// depth of the agent's record.
func tokenDepth(r Rights, depth int) int {
	switch {
	case len(r.MayDelegate) == 0:
		return 0
	case depth == 0:
		return DefaultDepth
	}
	return depth
}

// rootIssuer is issueRoot for a change that may be tried again: the same rights
// get the same token.
func (s *Store) rootIssuer(ctx context.Context, id agentid.ID) func(Rights, int) (string, error) {
	type issued struct {
		rights Rights
		depth  int
		token  string
	}
	var last *issued
	return func(r Rights, depth int) (string, error) {
		if last != nil && last.depth == depth && last.rights.equal(r) {
			return last.token, nil
		}
		token, err := s.issueRoot(ctx, id, r, depth)
		if err == nil {
			last = &issued{r.clone(), depth, token}
		}
		return token, err
	}
}

// Grant adds rights under a further root token, so that what was delegated
// under the older ones lives on; plain rights need no token. A depth other than
// zero is the agent's from now on, also where its tokens are renewed. Granting
// what is held already changes nothing.
func (s *Store) Grant(ctx context.Context, id agentid.ID, r Rights, depth int, by string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	if r.IsZero() {
		return nil, denial.New(denial.BadInput, "no right to grant is named")
	}
	if depth < 0 || depth > limits.Depth {
		return nil, denial.New(denial.DepthExceeded, "depth %d is not 0 to %d", depth, limits.Depth)
	}
	issue := s.rootIssuer(ctx, id)
	return s.changeAgent(ctx, id, by, "granted", func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		union := a.Rights.Union(r)
		if err := s.checkRights(union); err != nil {
			return err
		}
		otherDepth := depth != 0 && depth != a.Depth
		if union.equal(a.Rights) && !otherDepth {
			return errUnchanged
		}
		// What the tokens say already, or cannot say, needs none.
		needsToken := !union.scopes().equal(a.Rights.scopes()) || otherDepth && !r.scopes().IsZero()
		if needsToken && len(a.Tokens) >= limits.LiveTokens {
			return denial.New(denial.QuotaExceeded, "agent %q has %d root tokens; ungrant some first", id, len(a.Tokens))
		}
		// The new token must stand alone: what it may pass on it must itself hold.
		own := r.scopes().Union(Rights{})
		for _, m := range r.MayDelegate {
			own = own.Union(holding(m, a.Rights))
		}
		if depth != 0 {
			a.Depth = depth
		}
		a.Rights = union
		if err := a.checkSize(); err != nil || !needsToken {
			return err
		}
		token, err := issue(own, a.Depth)
		if err != nil {
			return err
		}
		a.Tokens = append(a.Tokens, token)
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
// Where plain rights alone are taken, tokens and what was delegated stay.
func (s *Store) Ungrant(ctx context.Context, id agentid.ID, r Rights, by string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	change, err := s.ungrant(ctx, id, r, s.rootIssuer(ctx, id))
	if err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, "ungranted", change)
}

// ungrant is the change that Ungrant makes to a record.
func (s *Store) ungrant(ctx context.Context, id agentid.ID, r Rights, issue func(Rights, int) (string, error)) (func(*Agent) error, error) {
	if r.IsZero() {
		return nil, denial.New(denial.BadInput, "no right to take back is named")
	}
	gone, _, err := Rights{Call: r.Call, Handle: r.Handle, Publish: r.Publish, Subscribe: r.Subscribe}.Scopes()
	if err != nil {
		return nil, err
	}
	return func(a *Agent) error {
		if a.Status == Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		held, may, err := a.Rights.Scopes()
		if err != nil {
			return err
		}
		for _, g := range gone {
			if !slices.Contains(held, g) {
				return denial.New(denial.NotFound, "agent %q does not hold %q", id, g)
			}
		}
		for _, m := range r.MayDelegate {
			if !slices.Contains(may, m) {
				return denial.New(denial.NotFound, "agent %q may not delegate %q", id, m)
			}
		}
		if right := a.Rights.Plain.notHeld(r.Plain); right != "" {
			return denial.New(denial.NotFound, "agent %q does not hold the plain right to %q", id, right)
		}
		if a.Rights, err = a.Rights.Without(r); err != nil {
			return err
		}
		a.Epoch++
		if r.scopes().IsZero() {
			return nil
		}
		var keep []string
		for _, digest := range a.Tokens {
			c, err := s.Chain(ctx, digest)
			if err != nil && denial.Of(err) == "" {
				return err // unknown is not ended: another try may read it
			}
			if err == nil && !touches(c, gone, r.MayDelegate) {
				keep = append(keep, digest)
			}
		}
		if len(keep) < len(a.Tokens) {
			token, err := issue(a.Rights, a.Depth)
			if err != nil {
				return err
			}
			if token != "" {
				keep = append(keep, token)
			}
		}
		a.Tokens = keep
		return nil
	}, nil
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
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, reason, suspend)
}

func suspend(a *Agent) error {
	switch a.Status {
	case Suspended:
		return errUnchanged
	case Active, Expired:
	default:
		return denial.New(denial.WrongState, "agent %q is %s", a.Agent, a.Status)
	}
	a.Status = Suspended
	a.Epoch++
	return nil
}

// Resume brings a suspended or expired agent back. From expired it is a
// readmission, under a new epoch: what was signed meanwhile stays void.
func (s *Store) Resume(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	return s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		switch a.Status {
		case Active:
			return errUnchanged
		case Suspended:
		case Expired:
			a.Epoch++
		default:
			return denial.New(denial.WrongState, "agent %q is %s", id, a.Status)
		}
		a.Status = Active
		return nil
	})
}

// Revoke ends an agent for ever: its keys, tokens and epochs. Only the
// tombstone stays. It is also how a record is set right that was replaced by an
// older copy of itself.
func (s *Store) Revoke(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	a, err := s.mendAgent(ctx, id, by, reason, true, revoke)
	if err != nil {
		return nil, err
	}
	return a, s.revokeInstances(ctx, id, by, reason)
}

func revoke(a *Agent) error {
	if a.Status == Revoked {
		return errUnchanged
	}
	a.Status = Revoked
	a.Tokens, a.Voided, a.Durables = nil, nil, nil
	a.Epoch++
	return nil
}

// Remove revokes an agent and hides it from lists. The tombstone stays: a name
// that could be forgotten could be taken again under an old epoch.
func (s *Store) Remove(ctx context.Context, id agentid.ID, by, reason string) (*Agent, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
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
	// One record that cannot be read must not shield the others.
	list, err := s.Instances(ctx, id)
	errs := []error{err}
	for _, i := range list {
		_, err := s.RevokeInstance(ctx, id, i.Instance, by, reason)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RevokeInstance ends one instance's key for ever; the others work on.
func (s *Store) RevokeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string) (*Instance, error) {
	if err := mayOperate(id); err != nil {
		return nil, err
	}
	return s.mendInstance(ctx, id, inst, by, reason, true, func(i *Instance) error {
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
// instance that had not left is gone, the agent expires with it. A verdict that
// failed between the two is finished by repeating it.
func (s *Store) ExpireInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, epoch uint64, reason string) error {
	const by = "monitor"
	again := false
	_, err := s.changeInstance(ctx, id, inst, by, reason, func(i *Instance) error {
		if again = i.State == InstanceExpired && i.Epoch == epoch+1; again {
			return errUnchanged
		}
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
	changed := false
	_, err = s.changeAgent(ctx, id, by, reason, func(a *Agent) error {
		changed = false
		if a.Status != Active {
			return errUnchanged
		}
		// Read after the instance was written and from the leader: of two
		// verdicts at once the later one sees both, so the agent does not stay
		// active with nobody left.
		list, err := s.Instances(ctx, id)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(i *Instance) bool { return i.State == Online && i.Belongs(a) == nil }) {
			return errUnchanged
		}
		a.Status = Expired
		a.Epoch++
		changed = true
		return nil
	})
	if err == nil && again && !changed {
		return denial.New(denial.Conflict, "%s/%s expired already", id, inst)
	}
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
// tokens) and is online; an empty host leaves the recorded one. From expired it
// comes back under a new epoch, unless the agent's readmission is manual.
func (s *Store) Attest(ctx context.Context, id agentid.ID, inst agentid.Instance, host string) (*Agent, *Instance, error) {
	if err := mayOperate(id); err != nil {
		return nil, nil, err
	}
	by := id.String()
	host = plain(host)
	a, err := s.Agent(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	i, err := s.Instance(ctx, id, inst)
	if err != nil {
		return nil, nil, err
	}
	if err := i.Belongs(a); err != nil {
		return nil, nil, err
	}
	if err := i.State.Standing(); err != nil && i.State != InstanceExpired {
		return nil, nil, denial.New(denial.Of(err), "instance %s/%s is %s", id, inst, i.State)
	}
	if a.Status == Expired {
		a, err = s.changeAgent(ctx, id, by, "readmitted by attestation", func(a *Agent) error {
			switch {
			case a.Status != Expired:
				return errUnchanged
			case a.Readmit != ReadmitAttestation:
				return denial.New(denial.Expired, "agent %q is expired and comes back by an operator only", id)
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
	i, err = s.changeInstance(ctx, id, inst, by, "attested", func(i *Instance) error {
		if err := i.Belongs(a); err != nil {
			return err
		}
		switch i.State {
		case Online:
			if host == "" || i.Host == host {
				return errUnchanged
			}
		case Enrolled, Left:
		case InstanceExpired:
			i.Epoch++
		default:
			return denial.New(denial.Revoked, "instance %s/%s is %s", id, inst, i.State)
		}
		i.State = Online
		if host != "" {
			i.Host = host
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return a, i, nil
}

// EndDelegation voids a delegation that the agent itself signed, until it would
// have ended anyway on every clock.
func (s *Store) EndDelegation(ctx context.Context, issuer agentid.ID, token string, expires time.Time) (*Agent, error) {
	if !jws.IsDigest(token) {
		return nil, denial.New(denial.BadInput, "not the digest of a delegation")
	}
	return s.changeAgent(ctx, issuer, issuer.String(), "ended a delegation", s.void(token, expires))
}

func (s *Store) void(token string, expires time.Time) func(*Agent) error {
	return func(a *Agent) error {
		// A receiver may be as far behind as messages may be old.
		over := s.cfg.Clock().Add(-limits.Window).Unix()
		switch {
		case a.Status == Revoked:
			return errUnchanged // all that it delegated is void for ever
		case a.NotVoided(token) != nil, expires.Unix() < over:
			return errUnchanged
		}
		a.Voided = slices.DeleteFunc(a.Voided, func(v Void) bool { return v.Expires < over })
		if len(a.Voided) >= limits.Voided {
			return denial.New(denial.QuotaExceeded, "agent %q has ended %d delegations that still run", a.Agent, len(a.Voided))
		}
		a.Voided = append(a.Voided, Void{Token: token, Expires: expires.Unix()})
		return a.checkSize()
	}
}

// RenewTokens issues the root tokens of agents anew whose life is half over, and
// drops those that ended. The old ones run on to their own end, so that what was
// delegated under them does too. An agent that fails is named in the error; the
// others are renewed.
func (s *Store) RenewTokens(ctx context.Context) error {
	agents, err := s.Agents(ctx, false)
	errs := []error{err}
	for _, a := range agents {
		if a.Status == Revoked || len(a.Tokens) == 0 && !a.Rights.scoped() {
			continue
		}
		issue := s.rootIssuer(ctx, a.Agent)
		_, err := s.changeAgent(ctx, a.Agent, agentid.Control.String(), "tokens renewed", func(a *Agent) error {
			if a.Status == Revoked || len(a.Tokens) == 0 && !a.Rights.scoped() {
				return errUnchanged
			}
			return s.renewTokens(ctx, a, issue)
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *Store) renewTokens(ctx context.Context, a *Agent, issue func(Rights, int) (string, error)) error {
	now := s.cfg.Clock()
	var live []*capability.Chain
	fresh := false
	for _, digest := range a.Tokens {
		c, err := s.Chain(ctx, digest)
		switch {
		case denial.Of(err) == denial.UnknownChain, denial.Of(err) == denial.TokenExpired:
			continue // ended
		case err != nil:
			return err
		}
		live = append(live, c)
		fresh = fresh || c.Expires().Sub(now) > s.cfg.TokenTTL/2 && covers(c, a.Rights)
	}
	if fresh && len(live) == len(a.Tokens) {
		return errUnchanged
	}
	if !fresh && len(live) >= limits.LiveTokens {
		// The one that ends first makes room: without a new one, all rights would
		// end with the last of them.
		slices.SortStableFunc(live, func(x, y *capability.Chain) int { return x.Expires().Compare(y.Expires()) })
		live = live[len(live)-limits.LiveTokens+1:]
	}
	a.Tokens = nil
	for _, c := range live {
		a.Tokens = append(a.Tokens, c.Digest())
	}
	if !fresh {
		token, err := issue(a.Rights, a.Depth)
		if err != nil {
			return err
		}
		if token != "" {
			a.Tokens = append(a.Tokens, token)
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
