package main

import (
	"fmt"
	"strings"
)

// faults break one step each, in their order. A later one is made first, so that
// an earlier one may take its place where both change the same thing.
var faults = []struct {
	step, reason, what string
	make               func(*story)
}{
	{"1", "too-large", "33 application headers", func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			for i := range 33 {
				w.addHeader(fmt.Sprint("X-", i), "")
			}
		})
	}},
	{"2a", "bad-envelope", "an unknown header of the mesh", func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.addHeader("Mesh-Other", "x") })
	}},
	{"2b", "bad-version", "version 2", func(s *story) { s.letter.set("v", "2") }},
	{"2c", "bad-envelope", "a message ID that is not the nonce", func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", "x") })
	}},
	{"2d", "loop", "17 hops", func(s *story) { s.letter.set("hop", "17") }},
	{"2e", "bad-version", "a batch signature", func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.setHeader("Mesh-Signature", "batch:"+w.header("Mesh-Signature")[8:]) })
	}},
	{"3a", "wrong-subject", "a wildcard in the subject", func(s *story) { s.letter.subject = "mesh.call.helper.read.*" }},
	{"3b", "sender-mismatch", "another sender's subject", func(s *story) { s.letter.subject = "mesh.call.helper.write.logs" }},
	{"3d", "wrong-subject", "another scope's subject", func(s *story) { s.letter.subject = "mesh.call.writer.write.logs" }},
	{"3f", "foreign-delivery", "out of a stream", func(s *story) { s.letter.reply = ack("MESH_EVENTS", "helper_inbox", 1, 41, nanos(t0)) }},
	{"4", "stale", "older than the window", func(s *story) { s.letter.set("ts", itoa(t0-window)) }},
	{"5", "suspended", "a suspended sender", func(s *story) { s.agent("writer").Status = "suspended" }},
	{"6", "stale-epoch", "an epoch that is over", func(s *story) { s.letter.set("ep", "2.1") }},
	{"7", "stale", "sent before replays can be told", func(s *story) { s.receiver.ReplaySince = t0 + 1 }},
	{"8", "bad-signature", "a signature of something else", func(s *story) {
		s.letter.sign = func(signed []byte) []byte { return writer.sign(signed[1:]) }
	}},
	{"9", "not-holder", "another agent's chain", func(s *story) { s.letter.set("tok", helperChain) }},
	{"10", "replay-unavailable", "a full memory", func(s *story) {
		s.receiver.Nonces, s.receiver.PerSender = 1, 1
		before := plain("helper", helper, "mesh.call.helper.read.logs", "call of helper").set("tok", helperChain)
		s.earlier(t0+100, before.set("ts", itoa(t0+50)))
	}},
	{"11", "replayed", "a nonce that was burnt", func(s *story) {
		s.receiver.Burnt = []burnt{{dotted, "writer", s.letter.field("nonce")}}
	}},
}

func (b *book) order() {
	for i, f := range faults {
		var later []string
		for _, l := range faults[i+1:] {
			later = append(later, l.what)
		}
		if later == nil {
			break
		}
		b.refuseAt(f.step, "order/"+f.step+"-before-all-that-follow", "O1", f.reason, f.what+", and then also: "+strings.Join(later, ", "), call, func(s *story) {
			for j := len(faults) - 1; j >= i; j-- {
				faults[j].make(s)
			}
		})
		b.refuseAt(f.step, "order/"+f.step+"-before-the-next", "O1", f.reason, f.what+", and "+later[0], call, func(s *story) {
			faults[i+1].make(s)
			f.make(s)
		})
	}
	b.refuse("order/stale-before-deadline", "T1", "stale", "older than the window, and the budget has passed", call, func(s *story) {
		s.letter.set("dl", "1")
		s.receiver.Now = t0 + window + 1
	})
	b.refuse("order/agent-before-instance", "D2", "suspended", "a suspended agent, of which the key is not an instance", call, func(s *story) {
		s.agent("writer").Status = "suspended"
		s.instances = s.instances[:len(s.instances)-1]
	})
	b.refuse("order/key-before-state", "D3", "unlisted-key", "the key is another agent's instance, which is revoked", call, func(s *story) {
		s.letter.by = helper
		s.letter.set("key", helper.public())
		s.instance(helper).State = "revoked"
	})
	b.refuseAt("7", "order/floor-before-nonce", "N3", "stale", "a nonce that was used, of before replays can be told", call, func(s *story) {
		s.earlier(t0+100, call().letter.set("ts", itoa(t0+60)))
		s.receiver.ReplaySince = t0 + 50
	})
	b.refuse("order/request-before-signature", "B2", "unmatched-reply", "a reply to nothing that is known, with a bad signature", reply, func(s *story) {
		s.subscription.Request = ""
		s.letter.sign = func(signed []byte) []byte { return reader.sign(signed[1:]) }
	})
	b.refuse("order/signature-before-headers", "B6", "bad-signature", "a bad signature, and headers that could not be signed", call, func(s *story) {
		s.letter.app = [][2]string{{"Bad Name", "x"}}
		s.letter.sign = func(signed []byte) []byte { return writer.sign(signed[1:]) }
	})
	b.refuse("order/form-before-digest", "A2", "bad-envelope", "a name that could not be signed, and another digest", call, func(s *story) {
		s.letter.app = [][2]string{{"Bad Name", "x"}}
		s.letter.set("hd", digest([]byte("x")))
	})
	b.refuse("order/message-id-before-depth", "H3", "bad-envelope", "a message ID that is not the nonce, and 17 hops", call, func(s *story) {
		s.letter.set("hop", "17")
		s.letter.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", "x") })
	})
	b.refuse("order/weak-key-before-depth", "F4", "bad-envelope", "a key of small order, and 17 hops", call, func(s *story) {
		s.letter.set("hop", "17").set("key", nkey(userKey, unhex(small[0].hex)))
	})
	b.refuse("order/doubled-and-too-long", "H1", "bad-envelope", "a limit is that of a header that is there once", call, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			w.setHeader("Mesh-Envelope", strings.Repeat("v", 2000))
			w.addHeader("Mesh-Envelope", strings.Repeat("v", 2000))
		})
	})
	b.refuse("order/limit-before-missing", "L5", "too-large", "too many application headers, and no signature", call, func(s *story) {
		faults[0].make(s)
		s.letter.onTheWay(func(w *wire) { w.dropHeader("Mesh-Signature") })
	})
}
