package main

import (
	"strconv"
	"strings"
)

func (b *book) valid() {
	b.accept("call", "O1", "writer calls read:logs with the least that a call says; its digest is what the replies of other vectors are bound to", call, nil)
	b.accept("ask", "O1", "writer asks reader alone", ask, nil)
	b.accept("reply", "B1", "reader answers valid/call: the request's digest is signed and not sent", reply, nil)
	b.accept("reply-to-an-ask", "R5", "reader answers valid/ask, and only reader may", func() *story {
		s := world("reply", "", "handle:read:logs")
		s.receiver.Agent = "writer"
		s.letter = replyTo(ask().letter, "reply to the ask")
		s.subscription.Request, s.subscription.From = b64(s.letter.request), "reader"
		return s
	}, nil)
	b.accept("reply-with-every-field", "F2", "every field, and application headers", full, nil)
	b.accept("reply-with-an-error", "F5", "the handler refuses with a stable code", reply, func(s *story) { s.letter.set("err", "disk-full") })
	b.accept("reply-of-one-part", "P2", "a stream of one part is a whole reply", reply, func(s *story) { s.letter.set("part", "1/1") })
	b.accept("call-with-a-body", "Q1", "a call whose payload comes in parts; the digest of an invitation to send it is what the bodies of other vectors are bound to", call, func(s *story) { s.letter = theRequest() })
	b.accept("invitation", "Q1", "the first part of reader's answer to that, without payload: writer now sends the payload", reply, func(s *story) {
		s.letter = theInvitation()
		s.subscription.Request, s.subscription.Stream = b64(s.letter.request), true
	})
	b.accept("ask-with-every-field", "F2", "an ask whose payload is sealed and comes in parts, with every field that a request can have", fullAsk, nil)
	b.accept("ask-sealed", "F5", "an ask whose payload is sealed to reader; what is in it is not the envelope's affair", ask, func(s *story) { s.letter.set("enc", "x1") })
	b.accept("reply-sealed", "F5", "a reply whose payload is sealed to writer", reply, func(s *story) { s.letter.set("enc", "x1") })
	b.accept("reply-with-every-field-and-sealed", "F2", "every field that a reply can have", full, func(s *story) { s.letter.set("enc", "x1") })
	b.accept("body-of-64-mib", "F3", "the largest payload that a request may promise", call, func(s *story) {
		s.letter.set("body", "67108864."+digest([]byte("x")))
		s.letter.payload = nil
	})
	b.accept("body-of-one-byte", "F3", "the smallest", ask, func(s *story) {
		s.letter.set("body", bodyOf("x"))
		s.letter.payload = nil
	})
	b.accept("event", "O1", "an event on a topic", event, nil)
	b.accept("note", "O1", "a note, which needs no scope", note, nil)
	b.accept("note-with-empty-payload", "B6", "the payload is empty", note, func(s *story) { s.letter.payload = nil })
	b.accept("beat", "O1", "a heartbeat: the instance in the subject is that of the key", beat, nil)
	b.accept("audit", "O1", "a verdict of the instance's own", audit, nil)
	b.accept("call-with-every-field", "F2", "a call inside a call tree, on behalf of another agent, with a budget and a content type", call, func(s *story) {
		s.letter.set("parent", id("cause")).set("hop", "16").set("ob", orchestrator).set("dl", "30000").set("ct", "application/vnd.x-y_1:z+json")
	})
	b.accept("other-prefix", "R1", "the mesh has another prefix", call, func(s *story) {
		s.receiver.Prefix, s.letter.subject = "mesh-2", "mesh-2.call.writer.read.logs"
	})
	b.accept("other-trust-domain", "B3", "the receiver's mesh has another trust domain, and the message was signed for it", call, func(s *story) { s.domain = "mesh-2.example" })

	b.accept("budget-of-one-millisecond", "F3", "the shortest budget, in the millisecond of signing", call, func(s *story) {
		s.letter.set("dl", "1")
		s.receiver.Now = t0
	})
	b.accept("budget-of-a-day", "F3", "the longest budget", call, func(s *story) { s.letter.set("dl", "86400000") })
	b.accept("epochs-at-the-limit", "F3", "the largest numbers", call, func(s *story) {
		s.letter.set("ep", "9007199254740991.9007199254740991")
		s.agent("writer").Epoch, s.instance(writer).Epoch = 1<<53-1, 1<<53-1
	})
	b.accept("epochs-of-zero", "F3", "zero is a number", call, func(s *story) {
		s.letter.set("ep", "0.0")
		s.agent("writer").Epoch, s.instance(writer).Epoch = 0, 0
	})
	b.accept("ids-at-the-limits", "F3", "IDs of zeros and of ones", call, func(s *story) {
		s.letter.set("nonce", strings.Repeat("A", 22)).set("corr", strings.Repeat("_", 21)+"w")
	})
	b.accept("longest-values", "F3", "content type and error code at their limits", reply, func(s *story) {
		s.letter.set("ct", strings.Repeat("c", 64)).set("err", "e"+strings.Repeat("-", 39))
	})
	b.accept("sender-of-63-characters", "F3", "the longest agent ID", note, func(s *story) { s.rename(strings.Repeat("w", 62) + "0") })
	b.accept("sender-of-one-character", "F3", "the shortest agent ID", note, func(s *story) { s.rename("0") })
	b.accept("hop-of-16", "F6", "as deep as a call tree may be", call, func(s *story) { s.letter.set("hop", "16") })

	b.accept("message-id", "H3", "Nats-Msg-Id is the nonce", event, func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", s.letter.field("nonce")) })
	})
	b.accept("hints", "H4", "headers of servers and tracers, in whatever case, which are not handed on", call, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			for _, name := range []string{"Nats-Request-Info", "Nats-Stream", "nats-x", "NATS-TTL", "traceparent", "Traceparent", "TRACESTATE"} {
				w.addHeader(name, "a hint")
			}
		})
	})
	b.accept("hints-beside-signed-headers", "H4", "hints do not count for hd and are not handed on with what does", call, func(s *story) {
		s.letter.app = [][2]string{{"Tenant", "blue"}}
		s.letter.onTheWay(func(w *wire) {
			w.addHeader("Nats-Expected-Stream", "X")
			w.addHeader("tracestate", "x=1")
		})
	})
}

// rename gives the sender, writer, another name.
func (s *story) rename(name string) {
	s.letter.subject = strings.Replace(s.letter.subject, ".writer.", "."+name+".", 1)
	s.letter.set("from", name)
	s.agent("writer").Agent = name
	s.instance(writer).Agent = name
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
