package main

func (b *book) streams() {
	part := func(p string) *letter { return replyTo(theCall(), "part "+p).set("part", p) }
	stream := func(last *letter, before ...*letter) func(*story) {
		return func(s *story) {
			s.subscription.Stream = true
			for _, l := range before {
				s.earlier(t0+100, l)
			}
			s.letter = last
		}
	}
	accept := func(name, description string, last *letter, before ...*letter) {
		b.accept("stream-"+name, "P1", description, reply, stream(last, before...))
	}
	refuse := func(name, description string, last *letter, before ...*letter) {
		b.refuse("stream/"+name, "P1", "broken-stream", description, reply, stream(last, before...))
	}
	accept("first-part", "the first part", part("1"))
	accept("next-part", "the next part", part("3"), part("1"), part("2"))
	accept("last-part", "the last part of three", part("3/3"), part("1"), part("2"))
	accept("one-part", "the only part", part("1/1"))
	accept("ended-with-an-error", "a stream may end in an error", part("2/2").set("err", "disk-full"), part("1"))
	empty := func(l *letter) *letter { l.payload = nil; return l }
	piece := func(name, description string, last *letter, before ...*letter) {
		b.accept("stream-"+name, "P5", description, reply, stream(last, before...))
	}
	piece("piece-goes-on", "the first part of a piece", part("1+"))
	piece("piece-of-two-parts", "a piece that began in the part before", part("2"), part("1+"))
	piece("piece-ended-by-the-last-part", "the last part ends its piece", part("3/3"), part("1"), part("2+"))
	piece("piece-ended-by-an-empty-last-part", "so it does without payload", empty(part("2/2")), part("1+"))
	piece("sign-of-life-in-a-piece", "a sign of life between the parts of a piece", empty(part("2")), part("1+"))
	piece("piece-goes-on-after-a-sign-of-life", "and the piece after it", part("3+"), part("1+"), empty(part("2")))
	accept("sign-of-life-first", "an invitation, or any other sign of life", empty(part("1")))
	for name, last := range map[string]*letter{"first": empty(part("1+")), "later": empty(part("2+"))} {
		b.refuse("stream/empty-"+name+"-part-of-a-piece", "P5", "broken-stream", "a part of a piece that goes on without having content", reply, func(s *story) {
			if name == "later" {
				stream(last, part("1+"))(s)
			} else {
				stream(last)(s)
			}
		})
	}
	b.refuse("stream/piece-for-a-whole-reply", "P2", "broken-stream", "the first part of a piece, where a whole reply is expected", reply, func(s *story) { s.letter.set("part", "1+") })
	refuse("piece-dropped", "a part of a piece is missing", part("3"), part("1+"))
	refuse("piece-doubled", "a part of a piece once more, under a nonce of its own", part("1+").set("nonce", id("again")), part("1+"))
	refuse("begins-later", "the first part is missing", part("2"))
	refuse("dropped", "a part is missing", part("3"), part("1"))
	refuse("dropped-before-the-last", "the part before the last is missing", part("3/3"), part("1"))
	refuse("doubled", "a part once more, under a nonce of its own", part("1").set("nonce", id("again")), part("1"))
	refuse("reordered", "a part that was due before", part("1").set("nonce", id("again")), part("1"), part("2"))
	refuse("after-the-last", "a part after the last", part("3"), part("1"), part("2/2"))
	refuse("last-twice", "the last part once more", part("2/2").set("nonce", id("again")), part("1"), part("2/2"))
	refuse("not-a-part", "a whole reply among parts", replyTo(theCall(), "whole"), part("1"))
	spliced := part("2")
	spliced.by = user("agent reader, second instance")
	spliced.set("key", spliced.by.public())
	b.refuse("stream/of-another-key", "P1", "broken-stream", "a part of another instance of the same agent", reply, func(s *story) {
		stream(spliced, part("1"))(s)
		s.enrol("reader", spliced.by.public())
	})
	b.refuse("stream/part-for-a-whole-reply", "P2", "broken-stream", "the first of more parts, where a whole reply is expected", reply, func(s *story) { s.letter.set("part", "1") })
	b.refuse("stream/later-part-for-a-whole-reply", "P2", "broken-stream", "the last of two parts, where a whole reply is expected", reply, func(s *story) { s.letter.set("part", "2/2") })
}
