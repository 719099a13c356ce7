package main

import (
	"bytes"
	"encoding/json"
	"strings"
)

const (
	schema          = "sealmesh.envelope-vector/v1"
	authoritySchema = "sealmesh.envelope-authority/v1"
)

// vector is one file. README.md says what each member means.
type vector struct {
	Schema       string       `json:"schema"`
	Name         string       `json:"name"`
	Section      string       `json:"section"`
	Rule         string       `json:"rule"`
	Step         string       `json:"step,omitempty"`
	Description  string       `json:"description"`
	TrustDomain  string       `json:"trust_domain"`
	Receiver     receiver     `json:"receiver"`
	Subscription subscription `json:"subscription"`
	Directory    directory    `json:"directory"`
	Before       []earlier    `json:"before,omitempty"`
	Message      message      `json:"message"`
	Accept       *accepted    `json:"accept,omitempty"`
	Refuse       string       `json:"refuse,omitempty"`
}

type receiver struct {
	Agent       string  `json:"agent"`
	Prefix      string  `json:"prefix"`
	Started     int64   `json:"started"`
	Now         int64   `json:"now"`
	Past        int64   `json:"past"`
	Ahead       int64   `json:"ahead"`
	Nonces      int     `json:"nonces,omitempty"`
	PerSender   int     `json:"nonces_per_sender,omitempty"`
	ReplaySince int64   `json:"replay_since,omitempty"`
	SharedDown  bool    `json:"shared_store_down,omitempty"`
	Burnt       []burnt `json:"burnt,omitempty"`
}

type burnt struct {
	Tail  string `json:"tail"`
	Agent string `json:"agent"`
	Nonce string `json:"nonce"`
}

type subscription struct {
	Class   string `json:"class"`
	Tail    string `json:"tail,omitempty"`
	Scope   string `json:"scope,omitempty"`
	From    string `json:"from,omitempty"`
	Request string `json:"request,omitempty"`
	Stream  bool   `json:"stream,omitempty"`
	Key     string `json:"key,omitempty"`
	Body    string `json:"body,omitempty"`
	Stored  *pull  `json:"stored,omitempty"`
}

// pull is a durable subscription.
type pull struct {
	Consumer string `json:"consumer"`
	MaxAge   int64  `json:"max_age"`
}

type directory struct {
	Agents     []agent    `json:"agents"`
	Instances  []instance `json:"instances"`
	Unreadable []string   `json:"unreadable,omitempty"`
}

type agent struct {
	Agent  string   `json:"agent"`
	Status string   `json:"status"`
	Epoch  uint64   `json:"epoch"`
	Since  uint64   `json:"since"`
	Live   []string `json:"live,omitempty"`
}

type instance struct {
	Agent string `json:"agent"`
	NKey  string `json:"nkey"`
	State string `json:"state"`
	Epoch uint64 `json:"epoch"`
	Since uint64 `json:"since"`
}

// earlier is a message that the receiver accepted before.
type earlier struct {
	Now     int64   `json:"now"`
	Message message `json:"message"`
}

type message struct {
	Subject string      `json:"subject"`
	Reply   string      `json:"reply,omitempty"`
	Headers [][2]string `json:"headers"`
	Payload string      `json:"payload"`
	Zeros   int         `json:"payload_zeros,omitempty"`
}

type accepted struct {
	From      string            `json:"from"`
	Instance  string            `json:"instance"`
	Fields    map[string]string `json:"fields"`
	Headers   [][2]string       `json:"headers"`
	Remaining *int64            `json:"remaining,omitempty"`
	Stored    *place            `json:"stored,omitempty"`
	Signed    string            `json:"signed"`
	Digest    string            `json:"digest"`
}

// place is what the server said of a stored message.
type place struct {
	Sequence    int64  `json:"sequence"`
	Time        string `json:"time"`
	Redelivered bool   `json:"redelivered,omitempty"`
}

// authority is the one file that all vectors share.
type authority struct {
	Schema       string   `json:"schema"`
	Roots        []string `json:"roots"`
	Certificates []string `json:"certificates"`
	Chains       []string `json:"chains"`
}

// sections of the specification, by the letter of their rules.
var sections = map[byte]string{
	'H': "1. Headers",
	'F': "2. The Mesh-Envelope value",
	'B': "3. The signed bytes",
	'A': "4. Application headers",
	'L': "5. Limits",
	'S': "6. Keys and signatures in their one encoding",
	'P': "7. Payloads in parts",
	'Q': "7. Payloads in parts",
	'O': "8. Verification order",
	'R': "8. Verification order",
	'T': "8. Verification order",
	'D': "8. Verification order",
	'C': "8. Verification order",
	'N': "8. Verification order",
	'E': "8. Verification order",
}

// steps at which the rules are checked, where it is always the same.
var steps = map[string]string{
	"H1": "2a", "H2": "2a", "H3": "2c",
	"F1": "2b", "F2": "2c", "F3": "2c", "F4": "2c", "F5": "2c", "F6": "2d",
	"B2": "8", "B3": "8", "B4": "2e", "B5": "2e", "B6": "8",
	"A1": "8", "A2": "8",
	"L1": "1", "L2": "1", "L3": "1", "L4": "1", "L5": "1", "L6": "1", "L7": "1",
	"S3": "2e", "S4": "8",
	"P1": "12", "P2": "12", "P5": "12", "Q3": "12", "Q4": "12",
	"R1": "3a", "R2": "3b", "R4": "3d", "R5": "3e",
	"T1": "4", "T2": "4", "T3": "4",
	"D1": "5", "D2": "5", "D3": "5", "D4": "5", "D5": "6", "D7": "5",
	"C1": "9", "C2": "9",
	"N3": "7", "N4": "7", "N6": "10", "N7": "11",
	"E1": "3f", "E2": "3f", "E3": "4", "E4": "4", "E5": "4", "E6": "5", "E7": "7", "E8": "9",
}

// book collects the vectors.
type book struct {
	vectors []vector
}

func (b *book) add(name, rule, description string, base func() *story, tell func(*story)) (*vector, *story) {
	s := base()
	if tell != nil {
		tell(s)
	}
	v := vector{
		Schema: schema, Name: name, Section: sections[rule[0]], Rule: rule, Description: description,
		TrustDomain: s.domain, Receiver: s.receiver, Subscription: s.subscription, Directory: s.directory(),
	}
	for _, e := range s.before {
		v.Before = append(v.Before, earlier{e.now, e.letter.wire(e.domain).message})
	}
	v.Message = s.letter.wire(s.letterDomain()).message
	b.vectors = append(b.vectors, v)
	return &b.vectors[len(b.vectors)-1], s
}

func (b *book) refuse(name, rule, reason, description string, base func() *story, tell func(*story)) {
	b.refuseAt(steps[rule], name, rule, reason, description, base, tell)
}

// refuseAt is refuse for rules that are checked at more than one step.
func (b *book) refuseAt(step, name, rule, reason, description string, base func() *story, tell func(*story)) {
	v, _ := b.add(name, rule, description, base, tell)
	v.Refuse, v.Step = reason, step
	if step == "" {
		panic("no step: " + name)
	}
}

func (b *book) accept(name, rule, description string, base func() *story, tell func(*story)) {
	v, s := b.add("valid/"+name, rule, description, base, tell)
	w := s.letter.wire(s.letterDomain())
	a := &accepted{
		From: s.letter.field("from"), Instance: instanceOf(s.letter.field("key")), Fields: map[string]string{},
		Headers: [][2]string{}, Signed: std64(w.signed), Digest: digest(w.signed),
	}
	for _, p := range w.pairs {
		a.Fields[p.name] = p.value
	}
	if _, ok := a.Fields["hd"]; ok {
		a.Headers = sorted(s.letter.app)
	}
	if s.letter.has("dl") && s.subscription.Stored == nil {
		left := min(s.letter.number("dl"), s.letter.number("dl")-(s.receiver.Now-s.letter.number("ts")))
		a.Remaining = &left
	}
	if p := s.letter.pulled; s.subscription.Stored != nil {
		a.Stored = &place{p.sequence, nanos(p.at), p.delivered > 1}
	}
	v.Accept = a
}

// files returns the vectors as they are committed, by path.
func (b *book) files() map[string][]byte {
	out := map[string][]byte{"shared/authority.json": encode(authority{
		Schema: authoritySchema, Roots: []string{rootKey.public()}, Certificates: certificates, Chains: chainTexts,
	})}
	for _, v := range b.vectors {
		path := v.Name + ".json"
		if _, twice := out[path]; twice || strings.ToLower(path) != path || strings.ContainsAny(path, " _") {
			panic("two vectors with one name, or a name in another style: " + v.Name)
		}
		out[path] = encode(v)
	}
	return out
}

func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic(err) // there is nothing in it that does not encode
	}
	return buf.Bytes()
}
