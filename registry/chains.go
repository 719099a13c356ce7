package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// A chain is stored under its digest, which agents may read. Two indexes, which
// they cannot: held.<holder>.<digest> tells an instance that just connected which
// delegations wait for it, and by.<delegator>.<digest> and took.<holder>.<digest>,
// whose value is the delegation's own digest, count what an agent has stored, and
// kept.<storer>.<digest> what of it is kept after its end.

// PutChain stores a verified chain until it ends. One by which events of durable
// topics can be published is kept for as long after that as such an event is
// stored: who reads a backlog has to see that it was published while the right
// ran. Storing it again is no error.
func (s *Store) PutChain(ctx context.Context, c *capability.Chain) error {
	ttl := ttlUntil(tokenEnd(c), s.cfg.Clock())
	if ttl <= 0 {
		return denial.New(denial.TokenExpired, "chain has ended")
	}
	// The chain comes last: where it is, its index is too.
	if len(c.Hops()) > 1 {
		if _, err := s.create(ctx, ChainsBucket, heldKey(c.Holder(), c.Digest()), []byte(c.Digest()), ttl); err != nil {
			return err
		}
	}
	after, err := s.backlog(ctx, c)
	if err != nil {
		return err
	}
	_, err = s.create(ctx, ChainsBucket, c.Digest(), []byte(c.Text()), ttl+after)
	return err
}

// tokenEnd is when the chain's own tokens end. It may be worth nothing before that,
// because a signing key in it ends, and again something when that key is certified
// for longer.
func tokenEnd(c *capability.Chain) time.Time {
	hops := c.Hops()
	return hops[len(hops)-1].Expires
}

// backlog is how long events may be stored that the chain lets its holder
// publish.
func (s *Store) backlog(ctx context.Context, c *capability.Chain) (time.Duration, error) {
	if !slices.ContainsFunc(c.Scopes(), publishes) {
		return 0, nil
	}
	topics, err := s.Topics(ctx)
	if errors.Is(err, denial.OlderRecord) {
		// What is durable has to be looked at first, and may be kept that long.
		return min(limits.EventAge, s.cfg.TokenTTL/2), nil
	}
	if err != nil {
		return 0, err
	}
	var longest int64
	for _, scope := range c.Scopes() {
		if t, durable := topics.Find(scope.Dotted()); publishes(scope) && durable {
			longest = max(longest, t.MaxAge)
		}
	}
	return time.Duration(longest) * time.Second, nil
}

func publishes(s capability.Scope) bool { return s.Verb() == "publish" }

// Upload stores a delegated chain for its delegator, or for its holder, to whom a
// chain may be carried by hand. It counts for whoever stores it: a delegator that
// makes many for somebody takes nothing of the other's quota, and each may have
// only so many stored that are not ended.
func (s *Store) Upload(ctx context.Context, by agentid.ID, text string) (*capability.Chain, error) {
	now := s.cfg.Clock()
	c, err := capability.Verify(text, s.Ring(), now)
	if err != nil {
		return nil, err
	}
	hops := c.Hops()
	last := hops[len(hops)-1]
	if by.IsZero() || len(hops) < 2 || last.By != by && last.To != by {
		return nil, denial.New(denial.NotHolder, "the last delegation of the chain is neither by %q nor to it", by)
	}
	if err := c.Check(now, s.Directory(ctx)); err != nil {
		return nil, err
	}
	if _, err := s.readChainText(ctx, c.Digest()); err == nil {
		return c, nil
	} else if denial.Of(err) != denial.UnknownChain {
		return nil, err
	}
	// Counted after it is written: uploads at the same time see one another, so
	// that together they stay below the limit.
	index, check := byKey(by, c.Digest()), s.checkUploads
	if last.By != by {
		index, check = tookKey(by, c.Digest()), s.checkTaken
	}
	if _, err := s.create(ctx, ChainsBucket, index, []byte(last.Token), ttlUntil(tokenEnd(c), now)); err != nil {
		return nil, err
	}
	if err := check(ctx, by); err != nil {
		return nil, errors.Join(err, s.remove(ctx, ChainsBucket, index))
	}
	if err := s.keepAfter(ctx, by, c, now); err != nil {
		return nil, errors.Join(err, s.remove(ctx, ChainsBucket, index))
	}
	if err := s.PutChain(ctx, c); err != nil {
		return nil, err
	}
	return c, nil
}

// keepAfter counts what an agent has stored that is kept after its end: many short
// delegations must not fill the bucket for as long as events live.
func (s *Store) keepAfter(ctx context.Context, by agentid.ID, c *capability.Chain, now time.Time) error {
	after, err := s.backlog(ctx, c)
	if err != nil || after == 0 {
		return err
	}
	index := keptKey(by, c.Digest())
	if _, err := s.create(ctx, ChainsBucket, index, []byte(c.Digest()), ttlUntil(tokenEnd(c), now)+after); err != nil {
		return err
	}
	keys, err := s.keys(ctx, ChainsBucket, keptKey(by, "*"))
	if err == nil && len(keys) > limits.KeptChains {
		err = denial.New(denial.QuotaExceeded, "agent %q has %d delegations of durable topics stored; lend for longer in place of more often", by, len(keys)-1)
	}
	if err != nil {
		return errors.Join(err, s.remove(ctx, ChainsBucket, index))
	}
	return nil
}

// checkUploads counts the delegations of an agent that are stored and that it
// has not ended.
func (s *Store) checkUploads(ctx context.Context, by agentid.ID) error {
	keys, err := s.keys(ctx, ChainsBucket, byKey(by, "*"))
	if err != nil || len(keys) <= limits.UploadedChains {
		return err // what was ended need not be told apart
	}
	a, err := s.Agent(ctx, by)
	if err != nil {
		return err
	}
	n := 0
	err = s.each(ctx, ChainsBucket, byKey(by, "*"), func(_ string, value []byte) error {
		if a.NotVoided(string(value)) == nil {
			n++
		}
		return nil
	})
	if err == nil && n > limits.UploadedChains {
		err = denial.New(denial.QuotaExceeded, "agent %q has %d delegations stored; end some", by, n-1)
	}
	return err
}

// checkTaken counts the delegations to an agent that it has stored itself. They
// end by time: it cannot know which of them were taken back.
func (s *Store) checkTaken(ctx context.Context, holder agentid.ID) error {
	keys, err := s.keys(ctx, ChainsBucket, tookKey(holder, "*"))
	if err == nil && len(keys) > limits.UploadedChains {
		err = denial.New(denial.QuotaExceeded, "agent %q has taken up %d delegations that have not ended", holder, len(keys)-1)
	}
	return err
}

// Chain reads and verifies a stored chain; denial.UnknownChain if there is none.
func (s *Store) Chain(ctx context.Context, digest string) (*capability.Chain, error) {
	text, err := s.readChainText(ctx, digest)
	if err != nil {
		return nil, err
	}
	c, err := capability.Verify(text, s.Ring(), s.cfg.Clock())
	if err != nil {
		return nil, err
	}
	if c.Digest() != digest {
		return nil, denial.New(denial.BadRecord, "another chain is stored under this digest")
	}
	return c, nil
}

func (s *Store) readChainText(ctx context.Context, digest string) (string, error) {
	if !jws.IsDigest(digest) {
		return "", denial.New(denial.BadInput, "not a chain digest")
	}
	e, err := s.leaderRead(ctx, ChainsBucket, digest)
	if errors.Is(err, errNoEntry) {
		return "", denial.New(denial.UnknownChain, "no chain is stored under %s", digest)
	}
	return string(e.value), err
}

// Held returns the digests of the delegated chains that were stored for holder.
func (s *Store) Held(ctx context.Context, holder agentid.ID) ([]string, error) {
	var out []string
	err := s.each(ctx, ChainsBucket, heldKey(holder, "*"), func(_ string, value []byte) error {
		out = append(out, string(value))
		return nil
	})
	return out, err
}

// AllHeld returns the same for everybody, by holder.
func (s *Store) AllHeld(ctx context.Context) (map[agentid.ID][]string, error) {
	keys, err := s.keys(ctx, ChainsBucket, "held.*.*")
	out := map[agentid.ID][]string{}
	for _, key := range keys {
		holder, digest, _ := strings.Cut(strings.TrimPrefix(key, "held."), ".")
		if id, err := agentid.Parse(holder); err == nil {
			out[id] = append(out[id], digest)
		}
	}
	return out, err
}

// DelegatedBy returns the chains whose last hop is by the agent, not expired.
func (s *Store) DelegatedBy(ctx context.Context, by agentid.ID) ([]*capability.Chain, error) {
	prefix := byKey(by, "")
	var digests []string
	err := s.each(ctx, ChainsBucket, byKey(by, "*"), func(key string, _ []byte) error {
		digests = append(digests, strings.TrimPrefix(key, prefix))
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []*capability.Chain
	for _, d := range digests {
		c, err := s.Chain(ctx, d)
		switch {
		case err == nil:
			out = append(out, c)
		case denial.Of(err) == "":
			return nil, err
		}
	}
	return out, nil
}

func heldKey(holder agentid.ID, digest string) string {
	return "held." + holder.String() + "." + digest
}

func byKey(by agentid.ID, digest string) string { return "by." + by.String() + "." + digest }

func keptKey(by agentid.ID, digest string) string { return "kept." + by.String() + "." + digest }

func tookKey(holder agentid.ID, digest string) string {
	return "took." + holder.String() + "." + digest
}

// Directory answers what a chain's check asks of the registry, reading from the
// leader. Use one for one decision: it caches what it read.
func (s *Store) Directory(ctx context.Context) capability.Directory {
	return &directory{ctx: ctx, store: s, agents: map[agentid.ID]*Agent{}}
}

type directory struct {
	ctx   context.Context
	store *Store

	mu     sync.Mutex
	agents map[agentid.ID]*Agent
}

func (d *directory) agent(id agentid.ID) (*Agent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.agents[id]; a != nil {
		return a, nil
	}
	a, err := d.store.Agent(d.ctx, id)
	if err != nil {
		return nil, err
	}
	d.agents[id] = a
	return a, nil
}

func (d *directory) Standing(id agentid.ID) error {
	a, err := d.agent(id)
	if err != nil {
		return err
	}
	return a.Status.Standing()
}

func (d *directory) SignerStanding(id agentid.ID, key string) error {
	a, err := d.agent(id)
	if err != nil {
		return err
	}
	i, err := d.store.Instance(d.ctx, id, agentid.InstanceOf(key))
	if err != nil {
		return err
	}
	if err := i.Belongs(a); err != nil {
		return err
	}
	return SignerStanding(i, key, d.store.Ring(), d.store.cfg.Clock())
}

func (d *directory) TokenLive(holder agentid.ID, token string) error {
	a, err := d.agent(holder)
	if err != nil {
		return err
	}
	return a.TokenLive(token)
}

func (d *directory) NotVoided(issuer agentid.ID, token string) error {
	a, err := d.agent(issuer)
	if err != nil {
		return err
	}
	return a.NotVoided(token)
}

// SignerStanding reports whether key may have signed a delegation: it is the
// instance's own and the instance is not revoked. A pod that expired or left
// changes nothing about what it delegated.
func SignerStanding(i *Instance, key string, ring *capability.Keyring, now time.Time) error {
	p, err := i.Identity(ring, now)
	if err != nil {
		return err
	}
	if p.Key != key {
		return denial.New(denial.UnlistedKey, "%s/%s has another key", i.Agent, i.Instance)
	}
	if i.State == InstanceRevoked {
		return denial.New(denial.Revoked, "instance %s/%s is revoked", i.Agent, i.Instance)
	}
	return nil
}

// TokenLive reports whether the record lists the root token as live.
func (a *Agent) TokenLive(token string) error {
	for _, t := range a.Tokens {
		if t == token {
			return nil
		}
	}
	return denial.New(denial.TokenTakenBack, "root token is no longer live for %q", a.Agent)
}

// NotVoided reports whether the record does not list the delegation as voided.
func (a *Agent) NotVoided(token string) error {
	for _, v := range a.Voided {
		if v.Token == token {
			return denial.New(denial.TokenTakenBack, "%q ended this delegation", a.Agent)
		}
	}
	return nil
}

// ShortDigest is a digest for people.
func ShortDigest(digest string) string {
	if len(digest) <= 12 {
		return digest
	}
	return strings.ToValidUTF8(digest[:12], "") + "…"
}
