package main

import "strings"

func (b *book) headers() {
	refuse := func(name, rule, description string, f func(w *wire)) {
		b.refuse("headers/"+name, rule, "bad-envelope", description, call, func(s *story) { s.letter.onTheWay(f) })
	}
	for _, h := range []struct{ name, short string }{{"Mesh-Envelope", "envelope"}, {"Mesh-Signature", "signature"}} {
		refuse(h.short+"-missing", "H1", "no "+h.name, func(w *wire) { w.dropHeader(h.name) })
		refuse(h.short+"-doubled", "H1", h.name+" twice, with one value", func(w *wire) { w.addHeader(h.name, w.header(h.name)) })
		refuse(h.short+"-doubled-differently", "H1", h.name+" twice, the second one empty", func(w *wire) { w.addHeader(h.name, "") })
		refuse(h.short+"-in-lower-case", "H1", h.name+" under a name in lower case", func(w *wire) {
			v := w.header(h.name)
			w.dropHeader(h.name)
			w.addHeader(strings.ToLower(h.name), v)
		})
		refuse(h.short+"-in-upper-case-beside", "H2", h.name+", and once more under a name in upper case", func(w *wire) {
			w.addHeader(strings.ToUpper(h.name), w.header(h.name))
		})
		refuse(h.short+"-canonicalised-otherwise-beside", "H2", h.name+", and once more in another case", func(w *wire) {
			w.addHeader("mesh-"+h.name[5:], w.header(h.name))
		})
	}
	refuse("none", "H1", "no header at all", func(w *wire) { w.Headers = [][2]string{} })
	refuse("envelope-empty", "F1", "an empty value", func(w *wire) { w.setHeader("Mesh-Envelope", "") })
	b.vectors[len(b.vectors)-1].Step = "2b"
	refuse("unknown-of-the-mesh", "H2", "a header of the mesh that this version does not know", func(w *wire) { w.addHeader("Mesh-Unsigned", "true") })
	refuse("unknown-of-the-mesh-in-lower-case", "H2", "the same in lower case", func(w *wire) { w.addHeader("mesh-x", "") })

	id := func(step, name, description string, f func(s *story, w *wire)) {
		b.refuseAt(step, "headers/message-id-"+name, "H3", "bad-envelope", description, event, func(s *story) {
			s.letter.onTheWay(func(w *wire) { f(s, w) })
		})
	}
	id("2c", "of-another", "Nats-Msg-Id is another message's nonce", func(_ *story, w *wire) { w.addHeader("Nats-Msg-Id", theCall().field("nonce")) })
	id("2c", "empty", "Nats-Msg-Id is empty", func(_ *story, w *wire) { w.addHeader("Nats-Msg-Id", "") })
	id("2c", "longer", "Nats-Msg-Id is the nonce and more", func(s *story, w *wire) { w.addHeader("Nats-Msg-Id", s.letter.field("nonce")+" ") })
	id("2a", "doubled", "Nats-Msg-Id twice", func(s *story, w *wire) {
		w.addHeader("Nats-Msg-Id", s.letter.field("nonce"))
		w.addHeader("Nats-Msg-Id", s.letter.field("nonce"))
	})
	for name, spelling := range map[string]string{"lower-case": "nats-msg-id", "upper-case": "NATS-MSG-ID", "another-case": "Nats-Msg-ID"} {
		id("2a", "in-"+name, "Nats-Msg-Id in another case: the stream may take it for the one, and a reader not", func(s *story, w *wire) {
			w.addHeader(spelling, s.letter.field("nonce"))
		})
	}
}
