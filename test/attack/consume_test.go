package attack_test

import (
	"fmt"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// consuming are attempts on what is stored by way of consumers.
func consuming(a *arena) []attempt {
	b, c, self := a.person(bob), a.person(carol), a.person(mallory)
	space := subject.Default()
	victim := c.consumer()
	var out []attempt
	ask := func(covers int, name, subj, body, changes string) {
		out = append(out, attempt{
			name: "consume/" + name, covers: []int{covers}, grant: everything, changes: changes, answer: changes == "",
			do: func(x *try) { x.ask("$JS.API.CONSUMER."+subj, body) },
		})
	}
	create := func(stream, config string) string {
		return fmt.Sprintf(`{"stream_name":%q,"config":{"ack_policy":"none",%s}}`, stream, config)
	}
	const made = "new: ALL/MESH_EVENTS consumer evil"
	ask(36, "by a filter that is wider", "CREATE.MESH_EVENTS.evil", create("MESH_EVENTS", `"durable_name":"evil","filter_subject":"mesh.event.>"`), made)
	ask(36, "by a filter in the request's subject", "CREATE.MESH_EVENTS.evil.mesh.event.alice.news", create("MESH_EVENTS", `"name":"evil","durable_name":"evil","filter_subject":"mesh.event.alice.news"`), made)
	ask(36, "without a filter", "CREATE.MESH_EVENTS", create("MESH_EVENTS", `"name":"evil"`), "new: ALL/MESH_EVENTS consumer ")
	ask(36, "by the older request", "DURABLE.CREATE.MESH_EVENTS.evil", create("MESH_EVENTS", `"durable_name":"evil"`), made)
	ask(36, "in another's name", "CREATE.MESH_EVENTS.bob_inbox", create("MESH_EVENTS", `"durable_name":"bob_inbox","filter_subject":"mesh.event.*.news"`), "new: ALL/MESH_EVENTS consumer bob_inbox")
	ask(36, "by widening her own", "CREATE.MESH_EVENTS."+self.consumer(), `{"stream_name":"MESH_EVENTS","action":"update","config":{"durable_name":"`+self.consumer()+`","ack_policy":"explicit","deliver_policy":"all","filter_subjects":["mesh.event.>"]}}`, "")
	for _, bucket := range []string{"KV_MESH_AGENTS", "KV_MESH_SESSIONS", "KV_MESH_REPLAY"} {
		ask(38, "to watch "+bucket, "CREATE."+bucket+".evil", create(bucket, `"name":"evil","deliver_policy":"last_per_subject","filter_subject":"$KV.>"`), "")
	}
	push := func(name, to, stream, changes string) {
		at := attempt{
			name: "consume/push " + name, covers: []int{37}, grant: everything, changes: changes,
			do: func(x *try) {
				// The server pushes while somebody listens at exactly that subject.
				x.listen(to)
				x.ask("$JS.API.CONSUMER.CREATE."+stream+".evil", create(stream, fmt.Sprintf(`"durable_name":"evil","deliver_subject":%q`, to)))
			},
		}
		if changes == "" {
			at.reaches = to
		}
		out = append(out, at)
	}
	push("into another's inbox", subject.InboxPrefix(c.id, c.inst)+".x", "MESH_EVENTS", "")
	push("into the feed", space.FeedAgent(carol), "KV_MESH_AGENTS", "")
	push("into another's replies", space.Reply(b.id, c.id, c.inst, "x"), "MESH_EVENTS", "")
	push("into a record", "$KV.MESH_AGENTS.carol", "MESH_EVENTS", "new: ALL/KV_MESH_AGENTS mesh.event.")

	ask(38, "by changing another's", "CREATE.MESH_EVENTS."+victim, `{"stream_name":"MESH_EVENTS","action":"update","config":{"durable_name":"`+victim+`","ack_policy":"explicit","filter_subject":"mesh.event.none.x"}}`, "changed: ALL/MESH_EVENTS consumer "+victim)
	ask(38, "by deleting another's", "DELETE.MESH_EVENTS."+victim, "", "gone: ALL/MESH_EVENTS consumer "+victim)
	ask(38, "by pausing another's", "PAUSE.MESH_EVENTS."+victim, `{"pause_until":"2099-01-01T00:00:00Z"}`, "changed: ALL/MESH_EVENTS consumer "+victim)
	ask(38, "by asking about another's", "INFO.MESH_EVENTS."+victim, "", "")
	ask(38, "by listing them", "LIST.MESH_EVENTS", "", "")
	ask(38, "by naming them", "NAMES.MESH_EVENTS", "", "")
	out = append(out, attempt{
		name: "consume/take what is stored for another", covers: []int{38, 40}, grant: everything, changes: "changed: ALL/MESH_EVENTS consumer " + victim, answer: true,
		do: func(x *try) {
			x.something()
			x.ask(subject.Pull(victim), soon)
		},
	})
	out = append(out, attempt{
		name: "consume/let another's be delivered to it", covers: []int{37}, grant: everything, changes: "changed: ALL/MESH_EVENTS consumer " + victim,
		do: func(x *try) {
			x.something()
			x.publishAs(subject.Pull(victim), subject.InboxPrefix(b.id, b.inst)+".x", soon, nil)
		},
	})
	for _, verb := range []string{"+ACK", "-NAK", "+TERM", "+WPI"} {
		out = append(out, attempt{
			name: "consume/forge " + verb + " for another", covers: []int{40}, grant: everything, answer: true,
			do: func(x *try) {
				d := x.outFor(c)
				x.ask(fmt.Sprintf("$JS.ACK.MESH_EVENTS.%s.1.%d.%d.%d.0", victim, d.Sequence, d.Delivery, d.Time.UnixNano()), verb)
			},
		})
	}
	return out
}
