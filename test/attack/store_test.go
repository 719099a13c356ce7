package attack_test

import (
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// storing are attempts on streams and buckets by JetStream's own requests, and by
// what a message can make a stream do.
func storing(a *arena) []attempt {
	space := subject.Default()
	self := a.person(mallory)
	var out []attempt
	ask := func(covers int, name, subj, body, changes string) {
		out = append(out, attempt{
			name: "store/" + name, covers: []int{covers}, grant: everything, changes: changes, answer: changes == "",
			do: func(x *try) { x.ask("$JS.API."+subj, body) },
		})
	}
	for _, s := range []string{"MESH_EVENTS", "KV_MESH_REPLAY", "KV_MESH_AGENTS", "MESH_BEATS", "MESH_AUDIT"} {
		ask(38, "delete "+s, "STREAM.DELETE."+s, "", "gone: ALL/"+s)
		ask(38, "purge "+s, "STREAM.PURGE."+s, "", "gone: ALL/"+s+" ")
		ask(38, "describe "+s, "STREAM.INFO."+s, "", "")
		ask(38, "back up "+s, "STREAM.SNAPSHOT."+s, `{"deliver_subject":"`+space.Event(self.id, "weather")+`"}`, "")
		ask(38, "read a message of "+s, "STREAM.MSG.GET."+s, `{"next_by_subj":">","seq":1}`, "")
	}
	ask(38, "delete a message", "STREAM.MSG.DELETE.MESH_EVENTS", `{"seq":1}`, "gone: ALL/MESH_EVENTS")
	ask(38, "change what is kept", "STREAM.UPDATE.MESH_EVENTS", `{"name":"MESH_EVENTS","subjects":["mesh.event.>"],"max_msgs":1,"allow_direct":true}`, "changed: ALL/MESH_EVENTS")
	ask(38, "list streams", "STREAM.LIST", "", "")
	ask(38, "name streams", "STREAM.NAMES", "", "")
	ask(38, "describe the account", "INFO", "", "")
	ask(38, "restore a stream", "STREAM.RESTORE.EVIL", `{"config":{"name":"EVIL","subjects":["evil"],"storage":"file","num_replicas":1},"state":{"messages":1,"bytes":100,"first_seq":1,"last_seq":1,"consumer_count":0}}`, "")
	ask(38, "store what others say", "STREAM.CREATE.EVIL", `{"name":"EVIL","subjects":["mesh.note.>","mesh.reply.>"],"storage":"memory"}`, "new: ALL/EVIL")
	ask(38, "mirror records", "STREAM.CREATE.EVIL", `{"name":"EVIL","mirror":{"name":"KV_MESH_AGENTS"},"storage":"memory"}`, "new: ALL/EVIL")
	ask(38, "source sessions", "STREAM.CREATE.EVIL", `{"name":"EVIL","subjects":["evil"],"sources":[{"name":"KV_MESH_SESSIONS"}],"storage":"memory"}`, "new: ALL/EVIL")
	ask(38, "repeat into the feed", "STREAM.CREATE.EVIL", `{"name":"EVIL","subjects":["evil"],"republish":{"src":"evil","dest":"mesh.feed.agents.carol"},"storage":"memory"}`, "new: ALL/EVIL")
	// By the name under which the control plane manages what agents store.
	for _, m := range []struct{ name, request, changes string }{
		{"delete it", "STREAM.DELETE.MESH_EVENTS", "gone: ALL/MESH_EVENTS"}, {"purge it", "STREAM.PURGE.MESH_EVENTS", "gone: ALL/MESH_EVENTS "},
		{"list it", "STREAM.LIST", ""},
	} {
		out = append(out, attempt{
			name: "store/" + m.name + " as the control plane does", covers: []int{38}, grant: everything, changes: m.changes, answer: m.changes == "",
			do: func(x *try) { x.ask(x.management()+m.request, "") },
		})
	}
	// Direct reads answer with the message and no envelope.
	for _, r := range []struct{ name, subj, body string }{
		{"an event by its sequence", "DIRECT.GET.MESH_EVENTS", `{"seq":1}`},
		{"the newest of another's", "DIRECT.GET.MESH_EVENTS.mesh.event.alice.news", ""},
		{"all events", "DIRECT.GET.MESH_EVENTS", `{"batch":100,"next_by_subj":">"}`},
		{"a record by its sequence", "DIRECT.GET.KV_MESH_AGENTS", `{"seq":1,"next_by_subj":"$KV.MESH_AGENTS.>"}`},
		{"a session", "DIRECT.GET.KV_MESH_SESSIONS.$KV.MESH_SESSIONS.bob", ""},
		{"records of any depth", "DIRECT.GET.KV_MESH_AGENTS", `{"multi_last":["$KV.MESH_AGENTS.>"]}`},
	} {
		ask(38, "directly read "+r.name, r.subj, r.body, "")
	}
	out = append(out, attempt{
		name: "store/read sessions from their leader", covers: []int{42}, grant: everything, answer: true,
		do: func(x *try) { x.ask(x.leader(subject.SessionsBucket), `{"last_by_subj":"$KV.MESH_SESSIONS.bob"}`) },
	})

	// A nonce is burnt for good, also for those who may burn it: a handler that is
	// taken over cannot let a call be repeated.
	const nonce = "$KV.MESH_REPLAY.write.reports.alice.used"
	burn := func(name string, header nats.Header, body string) {
		out = append(out, attempt{
			name: "store/reopen a nonce by " + name, covers: []int{41}, grant: narrow,
			do: func(x *try) {
				x.publish(nonce, "")
				flush(x.t, x.m)
				first := x.nonce(nonce)
				x.publishAs(nonce, "", body, header)
				flush(x.t, x.m)
				if x.mesh {
					x.won = first == "" || x.nonce(nonce) != first
					return
				}
				x.won = within(wait, func() bool { return x.nonce(nonce) != first })
			},
		})
	}
	burn("writing it again", nil, "")
	burn("deleting it", nats.Header{"KV-Operation": []string{"DEL"}}, "")
	burn("purging it", nats.Header{"KV-Operation": []string{"PURGE"}, "Nats-Rollup": []string{"sub"}}, "")
	burn("rolling all up", nats.Header{"Nats-Rollup": []string{"all"}}, "")
	burn("a copy's ID", nats.Header{"Nats-Msg-Id": []string{"used"}}, "")

	// Attack 41: what a sender can do to a stream by what it stores there itself.
	out = append(out, attempt{
		name: "store/push out what others stored", covers: []int{41}, grant: narrow, changes: "changed: ALL/MESH_EVENTS mesh.event.alice.news",
		do: func(x *try) {
			if !x.mesh {
				// Two of alice's, so that one is left to be counted.
				_ = x.round(x.arena.mark())
				var err error
				if x.before, err = x.state(); err != nil {
					x.t.Fatal(err)
				}
			}
			n := 48
			if x.mesh {
				n = 2000
			}
			for range n {
				x.publish(space.Event(self.id, "weather"), x.mark)
			}
		},
	})
	out = append(out, attempt{
		name: "store/roll up what others stored", covers: []int{41}, grant: narrow,
		do: func(x *try) {
			x.allow(func(c *jetstream.StreamConfig) { c.AllowRollup = true })
			x.publishAs(space.Event(self.id, "weather"), "", x.mark, nats.Header{"Nats-Rollup": []string{"all"}})
			flush(x.t, x.m)
			gone := func() bool { return x.stored("mesh.event.alice.news") == 0 }
			if x.mesh {
				x.won = gone()
				return
			}
			x.won = within(wait, gone)
		},
	})
	// A message can ask the server to publish another one, later, in whose name it
	// likes.
	out = append(out, attempt{
		name: "store/schedule an event of another", covers: []int{41}, grant: narrow, changes: "ALL/MESH_EVENTS mesh.event.carol.news",
		do: func(x *try) {
			x.allow(func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = true })
			x.publishAs(space.Event(self.id, "weather"), "", x.mark, nats.Header{
				"Nats-Schedule": []string{"@at 2020-01-01T00:00:00Z"}, "Nats-Schedule-Target": []string{"mesh.event.carol.news"},
			})
		},
	})
	// The window in which copies are told apart is the stream's, not the sender's:
	// an ID that somebody will use can be used up before.
	out = append(out, attempt{
		name: "store/use up the IDs of another", covers: []int{41}, grant: narrow,
		do: func(x *try) {
			for i := range 20 {
				x.publishAs(space.Event(self.id, "news"), "", x.mark, nats.Header{"Nats-Msg-Id": []string{fmt.Sprintf("order-%d", i)}})
			}
			flush(x.t, x.m)
			before := x.stored("mesh.event.alice.news")
			if x.mesh {
				// Her IDs are nonces; that the next round is stored shows it.
				if err := x.round(x.arena.mark()); err != nil {
					x.t.Error(err)
				}
				x.won = !within(wait, func() bool { return x.stored("mesh.event.alice.news") == before+1 })
				// What was said and stored is no loot.
				var err error
				if x.before, err = x.state(); err != nil {
					x.t.Fatal(err)
				}
				return
			}
			m := nats.NewMsg("mesh.event.alice.news")
			m.Header.Set("Nats-Msg-Id", "order-7")
			ack, err := x.ctrl.RequestMsg(m, wait)
			x.won = err == nil && x.stored("mesh.event.alice.news") == before && ack != nil
		},
	})
	return out
}
