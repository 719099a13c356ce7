package authcallout

import (
	"slices"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Subject is whom a grant is for and what it rests on.
type Subject struct {
	Agent    agentid.ID
	Instance agentid.Instance
	Scopes   []capability.Scope // the union of the agent's valid chains, any order
	Plain    Plain
	Durables []string // names of the agent's durable subscriptions
}

// The kinds of note that an agent may send; all others are the control plane's.
const (
	noteDelegation = "delegation"
	noteCancel     = "cancel"
	noteReceived   = "received"
)

// The verbs of the mesh's own, as [capability.Scope.Verb] gives them.
const (
	verbHandle    = "handle"
	verbPublish   = "publish"
	verbSubscribe = "subscribe"
	verbSelf      = "self"
)

// Compile turns scopes into NATS permissions. It is pure and total: it reads no
// clock and no state, and its result does not depend on the order or number of
// times in which scopes are given. With A the agent and I the instance:
//
// Every agent may
//
//	sub mesh.reply.*.A.I.>        receive the replies to this instance's calls
//	sub mesh.note.*.A.*           receive control messages to the agent
//	sub mesh.feed.>               follow the registry
//	sub _INBOX_A_I.>              receive what NATS itself answers this instance
//	pub mesh.beat.A.I             send its heartbeat
//	pub mesh.audit.A.I            report its own verdicts
//	pub mesh.note.A.*.delegation  hand a delegation to its holder
//	pub mesh.note.A.*.cancel      tell a handler to stop
//	pub mesh.note.A.*.received    tell a handler what came of its answer
//	pub mesh.ask.A.control.self.* ask the control plane about itself
//	pub $JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*    read one agent's record
//	pub $JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.*  read one instance's record
//	pub $JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.*    read one chain
//	pub mesh.leader.MESH_AGENTS   the same from the bucket's leader, which is
//	pub mesh.leader.MESH_CHAINS   never stale
//
// A scope v:r or admin:s adds, with d its dotted form ("read.logs"),
//
//	pub mesh.call.A.d             call whoever handles it
//	pub mesh.ask.A.*.d            call one agent by name
//	pub mesh.body.A.*.*.*         send what is too large for one message to the
//	                              instance that took the call
//
// A scope handle:v:r adds
//
//	sub mesh.call.*.d  queue d    take calls; in queue form, so that it can
//	sub mesh.ask.*.A.d queue d    neither listen in beside the handlers nor form
//	                              a group of its own that gets every call
//	sub mesh.body.*.A.i.>         get what is too large for one message
//	pub mesh.reply.A.*.*.*        answer: the caller, its instance, the nonce
//	pub $KV.MESH_REPLAY.d.*.*     burn a nonce: the sender, the nonce
//
// A scope publish:t adds
//
//	pub mesh.event.A.t
//
// and subscribe:t
//
//	sub mesh.event.*.t
//
// A durable subscription named n adds, with C the consumer A_n,
//
//	pub $JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.C   take what is stored for it
//	pub $JS.API.CONSUMER.INFO.MESH_EVENTS.C       see how much that is
//	pub $JS.ACK.MESH_EVENTS.C.*.*.*.*.*           acknowledge it, in the two
//	pub $JS.ACK.*.*.MESH_EVENTS.C.*.*.*.*.*       forms that servers use
//
// and no right over consumers or streams: which topics a consumer hands out is
// the control plane's to say.
//
// A plain right adds its literal subject.
//
// A wildcard never stands for more than one token where an agent may publish,
// and never for a sender.
//
// Compile refuses a nameless or reserved agent, a scope that cannot stand in a
// token, plain rights that [Plain.Check] refuses, and a grant too large for one
// answer.
func Compile(space subject.Space, in Subject) (Grant, error) {
	if in.Agent.IsZero() || in.Instance.IsZero() || space.Prefix() == "" {
		return Grant{}, denial.New(denial.Internal, "a grant needs a subject space, an agent and an instance")
	}
	if in.Agent.Reserved() {
		return Grant{}, denial.New(denial.ReservedName, "agent ID %q belongs to the mesh", in.Agent)
	}
	most := 11 + 3*len(in.Scopes) + 4*len(in.Durables)
	c := compiler{space: space, agent: in.Agent, instance: in.Instance, publish: make([]Line, 0, most), subscribe: make([]Line, 0, most)}
	c.every()
	for _, s := range in.Scopes {
		if err := c.scope(s); err != nil {
			return Grant{}, err
		}
	}
	for _, name := range in.Durables {
		if err := c.durable(name); err != nil {
			return Grant{}, err
		}
	}
	if err := in.Plain.Check(space); err != nil {
		return Grant{}, err
	}
	for _, s := range in.Plain.Publish {
		c.pub(s, FromPlain)
	}
	for _, s := range in.Plain.Subscribe {
		c.sub(s, "", FromPlain)
	}
	return finish(space, in, Grant{Publish: c.publish, Subscribe: c.subscribe})
}

// finish puts the lines in order and lets none out that the grammar does not
// know.
func finish(space subject.Space, in Subject, g Grant) (Grant, error) {
	g = Grant{Publish: normal(g.Publish), Subscribe: normal(g.Subscribe)}
	if n := size(g); n > limits.Grant {
		return Grant{}, denial.New(denial.TooLarge, "the grant has %d bytes of subjects, at most %d are allowed", n, limits.Grant)
	}
	if err := newGrammar(space, in).check(g); err != nil {
		return Grant{}, err
	}
	return g, nil
}

type compiler struct {
	space              subject.Space
	agent              agentid.ID
	instance           agentid.Instance
	publish, subscribe []Line
}

func (c *compiler) pub(subj, from string) {
	c.publish = append(c.publish, Line{Subject: subj, From: from})
}

func (c *compiler) sub(subj, queue, from string) {
	c.subscribe = append(c.subscribe, Line{Subject: subj, Queue: queue, From: from})
}

func (c *compiler) every() {
	instance := c.instance
	c.sub(c.space.ReplyFilter(c.agent, instance), "", FromEvery)
	c.sub(c.space.NoteFilter(c.agent), "", FromEvery)
	c.sub(c.space.FeedFilter(), "", FromEvery)
	c.sub(subject.InboxPrefix(c.agent, instance)+".>", "", FromEvery)
	c.pub(c.space.Beat(c.agent, instance), FromEvery)
	c.pub(c.space.Audit(c.agent, instance), FromEvery)
	c.pub(c.space.NoteGrant(c.agent, noteDelegation), FromEvery)
	c.pub(c.space.NoteGrant(c.agent, noteCancel), FromEvery)
	c.pub(c.space.NoteGrant(c.agent, noteReceived), FromEvery)
	c.pub(c.space.Ask(c.agent, agentid.Control, verbSelf+".*"), FromEvery)
	c.pub(subject.DirectGet(subject.AgentsBucket, "*"), FromEvery)
	c.pub(subject.DirectGet(subject.AgentsBucket, "*.*"), FromEvery)
	c.pub(subject.DirectGet(subject.ChainsBucket, "*"), FromEvery)
	c.pub(c.space.LeaderRead(subject.AgentsBucket), FromEvery)
	c.pub(c.space.LeaderRead(subject.ChainsBucket), FromEvery)
}

func (c *compiler) scope(s capability.Scope) error {
	if s.IsZero() {
		return denial.New(denial.BadScope, "an empty scope grants nothing and may not be in a list")
	}
	// A scope that no token can carry did not come from a chain.
	if err := s.Grantable(); err != nil {
		return err
	}
	dotted, from := s.Dotted(), s.String()
	switch s.Verb() {
	case verbHandle:
		c.sub(c.space.CallFilter(dotted), subject.Queue(dotted), from)
		c.sub(c.space.AskFilter(c.agent, dotted), subject.Queue(dotted), from)
		c.sub(c.space.BodyFilter(c.agent, c.instance), "", FromHandlers)
		c.pub(c.space.ReplyGrant(c.agent), FromHandlers)
		c.pub(subject.ReplayGrant(subject.ReplayBucket, dotted), from)
	case verbPublish:
		c.pub(c.space.Event(c.agent, dotted), from)
	case verbSubscribe:
		c.sub(c.space.EventFilter(dotted), "", from)
	default:
		c.pub(c.space.Call(c.agent, dotted), from)
		c.pub(c.space.AskAny(c.agent, dotted), from)
		c.pub(c.space.BodyGrant(c.agent), FromCallers)
	}
	return nil
}

func (c *compiler) durable(name string) error {
	// The same form as an agent's, which has neither a dot nor an underscore: a
	// name cannot make the consumer another agent's, nor a pattern.
	if _, err := agentid.Parse(name); err != nil {
		return denial.New(denial.BadInput, "durable subscription %q: %w", name, err)
	}
	consumer, from := subject.Consumer(c.agent, name), FromDurable+" "+name
	c.pub(subject.Pull(consumer), from)
	c.pub(subject.ConsumerInfo(consumer), from)
	for _, s := range subject.Acks(consumer) {
		c.pub(s, from)
	}
	return nil
}

// size is what the subjects of a grant take in the answer to the server, which
// must fit into one message.
func size(g Grant) int {
	n := 0
	for _, l := range slices.Concat(g.Publish, g.Subscribe) {
		n += len(l.Subject) + len(l.Queue) + len(`"",`)
	}
	return n
}
