package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
)

const schema = "sealmesh.sealed-vector/v1"

// vector is one file. README.md says what each member means.
type vector struct {
	Schema      string    `json:"schema"`
	Name        string    `json:"name"`
	Section     string    `json:"section"`
	Rule        string    `json:"rule"`
	Description string    `json:"description"`
	Key         string    `json:"key"`
	Binding     binding   `json:"binding"`
	Sealed      string    `json:"sealed"`
	Accept      *accepted `json:"accept,omitempty"`
	Refuse      string    `json:"refuse,omitempty"`
}

type binding struct {
	TrustDomain string `json:"trust_domain"`
	Direction   string `json:"direction"`
	Signer      string `json:"signer"`
	Recipient   string `json:"recipient"`
	Nonce       string `json:"nonce"`
	Piece       int    `json:"piece,omitempty"`
}

type accepted struct {
	Plain string `json:"plain"`
}

// sections of the specification, by the letter of their rules.
var sections = map[byte]string{
	'L': "2. Layout",
	'B': "3. The binding",
	'W': "4. Wrapping",
	'C': "5. The content",
}

// book collects the vectors.
type book struct {
	vectors []vector
}

func (b *book) add(name, rule, description string, s *story) *vector {
	section := sections[rule[0]]
	if section == "" {
		panic("no section: " + name)
	}
	b.vectors = append(b.vectors, vector{
		Schema: schema, Name: name, Section: section, Rule: rule, Description: description,
		Key: s.reader.seed(), Binding: s.expects, Sealed: std64(s.bytes()),
	})
	return &b.vectors[len(b.vectors)-1]
}

func (b *book) refuse(name, rule, description string, tell func(*story)) {
	s := newStory(name)
	tell(s)
	b.add(name, rule, description, s).Refuse = "cannot-open"
}

func (b *book) accept(name, rule, description string, tell func(*story)) {
	s := newStory(name)
	if tell != nil {
		tell(s)
	}
	b.add(name, rule, description, s).Accept = &accepted{std64(s.opened())}
}

// files returns the vectors as they are committed, by path.
func (b *book) files() map[string][]byte {
	out := map[string][]byte{}
	for _, v := range b.vectors {
		path := v.Name + ".json"
		if _, twice := out[path]; twice || strings.ToLower(path) != path || strings.ContainsAny(path, " _") {
			panic("two vectors with one name, or a name in another style: " + v.Name)
		}
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			panic(err) // there is nothing in it that does not encode
		}
		out[path] = buf.Bytes()
	}
	return out
}

func std64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
