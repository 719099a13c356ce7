package main

func (b *book) application() {
	type list = [][2]string
	two := list{{"Tenant", "blue"}, {"Path", "aa"}, {"Path", "b"}}
	with := func(app list) func() *story {
		return func() *story {
			s := call()
			s.letter.app = app
			return s
		}
	}
	accept := func(name, description string, app list) {
		b.accept("headers-"+name, "A1", description, with(app), nil)
	}
	accept("one", "one header", list{{"Tenant", "blue"}})
	accept("several-values", "a header with two values, and another one", two)
	accept("empty-value", "an empty value is a value", list{{"Tenant", ""}, {"Tenant", ""}})
	accept("inner-tab-and-spaces", "a tab and spaces inside", list{{"Tenant", "a \t b"}})
	accept("utf-8", "a value beyond ASCII, hashed as its bytes", list{{"Tenant", "blå 青"}})
	accept("sorted-by-bytes", "names are sorted by their bytes, capitals first, whatever the order of the lines", list{{"b", "4"}, {"_", "3"}, {"a-", "2"}, {"a", "1"}, {"B", "0"}})
	accept("names-in-two-cases", "two names that differ in case are two names", list{{"tenant", "a"}, {"Tenant", "b"}})
	accept("names-of-every-character", "every character that a name may have", list{{"!#$%&'*+-.^_`|~09azAZ", "x"}})
	accept("names-like-those-of-the-mesh", "names that only begin alike", list{{"Mesh", "1"}, {"Nats", "2"}, {"Meshed-X", "3"}, {"traceparents", "4"}})
	accept("values-that-look-like-headers", "what looks like headers inside a value", list{{"Tenant", "Mesh-Envelope: v=1"}})

	b.accept("headers-without-hd", "A3", "nobody signed the headers: they are not handed on, and the message is not refused for them", call, func(s *story) {
		s.letter.app, s.letter.noHD = two, true
	})
	b.accept("headers-without-hd-in-no-form", "A3", "the same with names and values that could not be signed", call, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			w.addHeader("Bad Name", "x")
			w.addHeader("Tenant", " blue\r\nMesh-Envelope: v=1")
			w.addHeader("", "x")
		})
	})

	refuse := func(name, description string, f func(w *wire)) {
		b.refuse("application/"+name, "A1", "bad-signature", description, with(two), func(s *story) { s.letter.onTheWay(f) })
	}
	tail := func(l list) func(*wire) { return func(w *wire) { w.Headers = append(w.Headers[:2:2], l...) } }
	refuse("added", "a header was added", func(w *wire) { w.addHeader("Extra", "1") })
	refuse("added-empty", "an empty header was added", func(w *wire) { w.addHeader("Extra", "") })
	refuse("removed", "one header was removed", tail(two[1:]))
	refuse("all-removed", "all headers were removed", tail(nil))
	refuse("value-removed", "one value was removed", tail(two[:2]))
	refuse("value-added", "a value was added", tail(list{{"Tenant", "blue"}, {"Tenant", "red"}, {"Path", "aa"}, {"Path", "b"}}))
	refuse("value-changed", "a value was changed", tail(list{{"Tenant", "blua"}, {"Path", "aa"}, {"Path", "b"}}))
	refuse("value-in-another-case", "a value was changed to another case", tail(list{{"Tenant", "Blue"}, {"Path", "aa"}, {"Path", "b"}}))
	refuse("values-reordered", "the values of one name in another order", tail(list{{"Tenant", "blue"}, {"Path", "b"}, {"Path", "aa"}}))
	refuse("values-joined", "two values as one", tail(list{{"Tenant", "blue"}, {"Path", "aab"}}))
	refuse("values-joined-by-comma", "two values as one, as HTTP would", tail(list{{"Tenant", "blue"}, {"Path", "aa, b"}}))
	refuse("values-cut-otherwise", "the border between two values moved", tail(list{{"Tenant", "blue"}, {"Path", "a"}, {"Path", "ab"}}))
	refuse("values-moved", "a value moved to another name", tail(list{{"Tenant", "blue"}, {"Tenant", "aa"}, {"Path", "b"}}))
	refuse("name-in-another-case", "a name was changed to another case", tail(list{{"tenant", "blue"}, {"Path", "aa"}, {"Path", "b"}}))
	refuse("name-into-value", "a letter moved from a name to its value", tail(list{{"Tenan", "tblue"}, {"Path", "aa"}, {"Path", "b"}}))
	b.refuse("application/hd-over-nothing", "A1", "bad-signature", "hd over no headers is a second spelling of no hd", call, func(s *story) { s.letter.set("hd", headerDigest(nil)) })
	b.refuse("application/hd-of-other-headers", "A1", "bad-signature", "the sender signed another digest", with(two), func(s *story) { s.letter.set("hd", digest([]byte("x"))) })
	b.refuse("application/hd-with-hints", "A1", "bad-signature", "hd counts a hint in", with(two), func(s *story) {
		s.letter.set("hd", headerDigest(append(list{{"traceparent", "00-0"}}, two...)))
		s.letter.onTheWay(func(w *wire) { w.addHeader("traceparent", "00-0") })
	})

	form := func(name, description string, l list) {
		b.refuse("application/"+name, "A2", "bad-envelope", description, with(l), nil)
	}
	for what, c := range map[string]string{
		"space": " ", "colon": ":", "comma": ",", "slash": "/", "brackets": "[]", "quote": `"`, "equals": "=", "at": "@", "line-break": "\r\n", "nought": "\x00", "accent": "é", "del": "\x7f",
	} {
		form("name-with-"+what, "a name that is no token, and is hashed as it is: "+what, list{{"Te" + c + "nant", "blue"}})
	}
	form("name-empty", "an empty name", list{{"", "blue"}})
	form("name-with-a-long-s", "case is that of ASCII letters: with a long s it is no hint, and no token", list{{"trace\u017ftate", "x"}})
	for what, v := range map[string]string{
		"line-break": "blue\r\nMesh-Envelope: v=1", "line-feed": "blue\nred", "carriage-return": "blue\rred", "nought": "bl\x00ue", "del": "blue\x7f", "escape": "\x1b[31mblue",
		"space-at-the-beginning": " blue", "space-at-the-end": "blue ", "tab-at-the-beginning": "\tblue", "tab-at-the-end": "blue\t", "space-alone": " ",
	} {
		form("value-with-"+what, "a value that would not arrive as it is, and is hashed as it is: "+what, list{{"Tenant", v}})
	}
}
