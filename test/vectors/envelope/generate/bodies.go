package main

// What comes after an invitation: the payload of a request, in parts.
func (b *book) bodies() {
	send := func(last *letter, before ...*letter) func(*story) {
		return func(s *story) {
			for _, l := range before {
				s.earlier(t0+100, l)
			}
			s.letter = last
		}
	}
	accept := func(name, rule, description string, last *letter, before ...*letter) {
		b.accept("body-"+name, rule, description, body, send(last, before...))
	}
	refuse := func(name, rule, description string, last *letter, before ...*letter) {
		b.refuse("body/"+name, rule, "broken-stream", description, body, send(last, before...))
	}
	const cut = 9
	head, tail := wholeBody[:cut], wholeBody[cut:]
	again := func(l *letter) *letter { return l.set("nonce", id("again")) }

	accept("first-part", "Q3", "the first part", bodyPart("1", head))
	accept("last-part", "Q4", "the last part of two", bodyPart("2/2", tail), bodyPart("1", head))
	accept("one-part", "Q4", "the payload in one part", bodyPart("1/1", wholeBody))
	accept("sign-of-life", "Q3", "a part without payload", bodyPart("2", ""), bodyPart("1", head))
	accept("empty-last-part", "Q4", "the last part is empty, and all came before", bodyPart("2/2", ""), bodyPart("1", wholeBody))
	accept("of-many-parts", "Q4", "cut otherwise: how a payload is cut is not said beforehand", bodyPart("4/4", wholeBody[4:]),
		bodyPart("1", wholeBody[:1]), bodyPart("2", wholeBody[1:3]), bodyPart("3", wholeBody[3:4]))

	refuse("begins-later", "Q3", "the first part is missing", bodyPart("2/2", tail))
	refuse("dropped", "Q3", "a part is missing", bodyPart("3/3", tail), bodyPart("1", head))
	refuse("doubled", "Q3", "a part once more, under a nonce of its own", again(bodyPart("1", head)), bodyPart("1", head))
	refuse("numbers-swapped", "Q3", "the second part before the first", bodyPart("2/2", head))
	refuse("reordered", "Q3", "a part that was due before", again(bodyPart("1", head)), bodyPart("1", head), bodyPart("2", ""))
	refuse("after-the-last", "Q3", "a part after the last", bodyPart("3", ""), bodyPart("1", head), bodyPart("2/2", tail))
	refuse("last-twice", "Q3", "the last part once more", again(bodyPart("2/2", tail)), bodyPart("1", head), bodyPart("2/2", tail))
	for name, before := range map[string][]*letter{"from-the-start": nil, "later": {bodyPart("1", head)}} {
		part := bodyPart(map[bool]string{true: "1", false: "2"}[before == nil], head)
		part.by = another
		part.set("key", another.public())
		b.refuse("body/of-another-key-"+name, "Q3", "broken-stream", "a part of another instance of the caller", body, func(s *story) {
			send(part, before...)(s)
			s.enrol("writer", another.public())
		})
	}

	refuse("ends-early", "Q4", "the last part comes before all bytes have", bodyPart("2/2", tail[:5]), bodyPart("1", head))
	refuse("ends-at-once", "Q4", "the only part is empty", bodyPart("1/1", ""))
	refuse("a-byte-short", "Q4", "one byte is missing", bodyPart("1/1", wholeBody[1:]))
	refuse("a-byte-more", "Q4", "one byte more than was promised, in the last part", bodyPart("2/2", tail+"!"), bodyPart("1", head))
	refuse("more-before-the-last", "Q4", "one byte more than was promised, before the last part", bodyPart("2", tail+"!"), bodyPart("1", head))
	refuse("more-after-all-came", "Q4", "all that was promised has come, and a part that is not the last has content", bodyPart("2", "!"), bodyPart("1", wholeBody))
	refuse("another-payload", "Q4", "as many bytes as were promised, and others", bodyPart("1/1", wholeBody[:len(wholeBody)-1]+"S"))
	refuse("another-part", "Q4", "one part is not what was promised", bodyPart("2/2", tail), bodyPart("1", "tail 21 o"))
	refuse("contents-swapped", "Q4", "the two parts hold each other's content", bodyPart("2/2", head), bodyPart("1", tail))
	b.refuse("body/nothing-promised", "Q4", "broken-stream", "the request promised nothing, and was taken all the same", body, func(s *story) { s.subscription.Body = "" })
	b.refuse("body/another-digest-promised", "Q4", "broken-stream", "the request promised the same number of other bytes", body, func(s *story) {
		s.subscription.Body = itoa(int64(len(wholeBody))) + "." + digest([]byte("x"))
	})
	b.refuse("body/another-size-promised", "Q4", "broken-stream", "the digest is that of the payload, and the size is not", body, func(s *story) {
		s.subscription.Body = itoa(int64(len(wholeBody))+1) + "." + digest([]byte(wholeBody))
	})
}
