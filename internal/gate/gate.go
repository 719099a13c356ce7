package gate

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Config is what a Gate needs; every field is required but BurnsPerSender.
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
	// BurnsPerSender is how many calls and asks of one sender are taken while the
	// shared store remembers them; 0: limits.BurnsPerSender.
	BurnsPerSender int
}

// Gate judges incoming messages. It is safe for concurrent use.
type Gate struct {
	cfg    Config
	chains *chains
	quota  *quota
}

// New returns a gate, or an error where anything is missing: a gate without one
// of its parts would let something through.
func New(cfg Config) (*Gate, error) {
	if cfg.Self.IsZero() || cfg.TrustDomain == "" || cfg.Space.Prefix() == "" || cfg.Peers == nil || cfg.Reader == nil ||
		cfg.Burner == nil || cfg.Seen == nil || cfg.Clock == nil || cfg.Window == (envelope.Window{}) {
		return nil, errors.New("gate: every part of the configuration is required")
	}
	if cfg.BurnsPerSender < 0 {
		return nil, errors.New("gate: a number of calls must not be negative")
	}
	return &Gate{cfg: cfg, chains: newChains(), quota: newQuota(cfg.BurnsPerSender)}, nil
}

// Peers returns the gate's view of others.
func (g *Gate) Peers() *Peers { return g.cfg.Peers }

// Want is what the subscription expects that a message came in on. A receiver
// checks the message against it, because a broker may deliver anything.
type Want struct {
	Class   subject.Class
	Dotted  string           // the scope, topic or note kind; empty for replies
	Request *envelope.Digest // replies: the request that it must answer; bodies: the invitation
	From    agentid.ID       // replies to an ask: who was asked; zero: anybody; bodies: the caller
	Scope   capability.Scope // what the sender must hold; zero only where the class needs none
	Stored  *Stored          // events: how it was pulled; nil: it is live
	Stream  *envelope.Stream // replies: of which they are parts; nil: a whole reply; bodies: see BodyStream
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
	if w.Stream != nil && w.Class != subject.Reply && w.Class != subject.Body {
		return denial.New(denial.Internal, "only replies and bodies have parts")
	}
	if w.Class == subject.Body && (w.Stream == nil || w.From.IsZero()) {
		return denial.New(denial.Internal, "a body belongs to a request")
	}
	if s := w.Stored; s != nil && (w.Class != subject.Event || s.Consumer == "" || s.Seen == nil) {
		return denial.New(denial.Internal, "what is stored are events, pulled by a consumer with a memory")
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
	pulled, err := w.delivery(m.Reply)
	if err != nil {
		return nil, err
	}
	now := g.cfg.Clock()
	if err := g.checkTime(u, w, pulled, now); err != nil {
		return nil, err
	}
	// What is read from here on is read because of this sender, for whose name
	// the broker vouches.
	q := query{cause: f.From, admin: w.Scope.Verb() == "admin", at: pulled.Time}
	sender, err := g.sender(ctx, f, q)
	if err != nil {
		return nil, err
	}
	backing := envelope.MemoryOnly
	if w.Class == subject.Call || w.Class == subject.Ask {
		backing = envelope.SharedStore
	}
	if err := g.checkReplay(ctx, u, f, w, pulled, backing, now); err != nil {
		return nil, err
	}
	v, err := u.Verify(g.cfg.TrustDomain, sender.Key, w.Request)
	if err != nil {
		return nil, err
	}
	if err := g.authorise(ctx, f, w, q); err != nil {
		return v, err
	}
	if backing == envelope.SharedStore {
		if err := g.quota.take(f.From, g.cfg.Clock()); err != nil {
			return v, err
		}
	}
	// The reads may have taken seconds: time, and whether the sender was cut
	// meanwhile, are looked at again. The nonce of a stored message is used up
	// when it is acknowledged.
	if w.Stored == nil {
		if err := g.cfg.Seen.Use(v, backing, g.cfg.Clock()); err != nil {
			return v, err
		}
	}
	if backing == envelope.SharedStore {
		if err := g.burn(ctx, w, f); err != nil {
			return v, err
		}
	}
	if err := g.cfg.Peers.unchanged(sender); err != nil {
		return v, err
	}
	return v, w.part(v)
}

// checkReplay looks a nonce up. What the shared store may have forgotten matters
// to what it decides about, and to nothing else: of what is live otherwise the
// receiver's own memory knows all since it began, and takes nothing of before.
// Copies of what is stored are told by their place in the stream.
func (g *Gate) checkReplay(ctx context.Context, u *envelope.Unverified, f envelope.Fields, w Want, pulled subject.Ack, backing envelope.Backing, now time.Time) error {
	if w.Stored != nil {
		return w.Stored.Seen.Seen(u, pulled.Sequence, pulled.Time)
	}
	if backing == envelope.SharedStore {
		since, err := g.cfg.Peers.ReplayFloor(ctx)
		if err != nil {
			return denial.New(denial.ReplayUnavailable, "what the replay store remembers cannot be found out: %w", err)
		}
		if err := above(since, f); err != nil {
			return err
		}
	}
	return g.cfg.Seen.Seen(u, backing, now)
}

func above(since time.Time, f envelope.Fields) error {
	if f.Time.Before(since) {
		return denial.New(denial.Stale, "signed before the time from which replays can be told apart")
	}
	return nil
}

// burn uses a nonce up in the shared store. The store may have been found to be
// another one while the answer was on its way.
func (g *Gate) burn(ctx context.Context, w Want, f envelope.Fields) error {
	if err := g.cfg.Burner.Burn(ctx, w.Dotted, f.From, f.Nonce); err != nil {
		return err
	}
	return above(g.cfg.Peers.ReplaySince(), f)
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
	case subject.Ask, subject.Note, subject.Reply, subject.Body:
		if p.Recipient != g.cfg.Self {
			return denial.New(denial.WrongSubject, "message is for another agent")
		}
	}
	if !w.From.IsZero() && f.From != w.From {
		return denial.New(denial.WrongResponder, "%q answers where only %q may", f.From, w.From)
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

// authorise checks the chain that the message names, and those of everybody on
// whose behalf it is sent: each must cover the scope. So what comes through many
// hands has no more than all of them have in common.
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
	for digest := range f.Principals() {
		if err := g.covers(ctx, digest, w.Scope, agentid.ID{}, q); err != nil {
			return err
		}
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
	err = g.check(ctx, c, q)
	if err == nil {
		return nil
	}
	switch denial.Of(err) {
	case denial.DelegatorCut, denial.TokenTakenBack:
		if errors.Is(err, denial.Revoked) {
			return err
		}
		// A right given, or an agent resumed, a moment ago: its holder may know
		// of it before the feed told here.
		again := g.check(ctx, c, g.cfg.Peers.afresh(q))
		if denial.Of(again) != denial.RateLimited {
			return again
		}
	}
	return err
}

// directories keeps what asks for a message from being allocated for each.
var directories = sync.Pool{New: func() any { return new(directory) }}

// check asks for the standing of everybody in the chain.
func (g *Gate) check(ctx context.Context, c *capability.Chain, q query) error {
	d := directories.Get().(*directory)
	*d = directory{ctx, g.cfg.Peers, q}
	err := c.Check(g.when(q), d)
	*d = directory{}
	directories.Put(d)
	return err
}

// when is the time at which a right must run.
func (g *Gate) when(q query) time.Time {
	if !q.at.IsZero() {
		return q.at
	}
	return g.cfg.Clock()
}
