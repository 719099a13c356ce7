package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

const (
	schema      = "sealmesh.capability-vector/v1"
	trustSchema = "sealmesh.trust-vector/v1"
)

// about is how every file begins.
type about struct {
	Schema      string `json:"schema"`
	Name        string `json:"name"`
	Section     string `json:"section"`
	Rule        string `json:"rule"`
	Description string `json:"description"`
}

// vector is one file about a chain. README.md says what each member means.
type vector struct {
	about
	Roots        []string   `json:"roots"`
	Certificates []string   `json:"certificates"`
	Lists        []string   `json:"lists,omitempty"`
	Chain        string     `json:"chain"`
	Now          int64      `json:"now"`
	Presenter    string     `json:"presenter,omitempty"`
	Directory    *directory `json:"directory,omitempty"`
	Accept       *accepted  `json:"accept,omitempty"`
	Refuse       string     `json:"refuse,omitempty"`
}

type accepted struct {
	Holder      string   `json:"holder"`
	Scopes      []string `json:"scopes"`
	Delegatable []string `json:"delegatable"`
	Depth       int64    `json:"depth"`
	NotBefore   int64    `json:"not_before"`
	Expires     int64    `json:"expires"`
	Digest      string   `json:"digest"`
	Tokens      []string `json:"tokens"`
}

type directory struct {
	At         int64      `json:"at,omitempty"`
	Agents     []agent    `json:"agents"`
	Instances  []instance `json:"instances"`
	Unreadable []string   `json:"unreadable,omitempty"`
}

type agent struct {
	Agent  string   `json:"agent"`
	Status string   `json:"status"`
	Live   []string `json:"live,omitempty"`
	Voided []string `json:"voided,omitempty"`
}

type instance struct {
	Agent string `json:"agent"`
	NKey  string `json:"nkey"`
	State string `json:"state"`
}

// sections of the specification, by the letter of their rules.
var sections = map[byte]string{
	'D': "Signed documents",
	'G': "Scopes",
	'K': "Signing keys",
	'R': "Trust documents",
	'P': "Passports",
	'T': "Tokens",
	'C': "Chains",
	'V': "Verification",
	'S': "Verification",
}

// book collects the vectors.
type book struct {
	vectors []vector
	trusts  []*trustFile
}

// base begins a vector's story; tell changes it.
func (b *book) add(name, rule, description string, base func() *story, tell func(*story)) (*vector, *story, []string) {
	s := base()
	if tell != nil {
		tell(s)
	}
	certificates, chain, docs := s.write()
	b.vectors = append(b.vectors, vector{
		about: about{Schema: schema, Name: name, Section: sections[rule[0]], Rule: rule, Description: description},
		Roots: s.roots, Certificates: certificates, Lists: s.published(), Chain: chain, Now: s.now, Presenter: s.presenter,
	})
	v := &b.vectors[len(b.vectors)-1]
	if s.directory != nil {
		v.Directory = s.directory(docs)
	}
	return v, s, docs
}

func (b *book) refuse(name, rule, reason, description string, base func() *story, tell func(*story)) {
	v, _, _ := b.add(name, rule, description, base, tell)
	v.Refuse = reason
}

func (b *book) accept(name, rule, description string, base func() *story, tell func(*story)) {
	v, s, docs := b.add("valid/"+name, rule, description, base, tell)
	t := s.last()
	v.Accept = &accepted{
		Holder: t.agent, Scopes: t.capabilities, Delegatable: t.delegatable, Depth: t.depth,
		NotBefore: t.nbf, Expires: t.exp, Digest: digest(v.Chain),
	}
	if s.ends != 0 {
		v.Accept.Expires = s.ends
	}
	for i := 0; i < len(docs); i += 2 {
		v.Accept.Tokens = append(v.Accept.Tokens, digest(docs[i]))
	}
}

// files returns the vectors as they are committed, by path.
func (b *book) files() map[string][]byte {
	out := map[string][]byte{}
	write := func(name string, v any) {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			panic(err) // there is nothing in it that does not encode
		}
		path := name + ".json"
		if _, twice := out[path]; twice || strings.ToLower(path) != path {
			panic("two vectors with one name, or a name with capitals: " + name)
		}
		out[path] = buf.Bytes()
	}
	for _, v := range b.vectors {
		write(v.Name, v)
	}
	for _, f := range b.trusts {
		write(f.Name, f)
	}
	return out
}
