package main

func (b *book) scopes() {
	one := func(name, rule, reason, description, scope string) {
		b.refuse("scopes/"+name, rule, reason, description, alone, func(s *story) { s.last().capabilities = []string{scope} })
	}
	for _, c := range []struct{ name, scope string }{
		{"star", "*"}, {"tail", ">"}, {"star-for-both", "*:*"},
		{"star-for-the-resource", "read:*"}, {"tail-for-the-resource", "read:>"},
		{"star-for-a-segment", "read:logs.*"}, {"star-for-a-middle-segment", "read:*.app"}, {"tail-for-the-rest", "read:logs.>"},
		{"star-in-a-word", "read:lo*"}, {"star-for-the-verb", "*:logs"}, {"star-in-the-verb", "re*:logs"}, {"tail-for-the-verb", ">:logs"},
		{"all-for-the-verb", "all:logs"}, {"any-for-the-verb", "any:logs"}, {"all-for-the-resource", "read:all"}, {"any-for-the-resource", "read:any"},
		{"all-for-a-segment", "read:logs.all"}, {"all-for-the-first-segment", "read:all.logs"}, {"any-for-a-segment", "read:logs.any.app"},
		{"handle-star", "handle:*:logs"}, {"handle-star-resource", "handle:read:*"}, {"handle-all", "handle:all:logs"}, {"handle-all-resource", "handle:read:all"},
		{"publish-tail", "publish:builds.>"}, {"publish-all", "publish:all"}, {"subscribe-star", "subscribe:*"}, {"subscribe-any", "subscribe:builds.any"},
		{"admin-star", "admin:*"}, {"admin-all", "admin:all"},
	} {
		one("wildcard-"+c.name, "G2", "wildcard-scope", "a capability that asks for more than one thing: "+c.scope, c.scope)
	}
	for _, p := range []struct {
		name, what string
		at         func(*story) *[]string
	}{
		{"in-delegatable", "the root token's delegatable", func(s *story) *[]string { return &s.links[0].token.delegatable }},
		{"in-a-hop", "a delegation's capabilities", func(s *story) *[]string { return &s.links[1].token.capabilities }},
		{"in-a-hops-delegatable", "a delegation's delegatable", func(s *story) *[]string { return &s.links[1].token.delegatable }},
		{"in-the-last-hop", "the last delegation's capabilities", func(s *story) *[]string { return &s.links[2].token.capabilities }},
	} {
		b.refuse("scopes/wildcard-"+p.name, "G2", "wildcard-scope", "a wildcard in "+p.what, three, func(s *story) { *p.at(s) = []string{"read:*"} })
		b.refuse("scopes/shortcut-"+p.name, "G2", "wildcard-scope", "a shortcut in "+p.what, three, func(s *story) { *p.at(s) = []string{"read:all"} })
		b.refuse("scopes/malformed-"+p.name, "G1", "bad-scope", "a text that is no scope in "+p.what, three, func(s *story) { *p.at(s) = []string{"Read:logs"} })
	}
	for _, c := range []struct{ name, scope, what string }{
		{"empty", "", "the empty text"},
		{"colon-alone", ":", "a colon alone"},
		{"verb-alone", "read", "no resource"},
		{"resource-empty", "read:", "an empty resource"},
		{"verb-empty", ":logs", "an empty verb"},
		{"two-colons", "read:logs:app", "a second colon"},
		{"verb-capital", "Read:logs", "a capital in the verb"},
		{"resource-capital", "read:Logs", "a capital in the resource"},
		{"verb-begins-with-digit", "2read:logs", "a verb begins with a letter"},
		{"verb-begins-with-hyphen", "-read:logs", "a verb begins with a letter"},
		{"verb-underscore", "re_ad:logs", "no underscore in a verb"},
		{"segment-begins-with-hyphen", "read:-logs", "a segment begins with a letter or digit"},
		{"segment-begins-with-underscore", "read:_logs", "a segment begins with a letter or digit"},
		{"segment-empty", "read:a..b", "an empty segment"},
		{"segment-empty-first", "read:.logs", "an empty first segment"},
		{"segment-empty-last", "read:logs.", "an empty last segment"},
		{"space-before", " read:logs", "nothing is trimmed"},
		{"space-after", "read:logs ", "nothing is trimmed"},
		{"space-inside", "read:lo gs", "no space"},
		{"umlaut", "read:lögs", "ASCII only"},
		{"cyrillic", "r\u0435ad:logs", "a letter that only looks like e"},
		{"full-width", "read\uff1alogs", "a colon of full width; nothing is normalised"},
		{"zero-width", "read:lo\u200bgs", "a character that nobody sees"},
		{"slash", "read:logs/app", "no slash"},
		{"dollar", "read:$logs", "no dollar"},
		{"nine-segments", "read:a.b.c.d.e.f.g.h.i", "a resource has eight segments at most"},
		{"admin-of-two-segments", "admin:registry.agents", "admin takes one segment"},
	} {
		one("malformed-"+c.name, "G1", "bad-scope", "not a scope: "+c.what, c.scope)
	}
	one("malformed-161-bytes", "G4", "bad-scope", "a scope has 160 bytes at most", longest(161))
	b.refuse("scopes/malformed-line-break", "G1", "bad-scope", "not a scope: a line break at the end, escaped as JSON has it", alone, func(s *story) { s.last().capabilities = []string{`read:logs\n`} })
	b.refuse("scopes/malformed-zero-byte", "G1", "bad-scope", "not a scope: a zero byte", alone, func(s *story) { s.last().capabilities = []string{`read:\u0000`} })
	for _, verb := range []string{"handle", "publish", "subscribe", "admin", "self"} {
		one("handle-"+verb, "G3", "bad-scope", "nobody but the control plane answers calls of the mesh's own verbs", "handle:"+verb+":registry")
	}
	one("handle-without-verb", "G3", "bad-scope", "a right to handle names a verb", "handle:logs")
	one("publish-with-verb", "G1", "bad-scope", "a topic is a resource", "publish:read:logs")

	set := func(name, rule, reason, description string, tell func(*token)) {
		b.refuse("scopes/"+name, rule, reason, description, three, func(s *story) { tell(s.links[1].token) })
	}
	set("set-not-sorted", "G5", "bad-token", "capabilities in another order", func(t *token) { t.capabilities = []string{"read:metrics", "read:logs"} })
	set("set-delegatable-not-sorted", "G5", "bad-token", "delegatable in another order", func(t *token) { t.delegatable = []string{"read:metrics", "read:logs"} })
	set("set-twice", "G5", "bad-token", "a capability twice", func(t *token) { t.capabilities = []string{"read:logs", "read:logs", "read:metrics"} })
	set("set-delegatable-twice", "G5", "bad-token", "a delegatable scope twice", func(t *token) { t.delegatable = []string{"read:logs", "read:logs"} })
	b.refuse("scopes/set-sorted-without-regard-to-length", "G5", "bad-token", "sorted, but by segments: the bytes put the hyphen before the point", alone, func(s *story) {
		s.last().capabilities = []string{"read:a.b", "read:a-b"}
	})
	b.refuse("scopes/set-of-257", "G5", "too-large", "257 capabilities", alone, func(s *story) { s.last().capabilities = numbered(257, "") })
	b.refuse("scopes/set-of-257-delegatable", "G5", "too-large", "257 delegatable scopes", alone, func(s *story) {
		s.last().capabilities, s.last().delegatable, s.last().depth = numbered(256, ""), numbered(257, ""), 1
	})

	last := func(name, description, scope string) {
		b.refuse("scopes/"+name, "G6", "beyond-own", description, three, func(s *story) { s.last().capabilities = []string{scope} })
	}
	last("longer-resource", "read:logs does not include read:logs.app", "read:logs.app")
	last("shorter-resource", "nor read:log", "read:log")
	last("other-verb", "nor write:logs", "write:logs")
	last("handle-of-what-may-be-called", "nor the right to answer it", "handle:read:logs")
	last("topic-of-the-same-name", "nor the right to publish on a topic of that name", "publish:logs")
	last("same-words-other-cut", "nor read-logs:app", "read-logs:app")
}
