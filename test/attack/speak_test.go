package attack_test

import (
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/internal/subject"
)

func anything(*nats.Msg) bool { return true }

// speaking are attempts to say something in the name of another.
func speaking(a *arena) []attempt {
	b, c, self := a.person(bob), a.person(carol), a.person(mallory)
	space := subject.Default()
	var out []attempt
	add := func(covers int, name, subj string) {
		out = append(out, attempt{
			name: "speak/" + name, covers: []int{covers}, grant: everything, reaches: subj,
			do: func(x *try) { x.publish(subj, x.mark) },
		})
	}
	add(39, "call as another", space.Call(b.id, "read.mail"))
	add(39, "call as oneself without the scope", space.Call(self.id, "read.mail"))
	add(39, "ask as another", space.Ask(b.id, c.id, "read.mail"))
	add(39, "reply as another", space.Reply(b.id, c.id, c.inst, "nonce"))
	add(39, "reply as the control plane", "mesh.reply.control.carol."+c.inst.String()+".nonce")
	add(39, "note as another", space.Note(b.id, c.id, "delegation"))
	add(39, "note as the control plane", "mesh.note.control.carol.rotate")
	add(39, "note of a kind that is the control plane's", space.Note(self.id, c.id, "rotate"))
	add(39, "event as another", space.Event(b.id, "news"))
	add(39, "event in the reserved name", "mesh.event.sealmesh.none")
	add(39, "event that is not hers to publish", space.Event(self.id, "alarms"))
	add(39, "heartbeat of another", space.Beat(c.id, c.inst))
	add(39, "heartbeat of another instance", "mesh.beat.mallory.abcdefgh")
	add(39, "verdict of another", space.Audit(c.id, c.inst))
	add(42, "feed", space.FeedAgent(carol))
	add(42, "tick", tickSubject)
	add(40, "inbox of another", subject.InboxPrefix(c.id, c.inst)+".x")
	add(39, "operation of an operator", space.Call(self.id, "admin.registry"))
	add(39, "operation in the operator's name", "mesh.call.admin.admin.registry")
	add(39, "answer to discovery", "$SRV.INFO.bob")
	add(42, "record", "$KV.MESH_AGENTS.carol")
	add(42, "revocation undone", "$KV.MESH_AGENTS.carol."+c.inst.String())
	add(42, "chain", "$KV.MESH_CHAINS.abc")
	add(42, "session", "$KV.MESH_SESSIONS.carol.x")
	add(41, "nonce of a scope that another handles", "$KV.MESH_REPLAY.read.logs.alice.abc")
	add(41, "nonce with a wildcard in its scope", "$KV.MESH_REPLAY.*.*.alice.abc")

	// The server copies what happened to a message to where its header says.
	for _, t := range []struct{ name, dest string }{
		{"to the feed", space.FeedAgent(carol)}, {"into a record", "$KV.MESH_AGENTS.carol"}, {"to another's inbox", subject.InboxPrefix(c.id, c.inst) + ".trace"},
		{"as a call", space.Call(b.id, "read.mail")},
	} {
		out = append(out, attempt{
			name: "speak/trace " + t.name, covers: []int{42}, grant: everything, reaches: t.dest,
			do: func(x *try) {
				x.publishAs(space.Event(self.id, "news"), "", x.mark, nats.Header{"Nats-Trace-Dest": []string{t.dest}})
			},
		})
	}
	for _, r := range []string{"$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.USER.INFO"} {
		out = append(out, attempt{
			name: "speak/ask " + r, covers: []int{40}, grant: everything, answer: true,
			do: func(x *try) { x.ask(r, "") },
		})
	}
	for _, verb := range []string{"PING", "INFO", "STATS"} {
		out = append(out, attempt{
			name: "speak/discover by " + verb, covers: []int{40}, grant: everything, answer: true,
			do: func(x *try) { x.ask("$SRV."+verb, "") },
		})
	}
	return out
}
