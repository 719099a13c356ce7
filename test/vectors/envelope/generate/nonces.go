package main

func (b *book) nonces() {
	again := func(l *letter) func(*story) { return func(s *story) { s.earlier(t0+100, l) } }
	replayed := func(name, description string, base func() *story, tell func(*story)) {
		b.refuseAt("7", "replay/"+name, "N1", "replayed", description, base, tell)
	}
	replayed("call", "a call, again", call, again(call().letter))
	replayed("ask", "an ask, again", ask, again(ask().letter))
	replayed("event", "an event, again", event, again(event().letter))
	replayed("note", "a note, again", note, again(note().letter))
	replayed("beat", "a beat, again", beat, again(beat().letter))
	replayed("reply", "a reply, again", reply, again(reply().letter))
	replayed("body", "a part of a body, again: lost ones are sent again as they are", body, again(body().letter))
	replayed("other-message", "another message of the sender under a nonce that it used", note, func(s *story) {
		s.earlier(t0+100, note().letter)
		s.letter.payload = []byte("another payload")
	})
	replayed("at-the-end-of-the-window", "again in the last millisecond in which it is fresh", note, func(s *story) {
		s.earlier(t0+100, note().letter)
		s.receiver.Now = t0 + window
	})
	replayed("ahead", "a message from ahead of the receiver's clock, again when the window for it is over by that clock's own time", note, func(s *story) {
		s.earlier(t0-ahead, note().letter)
		s.receiver.Now = t0 + window
	})
	b.accept("nonce-of-another-sender", "N1", "a nonce counts for its sender: writer used the one that helper uses", note, func(s *story) {
		s.earlier(t0+100, note().letter)
		s.letter = plain("helper", helper, "mesh.note.helper.reader.cancel", "note")
	})
	b.accept("next-nonce", "N1", "the next message of the same sender", note, func(s *story) {
		s.earlier(t0+100, note().letter)
		s.letter.set("nonce", id("next note"))
	})

	since := func(n int64) func(*story) { return func(s *story) { s.receiver.ReplaySince = n } }
	b.accept("replay-since-reached", "N3", "sent in the millisecond from which replays can be told", call, since(t0))
	b.refuse("replay/since-call", "N3", "stale", "sent one millisecond before replays can be told", call, since(t0+1))
	b.refuse("replay/since-ask", "N3", "stale", "the same for an ask", ask, since(t0+1))
	b.accept("replay-since-note", "N3", "the shared store has no say in what is no call or ask", note, since(t0+1))

	started := func(n int64) func(*story) { return func(s *story) { s.receiver.Started = n } }
	b.accept("started-two-seconds-later", "N4", "sent two seconds before the receiver started", note, started(t0+2*second))
	b.refuse("replay/started-later-note", "N4", "stale", "sent one millisecond before that: an earlier process may have taken it", note, func(s *story) {
		started(t0 + 2*second + 1)(s)
		s.receiver.Now = t0 + 3*second
	})
	b.refuse("replay/started-later-event", "N4", "stale", "the same for an event", event, func(s *story) {
		started(t0 + 2*second + 1)(s)
		s.receiver.Now = t0 + 3*second
	})
	b.accept("started-later-call", "N4", "for a call the shared store knows what an earlier process took", call, func(s *story) {
		started(t0 + 4*minute)(s)
		s.receiver.Now = t0 + 4*minute + second
	})

	full := func(nonces, perSender int, before ...*letter) func(*story) {
		return func(s *story) {
			s.receiver.Nonces, s.receiver.PerSender = nonces, perSender
			for _, l := range before {
				s.earlier(t0+100, l)
			}
		}
	}
	first := func() *letter { return note().letter.set("nonce", id("first note")) }
	foreign := func() *letter { return plain("helper", helper, "mesh.note.helper.reader.cancel", "note of helper") }
	b.refuse("memory/sender-at-its-share", "N6", "quota-exceeded", "the sender has used up its share, and the memory is not full", note, full(4, 1, first()))
	b.refuse("memory/full", "N6", "replay-unavailable", "the memory is full with another sender's nonces", note, full(1, 1, foreign()))
	b.accept("memory-room-for-others", "N6", "another sender has used up its share", note, full(4, 1, foreign()))

	b.refuseAt("11", "shared-store/burnt-by-another-process", "N7", "replayed", "another replica took the call", call, func(s *story) {
		s.receiver.Burnt = []burnt{{dotted, "writer", s.letter.field("nonce")}}
	})
	b.refuseAt("11", "shared-store/ask-burnt", "N7", "replayed", "another process of reader took the ask", ask, func(s *story) {
		s.receiver.Burnt = []burnt{{dotted, "writer", s.letter.field("nonce")}}
	})
	b.refuse("shared-store/unavailable-for-a-call", "N7", "replay-unavailable", "the shared store does not answer", call, func(s *story) { s.receiver.SharedDown = true })
	b.refuse("shared-store/unavailable-for-an-ask", "N7", "replay-unavailable", "the same for an ask", ask, func(s *story) { s.receiver.SharedDown = true })
	b.accept("shared-store-not-asked-for-a-note", "N7", "for what is no call or ask the shared store is not asked", note, func(s *story) { s.receiver.SharedDown = true })
	b.accept("shared-store-other-scope-and-sender", "N7", "the same nonce was burnt for another scope, and by another sender", call, func(s *story) {
		s.receiver.Burnt = []burnt{{"read.metrics", "writer", s.letter.field("nonce")}, {dotted, "helper", s.letter.field("nonce")}}
	})
}
