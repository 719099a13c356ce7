package meshclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Grant is what one agent lends another.
type Grant struct {
	Scopes      []string      // what the other may do
	Delegatable []string      // the part of it that the other may pass on
	Depth       int           // how often that may be passed on, by one after the other; as often as it can be where zero
	For         time.Duration // how long, at most as long as the right itself lives; DefaultDelegation where zero. It is laid down up to five seconds before its end, so less is worth little
}

// Delegation is a right that was lent.
type Delegation struct {
	To      agentid.ID
	Scopes  []string
	Expires time.Time
	mesh    *Mesh
	chains  []*capability.Chain
}

// Chains returns the digests of the delegated chains.
func (d *Delegation) Chains() []string {
	out := make([]string, 0, len(d.chains))
	for _, c := range d.chains {
		out = append(out, c.Digest())
	}
	return out
}

// End takes the delegation back, and with it what was passed on under it. When it
// returns, no receiver that hears of the control plane accepts it, and no
// connection rests on it. That takes up to a second: whoever was lent something
// replaces its connection, and loses nothing of what it does by its own rights.
func (d *Delegation) End(ctx context.Context) error {
	var errs []error
	for _, c := range d.chains {
		errs = append(errs, d.mesh.EndDelegation(ctx, c.Text())) // one that cannot be ended must not shield the others
	}
	return errors.Join(errs...)
}

// EndDelegation takes back a delegation that this agent made, by the digest of
// its chain or by the chain itself. One that was never stored in the mesh can be
// ended by the chain alone.
func (m *Mesh) EndDelegation(ctx context.Context, chain string) error {
	end := wire.DelegationEnd{Chain: chain}
	if !jws.IsDigest(chain) {
		end = wire.DelegationEnd{Chain: jws.Digest(chain), Text: chain}
	}
	return m.ask(ctx, wire.SelfDelegationEnd, end, nil)
}

// Delegate lends another agent a part of what this agent may pass on. It is
// signed here, with no service involved, stored so that receivers can read it,
// and handed over in a signed note; the other agent's next call may use it. An
// agent that is away takes it up when it connects.
func (m *Mesh) Delegate(ctx context.Context, to string, g Grant) (*Delegation, error) {
	id, err := agentid.Parse(to)
	if err != nil {
		return nil, denied(denial.New(denial.BadInput, "%w", err))
	}
	scopes, err := parseScopes(g.Scopes)
	if err != nil {
		return nil, denied(err)
	}
	onward, err := parseScopes(g.Delegatable)
	if err != nil {
		return nil, denied(err)
	}
	if len(scopes) == 0 {
		return nil, denied(denial.New(denial.BadInput, "a delegation needs at least one scope"))
	}
	for _, s := range onward {
		if !slices.Contains(scopes, s) {
			return nil, denied(denial.New(denial.BeyondOwn, "%q may not be passed on: it is not among the scopes lent", s))
		}
	}
	switch {
	case g.Depth < 0, g.Depth > 0 && len(onward) == 0:
		return nil, denied(denial.New(denial.BadInput, "depth is how often what is delegatable may be passed on"))
	case g.For == 0:
		g.For = DefaultDelegation
	}
	waiting, stop := patient(ctx, DefaultIdleTimeout)
	defer stop()
	if err := m.present(waiting); err != nil {
		return nil, err
	}
	now := m.cfg.clock()
	parents, err := m.parents(ctx, scopes, onward, g.Depth, now)
	if err != nil {
		return nil, denied(err)
	}
	d := &Delegation{To: id, Scopes: g.Scopes, Expires: now.Add(g.For), mesh: m}
	for _, p := range parents {
		if end := p.chain.Expires(); end.Before(d.Expires) {
			d.Expires = end
		}
	}
	for _, p := range parents {
		if err := m.lend(ctx, d, p, onward, g.Depth, now); err != nil {
			d.undo(ctx)
			return nil, denied(err)
		}
	}
	return d, nil
}

// undo takes back what was lent before the rest failed: it would live on, and its
// delegator has no handle to end it by. What made the rest fail, such as a limit
// on what one may ask, may keep it from being taken back for a moment.
func (d *Delegation) undo(ctx context.Context) {
	if len(d.chains) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), admitTimeout)
	defer cancel()
	for {
		err := d.End(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil || !errors.Is(err, ErrUnavailable) {
			d.mesh.log.Warn().Err(err).Strs("chains", d.Chains()).Msg("delegation that failed halfway could not be taken back")
			return
		}
		select {
		case <-ctx.Done():
		case <-d.mesh.ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lend delegates from one chain. The chain is noted before anybody else has the
// delegation, so that it can be taken back whatever fails.
func (m *Mesh) lend(ctx context.Context, d *Delegation, p parent, onward []capability.Scope, depth int, now time.Time) error {
	text, err := m.delegate(p, d.To, onward, depth, now, d.Expires)
	if err != nil {
		return err
	}
	chain, err := capability.Verify(text, m.peers.Ring(), m.cfg.clock())
	if err != nil {
		return err
	}
	d.chains = append(d.chains, chain)
	if err := m.ask(ctx, wire.SelfChainPut, wire.ChainPut{Chain: text}, nil); err != nil {
		return err
	}
	m.gate.Keep(chain)
	return m.note(ctx, d.To, wire.NoteDelegation, wire.DelegationNote{Chain: text})
}

// parent is a chain and the scopes that are to be passed on from it.
type parent struct {
	chain  *capability.Chain
	scopes []capability.Scope
}

// parents finds, for each scope, a chain from which it may be passed on, often
// enough where it is to be passed on again. Scopes of one chain are passed on
// together.
func (m *Mesh) parents(ctx context.Context, scopes, onward []capability.Scope, depth int, now time.Time) ([]parent, error) {
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	dir := m.peers.Directory(ctx)
	var out []parent
	for _, s := range scopes {
		need := 1
		if slices.Contains(onward, s) {
			need += max(depth, 1)
		}
		var best *capability.Chain
		held, most := false, 0
		for _, c := range chains {
			if !c.Has(s) || c.Check(now, dir) != nil {
				continue
			}
			held = true
			if !slices.Contains(c.Delegatable(), s) {
				continue
			}
			most = max(most, c.Depth())
			if c.Depth() >= need && (best == nil || c.Expires().After(best.Expires())) {
				best = c
			}
		}
		switch {
		case best == nil && most > 0:
			return nil, denial.New(denial.DepthExceeded, "%q may be passed on %d more times, and that would take %d", s, most, need)
		case best == nil && held:
			return nil, denial.New(denial.NotDelegatable, "%q holds %q and may not pass it on", m.info.Agent, s)
		case best == nil:
			return nil, denial.New(denial.BeyondOwn, "%q does not hold %q", m.info.Agent, s)
		}
		i := slices.IndexFunc(out, func(p parent) bool { return p.chain == best })
		if i < 0 {
			out = append(out, parent{chain: best})
			i = len(out) - 1
		}
		out[i].scopes = append(out[i].scopes, s)
	}
	return out, nil
}

func (m *Mesh) delegate(p parent, to agentid.ID, onward []capability.Scope, depth int, now, expires time.Time) (string, error) {
	d := capability.Delegation{To: to, Scopes: p.scopes, Expires: expires}
	for _, s := range onward {
		if slices.Contains(p.scopes, s) {
			d.Delegatable = append(d.Delegatable, s)
		}
	}
	switch {
	case len(d.Delegatable) == 0:
	case depth > 0:
		d.Depth = depth
	default:
		d.Depth = p.chain.Depth() - 1
	}
	return capability.Delegate(p.chain, documentSigner{m.key}, *m.passport.Load(), d, now)
}

func parseScopes(list []string) ([]capability.Scope, error) {
	var out []capability.Scope
	for _, s := range list {
		scope, err := capability.ParseScope(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, scope) {
			out = append(out, scope)
		}
	}
	return out, nil
}

// note sends a signed control message to an agent.
func (m *Mesh) note(ctx context.Context, to agentid.ID, kind string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	at := placeOf(ctx)
	subj := m.space.Note(m.info.Agent, to, kind)
	msg, f, _, err := m.speaker.Message(subj, envelope.Fields{
		Correlation: at.correlation, Parent: at.parent, Hop: at.hop, ContentType: "application/json",
	}, nil, data, nil)
	if err != nil {
		return err
	}
	if err := m.conn().PublishMsg(msg); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m.audited(audit.Record{
		Kind: audit.Note, Verdict: audit.Sent, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: m.info.Agent, Instance: m.info.Instance, Peer: to, Scope: kind, Subject: subj, Payload: payloadDigest(data), Size: len(data),
	})
	return nil
}

// onNote takes control messages. Checks may need the registry, so each runs
// beside the subscription; few can come, since the broker vouches for senders
// and unknown ones are limited.
func (m *Mesh) onNote(l *link, msg *nats.Msg) {
	kind := msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:]
	want := gate.Want{Class: subject.Note, Dotted: kind}
	switch kind {
	case wire.NoteDelegation, wire.NoteCancel, wire.NoteReceived:
	default:
		want.From = agentid.Control
	}
	if !m.noted(kind, msg) || !m.begin() {
		return
	}
	defer m.end()
	came := m.recent.came(l, msg)
	ctx, cancel := context.WithTimeout(m.ctx, admitTimeout)
	defer cancel()
	v, err := m.gate.Admit(ctx, message(msg), want)
	if err != nil {
		if denial.Of(err) == denial.Replayed && m.recent.isCopy(came) {
			return
		}
		m.refused(audit.Note, v, correlationOf(v), kind, msg, err)
		return
	}
	f := v.Fields()
	rec := audit.Record{
		Kind: audit.Note, Verdict: audit.Accepted, Correlation: f.Correlation, Nonce: f.Nonce, Parent: f.Parent,
		Sender: f.From, Instance: v.Instance(), Peer: m.info.Agent, Scope: kind, Subject: msg.Subject, Size: len(msg.Data),
	}
	switch kind {
	case wire.NoteDelegation:
		if err := m.takeDelegation(ctx, v); err != nil {
			rec.Verdict, rec.Reason, rec.Detail = audit.Refused, denial.Of(err), denial.Detail(err)
		}
	case wire.NoteCancel:
		if err := m.takeCancel(v); err != nil {
			rec.Verdict, rec.Reason, rec.Detail = audit.Refused, denial.Of(err), denial.Detail(err)
		}
	case wire.NoteReceived:
		if err := m.takeReceived(v); err == nil {
			return // one line for each would say nothing that the call's does not
		}
		rec.Verdict, rec.Reason = audit.Refused, denial.BadInput
	case wire.NoteRotate:
		if err := m.takeRotate(v); err != nil {
			rec.Verdict, rec.Reason, rec.Detail = audit.Refused, denial.Of(err), denial.Detail(err)
		}
	}
	m.audited(rec)
	if rec.Verdict == audit.Refused {
		m.tellRefused(rec, true)
	}
}

// takeDelegation checks a chain that another agent handed over, or that another
// instance of this one took up, and keeps it.
func (m *Mesh) takeDelegation(ctx context.Context, v *envelope.Verified) error {
	var n wire.DelegationNote
	if err := json.Unmarshal(v.Data(), &n); err != nil {
		return denial.New(denial.BadInput, "delegation does not parse")
	}
	c, err := m.lentToMe(ctx, n.Chain)
	if err != nil {
		return err
	}
	if from := v.From(); from != delegator(c) && from != m.info.Agent {
		return denial.New(denial.NotHolder, "chain is not a delegation from %q", from)
	}
	m.gate.Keep(c)
	m.keep(ctx, c)
	return nil
}

// lentToMe verifies a chain that is to be a delegation to this agent and worth
// something now.
func (m *Mesh) lentToMe(ctx context.Context, text string) (*capability.Chain, error) {
	c, err := capability.Verify(text, m.peers.Ring(), m.cfg.clock())
	if err != nil {
		return nil, err
	}
	if c.Holder() != m.info.Agent || len(c.Hops()) < 2 {
		return nil, denial.New(denial.NotHolder, "chain is not a delegation to %q", m.info.Agent)
	}
	return c, c.Check(m.cfg.clock(), m.peers.Directory(ctx))
}

// TakeUp takes up a delegation that was made offline and carried here as text: it
// is stored in the mesh, where receivers read it and where it counts for this
// agent's own quota, kept in the agent's directory and told to its other
// instances. The next call may use it.
func (m *Mesh) TakeUp(ctx context.Context, chain string) (*capability.Chain, error) {
	waiting, stop := patient(ctx, DefaultIdleTimeout)
	defer stop()
	if err := m.present(waiting); err != nil {
		return nil, err
	}
	c, err := m.lentToMe(ctx, chain)
	if err != nil {
		return nil, denied(err)
	}
	if err := m.ask(ctx, wire.SelfChainPut, wire.ChainPut{Chain: chain}, nil); err != nil {
		return nil, err
	}
	m.gate.Keep(c)
	m.keep(ctx, c)
	m.mu.Lock()
	_, held := m.held[c.Digest()]
	m.mu.Unlock()
	if !held {
		return nil, denied(denial.New(denial.QuotaExceeded, "%q holds as many delegations as it can", m.info.Agent))
	}
	return c, m.note(ctx, m.info.Agent, wire.NoteDelegation, wire.DelegationNote{Chain: chain})
}
