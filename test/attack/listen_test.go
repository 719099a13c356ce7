package attack_test

import "github.com/sealmesh/sealmesh/internal/subject"

// listening are attempts to hear what is for others.
func listening(a *arena) []attempt {
	b, al := a.person(bob), a.person(alice)
	space := subject.Default()
	var out []attempt
	add := func(covers int, name string, subjects ...string) {
		out = append(out, attempt{
			name: "listen/" + name, covers: []int{covers}, grant: everything, hears: true,
			do: func(x *try) { x.listen(subjects...) },
		})
	}
	add(40, "everything", ">")
	add(40, "everything with a token before", "*.>")
	add(40, "the mesh", "mesh.>")
	add(40, "five tokens", "*.*.*.*.*")
	add(40, "inboxes", "_INBOX.>")
	add(40, "the inbox of another", subject.InboxPrefix(b.id, b.inst)+".>")
	add(40, "buckets", "$KV.>")
	add(42, "records", "$KV.MESH_AGENTS.>")
	add(42, "sessions", "$KV.MESH_SESSIONS.>")
	add(40, "nonces", "$KV.MESH_REPLAY.>")
	add(40, "acknowledgements", "$JS.ACK.>")
	add(38, "JetStream", "$JS.>")
	add(38, "requests of JetStream", "$JS.API.>")
	add(38, "advisories", "$JS.EVENT.>")
	add(40, "requests to the server", "$SYS.REQ.>")
	add(40, "discovery", "$SRV.>")
	add(40, "service discovery by name", "$SRV.PING")
	add(40, "subjects outside the mesh", "legacy.>")
	add(39, "calls", space.CallFilter("read.logs"))
	add(39, "calls of anything", "mesh.call.>")
	add(39, "calls beside the queue", "mesh.call.*.read.logs others")
	add(39, "calls in a queue that is a wildcard", "mesh.call.*.read.logs >")
	add(39, "asks", "mesh.ask.>")
	add(39, "asks of another", space.AskFilter(b.id, "read.logs"))
	add(39, "what the control plane is asked", "mesh.ask.*.control.>", "mesh.ask.*.bob.>")
	add(40, "replies", "mesh.reply.>")
	add(40, "replies to another", space.ReplyFilter(al.id, al.inst))
	add(40, "replies to another instance of oneself, and to everybody's", "mesh.reply.*.*.>")
	add(40, "notes", "mesh.note.>")
	add(40, "notes to another", space.NoteFilter(al.id))
	add(40, "events", "mesh.event.>")
	add(40, "events of a topic that one may only publish", space.EventFilter("news"))
	add(40, "events of one sender", "mesh.event.alice.>")
	add(40, "heartbeats", "mesh.beat.>")
	add(40, "verdicts", "mesh.audit.>")

	// In the queue of those who do the work every other call would be hers.
	out = append(out, attempt{
		name: "listen/join the queue of the handlers", covers: []int{39}, grant: everything, hears: true,
		do: func(x *try) {
			x.listen(space.CallFilter("read.logs") + " read.logs")
			for range 16 {
				if x.mesh || x.ear.find(anything) != nil {
					break
				}
				_ = x.round(x.arena.mark()) // those that mallory gets are not answered
			}
		},
	})
	return out
}
