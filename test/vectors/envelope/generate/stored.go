package main

// Messages that come out of a stream, and what comes out of one where it must not.
func (b *book) stored() {
	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("stored/"+name, rule, reason, description, storedEvent, tell)
	}
	accept := func(name, rule, description string, tell func(*story)) {
		b.accept("stored-"+name, rule, description, storedEvent, tell)
	}
	pulled := func(times, sequence, at int64) func(*story) {
		return func(s *story) { s.letter = publish(event().letter, times, sequence, at) }
	}
	const taken = t0 + 100

	// What is live, and what is not.
	live := []struct {
		name string
		base func() *story
	}{{"call", call}, {"ask", ask}, {"reply", reply}, {"body", body}, {"event", event}, {"note", note}, {"beat", beat}, {"audit", audit}}
	for _, c := range live {
		b.refuse("foreign-delivery/"+c.name, "E1", "foreign-delivery", "a stored message that somebody had delivered where live ones are expected: "+c.name, c.base, func(s *story) {
			s.letter.reply = ack("MESH_EVENTS", "helper_inbox", 1, 41, nanos(taken))
		})
	}
	for name, reply := range map[string]string{
		"of-this-agents-consumer": ack("MESH_EVENTS", consumer, 1, 41, nanos(taken)),
		"of-another-stream":       ack("ORDERS", "other", 1, 41, nanos(taken)),
		"with-domain-and-account": "$JS.ACK.hub.ABCDEFGH.MESH_EVENTS.helper_inbox.1.41.57." + nanos(taken) + ".0",
		"in-another-form":         "$JS.ACK.anything",
		"of-nothing":              "$JS.ACK.",
	} {
		b.refuse("foreign-delivery/"+name, "E1", "foreign-delivery", "a live subscription, and a reply field by which a stream is told: "+name, event, func(s *story) { s.letter.reply = reply })
	}
	for name, reply := range map[string]string{
		"inbox": "_INBOX_writer_x.y", "of-the-mesh": "mesh.reply.victim.writer.x.y", "without-the-point": "$JS.ACK", "in-lower-case": "$js.ack.MESH_EVENTS.x.1.1.1.1.0",
		"longer-word": "$JS.ACKS.x", "inside": "x.$JS.ACK.x", "api": "$JS.API.INFO",
	} {
		b.accept("reply-field-"+name, "H5", "the reply field says nothing of a stream and is not looked at: "+name, call, func(s *story) { s.letter.reply = reply })
	}

	// What comes into the pull inbox.
	accept("event", "E2", "an event that waited for two hours", nil)
	accept("event-with-domain-and-account", "E2", "the longer form of the acknowledgement subject", func(s *story) {
		s.letter.reply = "$JS.ACK.hub.ABCDEFGH.MESH_EVENTS.reader_inbox.1.41.57." + nanos(taken) + ".12"
	})
	accept("event-without-domain", "E2", "where the server has no domain", func(s *story) {
		s.letter.reply = "$JS.ACK._.ABCDEFGH.MESH_EVENTS.reader_inbox.1.41.57." + nanos(taken) + ".12"
	})
	at := nanos(taken)
	for name, reply := range map[string]string{
		"none":                           "",
		"an-inbox":                       "_INBOX_reader_x.y",
		"of-another-consumer":            ack("MESH_EVENTS", "reader_other", 1, 41, at),
		"of-another-agents-consumer":     ack("MESH_EVENTS", "helper_inbox", 1, 41, at),
		"of-a-longer-name":               ack("MESH_EVENTS", consumer+"x", 1, 41, at),
		"of-another-stream":              ack("ORDERS", consumer, 1, 41, at),
		"stream-in-lower-case":           ack("mesh_events", consumer, 1, 41, at),
		"prefix-in-lower-case":           "$js.ack.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0",
		"without-the-last":               "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.57." + at,
		"one-more":                       "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0.0",
		"between-the-forms":              "$JS.ACK.hub.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0",
		"longer-than-the-longer":         "$JS.ACK.hub.A.B.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0",
		"own-names-as-domain-of-another": "$JS.ACK.MESH_EVENTS.reader_inbox.ORDERS.other.1.41.57." + at + ".0",
		"empty-domain":                   "$JS.ACK..A.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0",
		"wildcard-as-domain":             "$JS.ACK.*.A.MESH_EVENTS.reader_inbox.1.41.57." + at + ".0",
		"delivered-nought":               "$JS.ACK.MESH_EVENTS.reader_inbox.0.41.57." + at + ".0",
		"sequence-nought":                "$JS.ACK.MESH_EVENTS.reader_inbox.1.0.57." + at + ".0",
		"delivery-nought":                "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.0." + at + ".0",
		"time-nought":                    "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.57.0.0",
		"sequence-with-leading-zero":     "$JS.ACK.MESH_EVENTS.reader_inbox.1.041.57." + at + ".0",
		"sequence-with-plus":             "$JS.ACK.MESH_EVENTS.reader_inbox.1.+41.57." + at + ".0",
		"sequence-negative":              "$JS.ACK.MESH_EVENTS.reader_inbox.1.-41.57." + at + ".0",
		"sequence-empty":                 "$JS.ACK.MESH_EVENTS.reader_inbox.1..57." + at + ".0",
		"sequence-in-letters":            "$JS.ACK.MESH_EVENTS.reader_inbox.1.x.57." + at + ".0",
		"sequence-past-64-bits":          "$JS.ACK.MESH_EVENTS.reader_inbox.1.18446744073709551616.57." + at + ".0",
		"time-past-63-bits":              "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.57.9223372036854775808.0",
		"pending-with-leading-zero":      "$JS.ACK.MESH_EVENTS.reader_inbox.1.41.57." + at + ".00",
	} {
		refuse("ack-"+name, "E2", "foreign-delivery", "in the pull inbox, with a reply field that is not of this consumer: "+name, func(s *story) { s.letter.reply = reply })
	}
	refuse("another-topic-before-foreign-delivery", "R4", "wrong-subject", "of another topic, and not of this consumer: the subject is looked at first", func(s *story) {
		s.letter.subject, s.letter.reply = "mesh.event.writer.builds.failed", ""
	})
	refuse("foreign-delivery-before-freshness", "E2", "foreign-delivery", "not of this consumer, and too old", func(s *story) {
		s.letter.reply = ack("MESH_EVENTS", "helper_inbox", 1, 41, at)
		s.subscription.Stored.MaxAge = second
	})

	// Nats-Msg-Id, and times.
	refuse("no-message-id", "E3", "bad-envelope", "without Nats-Msg-Id the stream took any number of copies", func(s *story) { s.letter.after = nil })
	refuse("no-message-id-before-freshness", "E3", "bad-envelope", "without Nats-Msg-Id, and too old", func(s *story) {
		s.letter.after = nil
		s.subscription.Stored.MaxAge = second
	})
	b.refuseAt("2c", "stored/another-message-id", "H3", "bad-envelope", "Nats-Msg-Id is another message's nonce", storedEvent, func(s *story) {
		s.letter.after = nil
		s.letter.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", theCall().field("nonce")) })
	})
	accept("at-the-end-of-the-window", "E4", "the stream took it at the end of the window", pulled(1, 41, t0+window))
	refuse("past-the-end-of-the-window", "E4", "stale", "the stream took it one millisecond later", pulled(1, 41, t0+window+1))
	accept("at-the-limit-ahead", "E4", "signed 30 s ahead of the stream's clock", pulled(1, 41, t0-ahead))
	refuse("past-the-limit-ahead", "E4", "future", "signed one millisecond further ahead", pulled(1, 41, t0-ahead-1))
	narrow := func(at int64) func(*story) {
		return func(s *story) {
			pulled(1, 41, at)(s)
			s.receiver.Past, s.receiver.Ahead = minute, second
		}
	}
	accept("narrow-at-the-end", "E4", "for a receiver with a window of a minute", narrow(t0+minute))
	refuse("narrow-past-the-end", "E4", "stale", "too late for a receiver with a window of a minute", narrow(t0+minute+1))
	refuse("narrow-past-the-limit-ahead", "E4", "future", "too far ahead for a receiver that takes a second", narrow(t0-second-1))
	age := func(age int64) func(*story) { return func(s *story) { s.receiver.Now = taken + age } }
	const week = 7 * 24 * hour
	accept("at-its-age", "E5", "as old as the topic allows, and 30 s for clocks that differ", age(week+ahead))
	refuse("past-its-age", "E5", "stale", "one millisecond older", age(week+ahead+1))
	refuse("no-age-allowed", "E5", "stale", "the topic allows no age", func(s *story) {
		age(0)(s)
		s.subscription.Stored.MaxAge = 0
	})
	accept("stream-ahead", "E5", "the stream's clock is 30 s ahead of the receiver's", age(-ahead))
	refuse("stream-too-far-ahead", "E5", "future", "it is one millisecond more", age(-ahead-1))
	accept("with-a-budget-that-has-passed", "E5", "dl is a caller's and counts for nothing", func(s *story) {
		s.letter.set("dl", "1")
	})

	// Standing as it is now.
	refuse("sender-suspended", "E6", "suspended", "the sender was suspended while the event waited", func(s *story) { s.agent("writer").Status = "suspended" })
	refuse("sender-revoked", "E6", "revoked", "the sender was revoked", func(s *story) { s.agent("writer").Status = "revoked" })
	refuse("instance-revoked", "E6", "revoked", "the instance that signed was revoked", func(s *story) { s.instance(writer).State = "revoked" })
	b.refuseAt("6", "stored/epoch-raised", "E6", "stale-epoch", "the sender's epoch was raised", storedEvent, func(s *story) { s.agent("writer").Epoch = 4 })

	// Redelivery and replay.
	before := func(times, sequence int64) func(*story) {
		return func(s *story) {
			s.earlier(s.receiver.Now-minute, publish(event().letter, 1, 41, taken))
			s.letter = publish(event().letter, times, sequence, taken+second)
		}
	}
	accept("redelivered", "E7", "the same sequence once more, as the server says", func(s *story) {
		s.earlier(s.receiver.Now-minute, publish(event().letter, 1, 41, taken))
		s.letter = publish(event().letter, 2, 41, taken)
	})
	accept("redelivered-to-one-that-forgot", "E7", "a second delivery of which the first one is not known", pulled(2, 41, taken))
	refuse("copy", "E7", "replayed", "the same nonce under another sequence", before(1, 42))
	refuse("copy-redelivered", "E7", "replayed", "however often it comes", before(2, 42))
	refuse("copy-stored-before", "E7", "replayed", "and where its sequence is the lower one", before(1, 40))
	accept("nonce-of-another-sender", "E7", "a nonce counts for its sender", func(s *story) {
		s.earlier(s.receiver.Now-minute, publish(event().letter, 1, 41, taken))
		s.letter = publish(plain("helper", helper, "mesh.event.helper.builds.done", "event").set("tok", helperNews), 1, 42, taken)
		s.agent("helper").Live = append(s.agent("helper").Live, helperNews)
	})
	accept("below-every-floor", "E7", "the receiver started later, replays can be told since later, and the shared store is down: none of that is about what is stored", func(s *story) {
		s.receiver.Started, s.receiver.ReplaySince, s.receiver.SharedDown = t0+hour, t0+hour, true
	})

	// Rights at the time at which the stream took the message.
	right := func(signed, taken int64) func(*story) {
		return func(s *story) {
			s.letter = publish(event().letter.set("ts", itoa(signed)).set("tok", lapsed), 1, 41, taken)
			s.agent("writer").Live = append(s.agent("writer").Live, lapsed)
		}
	}
	accept("under-a-right-that-ended", "E8", "the right ran when the stream took the event, and has ended by itself since", right(t0, taken))
	accept("in-the-last-second-of-a-right", "E8", "the stream took it in the right's last second", right(lapse-second, lapse-1))
	refuse("after-the-right-ended", "E8", "token-expired", "signed while the right ran, and taken by the stream when it had ended", right(lapse-second, lapse))
	refuse("right-taken-back", "E8", "token-taken-back", "the right ran when the stream took the event, and was taken back since", func(s *story) {
		right(t0, taken)(s)
		s.agent("writer").Live = s.agent("writer").Live[:2]
	})
	refuse("of-another-holder", "C1", "not-holder", "helper's right to publish", func(s *story) { s.letter.set("tok", helperNews) })
	refuse("other-scope", "C1", "scope-not-held", "a right of the sender to something else", func(s *story) { s.letter.set("tok", metricsChain) })
	refuse("changed", "B6", "bad-signature", "the payload was changed where it was stored", func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.Payload = std64([]byte("tail 21")) })
	})
}
