package main

import "strings"

func (b *book) subjects() {
	form := func(name, description, subject string, base func() *story) {
		b.refuse("subject/"+name, "R1", "wrong-subject", description, base, func(s *story) { s.letter.subject = subject })
	}
	form("other-prefix", "of another prefix", "other.call.writer.read.logs", call)
	form("prefix-in-upper-case", "the prefix in upper case", "MESH.call.writer.read.logs", call)
	form("prefix-alone", "the prefix and nothing else", "mesh", call)
	form("longer-prefix", "a prefix that only begins alike", "meshed.call.writer.read.logs", call)
	form("no-class", "no class", "mesh..writer.read.logs", call)
	form("class-unknown", "a class that there is not", "mesh.shout.writer.read.logs", call)
	form("class-in-upper-case", "a class in upper case", "mesh.CALL.writer.read.logs", call)
	form("class-feed", "the feed is no message", "mesh.feed.writer.agents", call)
	form("no-sender", "no sender", "mesh.call..read.logs", call)
	form("sender-in-upper-case", "a sender that is no agent ID", "mesh.call.Writer.read.logs", call)
	form("sender-wildcard", "a wildcard in the place of the sender", "mesh.call.*.read.logs", call)
	form("no-scope", "no scope", "mesh.call.writer", call)
	form("scope-empty", "an empty scope", "mesh.call.writer.", call)
	form("scope-empty-token", "an empty token in the scope", "mesh.call.writer.read..logs", call)
	form("scope-point-at-the-end", "an empty token at the end", "mesh.call.writer.read.logs.", call)
	form("scope-wildcard", "a wildcard in the scope", "mesh.call.writer.read.*", call)
	form("scope-wildcard-for-all", "a wildcard for all that follows", "mesh.call.writer.read.>", call)
	form("scope-space", "a space in the scope", "mesh.call.writer.read.lo gs", call)
	form("scope-accent", "a token beyond ASCII", "mesh.call.writer.read.lögs", call)
	form("scope-nought", "a zero byte in the scope", "mesh.call.writer.read.logs\x00", call)
	form("ask-without-scope", "an ask of nothing", "mesh.ask.writer.reader", ask)
	form("ask-to-nobody", "an ask to nobody", "mesh.ask.writer..read.logs", ask)
	form("ask-to-wildcard", "an ask to a wildcard", "mesh.ask.writer.*.read.logs", ask)
	form("note-of-two-tokens", "the kind of a note is one token", "mesh.note.writer.reader.cancel.all", note)
	form("note-without-kind", "a note of no kind", "mesh.note.writer.reader", note)
	form("beat-without-instance", "a beat of no instance", "mesh.beat.writer", beat)
	form("beat-of-two-tokens", "an instance is one token", join("mesh.beat.writer", instanceOf(writer.public()), "x"), beat)
	form("beat-of-no-instance", "an instance of letters that are not in its alphabet", "mesh.beat.writer.iloubeat", beat)
	form("beat-instance-short", "an instance of seven characters", "mesh.beat.writer.7f3c2k9", beat)
	form("beat-instance-in-upper-case", "an instance in upper case", join("mesh.beat.writer", strings.ToUpper(instanceOf(writer.public()))), beat)
	form("inbox", "an inbox of NATS", "_INBOX_writer_x.1", call)
	form("stream-api", "a subject of the stream API", "$KV.MESH_AGENTS.writer", call)
	nonce := id("call")
	inst := instanceOf(writer.public())
	form("reply-without-nonce", "a reply to nothing", join("mesh.reply.reader.writer", inst), reply)
	form("reply-of-more-tokens", "a reply with a token more", join("mesh.reply.reader.writer", inst, nonce, "x"), reply)
	form("reply-without-instance", "a reply to no instance", join("mesh.reply.reader.writer", nonce), reply)
	invited, at := id("invitation"), instanceOf(reader.public())
	form("body-without-nonce", "a body for nothing", join("mesh.body.writer.reader", at), body)
	form("body-of-more-tokens", "a body with a token more", join("mesh.body.writer.reader", at, invited, "x"), body)
	form("body-without-instance", "a body for no instance", join("mesh.body.writer.reader", invited), body)
	form("body-without-recipient", "a body for no agent", join("mesh.body.writer", at, invited), body)
	form("body-to-wildcard", "a body for whoever", join("mesh.body.writer.*", at, invited), body)
	form("body-in-upper-case-of-the-prefix", "a body under another prefix", join("MESH.body.writer.reader", at, invited), body)

	b.refuse("sender/of-another-agent", "R2", "sender-mismatch", "writer signs on helper's subject", call, func(s *story) { s.letter.subject = "mesh.call.helper.read.logs" })
	b.refuse("sender/from-another-agent", "R2", "sender-mismatch", "writer says that it is helper", call, func(s *story) { s.letter.set("from", "helper") })
	b.refuse("sender/moved", "R2", "sender-mismatch", "a message of writer was moved to helper's subject", call, func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.call.helper.read.logs" })
	})
	b.refuse("sender/of-a-note", "R2", "sender-mismatch", "a note on another sender's subject", note, func(s *story) { s.letter.subject = "mesh.note.helper.reader.cancel" })
	b.refuse("sender/of-a-beat", "R2", "sender-mismatch", "a beat for another agent", beat, func(s *story) {
		s.letter.subject = join("mesh.beat.helper", instanceOf(writer.public()))
	})
	b.refuse("sender/of-a-reply", "R2", "sender-mismatch", "a reply on another responder's subject", reply, func(s *story) {
		s.letter.subject = strings.Replace(s.letter.subject, ".reader.", ".helper.", 1)
	})

	b.refuse("sender/of-a-body", "R2", "sender-mismatch", "a body on another caller's subject", body, func(s *story) {
		s.letter.subject = strings.Replace(s.letter.subject, ".writer.", ".helper.", 1)
	})

	b.refuseAt("3c", "place/body-with-wrong-parent", "R3", "wrong-subject", "parent is another invitation's nonce", body, func(s *story) { s.letter.set("parent", id("another invitation")) })
	b.refuseAt("3c", "place/body-with-the-request-for-parent", "R3", "wrong-subject", "parent is the request's nonce", body, func(s *story) { s.letter.set("parent", theRequest().field("nonce")) })
	b.refuseAt("3c", "place/body-on-the-subject-of-another-invitation", "R3", "wrong-subject", "the subject is another invitation's", body, func(s *story) {
		s.letter.subject = strings.Replace(s.letter.subject, invited, id("another invitation"), 1)
	})
	b.refuseAt("3c", "place/reply-with-wrong-parent", "R3", "wrong-subject", "parent is another request's nonce", reply, func(s *story) { s.letter.set("parent", id("another request")) })
	b.refuseAt("3c", "place/reply-on-the-subject-of-another-request", "R3", "wrong-subject", "the subject is another request's", reply, func(s *story) {
		s.letter.subject = strings.Replace(s.letter.subject, nonce, id("another request"), 1)
	})
	for name, base := range map[string]func() *story{"beat": beat, "audit": audit} {
		b.refuseAt("3c", "place/"+name+"-of-another-instance", "R3", "sender-mismatch", "the instance is that of another key of the same agent", base, func(s *story) {
			s.enrol("writer", another.public())
			s.letter.subject = join("mesh", name, "writer", instanceOf(another.public()))
		})
		b.refuseAt("3c", "place/"+name+"-of-another-agents-instance", "R3", "sender-mismatch", "the instance is that of another agent", base, func(s *story) {
			s.letter.subject = join("mesh", name, "writer", instanceOf(helper.public()))
		})
	}

	other := func(name, description, subject string, base func() *story) {
		b.refuse("subscription/"+name, "R4", "wrong-subject", description, base, func(s *story) { s.letter.subject = subject })
	}
	other("another-scope", "a call of another scope", "mesh.call.writer.write.logs", call)
	other("longer-scope", "a call of a longer scope", "mesh.call.writer.read.logs.app", call)
	other("shorter-scope", "a call of a shorter scope", "mesh.call.writer.read", call)
	other("event-for-call", "an event where calls are expected", "mesh.event.writer.read.logs", call)
	other("ask-for-call", "an ask where calls are expected", "mesh.ask.writer.reader.read.logs", call)
	other("call-for-ask", "a call where asks are expected", "mesh.call.writer.read.logs", ask)
	other("another-topic", "an event on another topic", "mesh.event.writer.builds.failed", event)
	other("another-kind", "a note of another kind", "mesh.note.writer.reader.stop", note)
	other("ask-to-another", "an ask to another agent", "mesh.ask.writer.helper.read.logs", ask)
	other("note-to-another", "a note to another agent", "mesh.note.writer.helper.cancel", note)
	other("audit-for-beat", "an audit message where beats are expected", join("mesh.audit.writer", inst), beat)
	other("call-for-reply", "a call where a reply is expected", "mesh.call.reader.read.logs", func() *story {
		s := reply()
		s.letter.request = nil
		return s
	})
	b.refuse("subscription/reply-to-another", "R4", "wrong-subject", "a reply to another agent's request", reply, func(s *story) { s.receiver.Agent = "helper" })
	b.refuse("subscription/reply-for-call", "R4", "wrong-subject", "a reply where calls are expected", reply, func(s *story) {
		s.subscription = subscription{Class: "call", Tail: dotted, Scope: scope}
	})

	b.refuse("subscription/body-to-another", "R4", "wrong-subject", "a body for another agent", body, func(s *story) { s.receiver.Agent = "helper" })
	b.refuse("subscription/body-for-reply", "R4", "wrong-subject", "a body where a reply is expected", reply, func(s *story) {
		s.letter = body().letter
		s.receiver.Agent = "reader"
	})
	b.refuse("subscription/reply-for-body", "R4", "wrong-subject", "a reply where a body is expected", body, func(s *story) {
		s.letter = theInvitation()
		s.receiver.Agent = "writer"
	})

	b.refuse("responder/body-of-another", "R5", "wrong-responder", "writer was invited, and helper sends a body", body, func(s *story) {
		s.letter.subject = strings.Replace(s.letter.subject, ".writer.", ".helper.", 1)
		s.letter.by = helper
		s.letter.set("from", "helper").set("key", helper.public())
	})
	b.refuse("responder/another", "R5", "wrong-responder", "helper was asked, and reader answers", reply, func(s *story) { s.subscription.From = "helper" })
}
