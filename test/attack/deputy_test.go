package attack_test

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// deputies are attempts to make the server, or an honest agent, say where mallory
// may not speak: whoever answers does it at a reply subject that the asking
// client chose, and the server does not ask whether that client may publish
// there. In the control run mallory has the mesh's own lines; what is missing is
// the border between the accounts.
func deputies(a *arena) []attempt {
	b, c, self := a.person(bob), a.person(carol), a.person(mallory)
	space := subject.Default()
	// Everything that she may ask and that is answered.
	type asked struct {
		name   string
		empty  bool // the answer has no body, as the requests that delete and purge
		stored bool // the answer is a stored message, which shows its own subject
		send   func(x *try, reply string)
	}
	ask := func(name, subj, body string) asked {
		return asked{name: name, send: func(x *try, reply string) { x.publishAs(subj, reply, body, nil) }}
	}
	read := "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS."
	fresh := 0
	answers := []asked{
		ask("the acknowledgement of an event", space.Event(self.id, "weather"), "x"),
		{name: "the acknowledgement of a nonce", send: func(x *try, reply string) {
			fresh++
			x.publishAs(fmt.Sprintf("$KV.MESH_REPLAY.write.reports.alice.n%d", fresh), reply, "", nil)
		}},
		ask("a record", read+"alice", ""),
		{name: "no record", empty: true, send: func(x *try, reply string) { x.publishAs(read+"nobody", reply, "", nil) }},
		{name: "a record from its leader", send: func(x *try, reply string) {
			x.publishAs(x.leader(subject.AgentsBucket), reply, `{"last_by_subj":"$KV.MESH_AGENTS.alice"}`, nil)
		}},
		{name: "what is stored for her", stored: true, send: func(x *try, reply string) {
			x.hers()
			x.publishAs(subject.Pull(self.consumer()), reply, soon, nil)
		}},
		{name: "that nothing is stored for her", empty: true, send: func(x *try, reply string) {
			x.drained()
			x.publishAs(subject.Pull(self.consumer()), reply, now, nil)
		}},
		ask("what her consumer is", subject.ConsumerInfo(self.consumer()), ""),
		{name: "that her acknowledgement was taken", empty: true, send: func(x *try, reply string) {
			x.publishAs(x.delivery(), reply, "+ACK", nil)
		}},
	}
	type target struct {
		name, subj, changes string
		stream              string // that stores it
		empty               bool   // works with an empty body alone
		heard               bool
		shown               bool // only what shows this subject is known to have come there
	}
	targets := []target{
		{name: "delete the stream of events", subj: "$JS.API.STREAM.DELETE.MESH_EVENTS", changes: "gone: ALL/MESH_EVENTS", empty: true},
		{name: "delete the replay store", subj: "$JS.API.STREAM.DELETE.KV_MESH_REPLAY", changes: "gone: ALL/KV_MESH_REPLAY", empty: true},
		{name: "delete the registry", subj: "$JS.API.STREAM.DELETE.KV_MESH_AGENTS", changes: "gone: ALL/KV_MESH_AGENTS", empty: true},
		{name: "purge the registry", subj: "$JS.API.STREAM.PURGE.KV_MESH_AGENTS", changes: "gone: ALL/KV_MESH_AGENTS ", empty: true},
		{name: "delete another's consumer", subj: "$JS.API.CONSUMER.DELETE.MESH_EVENTS." + c.consumer(), changes: "gone: ALL/MESH_EVENTS consumer " + c.consumer(), empty: true},
		{name: "write a record", subj: "$KV.MESH_AGENTS.carol", changes: "ALL/KV_MESH_AGENTS $KV.MESH_AGENTS.carol", stream: "KV_MESH_AGENTS"},
		{name: "burn another's nonce", subj: "$KV.MESH_REPLAY.read.logs.alice.burnt", changes: "new: ALL/KV_MESH_REPLAY", stream: "KV_MESH_REPLAY"},
		{name: "store an event of another", subj: "mesh.event.carol.news", changes: "ALL/MESH_EVENTS mesh.event.carol.news", stream: "MESH_EVENTS"},
		{name: "replace a heartbeat", subj: space.Beat(b.id, b.inst), changes: "changed: ALL/MESH_BEATS", stream: "MESH_BEATS"},
		{name: "call as another", subj: space.Call(b.id, "read.mail"), heard: true},
		{name: "call whom an honest agent answers", subj: space.Call(a.person(alice).id, "read.logs"), heard: true, shown: true},
		{name: "reply as another", subj: space.Reply(b.id, c.id, c.inst, "x"), heard: true},
		{name: "note as the control plane", subj: "mesh.note.control.carol.rotate", heard: true},
		{name: "feed", subj: space.FeedAgent(carol), heard: true},
		{name: "another's inbox", subj: subject.InboxPrefix(c.id, c.inst) + ".x", heard: true},
	}
	var out []attempt
	for _, t := range targets {
		for _, q := range answers {
			if t.empty && !q.empty || t.shown && q.stored {
				continue // the server refuses a body there, or nobody can tell
			}
			at := attempt{
				name: "deputy/" + q.name + " to " + t.name, covers: []int{42}, grant: narrow, changes: t.changes, deputy: true,
				do: func(x *try) { q.send(x, t.subj) },
			}
			if q.stored && t.stream != "" {
				at.changes = "ALL/" + t.stream + " mesh.event."
			}
			if t.heard {
				at.reaches = t.subj
			}
			out = append(out, at)
		}
	}
	// With allow_responses an agent may publish wherever a message that it received
	// asks it to: she asks herself.
	for _, t := range []target{
		{name: "write a record", subj: "$KV.MESH_AGENTS.carol", changes: "ALL/KV_MESH_AGENTS $KV.MESH_AGENTS.carol"},
		{name: "store an event of another", subj: "mesh.event.carol.news", changes: "ALL/MESH_EVENTS mesh.event.carol.news"},
		{name: "delete the replay store", subj: "$JS.API.STREAM.DELETE.KV_MESH_REPLAY", changes: "gone: ALL/KV_MESH_REPLAY"},
	} {
		out = append(out, attempt{
			name: "deputy/answer oneself to " + t.name, covers: []int{42}, grant: responder, changes: t.changes,
			do: func(x *try) {
				own := listen(x.t, x.m, space.EventFilter("weather"))
				x.publishAs(space.Event(self.id, "weather"), t.subj, x.mark, nil)
				mine := func(m *nats.Msg) bool { return m.Reply == t.subj }
				if !within(wait, func() bool { return own.find(mine) != nil }) {
					x.t.Fatal("her own event did not come to her")
				}
				x.publish(t.subj, "")
			},
		})
		// And an honest agent that answers whoever asks.
		if t.name == "delete the replay store" {
			continue
		}
		out = append(out, attempt{
			name: "deputy/an honest handler to " + t.name, covers: []int{42}, grant: narrow, changes: t.changes,
			do: func(x *try) { x.publishAs(space.Call(self.id, "read.logs"), t.subj, x.mark, nil) },
		})
	}
	return out
}
