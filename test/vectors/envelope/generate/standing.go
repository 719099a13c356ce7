package main

func (b *book) standing() {
	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("standing/"+name, rule, reason, description, call, tell)
	}
	refuse("agent-unlisted", "D1", "unlisted-agent", "the registry does not know the agent", func(s *story) { s.agents = s.agents[:len(s.agents)-1] })
	for _, status := range []string{"pending", "suspended", "expired", "revoked"} {
		refuse("agent-"+status, "D2", status, "the agent is "+status, func(s *story) { s.agent("writer").Status = status })
		b.refuse("standing/responder-"+status, "D2", status, "the responder is "+status, reply, func(s *story) { s.agent("reader").Status = status })
	}
	refuse("key-unlisted", "D3", "unlisted-key", "a key that was never enrolled signs in writer's name", func(s *story) {
		s.letter.by = user("agent stranger")
		s.letter.set("key", s.letter.by.public())
	})
	refuse("key-of-another-agent", "D3", "unlisted-key", "helper signs in writer's name, with its own key", func(s *story) {
		s.letter.by = helper
		s.letter.set("key", helper.public())
	})
	refuse("no-instance", "D3", "unlisted-key", "the agent has no instance", func(s *story) { s.instances = s.instances[:len(s.instances)-1] })
	b.refuse("standing/responder-unlisted", "D3", "unlisted-key", "a reply of a key that was never enrolled", reply, func(s *story) {
		s.letter.by = user("agent stranger")
		s.letter.set("key", s.letter.by.public())
	})
	for _, state := range []string{"expired", "revoked"} {
		refuse("instance-"+state, "D4", state, "the instance is "+state, func(s *story) { s.instance(writer).State = state })
	}
	refuse("instance-of-the-former-agent", "D4", "revoked", "the name was given new keys since the instance was enrolled", func(s *story) {
		s.agent("writer").Since = 3
		s.instance(writer).Since = 1
	})
	for _, state := range []string{"enrolled", "online", "left"} {
		b.accept("instance-"+state, "D4", "an instance counts while it is "+state, call, func(s *story) { s.instance(writer).State = state })
	}
	b.accept("second-instance", "D3", "another instance of the agent signs, and says so", call, func(s *story) {
		s.enrol("writer", another.public())
		s.letter.by = another
		s.letter.set("key", another.public())
	})

	epoch := func(name, ep, description string) {
		refuse("epoch-"+name, "D5", "stale-epoch", description, func(s *story) { s.letter.set("ep", ep) })
	}
	epoch("agent-lower", "2.1", "an epoch of the agent that is over")
	epoch("instance-lower", "3.0", "an epoch of the instance that is over")
	epoch("agent-higher", "4.1", "an epoch of the agent that the record does not know, read afresh")
	epoch("instance-higher", "3.2", "an epoch of the instance that the record does not know, read afresh")
	epoch("one-higher-one-lower", "4.0", "one part is over, and the other unknown")
	epoch("swapped", "1.3", "the two parts swapped")
	b.accept("epoch-of-the-record", "D5", "both parts are the record's", call, func(s *story) {
		s.letter.set("ep", "17.9")
		s.agent("writer").Epoch, s.instance(writer).Epoch = 17, 9
	})
	refuse("records-unreadable", "D7", "registry-unavailable", "the registry does not answer", func(s *story) { s.unreadable = []string{"writer"} })
}
