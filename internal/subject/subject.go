// Package subject builds and parses every subject of the mesh. Nothing else in
// the module joins subject tokens with dots: a subject is an authority (the
// broker grants by it, receivers judge the sender by it), so there is one place
// where one can be made and one where one can be taken apart.
package subject

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealmesh/sealmesh/agentid"
)

// DefaultPrefix is the first token of every subject unless configured.
const DefaultPrefix = "mesh"

// Class is what a subject is for: its second token.
type Class string

// The classes of subjects.
const (
	Call  Class = "call"
	Ask   Class = "ask"
	Reply Class = "reply"
	Body  Class = "body"
	Event Class = "event"
	Note  Class = "note"
	Beat  Class = "beat"
	Audit Class = "audit"
	Feed  Class = "feed"
)

// Space is the set of subjects under one prefix. The zero Space is not usable.
type Space struct{ prefix string }

// New returns the space under prefix, a single token of a-z, 0-9 and hyphens.
func New(prefix string) (Space, error) {
	if _, err := agentid.Parse(prefix); err != nil {
		return Space{}, fmt.Errorf("subject: prefix %q is not a DNS label", prefix)
	}
	return Space{prefix}, nil
}

// Default is the space under [DefaultPrefix].
func Default() Space { return Space{DefaultPrefix} }

// Prefix returns the first token of the space.
func (s Space) Prefix() string { return s.prefix }

func (s Space) join(tokens ...string) string {
	return s.prefix + "." + strings.Join(tokens, ".")
}

// Call is the subject of a request to whoever handles the scope, whose dotted
// form is given ("read.logs").
func (s Space) Call(sender agentid.ID, dotted string) string {
	return s.join(string(Call), sender.String(), dotted)
}

// CallFilter is what the handlers of a scope subscribe, in queue [Queue].
func (s Space) CallFilter(dotted string) string { return s.join(string(Call), "*", dotted) }

// Ask is the subject of a request to one agent.
func (s Space) Ask(sender, recipient agentid.ID, dotted string) string {
	return s.join(string(Ask), sender.String(), recipient.String(), dotted)
}

// AskFilter is what an agent subscribes for requests to itself.
func (s Space) AskFilter(recipient agentid.ID, dotted string) string {
	return s.join(string(Ask), "*", recipient.String(), dotted)
}

// AskAny is the publish grant for asking any agent under a scope.
func (s Space) AskAny(sender agentid.ID, dotted string) string {
	return s.join(string(Ask), sender.String(), "*", dotted)
}

// Queue is the queue group that the handlers of a scope share.
func Queue(dotted string) string { return dotted }

// Reply is where the responder sends its reply to one request.
func (s Space) Reply(responder, caller agentid.ID, instance agentid.Instance, nonce string) string {
	return s.join(string(Reply), responder.String(), caller.String(), instance.String(), nonce)
}

// ReplyFilter is what one instance of a caller subscribes.
func (s Space) ReplyFilter(caller agentid.ID, instance agentid.Instance) string {
	return s.join(string(Reply), "*", caller.String(), instance.String(), ">")
}

// ReplyGrant is the publish grant of a handler: replies to anybody, in its name.
func (s Space) ReplyGrant(responder agentid.ID) string {
	return s.join(string(Reply), responder.String(), "*", "*", "*")
}

// Body is where a caller sends the payload of a request in parts once an instance
// of a handler has taken it: the nonce is that of the handler's invitation.
func (s Space) Body(caller, handler agentid.ID, instance agentid.Instance, nonce string) string {
	return s.join(string(Body), caller.String(), handler.String(), instance.String(), nonce)
}

// BodyFilter is what one instance of a handler subscribes.
func (s Space) BodyFilter(handler agentid.ID, instance agentid.Instance) string {
	return s.join(string(Body), "*", handler.String(), instance.String(), ">")
}

// BodyGrant is the publish grant of a caller: payloads to anybody, in its name.
func (s Space) BodyGrant(caller agentid.ID) string {
	return s.join(string(Body), caller.String(), "*", "*", "*")
}

// Event is the subject of an event on a topic.
func (s Space) Event(sender agentid.ID, topic string) string {
	return s.join(string(Event), sender.String(), topic)
}

// EventFilter is what subscribers of a topic subscribe.
func (s Space) EventFilter(topic string) string { return s.join(string(Event), "*", topic) }

// Note is the subject of a control message to one agent.
func (s Space) Note(sender, recipient agentid.ID, kind string) string {
	return s.join(string(Note), sender.String(), recipient.String(), kind)
}

// NoteFilter is what an agent subscribes for notes to itself.
func (s Space) NoteFilter(recipient agentid.ID) string {
	return s.join(string(Note), "*", recipient.String(), "*")
}

// NoteGrant is the publish grant for notes of one kind to anybody.
func (s Space) NoteGrant(sender agentid.ID, kind string) string {
	return s.join(string(Note), sender.String(), "*", kind)
}

// Beat is the subject of an instance's heartbeats.
func (s Space) Beat(agent agentid.ID, instance agentid.Instance) string {
	return s.join(string(Beat), agent.String(), instance.String())
}

// BeatFilter matches the heartbeats of all instances.
func (s Space) BeatFilter() string { return s.join(string(Beat), "*", "*") }

// Audit is the subject of an instance's own verdicts.
func (s Space) Audit(agent agentid.ID, instance agentid.Instance) string {
	return s.join(string(Audit), agent.String(), instance.String())
}

// AuditFilter matches the verdicts of all instances.
func (s Space) AuditFilter() string { return s.join(string(Audit), "*", "*") }

// FeedAgents is the root under which registry records are republished.
func (s Space) FeedAgents() string { return s.join(string(Feed), "agents") }

// FeedAgent is where the record of one agent is republished.
func (s Space) FeedAgent(key string) string { return s.join(string(Feed), "agents", key) }

// FeedFilter matches everything that the control plane feeds to clients.
func (s Space) FeedFilter() string { return s.join(string(Feed), ">") }

// LeaderRead is the request subject, in the agents' account, at which the
// leader of a control bucket answers a read. It is an alias: under its own name
// the agents' account's own JetStream would answer as well.
func (s Space) LeaderRead(bucket string) string { return s.join("leader", bucket) }

// ControlReplies matches every reply of the control plane.
func (s Space) ControlReplies() string { return s.join(string(Reply), agentid.Control.String(), ">") }

// ControlNotes matches every note of the control plane.
func (s Space) ControlNotes() string { return s.join(string(Note), agentid.Control.String(), ">") }

// InboxPrefix is where NATS itself answers one instance. No agent may publish
// there and nothing that arrives there is believed unsigned.
func InboxPrefix(agent agentid.ID, instance agentid.Instance) string {
	return "_INBOX_" + agent.String() + "_" + instance.String()
}

// KV is the subject of a key in a KV bucket.
func KV(bucket, key string) string { return "$KV." + bucket + "." + key }

// KVStream is the stream behind a KV bucket.
func KVStream(bucket string) string { return "KV_" + bucket }

// DirectGet is the request subject of a direct read of one key of a KV bucket.
func DirectGet(bucket, key string) string {
	return "$JS.API.DIRECT.GET." + KVStream(bucket) + "." + KV(bucket, key)
}

// LeaderGet is the request subject at which the leader of a KV bucket answers a
// read, in the account that owns the bucket.
func LeaderGet(bucket string) string { return "$JS.API.STREAM.MSG.GET." + KVStream(bucket) }

// ReplayKey is the key under which a nonce is burnt for a scope.
func ReplayKey(dotted string, sender agentid.ID, nonce string) string {
	return dotted + "." + sender.String() + "." + nonce
}

// ReplayGrant is the publish grant of a handler on the replay bucket: exactly
// the keys of its scope.
func ReplayGrant(bucket, dotted string) string { return KV(bucket, dotted+".*.*") }

// Parsed is a message subject taken apart. Which fields are set depends on the
// class.
type Parsed struct {
	Class     Class
	Sender    agentid.ID       // all classes but feed
	Recipient agentid.ID       // ask, note; for a reply the caller, for a body the handler
	Instance  agentid.Instance // reply, body (the recipient's); beat, audit
	Dotted    string           // call, ask: the scope; event: the topic; note: the kind
	Nonce     string           // reply: the request's; body: the invitation's
}

// ClassOf returns the class of a subject under whatever prefix, and the empty
// class where it has none. It judges nothing else: Parse does.
func ClassOf(subj string) Class {
	_, rest, _ := strings.Cut(subj, ".")
	class, _, ok := strings.Cut(rest, ".")
	if !ok {
		return ""
	}
	return Class(class)
}

var errForm = errors.New("subject: not a message subject of the mesh")

// Parse takes a message subject apart. It accepts only the classes that agents
// send messages on (call, ask, reply, body, event, note, beat, audit) and only exact
// token counts; the tokens of the dotted tail are literal, but whether they are
// a scope or a topic is the caller's to check.
func (s Space) Parse(subj string) (Parsed, error) {
	rest, ok := strings.CutPrefix(subj, s.prefix)
	if s.prefix == "" || !ok || len(rest) < 2 || rest[0] != '.' {
		return Parsed{}, errForm
	}
	class, rest, ok := strings.Cut(rest[1:], ".")
	if !ok {
		return Parsed{}, errForm
	}
	p := Parsed{Class: Class(class)}
	sender, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return Parsed{}, errForm
	}
	var err error
	if p.Sender, err = agentid.Parse(sender); err != nil {
		return Parsed{}, err
	}
	switch p.Class {
	case Call, Event:
		p.Dotted = rest
	case Ask, Note:
		recipient, tail, ok := strings.Cut(rest, ".")
		if !ok {
			return Parsed{}, errForm
		}
		if p.Recipient, err = agentid.Parse(recipient); err != nil {
			return Parsed{}, err
		}
		p.Dotted = tail
	case Beat, Audit:
		if p.Instance, err = agentid.ParseInstance(rest); err != nil {
			return Parsed{}, err
		}
		return p, nil
	case Reply, Body:
		recipient, tail, ok := strings.Cut(rest, ".")
		if !ok {
			return Parsed{}, errForm
		}
		if p.Recipient, err = agentid.Parse(recipient); err != nil {
			return Parsed{}, err
		}
		inst, nonce, ok := strings.Cut(tail, ".")
		if !ok || !token(nonce) {
			return Parsed{}, errForm
		}
		if p.Instance, err = agentid.ParseInstance(inst); err != nil {
			return Parsed{}, err
		}
		p.Nonce = nonce
		return p, nil
	default:
		return Parsed{}, errForm
	}
	for t := range strings.SplitSeq(p.Dotted, ".") {
		if !token(t) {
			return Parsed{}, errForm
		}
	}
	if p.Class == Note && strings.Contains(p.Dotted, ".") {
		return Parsed{}, errForm
	}
	return p, nil
}

// token reports whether s is one literal token: printable ASCII, no wildcard.
// What is not could not have been delivered on a subject that a grant names.
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '.' || c == '*' || c == '>' {
			return false
		}
	}
	return s != ""
}
