package capability

import (
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// separator joins the documents of a chain. It is in no document, and safe in
// headers, file names and URLs.
const separator = "~"

// Verify reads a chain and checks everything that needs no registry, cheap things
// first: limits, the form of each document, the rules between neighbours, the
// window at now, and only then, document by document from the root on, whether
// the signer is certified and its signature. The first failure decides. What it
// returns still has to pass
// [Chain.Check], and [Chain.Holder] has to be the one who presents it.
// (docs/spec/capability.md, section "Verification".)
func Verify(text string, ring *Keyring, now time.Time) (*Chain, error) {
	u, err := parse(text)
	if err != nil {
		return nil, err
	}
	c := u.chain
	if err := validAt(now, c.leaf.NotBefore, c.leaf.Expires); err != nil {
		return nil, err
	}
	c.expires = c.leaf.Expires
	until, err := ring.check(u.root, ForTokens, now)
	if err != nil {
		return nil, err
	}
	c.expires = min(c.expires, until)
	for _, l := range u.links {
		until, err := ring.check(l.passport, ForRecords, now)
		if err != nil {
			return nil, err
		}
		c.expires = min(c.expires, until)
		if err := l.token.Verify(); err != nil {
			return nil, err
		}
	}
	c.ring = ring
	c.digest = jws.Digest(text)
	return c, nil
}

// unverified is a chain whose rules hold and whose signatures nobody has checked.
type unverified struct {
	chain *Chain
	root  *jws.Unverified
	links []link
}

type link struct{ passport, token *jws.Unverified }

func parse(text string) (*unverified, error) {
	if len(text) > limits.Chain {
		return nil, denial.New(denial.TooLarge, "chain is longer than %d bytes", limits.Chain)
	}
	joints := strings.Count(text, separator)
	if joints > 2*limits.Depth {
		return nil, denial.New(denial.DepthExceeded, "chain has more than %d delegations", limits.Depth)
	}
	if joints%2 != 0 {
		return nil, denial.New(denial.BrokenChain, "a chain is a root token, then a passport and a token for each delegation")
	}
	part, rest, _ := strings.Cut(text, separator)
	t, root, err := decodeToken(part)
	if err != nil {
		return nil, err
	}
	if t.Parent != "" {
		return nil, denial.New(denial.BrokenChain, "the first token of the chain derives from another")
	}
	u := &unverified{
		chain: &Chain{text: text, hops: make([]Hop, 0, 1+joints/2)},
		root:  root,
		links: make([]link, 0, joints/2),
	}
	u.chain.add(t, part, agentid.ID{})
	for range joints / 2 {
		part, rest, _ = strings.Cut(rest, separator)
		p, passport, err := decodePassport(part)
		if err != nil {
			return nil, err
		}
		part, rest, _ = strings.Cut(rest, separator)
		t, tok, err := decodeToken(part)
		if err != nil {
			return nil, err
		}
		if err := u.chain.admits(t.Agent); err != nil {
			return nil, err
		}
		if err := t.follows(u.chain.leaf, u.chain.leafDigest, p); err != nil {
			return nil, err
		}
		u.chain.add(t, part, p.Agent)
		u.links = append(u.links, link{passport, tok})
	}
	return u, nil
}

// add makes t, given by an agent or, with the zero ID, by the authority, the last
// token of the chain.
func (c *Chain) add(t *token, text string, by agentid.ID) {
	c.leaf, c.leafDigest = t, jws.Digest(text)
	c.hops = append(c.hops, Hop{
		By:      by,
		Key:     t.Issuer,
		To:      t.Agent,
		Token:   c.leafDigest,
		Scopes:  t.Capabilities,
		Issued:  time.Unix(t.IssuedAt, 0).UTC(),
		Expires: time.Unix(t.Expires, 0).UTC(),
	})
}

func decodeToken(text string) (*token, *jws.Unverified, error) {
	t := new(token)
	u, err := jws.Decode(text, kindToken, t)
	if err != nil {
		return nil, nil, err
	}
	return t, u, t.form()
}
