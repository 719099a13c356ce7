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

// chainsMost bounds the verified chains that are kept.
const chainsMost = 4096

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
	mu     sync.RWMutex
	chains map[string]*capability.Chain
	absent map[string]time.Time
}

// New returns a gate, or an error where anything is missing: a gate without one
// of its parts would let something through.
func New(cfg Config) (*Gate, error) {
	if cfg.Self.IsZero() || cfg.TrustDomain == "" || cfg.Space.Prefix() == "" || cfg.Peers == nil || cfg.Reader == nil ||
		cfg.Burner == nil || cfg.Seen == nil || cfg.Clock == nil {
		return nil, errors.New("gate: every part of the configuration is required")
	}
	return &Gate{cfg: cfg, chains: map[string]*capability.Chain{}, absent: map[string]time.Time{}}, nil
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

// Admit judges one message. On success it returns the verified message. On a
// refusal the verified message is returned with the error if, and only if, the
// signature was good, so that the sender may be told; nothing else may be done
// with it.
func (g *Gate) Admit(ctx context.Context, m envelope.Message, w Want) (*envelope.Verified, error) {
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
	if since := g.cfg.Peers.ReplaySince(); f.Time.Before(since) {
		return nil, denial.New(denial.Stale, "signed before the time from which replays can be told apart")
	}
	sender, err := g.sender(ctx, f)
	if err != nil {
		return nil, err
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
	if err := g.authorise(ctx, f, w); err != nil {
		return v, err
	}
	if err := g.cfg.Seen.Use(v, backing, now); err != nil {
		return v, err
	}
	if backing == envelope.SharedStore {
		if err := g.cfg.Burner.Burn(ctx, w.Dotted, f.From, f.Nonce); err != nil {
			return v, err
		}
	}
	return v, nil
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

// sender checks standing and epoch. A higher epoch than known makes the record
// be read afresh: the sender may know of a change before the feed told.
func (g *Gate) sender(ctx context.Context, f envelope.Fields) (Sender, error) {
	s, err := g.cfg.Peers.sender(ctx, f.From, f.Key, false)
	if err == nil && f.Epoch == epochOf(s) {
		return s, nil
	}
	known := epochOf(s)
	if err == nil && f.Epoch.Agent <= known.Agent && f.Epoch.Instance <= known.Instance {
		return Sender{}, denial.New(denial.StaleEpoch, "epoch %s is over, %s is current", f.Epoch, known)
	}
	if err != nil && !changeable(denial.Of(err)) {
		return Sender{}, err
	}
	if !g.cfg.Peers.mayRefresh(f.From) {
		return Sender{}, denial.New(denial.RateLimited, "record of %q was read afresh too often", f.From)
	}
	if s, err = g.cfg.Peers.sender(ctx, f.From, f.Key, true); err != nil {
		return Sender{}, err
	}
	if known = epochOf(s); f.Epoch != known {
		return Sender{}, denial.New(denial.StaleEpoch, "epoch %s is not current, %s is", f.Epoch, known)
	}
	return s, nil
}

// changeable reports whether a fresh read could undo the refusal: the agent may
// have come back a moment ago.
func changeable(r denial.Reason) bool {
	return r == denial.Suspended || r == denial.Expired || r == denial.Pending
}

func epochOf(s Sender) envelope.Epoch {
	if s.Agent == nil || s.Instance == nil {
		return envelope.Epoch{}
	}
	return envelope.Epoch{Agent: s.Agent.Epoch, Instance: s.Instance.Epoch}
}

// authorise checks the chain that the message names, and the one on whose
// behalf it is sent: both must cover the scope.
func (g *Gate) authorise(ctx context.Context, f envelope.Fields, w Want) error {
	if w.Scope.IsZero() {
		return nil
	}
	if f.Token == "" {
		return denial.New(denial.NoToken, "no capability chain named for %q", w.Scope)
	}
	if err := g.covers(ctx, f.Token, w.Scope, f.From); err != nil {
		return err
	}
	if f.OnBehalf != "" {
		return g.covers(ctx, f.OnBehalf, w.Scope, agentid.ID{})
	}
	return nil
}

// covers checks one chain for a scope; holder is zero where anybody's will do.
func (g *Gate) covers(ctx context.Context, digest string, scope capability.Scope, holder agentid.ID) error {
	c, err := g.Chain(ctx, digest)
	if err != nil {
		return err
	}
	if !holder.IsZero() && c.Holder() != holder {
		return denial.New(denial.NotHolder, "chain is held by %q, not by %q", c.Holder(), holder)
	}
	if err := c.Check(g.cfg.Clock(), g.cfg.Peers.Directory(ctx)); err != nil {
		return err
	}
	if !c.Has(scope) {
		return denial.New(denial.ScopeNotHeld, "chain does not cover %q", scope)
	}
	return nil
}

// Chain returns a verified chain by its digest, fetched once. Its standing is
// not checked here.
func (g *Gate) Chain(ctx context.Context, digest string) (*capability.Chain, error) {
	now := g.cfg.Clock()
	g.mu.RLock()
	c := g.chains[digest]
	until := g.absent[digest]
	g.mu.RUnlock()
	if c != nil {
		return c, nil
	}
	if now.Before(until) {
		return nil, denial.New(denial.UnknownChain, "no chain is stored under this digest")
	}
	text, err := g.cfg.Reader.Chain(ctx, digest)
	if errors.Is(err, denial.NotFound) {
		g.mu.Lock()
		if len(g.absent) >= negativeMost {
			clear(g.absent)
		}
		g.absent[digest] = now.Add(negativeFor)
		g.mu.Unlock()
		return nil, denial.New(denial.UnknownChain, "no chain is stored under this digest")
	}
	if err != nil {
		return nil, err
	}
	c, err = capability.Verify(text, g.cfg.Peers.Ring(), now)
	if err != nil {
		return nil, err
	}
	if c.Digest() != digest {
		return nil, denial.New(denial.BrokenChain, "another chain is stored under this digest")
	}
	g.Keep(c)
	return c, nil
}

// Keep puts a chain that was verified elsewhere into the cache.
func (g *Gate) Keep(c *capability.Chain) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.chains) >= chainsMost {
		clear(g.chains)
	}
	g.chains[c.Digest()] = c
	delete(g.absent, c.Digest())
}
