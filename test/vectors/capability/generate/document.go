package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
)

// member is one member of a payload, its value as JSON.
type member struct{ name, value string }

type payload []member

func (p payload) String() string {
	parts := make([]string, len(p))
	for i, m := range p {
		parts[i] = text(m.name) + ":" + m.value
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func (p payload) at(name string) int {
	i := slices.IndexFunc(p, func(m member) bool { return m.name == name })
	if i < 0 {
		panic("there is no member " + name)
	}
	return i
}

// document is a signed document before it is written, and what the forger does
// to it at each step. The signature is made after all but the last of them, so
// that nothing but the one fault keeps it from being believed.
type document struct {
	by     key
	fields func() payload // the lawful content

	members []func(payload) payload    // change the members
	spell   func(string) string        // changes the JSON text
	header  string                     // another header's JSON; empty: the right one
	encode  func(string) string        // changes the encoded payload
	sign    func(signed string) []byte // signs in another way
	after   func(string) string        // changes the signed document
}

func (d *document) payload() string {
	p := d.fields()
	for _, f := range d.members {
		p = f(p)
	}
	s := p.String()
	if d.spell != nil {
		s = changed(s, d.spell)
	}
	return s
}

func (d *document) text() string {
	h := d.header
	if h == "" {
		h = header
	}
	body := b64([]byte(d.payload()))
	if d.encode != nil {
		body = changed(body, d.encode)
	}
	signed := b64([]byte(h)) + "." + body
	sign := d.by.sign
	if d.sign != nil {
		sign = d.sign
	}
	out := signed + "." + b64(sign(signed))
	if d.after != nil {
		out = changed(out, d.after)
	}
	return out
}

// changed applies f and refuses a change that changes nothing: its vector would
// show nothing either.
func changed(s string, f func(string) string) string {
	out := f(s)
	if out == s {
		panic("a change leaves as it was: " + s)
	}
	return out
}

// set gives a member another value, as JSON.
func (d *document) set(name, value string) {
	d.members = append(d.members, func(p payload) payload {
		i := p.at(name)
		p[i].value = changed(p[i].value, func(string) string { return value })
		return p
	})
}

// drop leaves a member out.
func (d *document) drop(name string) {
	d.members = append(d.members, func(p payload) payload {
		i := p.at(name)
		return slices.Delete(p, i, i+1)
	})
}

// add puts a member before another; an empty name puts it last.
func (d *document) add(before string, m member) {
	d.members = append(d.members, func(p payload) payload {
		if before == "" {
			return append(p, m)
		}
		return slices.Insert(p, p.at(before), m)
	})
}

// replace is a change of a text that puts new in the place of the first old.
func replace(old, new string) func(string) string {
	return func(s string) string { return strings.Replace(s, old, new, 1) }
}

func suffix(s string) func(string) string { return func(t string) string { return t + s } }
func prefix(s string) func(string) string { return func(t string) string { return s + t } }

// length is that of a document with its right header and signature.
func (d *document) length() int {
	enc := base64.RawURLEncoding
	return enc.EncodedLen(len(header)) + 1 + enc.EncodedLen(len(d.payload())) + 1 + enc.EncodedLen(ed25519.SignatureSize)
}
