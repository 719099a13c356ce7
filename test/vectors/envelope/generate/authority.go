package main

func (b *book) authority() {
	refuse := func(name, rule, reason, description string, base func() *story, tell func(*story)) {
		b.refuse("authority/"+name, rule, reason, description, base, tell)
	}
	for name, base := range map[string]func() *story{"call": call, "ask": ask, "event": event, "reply": reply} {
		refuse("no-chain-on-"+map[string]string{"call": "a-call", "ask": "an-ask", "event": "an-event", "reply": "a-reply"}[name], "C1", "no-token",
			"no chain is named where the class needs a scope", base, func(s *story) { s.letter.drop("tok") })
	}
	refuse("unknown", "C1", "unknown-chain", "a chain that nobody stored", call, func(s *story) { s.letter.set("tok", digest([]byte("no chain"))) })
	refuse("of-another-holder", "C1", "not-holder", "helper's chain, which covers the scope", call, func(s *story) { s.letter.set("tok", helperChain) })
	refuse("other-scope", "C1", "scope-not-held", "a chain of the sender that does not cover the scope", call, func(s *story) { s.letter.set("tok", metricsChain) })
	refuse("scope-of-callers-on-a-reply", "C1", "scope-not-held", "who may call a scope may not answer for it", reply, func(s *story) {
		s.letter = replyTo(theCall(), "reply of helper")
		s.letter.subject = join("mesh.reply.helper.writer", instanceOf(writer.public()), id("call"))
		s.letter.by = helper
		s.letter.set("from", "helper").set("key", helper.public()).set("tok", helperChain)
	})
	refuse("taken-back", "C1", "token-taken-back", "a chain of the sender that is no longer live", call, func(s *story) { s.letter.set("tok", takenBack) })

	refuse("ended", "C1", "token-expired", "a chain that has ended, and is another agent's: it is verified before its holder is looked at", call, func(s *story) { s.letter.set("tok", ended) })
	refuse("of-another-holder-and-other-scope", "C1", "not-holder", "another agent's chain that does not cover the scope: the holder is looked at first", call, func(s *story) { s.letter.set("tok", scoutChain) })
	refuse("other-scope-of-a-cut-holder", "C2", "scope-not-held", "on behalf of a suspended agent whose chain does not cover the scope: standing is asked for last", call, func(s *story) {
		s.letter.set("ob", scoutChain)
		s.agent("scout").Status = "suspended"
	})

	b.accept("on-behalf", "C2", "on behalf of another agent, whose chain covers the scope", call, func(s *story) { s.letter.set("ob", orchestrator) })
	b.accept("on-behalf-of-oneself", "C2", "on behalf of the sender itself, by the same chain", call, func(s *story) { s.letter.set("ob", writerChain) })
	b.accept("on-behalf-of-two", "C2", "on behalf of two agents, both of which may do it", call, func(s *story) { s.letter.set("ob", join(orchestrator, helperChain)) })
	b.accept("on-behalf-of-eight", "C2", "on behalf of as many as there may be", call, func(s *story) {
		var list []string
		for i := range int64(8) {
			name := "caller-" + itoa(i)
			list = append(list, callers[i])
			s.agents = append(s.agents, agent{Agent: name, Status: "active", Epoch: 1, Since: 1, Live: []string{callers[i]}})
		}
		s.letter.set("ob", join(list...))
	})
	refuse("on-behalf-of-two-first-unknown", "C2", "unknown-chain", "of two the first one is not known", call, func(s *story) { s.letter.set("ob", join(many(1)[0], orchestrator)) })
	refuse("on-behalf-of-two-second-other-scope", "C2", "scope-not-held", "of two the second one may not do it itself", call, func(s *story) { s.letter.set("ob", join(orchestrator, scoutChain)) })
	refuse("on-behalf-of-two-first-other-scope", "C2", "scope-not-held", "of two the first one may not do it itself", call, func(s *story) { s.letter.set("ob", join(scoutChain, orchestrator)) })
	refuse("on-behalf-of-two-second-taken-back", "C2", "token-taken-back", "of two the second one's right was taken back", call, func(s *story) { s.letter.set("ob", join(orchestrator, takenBack)) })
	refuse("on-behalf-unknown", "C2", "unknown-chain", "on behalf of a chain that nobody stored", call, func(s *story) { s.letter.set("ob", digest([]byte("no chain"))) })
	refuse("on-behalf-other-scope", "C2", "scope-not-held", "on behalf of an agent that may not do it itself", call, func(s *story) { s.letter.set("ob", scoutChain) })
	refuse("on-behalf-cut", "C2", "delegator-cut", "on behalf of an agent that is suspended", call, func(s *story) {
		s.letter.set("ob", orchestrator)
		s.agent("orchestrator").Status = "suspended"
	})
	refuse("on-behalf-does-not-widen", "C1", "scope-not-held", "the sender's own chain must cover the scope as well", call, func(s *story) {
		s.letter.set("tok", metricsChain).set("ob", orchestrator)
	})
	b.accept("chain-where-none-is-needed", "C1", "a note may name a chain, which is not looked at", note, func(s *story) { s.letter.set("tok", digest([]byte("no chain"))) })
}
