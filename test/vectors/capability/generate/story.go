package main

import (
	"crypto/sha256"
	"strings"
)

// now is the time of every vector that does not say otherwise: far from any wall
// clock that a test will see, so that nothing passes by accident.
const now int64 = 1795408791

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

type token struct {
	by           key
	jti          string
	agent        string
	parent       string // empty: none
	capabilities []string
	delegatable  []string
	depth        int64
	nbf, exp     int64
}

type passport struct {
	by                 key
	agent, nkey, curve string
}

type certificate struct {
	by       key
	nkey     string
	purpose  string
	nbf, exp int64
}

func head(kind string, by key) payload {
	return payload{{"kind", text(kind)}, {"iss", text(by.public())}, {"iat", number(now)}}
}

func (t *token) fields() payload {
	p := append(head("token", t.by), member{"jti", text(t.jti)}, member{"agent", text(t.agent)})
	if t.parent != "" {
		p = append(p, member{"parent", text(t.parent)})
	}
	return append(p, member{"capabilities", list(t.capabilities)}, member{"delegatable", list(t.delegatable)},
		member{"depth", number(t.depth)}, member{"nbf", number(t.nbf)}, member{"exp", number(t.exp)})
}

func (p *passport) fields() payload {
	return append(head("passport", p.by), member{"agent", text(p.agent)}, member{"nkey", text(p.nkey)}, member{"curve", text(p.curve)})
}

func (c *certificate) fields() payload {
	return append(head("signing-key", c.by), member{"nkey", text(c.nkey)}, member{"purpose", text(c.purpose)},
		member{"nbf", number(c.nbf)}, member{"exp", number(c.exp)})
}

// link is one token of a chain with the passport before it; the first has none.
type link struct {
	passport    *passport
	passportDoc *document
	token       *token
	tokenDoc    *document
	parent      func(before []string) string // instead of the digest of the token before
}

// story is one vector before it is written: an authority, a chain, a time.
type story struct {
	roots        []string
	certificates []*certificate
	certDocs     []*document
	lists        [][]*document // that were published since, in their order
	links        []*link
	join         func(docs []string) string // instead of joining them with "~"
	now          int64
	presenter    string
	directory    func(docs []string) *directory
	ends         int64 // where something other than the last token ends the chain
}

var (
	rootKey    = account("authority root")
	tokensKey  = account("tokens")
	recordsKey = account("records")
	stranger   = account("stranger")
)

func agentKey(agent string) key { return user("agent " + agent) }

// jti is the identifier of the n-th token of a chain.
func jti(n string) string {
	sum := sha256.Sum256([]byte("sealmesh vector token: " + n))
	return b64(sum[:16])
}

func (s *story) certify(by key, nkey, purpose string, nbf, exp int64) *certificate {
	c := &certificate{by: by, nkey: nkey, purpose: purpose, nbf: nbf, exp: exp}
	s.certificates = append(s.certificates, c)
	s.certDocs = append(s.certDocs, docOf(&c.by, c.fields))
	return c
}

// docOf makes the document of some content; its signer may be changed until it
// is written.
func docOf(by *key, fields func() payload) *document {
	d := new(document)
	d.fields = func() payload { return fields() }
	d.sign = func(signed string) []byte { return by.sign(signed) }
	return d
}

// authority is a root with a tokens key and a records key, and no chain yet.
func authority() *story {
	s := &story{roots: []string{rootKey.public()}, now: now}
	s.certify(rootKey, tokensKey.public(), "tokens", now-30*day, now+60*day)
	s.certify(rootKey, recordsKey.public(), "records", now-30*day, now+60*day)
	return s
}

func (s *story) root(t token) *token {
	t.by, t.jti = tokensKey, jti("0")
	s.links = append(s.links, &link{token: &t, tokenDoc: docOf(&t.by, t.fields)})
	return s.last()
}

// lend appends what the last holder's instance signs.
func (s *story) lend(t token) *token {
	from := s.last().agent
	p := passport{by: recordsKey, agent: from, nkey: agentKey(from).public(), curve: curveOf(from)}
	t.by, t.jti = agentKey(from), jti(string(rune('0'+len(s.links))))
	s.links = append(s.links, &link{
		passport: &p, passportDoc: docOf(&p.by, p.fields),
		token: &t, tokenDoc: docOf(&t.by, t.fields),
	})
	return s.last()
}

func (s *story) last() *token { return s.links[len(s.links)-1].token }

// alone is a root token of reader alone.
func alone() *story {
	s := authority()
	s.root(token{agent: "reader", capabilities: []string{"read:logs"}, delegatable: []string{}, nbf: now - 30, exp: now + hour})
	return s
}

// three is the chain that most vectors break: orchestrator holds three rights
// and lends two to reader, who lends one of them to helper.
func three() *story {
	s := authority()
	s.root(token{agent: "orchestrator", capabilities: []string{"read:logs", "read:metrics", "write:reports"}, delegatable: []string{"read:logs", "read:metrics"},
		depth: 3, nbf: now - hour, exp: now + day})
	s.lend(token{agent: "reader", capabilities: []string{"read:logs", "read:metrics"}, delegatable: []string{"read:logs"},
		depth: 2, nbf: now - 30*minute, exp: now + 2*hour})
	s.lend(token{agent: "helper", capabilities: []string{"read:logs"}, delegatable: []string{},
		depth: 0, nbf: now - 30, exp: now + hour})
	return s
}

// write returns the certificates, the chain and its documents.
func (s *story) write() (certificates []string, chain string, docs []string) {
	certificates = []string{}
	for _, d := range s.certDocs {
		certificates = append(certificates, d.text())
	}
	for i, l := range s.links {
		if i > 0 {
			docs = append(docs, l.passportDoc.text())
			l.token.parent = digest(docs[len(docs)-2])
		}
		if l.parent != nil {
			l.token.parent = l.parent(docs)
		}
		docs = append(docs, l.tokenDoc.text())
	}
	if s.join != nil {
		return certificates, s.join(docs), docs
	}
	return certificates, strings.Join(docs, "~"), docs
}
