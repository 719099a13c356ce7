package natsconf

import (
	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// view gives the template its subjects, so that none is spelled there twice.
type view struct{ Config }

// ToControl are the streams that MESH exports to CTRL.
func (v view) ToControl() []string {
	return []string{
		v.Space.BeatFilter(),
		v.Space.AuditFilter(),
		v.Space.CallFilter("admin.*"),
		v.Space.AskFilter(agentid.Control, ">"),
	}
}

// FromControl are the streams that CTRL exports to MESH.
func (v view) FromControl() []string {
	return []string{
		v.Space.FeedFilter(),
		v.Space.ControlReplies(),
		v.Space.ControlNotes(),
	}
}

// Reads are the direct reads of control buckets, of as many tokens as their keys
// have. What is asked for may still be a pattern, which the server takes for a
// key and answers with the newest record that it matches: all of the registry is
// readable for every agent.
func (v view) Reads() []string {
	return []string{
		subject.DirectGet(AgentsBucket, "*"),
		subject.DirectGet(AgentsBucket, "*.*"),
		subject.DirectGet(ChainsBucket, "*"),
	}
}

// Alias is a service that MESH knows by another name than CTRL.
type Alias struct{ Subject, To string }

// LeaderReads are the reads that the leader of a control bucket answers.
func (v view) LeaderReads() []Alias {
	return []Alias{
		{subject.LeaderGet(AgentsBucket), v.Space.LeaderRead(AgentsBucket)},
		{subject.LeaderGet(ChainsBucket), v.Space.LeaderRead(ChainsBucket)},
	}
}

// Management is the part of STORE's JetStream API that the control plane uses.
// Not all of `$JS.API.>`: what a compromised control plane connection cannot
// reach it cannot misuse.
func (v view) Management() []Alias {
	var out []Alias
	for _, s := range []string{"INFO", "STREAM.>", "CONSUMER.>"} {
		out = append(out, Alias{"$JS.API." + s, StoreAPI + "." + s})
	}
	return out
}

// Service is one of STORE's services.
type Service struct {
	Subject string
	Many    bool // more than one answer to a request
}

// Stored are the services by which agents store events and pull stored ones.
func (v view) Stored() []Service {
	out := []Service{
		{Subject: v.Space.Events()},
		{Subject: subject.Pull("*"), Many: true},
		{Subject: subject.ConsumerInfo("*")},
	}
	for _, s := range subject.Acks("*") {
		out = append(out, Service{Subject: s})
	}
	return out
}

// Replay is every key of the replay bucket.
func (v view) Replay() string { return subject.KV(ReplayBucket, ">") }

// MaxPayload is the server's own limit. The control plane is bound by it too,
// and a callout answer that does not fit refuses everybody.
func (v view) MaxPayload() int { return max(v.Limits.Payload, DefaultPayload) }

func (v view) SystemInbox() string { return SystemInbox }
