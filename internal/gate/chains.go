package gate

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// How many verified chains are kept, and how many bytes of them: the chains that
// senders name must not fill the memory.
const (
	chainsMost = 4096
	chainBytes = 32 << 20
)

// chains holds verified chains by digest. Their standing is checked at each use.
type chains struct {
	reads *flights[*capability.Chain]

	most, mostBytes int

	mu     sync.RWMutex
	kept   map[string]keptChain
	bytes  int
	absent map[absence]absent
}

type keptChain struct {
	chain *capability.Chain
	ring  *capability.Keyring // with which it was verified; nil: not known
}

// absence is a chain that was not there when somebody named it. It holds off
// nobody but that sender: a chain may be stored right after somebody else asked,
// and no feed would tell.
type absence struct {
	cause  agentid.ID
	digest string
}

// absent says why a chain cannot be had for a moment: it was not there, or it has
// ended, which is no reason where it is asked for as of an earlier time.
type absent struct {
	until time.Time
	err   error
}

func newChains() *chains {
	return &chains{
		most: chainsMost, mostBytes: chainBytes,
		reads: newFlights[*capability.Chain](readTimeout), kept: map[string]keptChain{}, absent: map[absence]absent{},
	}
}

// Chain returns a verified chain by its digest, fetched once. Its standing is
// not checked here.
func (g *Gate) Chain(ctx context.Context, digest string) (*capability.Chain, error) {
	return g.chain(ctx, digest, query{})
}

func (g *Gate) chain(ctx context.Context, digest string, q query) (*capability.Chain, error) {
	now, ring := g.cfg.Clock(), g.cfg.Peers.Ring()
	g.chains.mu.RLock()
	k := g.chains.kept[digest]
	gone := g.chains.absent[absence{q.cause, digest}]
	g.chains.mu.RUnlock()
	if k.chain != nil {
		if k.ring == ring {
			return k.chain, nil
		}
		// The signing keys changed since: one of the chain's may be gone.
		return g.verify(ctx, digest, k.chain.Text(), q)
	}
	if !jws.IsDigest(digest) {
		return nil, denial.New(denial.BadInput, "not the digest of a chain")
	}
	if now.Before(gone.until) && (q.at.IsZero() || denial.Of(gone.err) == denial.UnknownChain) {
		return nil, gone.err
	}
	pay := func() error { return g.cfg.Peers.budget.spend(q.cause, g.cfg.Clock()) }
	read := func(ctx context.Context) (*capability.Chain, error) {
		text, err := g.cfg.Reader.Chain(ctx, digest)
		if err != nil {
			return nil, err
		}
		return g.verify(ctx, digest, text, q)
	}
	flight := digest
	if !q.at.IsZero() {
		flight += "@" + strconv.FormatInt(q.at.UnixNano(), 10) // what has ended now may have run then
	}
	c, joined, err := g.chains.reads.do(ctx, flight, false, pay, read)
	if joined && errors.Is(err, denial.NotFound) {
		// That read began before this message came, perhaps before the chain was
		// stored.
		c, _, err = g.chains.reads.do(ctx, flight, true, pay, read)
	}
	switch {
	case errors.Is(err, denial.NotFound):
		err = denial.New(denial.UnknownChain, "no chain is stored under this digest")
		g.chains.noteAbsent(absence{q.cause, digest}, absent{now.Add(negativeFor), err})
	case denial.Of(err) == denial.TokenExpired && q.at.IsZero():
		g.chains.noteAbsent(absence{q.cause, digest}, absent{now.Add(negativeFor), err})
	}
	return c, err
}

// verify verifies the text of a chain and keeps it; one that no longer verifies
// is dropped.
func (g *Gate) verify(ctx context.Context, digest, text string, q query) (*capability.Chain, error) {
	ring := g.cfg.Peers.Ring()
	c, err := capability.Verify(text, ring, g.when(q))
	if denial.Of(err) == denial.UnknownSigner && g.cfg.Peers.learnRing(ctx) {
		ring = g.cfg.Peers.Ring()
		c, err = capability.Verify(text, ring, g.when(q))
	}
	if err == nil && c.Digest() != digest {
		err = denial.New(denial.BrokenChain, "another chain is stored under this digest")
	}
	if err != nil {
		g.chains.drop(digest)
		return nil, err
	}
	g.chains.keep(c, ring, g.cfg.Clock())
	return c, nil
}

// Keep puts a chain that was verified elsewhere into the cache. It is verified
// once more when it is first used, since the signing keys may have changed.
func (g *Gate) Keep(c *capability.Chain) {
	if c.Digest() != "" {
		g.chains.keep(c, nil, g.cfg.Clock())
	}
}

func (s *chains) keep(c *capability.Chain, ring *capability.Keyring, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c.Digest())
	if len(s.kept) >= s.most || s.bytes+len(c.Text()) > s.mostBytes {
		s.makeRoom(now, len(c.Text()))
	}
	s.kept[c.Digest()] = keptChain{c, ring}
	s.bytes += len(c.Text())
}

func (s *chains) drop(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(digest)
}

// remove is called with the lock held.
func (s *chains) remove(digest string) {
	if k, ok := s.kept[digest]; ok {
		delete(s.kept, digest)
		s.bytes -= len(k.chain.Text())
	}
}

// makeRoom drops chains that ended, and then any until an eighth is free: all at
// once would make everybody's chains be read again at the same time. It is
// called with the lock held.
func (s *chains) makeRoom(now time.Time, need int) {
	for digest, k := range s.kept {
		if !now.Before(k.chain.Expires()) {
			s.remove(digest)
		}
	}
	for digest := range s.kept {
		if len(s.kept) < s.most-s.most/8 && s.bytes+need <= s.mostBytes-s.mostBytes/8 {
			return
		}
		s.remove(digest)
	}
}

func (s *chains) noteAbsent(a absence, why absent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.absent) >= negativeMost {
		clear(s.absent)
	}
	a.digest = strings.Clone(a.digest) // of a header, which a map key would keep alive
	if !a.cause.IsZero() {
		a.cause = own(a.cause)
	}
	s.absent[a] = why
}
