package main

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"
)

// t0 is when the messages of the vectors are signed, far from any wall clock.
const t0 int64 = 1795408791123

const (
	domain  = "mesh.example"
	minute  = 60 * second
	hour    = 60 * minute
	window  = 5 * minute
	ahead   = 30 * second
	dotted  = "read.logs"
	scope   = "read:logs"
	payload = "tail 20"
)

type pair struct{ name, value string }

// letter is a message before it is on the wire. What is set is signed as it is:
// a vector breaks one rule, and has a good signature unless that is the rule.
type letter struct {
	subject string
	pairs   []pair
	app     [][2]string // application headers; hd follows from them unless it is set
	noHD    bool
	payload []byte
	zeros   int
	by      key
	request []byte // SHA-256 of the signed bytes of what it answers
	text    func(string) string
	sign    func(signed []byte) []byte
	after   []func(*wire) // on the way
	reply   string        // the NATS reply field, which nobody signs
	pulled  *delivered    // what the reply field of a stored message says
}

// delivered is one delivery of a stored message.
type delivered struct{ delivered, sequence, at int64 }

// wire is a letter as it travels.
type wire struct {
	message
	pairs  []pair
	text   string
	signed []byte
}

// story is a receiver, what it knows, and the letter that reaches it.
type story struct {
	domain       string
	signedFor    string // the trust domain of the sender; empty: the same
	receiver     receiver
	subscription subscription
	agents       []agent
	instances    []instance
	unreadable   []string
	before       []delivery
	letter       *letter
}

type delivery struct {
	now    int64
	domain string
	letter *letter
}

func (s *story) letterDomain() string {
	if s.signedFor != "" {
		return s.signedFor
	}
	return s.domain
}

// directory is what the registry says of those whom the messages concern: their
// senders, the holders of chains, and whoever is not as usual.
func (s *story) directory() directory {
	concerned := map[string]bool{}
	letters := []*letter{s.letter}
	for _, e := range s.before {
		letters = append(letters, e.letter)
	}
	for _, l := range letters {
		concerned[l.field("from")] = true
		concerned[holders[l.field("tok")]] = true
		for ob := range strings.SplitSeq(l.field("ob"), ".") {
			concerned[holders[ob]] = true
		}
	}
	d := directory{Agents: []agent{}, Instances: []instance{}, Unreadable: s.unreadable}
	for _, i := range s.instances {
		concerned[i.Agent] = concerned[i.Agent] || i.NKey == s.letter.field("key")
	}
	for _, a := range s.agents {
		if concerned[a.Agent] || a.Status != "active" {
			d.Agents = append(d.Agents, a)
		}
	}
	for _, i := range s.instances {
		if concerned[i.Agent] {
			d.Instances = append(d.Instances, i)
		}
	}
	return d
}

// earlier lets the receiver accept a letter beforehand.
func (s *story) earlier(now int64, l *letter) {
	s.before = append(s.before, delivery{now, s.domain, l})
}

func (s *story) agent(name string) *agent {
	i := slices.IndexFunc(s.agents, func(a agent) bool { return a.Agent == name })
	return &s.agents[i]
}

func (s *story) instance(k key) *instance {
	i := slices.IndexFunc(s.instances, func(i instance) bool { return i.NKey == k.public() })
	return &s.instances[i]
}

// enrol gives an agent one more instance.
func (s *story) enrol(name, nkey string) {
	s.instances = append(s.instances, instance{Agent: name, NKey: nkey, State: "online", Epoch: 1, Since: 1})
}

func (l *letter) index(name string) int {
	return slices.IndexFunc(l.pairs, func(p pair) bool { return p.name == name })
}

func (l *letter) has(name string) bool { return l.index(name) >= 0 }

func (l *letter) field(name string) string {
	if i := l.index(name); i >= 0 {
		return l.pairs[i].value
	}
	return ""
}

func (l *letter) number(name string) int64 {
	n, err := strconv.ParseInt(l.field(name), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

var order = []string{"v", "from", "key", "ts", "nonce", "corr", "parent", "ep", "hop", "tok", "ob", "dl", "ct", "body", "enc", "err", "part", "hd"}

// set sets a field, in its place.
func (l *letter) set(name, value string) *letter {
	if i := l.index(name); i >= 0 {
		l.pairs[i].value = value
		return l
	}
	at := slices.IndexFunc(l.pairs, func(p pair) bool { return slices.Index(order, p.name) > slices.Index(order, name) })
	if at < 0 {
		at = len(l.pairs)
	}
	l.pairs = slices.Insert(l.pairs, at, pair{name, value})
	return l
}

func (l *letter) drop(name string) *letter {
	l.pairs = slices.DeleteFunc(l.pairs, func(p pair) bool { return p.name == name })
	return l
}

// onTheWay changes what was signed.
func (l *letter) onTheWay(f func(*wire)) { l.after = append(l.after, f) }

// rewrite changes a field after the message was signed.
func (l *letter) rewrite(name, value string) {
	l.onTheWay(func(w *wire) {
		for i, p := range strings.Split(w.header("Mesh-Envelope"), ";") {
			if strings.HasPrefix(p, name+"=") {
				all := strings.Split(w.header("Mesh-Envelope"), ";")
				all[i] = name + "=" + value
				w.setHeader("Mesh-Envelope", strings.Join(all, ";"))
				return
			}
		}
		panic("no field " + name)
	})
}

func (w *wire) header(name string) string {
	for _, h := range w.Headers {
		if h[0] == name {
			return h[1]
		}
	}
	panic("no header " + name)
}

func (w *wire) setHeader(name, value string) {
	for i := range w.Headers {
		if w.Headers[i][0] == name {
			w.Headers[i][1] = value
			return
		}
	}
	panic("no header " + name)
}

func (w *wire) addHeader(name, value string) { w.Headers = append(w.Headers, [2]string{name, value}) }

func (w *wire) dropHeader(name string) {
	w.Headers = slices.DeleteFunc(w.Headers, func(h [2]string) bool { return h[0] == name })
}

// wire signs the letter for a trust domain and sends it on its way.
func (l *letter) wire(domain string) *wire {
	l = &letter{
		subject: l.subject, pairs: slices.Clone(l.pairs), app: l.app, noHD: l.noHD, payload: l.payload, zeros: l.zeros,
		by: l.by, request: l.request, text: l.text, sign: l.sign, after: l.after, reply: l.reply,
	}
	if len(l.app) > 0 && !l.noHD && !l.has("hd") {
		l.set("hd", headerDigest(l.app))
	}
	texts := make([]string, len(l.pairs))
	for i, p := range l.pairs {
		texts[i] = p.name + "=" + p.value
	}
	w := &wire{pairs: l.pairs, text: strings.Join(texts, ";")}
	if l.text != nil {
		w.text = l.text(w.text)
	}
	whole := append(bytes.Clone(l.payload), make([]byte, l.zeros)...)
	w.signed = signedBytes(domain, l.subject, w.text, whole, l.request)
	sign := l.by.sign
	if l.sign != nil {
		sign = l.sign
	}
	w.message = message{
		Subject: l.subject, Reply: l.reply, Payload: std64(l.payload), Zeros: l.zeros,
		Headers: append([][2]string{{"Mesh-Envelope", w.text}, {"Mesh-Signature", "ed25519:" + b64(sign(w.signed))}}, l.app...),
	}
	for _, f := range l.after {
		f(w)
	}
	return w
}

// digest is what replies to the letter are bound to.
func (l *letter) digest() []byte {
	sum := sha256.Sum256(l.wire(domain).signed)
	return sum[:]
}

// The people of the vectors, and their one instance each.
var (
	writer  = user("agent writer")
	reader  = user("agent reader")
	helper  = user("agent helper")
	another = user("agent writer, second instance")
)

func plain(from string, by key, subject, nonce string) *letter {
	return &letter{
		subject: subject, payload: []byte(payload), by: by,
		pairs: []pair{
			{"v", "1"}, {"from", from}, {"key", by.public()}, {"ts", strconv.FormatInt(t0, 10)}, {"nonce", id(nonce)},
			{"corr", id("tree")}, {"ep", "3.1"}, {"hop", "0"},
		},
	}
}

// world is a receiver called reader that expects nothing yet.
func world(class, tail, scope string) *story {
	s := &story{
		domain:       domain,
		receiver:     receiver{Agent: "reader", Prefix: "mesh", Started: t0 - hour, Now: t0 + 250, Past: window, Ahead: ahead},
		subscription: subscription{Class: class, Tail: tail, Scope: scope},
		agents: []agent{
			{Agent: "helper", Status: "active", Epoch: 3, Since: 1, Live: []string{helperChain}},
			{Agent: "orchestrator", Status: "active", Epoch: 1, Since: 1, Live: []string{orchestrator}},
			{Agent: "reader", Status: "active", Epoch: 3, Since: 1, Live: []string{readerChain}},
			{Agent: "scout", Status: "active", Epoch: 1, Since: 1, Live: []string{scoutChain}},
			{Agent: "writer", Status: "active", Epoch: 3, Since: 1, Live: []string{writerChain, metricsChain}},
		},
	}
	s.enrol("helper", helper.public())
	s.enrol("reader", reader.public())
	s.enrol("writer", writer.public())
	return s
}

// theCall is the letter of most vectors: writer calls read:logs.
func theCall() *letter {
	return plain("writer", writer, "mesh.call.writer.read.logs", "call").set("tok", writerChain)
}

func call() *story {
	s := world("call", dotted, scope)
	s.letter = theCall()
	return s
}

func ask() *story {
	s := world("ask", dotted, scope)
	s.letter = plain("writer", writer, "mesh.ask.writer.reader.read.logs", "ask").set("tok", writerChain)
	return s
}

func event() *story {
	s := world("event", "builds.done", "publish:builds.done")
	s.letter = plain("writer", writer, "mesh.event.writer.builds.done", "event").set("tok", writerChain)
	return s
}

func note() *story {
	s := world("note", "cancel", "")
	s.letter = plain("writer", writer, "mesh.note.writer.reader.cancel", "note")
	return s
}

func beat() *story {
	s := world("beat", "", "")
	s.letter = plain("writer", writer, join("mesh.beat.writer", instanceOf(writer.public())), "beat")
	return s
}

func audit() *story {
	s := world("audit", "", "")
	s.letter = plain("writer", writer, join("mesh.audit.writer", instanceOf(writer.public())), "audit")
	return s
}

// replyTo is reader's answer to a request of writer.
func replyTo(request *letter, nonce string) *letter {
	l := plain("reader", reader, join("mesh.reply.reader.writer", instanceOf(writer.public()), request.field("nonce")), nonce)
	l.set("parent", request.field("nonce")).set("hop", request.field("hop")).set("tok", readerChain)
	l.payload, l.request = []byte("line 20"), request.digest()
	return l
}

// reply is the answer to theCall, and its receiver the caller.
func reply() *story {
	s := world("reply", "", "handle:read:logs")
	s.receiver.Agent = "writer"
	s.letter = replyTo(theCall(), "reply")
	s.subscription.Request = b64(s.letter.request)
	return s
}

// full is a reply with every field but enc and two application headers.
func full() *story {
	s := reply()
	s.letter.set("ob", orchestrator).set("dl", "30000").set("ct", "application/json").set("err", "disk-full").set("part", "1/1")
	s.letter.app = [][2]string{{"Trace-Level", "3"}, {"Shard", "a"}, {"Shard", "b"}}
	s.letter.set("hd", headerDigest(s.letter.app))
	return s
}

// fullAsk is an ask with every field and two application headers, whose payload
// comes in parts.
func fullAsk() *story {
	s := ask()
	s.letter.payload = nil
	s.letter.set("parent", id("cause")).set("ob", orchestrator).set("dl", "30000").set("ct", "application/json")
	s.letter.set("body", bodyOf("tail 20")).set("enc", "x1")
	s.letter.app = [][2]string{{"Shard", "a"}, {"Shard", "b"}}
	s.letter.set("hd", headerDigest(s.letter.app))
	return s
}

// bodyOf is what a request says of a payload that it sends in parts.
func bodyOf(payload string) string { return itoa(int64(len(payload))) + "." + digest([]byte(payload)) }

// theRequest is theCall with a payload that comes in parts, and theInvitation is
// reader's first answer to it.
func theRequest() *letter {
	l := theCall().set("nonce", id("request")).set("body", bodyOf(wholeBody))
	l.payload = nil
	return l
}

func theInvitation() *letter {
	l := replyTo(theRequest(), "invitation").set("part", "1")
	l.payload = nil
	return l
}

// wholeBody is the payload that theRequest promises.
const wholeBody = "tail 20 of each shard"

// bodyPart is one part of it.
func bodyPart(part, content string) *letter {
	invitation := theInvitation()
	nonce := invitation.field("nonce")
	l := plain("writer", writer, join("mesh.body.writer.reader", instanceOf(reader.public()), nonce), "body part "+part)
	l.set("parent", nonce).set("part", part)
	l.payload, l.request = []byte(content), invitation.digest()
	return l
}

// body is the receiver of that payload, and the whole of it in one part.
func body() *story {
	s := world("body", "", "")
	s.letter = bodyPart("1/1", wholeBody)
	s.subscription = subscription{
		Class: "body", From: "writer", Request: b64(s.letter.request), Key: writer.public(), Body: theRequest().field("body"),
	}
	return s
}

// storedEvent is an event that reader pulls two hours after it was published.
func storedEvent() *story {
	s := event()
	s.letter = publish(event().letter, 1, 41, t0+100)
	s.subscription.Stored = &pull{Consumer: consumer, MaxAge: 7 * 24 * hour}
	s.receiver.Now = t0 + 2*hour
	return s
}

const consumer = "reader_inbox"

// publish puts an event into the stream, as the message with that sequence, at a
// time in milliseconds, and hands it out.
func publish(l *letter, times, sequence, at int64) *letter {
	l.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", l.field("nonce")) })
	l.pulled = &delivered{times, sequence, at}
	l.reply = ack("MESH_EVENTS", consumer, times, sequence, nanos(at))
	return l
}

func ack(stream, consumer string, times, sequence int64, at string) string {
	return join("$JS.ACK", stream, consumer, itoa(times), itoa(sequence), itoa(sequence+16), at, "0")
}

// nanos writes milliseconds as nanoseconds.
func nanos(ms int64) string { return itoa(ms) + "000000" }
