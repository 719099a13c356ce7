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
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Grant is what one agent lends another.
type Grant struct {
	Scopes      []string      // what the other may do
	Delegatable []string      // the part of it that the other may pass on
	For         time.Duration // how long, at most as long as the right itself lives; DefaultDelegation where zero
}

// Delegation is a right that was lent.
type Delegation struct {
	To      agentid.ID
	Scopes  []string
	Expires time.Time
	mesh    *Mesh
	chains  []string // digests
}

// Chains returns the digests of the delegated chains.
func (d *Delegation) Chains() []string { return slices.Clone(d.chains) }

// End takes the delegation back. When it returns, no receiver that hears of the
// control plane accepts it, and connections that rested on it are cut.
func (d *Delegation) End(ctx context.Context) error {
	var errs []error
	for _, c := range d.chains {
		errs = append(errs, d.mesh.EndDelegation(ctx, c)) // one that cannot be ended must not shield the others
	}
	return errors.Join(errs...)
}

// EndDelegation takes back a delegation that this agent made, by the digest of
// its chain.
func (m *Mesh) EndDelegation(ctx context.Context, digest string) error {
	return m.ask(ctx, wire.SelfDelegationEnd, wire.DelegationEnd{Chain: digest}, nil)
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
	if g.For == 0 {
		g.For = DefaultDelegation
	}
	waiting, stop := patient(ctx, DefaultIdleTimeout)
	defer stop()
	if err := m.present(waiting); err != nil {
		return nil, err
	}
	now := m.cfg.clock()
	parents, err := m.parents(ctx, scopes, now)
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
		if err := m.lend(ctx, d, p, onward, now); err != nil {
			// What was lent by then would live on, and its delegator would not know.
			if len(d.chains) > 0 {
				undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), admitTimeout)
				defer cancel()
				if e := d.End(undo); e != nil {
					m.log.Warn().Err(e).Strs("chains", d.chains).Msg("delegation that failed halfway could not be taken back")
				}
			}
			return nil, denied(err)
		}
	}
	return d, nil
}

// lend delegates from one chain. The digest is noted before anybody else has the
// delegation, so that it can be taken back whatever fails.
func (m *Mesh) lend(ctx context.Context, d *Delegation, p parent, onward []capability.Scope, now time.Time) error {
	text, err := m.delegate(p, d.To, onward, now, d.Expires)
	if err != nil {
		return err
	}
	chain, err := capability.Verify(text, m.peers.Ring(), m.cfg.clock())
	if err != nil {
		return err
	}
	d.chains = append(d.chains, chain.Digest())
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

// parents finds, for each scope, a chain from which it may be passed on. Scopes
// of one chain are passed on together.
func (m *Mesh) parents(ctx context.Context, scopes []capability.Scope, now time.Time) ([]parent, error) {
	chains, err := m.chains(ctx)
	if err != nil {
		return nil, err
	}
	dir := m.peers.Directory(ctx)
	var out []parent
	for _, s := range scopes {
		var best *capability.Chain
		held := false
		for _, c := range chains {
			if !c.Has(s) || c.Check(now, dir) != nil {
				continue
			}
			held = true
			if slices.Contains(c.Delegatable(), s) && (best == nil || c.Expires().After(best.Expires())) {
				best = c
			}
		}
		switch {
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

func (m *Mesh) delegate(p parent, to agentid.ID, onward []capability.Scope, now, expires time.Time) (string, error) {
	d := capability.Delegation{To: to, Scopes: p.scopes, Expires: expires}
	for _, s := range onward {
		if slices.Contains(p.scopes, s) {
			d.Delegatable = append(d.Delegatable, s)
		}
	}
	if len(d.Delegatable) > 0 {
		d.Depth = p.chain.Depth() - 1
	}
	return capability.Delegate(p.chain, documentSigner{m.key}, m.info.Passport, d, now)
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
	audit.Write(&m.log, audit.Record{
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
	case wire.NoteDelegation, wire.NoteCancel:
	default:
		want.From = agentid.Control
	}
	if !m.begin() {
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
		m.refused(audit.Note, "", kind, msg, err)
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
	case wire.NoteRotate:
		m.poke("the control plane asks for it")
	}
	audit.Write(&m.log, rec)
}

// takeDelegation checks a chain that another agent handed over and keeps it.
func (m *Mesh) takeDelegation(ctx context.Context, v *envelope.Verified) error {
	var n wire.DelegationNote
	if err := json.Unmarshal(v.Data(), &n); err != nil {
		return denial.New(denial.BadInput, "delegation does not parse")
	}
	c, err := capability.Verify(n.Chain, m.peers.Ring(), m.cfg.clock())
	if err != nil {
		return err
	}
	hops := c.Hops()
	if c.Holder() != m.info.Agent || len(hops) < 2 || hops[len(hops)-1].By != v.From() {
		return denial.New(denial.NotHolder, "chain is not a delegation from %q to %q", v.From(), m.info.Agent)
	}
	if err := c.Check(m.cfg.clock(), m.peers.Directory(ctx)); err != nil {
		return err
	}
	m.gate.Keep(c)
	m.keep(ctx, c)
	return nil
}
