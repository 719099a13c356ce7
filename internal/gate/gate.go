package gate

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Config is what a Gate needs; every field is required.
type Config struct {
	Self        agentid.ID
	TrustDomain string
	Space       subject.Space
	Peers       *Peers
	Reader      Reader
	Burner      Burner
	Seen        *envelope.Memory
	Window      envelope.Window
	Clock       func() time.Time
}

// Gate judges incoming messages. It is safe for concurrent use.
type Gate struct {
	cfg    Config
	chains *chains
}

// New returns a gate, or an error where anything is missing: a gate without one
// of its parts would let something through.
func New(cfg Config) (*Gate, error) {
	if cfg.Self.IsZero() || cfg.TrustDomain == "" || cfg.Space.Prefix() == "" || cfg.Peers == nil || cfg.Reader == nil ||
		cfg.Burner == nil || cfg.Seen == nil || cfg.Clock == nil || cfg.Window == (envelope.Window{}) {
		return nil, errors.New("gate: every part of the configuration is required")
	}
	return &Gate{cfg: cfg, chains: newChains()}, nil
}

// Peers returns the gate's view of others.
func (g *Gate) Peers() *Peers { return g.cfg.Peers }

// Want is what the subscription expects that a message came in on. A receiver
// checks the message against it, because a broker may deliver anything.
type Want struct {
	Class   subject.Class
	Dotted  string           // the scope, topic or note kind; empty for replies
	Request *envelope.Digest // replies: the request that it must answer
	From    agentid.ID       // replies to an ask: who was asked; zero: anybody
	Scope   capability.Scope // what the sender must hold; zero only where the class needs none
}

// valid refuses a Want that would let in what nobody checked.
func (w Want) valid() error {
	switch w.Class {
	case subject.Call, subject.Event:
		if w.Scope.IsZero() {
			return denial.New(denial.Internal, "a %s needs a scope to be checked against", w.Class)
		}
	}
	switch w.Class {
	case subject.Call, subject.Ask, subject.Event:
		if !w.Scope.IsZero() && w.Scope.Dotted() != w.Dotted {
			return denial.New(denial.Internal, "scope %q is not that of subjects %q", w.Scope, w.Dotted)
		}
	}
	return nil
}

// Admit judges one message. On success it returns the verified message. On a
// refusal the verified message is returned with the error if, and only if, the
// signature was good, so that the sender may be told; nothing else may be done
// with it.
func (g *Gate) Admit(ctx context.Context, m envelope.Message, w Want) (*envelope.Verified, error) {
	if err := w.valid(); err != nil {
		return nil, err
	}
	u, err := envelope.Parse(m)
	if err != nil {
		return nil, err
	}
	f := u.UnsafeFields()
	if err := g.checkSubject(u, f, w); err != nil {
		return nil, err
	}
	now := g.cfg.Clock()
	if err := u.CheckTime(now, g.cfg.Window); err != nil {
		return nil, err
	}
	// What is read from here on is read because of this sender, for whose name
	// the broker vouches.
	q := query{cause: f.From, admin: w.Scope.Verb() == "admin"}
	sender, err := g.sender(ctx, f, q)
	if err != nil {
		return nil, err
	}
	if since := g.cfg.Peers.ReplaySince(); f.Time.Before(since) {
		return nil, denial.New(denial.Stale, "signed before the time from which replays can be told apart")
	}
	backing := envelope.MemoryOnly
	if w.Class == subject.Call || w.Class == subject.Ask {
		backing = envelope.SharedStore
	}
	if err := g.cfg.Seen.Seen(u, backing, now); err != nil {
		return nil, err
	}
	v, err := u.Verify(g.cfg.TrustDomain, sender.Key, w.Request)
	if err != nil {
		return nil, err
	}
	if err := g.authorise(ctx, f, w, q); err != nil {
		return v, err
	}
	// The reads may have taken seconds: time, and whether the sender was cut
	// meanwhile, are looked at again.
	if err := g.cfg.Seen.Use(v, backing, g.cfg.Clock()); err != nil {
		return v, err
	}
	if backing == envelope.SharedStore {
		if err := g.cfg.Burner.Burn(ctx, w.Dotted, f.From, f.Nonce); err != nil {
			return v, err
		}
	}
	return v, g.cfg.Peers.unchanged(sender)
}

func (g *Gate) checkSubject(u *envelope.Unverified, f envelope.Fields, w Want) error {
	p, err := u.CheckSubject(g.cfg.Space)
	if err != nil {
		return err
	}
	if p.Class != w.Class || p.Dotted != w.Dotted {
		return denial.New(denial.WrongSubject, "message does not belong to the subscription it came in on")
	}
	switch p.Class {
	case subject.Ask, subject.Note, subject.Reply:
		if p.Recipient != g.cfg.Self {
			return denial.New(denial.WrongSubject, "message is for another agent")
		}
	}
	if !w.From.IsZero() && f.From != w.From {
		return denial.New(denial.WrongResponder, "%q answered what %q was asked", f.From, w.From)
	}
	return nil
}

// sender checks standing and epoch. Where the sender may know of a change before
// the feed told, its record is read afresh, once: it claims a higher epoch, or is
// known in a state from which agents come back.
func (g *Gate) sender(ctx context.Context, f envelope.Fields, q query) (Sender, error) {
	peers := g.cfg.Peers
	s, err := peers.sender(ctx, f.From, f.Key, q)
	if err == nil && f.Epoch == s.Epoch() {
		return s, nil
	}
	if s.Agent == nil {
		return Sender{}, err
	}
	higher := f.Epoch.Agent > s.Agent.Epoch
	lower := f.Epoch.Agent < s.Agent.Epoch
	if s.Instance != nil {
		higher = higher || f.Epoch.Instance > s.Instance.Epoch
		lower = lower || f.Epoch.Instance < s.Instance.Epoch
	}
	switch {
	case err == nil && lower: // neither part ever goes back, so no read can help
		return Sender{}, denial.New(denial.StaleEpoch, "epoch %s is over, %s is current", f.Epoch, s.Epoch())
	case err != nil && (lower || !higher && !comesBack(err)):
		return Sender{}, err
	}
	fresh, again := peers.sender(ctx, f.From, f.Key, peers.afresh(q))
	if err != nil && denial.Of(again) == denial.RateLimited {
		return Sender{}, err
	}
	if again != nil {
		return Sender{}, again
	}
	if f.Epoch != fresh.Epoch() {
		return Sender{}, denial.New(denial.StaleEpoch, "epoch %s is not current, %s is", f.Epoch, fresh.Epoch())
	}
	return fresh, nil
}

// comesBack reports whether an agent may have come back a moment ago from the
// state for which it is refused.
func comesBack(err error) bool {
	switch denial.Of(err) {
	case denial.Suspended, denial.Expired, denial.Pending:
		return true
	}
	return false
}

// authorise checks the chain that the message names, and the one on whose
// behalf it is sent: both must cover the scope.
func (g *Gate) authorise(ctx context.Context, f envelope.Fields, w Want, q query) error {
	if w.Scope.IsZero() {
		return nil
	}
	if f.Token == "" {
		return denial.New(denial.NoToken, "no capability chain named for %q", w.Scope)
	}
	if err := g.covers(ctx, f.Token, w.Scope, f.From, q); err != nil {
		return err
	}
	if f.OnBehalf != "" {
		return g.covers(ctx, f.OnBehalf, w.Scope, agentid.ID{}, q)
	}
	return nil
}

// covers checks one chain for a scope; holder is zero where anybody's will do.
func (g *Gate) covers(ctx context.Context, digest string, scope capability.Scope, holder agentid.ID, q query) error {
	c, err := g.chain(ctx, digest, q)
	if err != nil {
		return err
	}
	if !holder.IsZero() && c.Holder() != holder {
		return denial.New(denial.NotHolder, "chain is held by %q, not by %q", c.Holder(), holder)
	}
	if !c.Has(scope) {
		return denial.New(denial.ScopeNotHeld, "chain does not cover %q", scope)
	}
	peers := g.cfg.Peers
	err = c.Check(g.cfg.Clock(), directory{ctx, peers, q})
	switch denial.Of(err) {
	case denial.DelegatorCut, denial.TokenTakenBack:
		if errors.Is(err, denial.Revoked) {
			return err
		}
		// A right given, or an agent resumed, a moment ago: its holder may know
		// of it before the feed told here.
		again := c.Check(g.cfg.Clock(), directory{ctx, peers, peers.afresh(q)})
		if denial.Of(again) != denial.RateLimited {
			return again
		}
	}
	return err
}
