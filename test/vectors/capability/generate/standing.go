package main

// everybody is a directory in which all stand: every agent of the chain is
// active, every key that signed in it an instance that is online, the root token
// live, no delegation voided.
func everybody(s *story, docs []string) *directory {
	d := &directory{}
	for i, l := range s.links {
		a := agent{Agent: l.token.agent, Status: "active"}
		if i == 0 {
			a.Live = []string{digest(docs[0])}
		}
		d.Agents = append(d.Agents, a)
		if i > 0 {
			d.Instances = append(d.Instances, instance{Agent: l.passport.agent, NKey: l.passport.nkey, State: "online"})
		}
	}
	if d.Instances == nil {
		d.Instances = []instance{}
	}
	return d
}

func (d *directory) agents(id string) *agent {
	for i := range d.Agents {
		if d.Agents[i].Agent == id {
			return &d.Agents[i]
		}
	}
	panic("no agent " + id)
}

func (d *directory) forget(id string) {
	for i := range d.Agents {
		if d.Agents[i].Agent == id {
			d.Agents = append(d.Agents[:i], d.Agents[i+1:]...)
			return
		}
	}
	panic("no agent " + id)
}

func (b *book) standing() {
	in := func(change func(d *directory, docs []string)) func(*story) {
		return func(s *story) {
			s.directory = func(docs []string) *directory {
				d := everybody(s, docs)
				if change != nil {
					change(d, docs)
				}
				return d
			}
		}
	}
	refuse := func(name, rule, reason, description string, change func(d *directory, docs []string)) {
		b.refuse("standing/"+name, rule, reason, description, three, in(change))
	}
	accept := func(name, rule, description string, change func(d *directory, docs []string)) {
		b.accept("standing-"+name, rule, description, three, in(change))
	}
	accept("of-all", "S2", "everybody in the chain stands", nil)
	accept("used-in-its-last-second", "S1", "verified before, used one second before it ends", func(d *directory, _ []string) { d.At = now + hour - 1 })
	accept("of-others-is-not-asked", "S2", "an agent that is not in the chain is revoked", func(d *directory, _ []string) {
		d.Agents = append(d.Agents, agent{Agent: "writer", Status: "revoked"})
		d.Unreadable = []string{"scout"}
	})
	accept("several-live-tokens", "S3", "the root token is one of several that are live", func(d *directory, _ []string) {
		a := d.agents("orchestrator")
		a.Live = append([]string{digest("a")}, append(a.Live, digest("b"))...)
	})
	accept("other-delegations-voided", "S5", "the issuers took back other delegations", func(d *directory, _ []string) {
		d.agents("orchestrator").Voided = []string{digest("a")}
		d.agents("reader").Voided = []string{digest("b")}
	})
	accept("voided-by-another", "S5", "an agent that did not make the delegation lists it as taken back", func(d *directory, docs []string) {
		d.agents("orchestrator").Voided = []string{digest(docs[4])}
		d.agents("helper").Voided = []string{digest(docs[2])}
	})
	accept("signer-left", "S4", "the instance that signed said goodbye: nothing of it is cut", func(d *directory, _ []string) { d.Instances[1].State = "left" })
	accept("signer-expired", "S4", "the instance that signed went away", func(d *directory, _ []string) { d.Instances[0].State = "expired" })
	accept("other-instance-revoked", "S4", "another instance of the delegator is revoked", func(d *directory, _ []string) {
		d.Instances = append(d.Instances, instance{Agent: "reader", NKey: user("agent reader, second instance").public(), State: "revoked"})
	})

	refuse("used-at-its-end", "S1", "token-expired", "verified in time, used at its end", func(d *directory, _ []string) { d.At = now + hour })
	refuse("used-before-its-beginning", "S1", "token-not-yet-valid", "verified, and then the clock was set back", func(d *directory, _ []string) { d.At = now - 31 })
	b.refuse("standing/used-after-its-certificate", "S1", "token-expired", "verified under a certificate that has ended since", three, func(s *story) {
		s.certificates[1].exp = now + 10*minute
		in(func(d *directory, _ []string) { d.At = now + 10*minute })(s)
	})
	for _, status := range []string{"pending", "suspended", "expired", "revoked"} {
		for who, what := range map[string]string{"orchestrator": "the root token's holder", "reader": "the delegator", "helper": "the holder"} {
			refuse(who+"-"+status, "S2", "delegator-cut", what+" is "+status, func(d *directory, _ []string) { d.agents(who).Status = status })
		}
	}
	for who, what := range map[string]string{"orchestrator": "the root token's holder", "reader": "the delegator", "helper": "the holder"} {
		refuse(who+"-unknown", "S2", "delegator-cut", what+" is in no registry", func(d *directory, _ []string) { d.forget(who) })
	}
	b.refuse("standing/root-holder-suspended-alone", "S2", "delegator-cut", "a root token alone, whose holder is suspended", alone, in(func(d *directory, _ []string) { d.agents("reader").Status = "suspended" }))
	refuse("root-token-not-listed", "S3", "token-taken-back", "no token of orchestrator is live", func(d *directory, _ []string) { d.agents("orchestrator").Live = nil })
	refuse("root-token-replaced", "S3", "token-taken-back", "another token of orchestrator is live", func(d *directory, _ []string) { d.agents("orchestrator").Live = []string{digest("a")} })
	refuse("root-token-listed-elsewhere", "S3", "token-taken-back", "the root token is listed in another agent's record", func(d *directory, docs []string) {
		d.agents("reader").Live, d.agents("orchestrator").Live = d.agents("orchestrator").Live, nil
	})
	refuse("chain-listed-in-place-of-its-token", "S3", "token-taken-back", "what is listed is the digest of the chain", func(d *directory, docs []string) {
		d.agents("orchestrator").Live = []string{digest(joined(docs...))}
	})
	refuse("first-signer-revoked", "S4", "delegator-cut", "the instance of orchestrator that lent is revoked", func(d *directory, _ []string) { d.Instances[0].State = "revoked" })
	refuse("last-signer-revoked", "S4", "delegator-cut", "the instance of reader that lent is revoked", func(d *directory, _ []string) { d.Instances[1].State = "revoked" })
	refuse("signer-unknown", "S4", "delegator-cut", "the key that lent is no instance", func(d *directory, _ []string) { d.Instances = d.Instances[:1] })
	refuse("signer-is-another-agents", "S4", "delegator-cut", "the key that lent is now an instance of another agent", func(d *directory, _ []string) { d.Instances[1].Agent = "helper" })
	refuse("signer-replaced", "S4", "delegator-cut", "the agent has another instance than the one that lent", func(d *directory, _ []string) {
		d.Instances[1].NKey = user("agent reader, second instance").public()
	})
	refuse("first-delegation-voided", "S5", "token-taken-back", "orchestrator took back what it lent to reader", func(d *directory, docs []string) {
		d.agents("orchestrator").Voided = []string{digest(docs[2])}
	})
	refuse("last-delegation-voided", "S5", "token-taken-back", "reader took back what it lent to helper", func(d *directory, docs []string) {
		d.agents("reader").Voided = []string{digest("a"), digest(docs[4])}
	})
	refuse("unreadable-root-holder", "S6", "registry-unavailable", "the record of the root token's holder cannot be read", func(d *directory, _ []string) { d.Unreadable = []string{"orchestrator"} })
	refuse("unreadable-holder", "S6", "registry-unavailable", "the record of the holder cannot be read", func(d *directory, _ []string) { d.Unreadable = []string{"helper"} })

	order := func(name, reason, description string, change func(d *directory, docs []string)) {
		b.refuse("order/"+name, "V0", reason, description, three, in(change))
	}
	order("s1-before-s2", "token-expired", "used at its end, and the holder is revoked", func(d *directory, _ []string) {
		d.At = now + hour
		d.agents("helper").Status = "revoked"
	})
	order("s2-before-s3", "delegator-cut", "the root token's holder was revoked, and its tokens with it", func(d *directory, _ []string) {
		d.agents("orchestrator").Status, d.agents("orchestrator").Live = "revoked", nil
	})
	order("s2-of-all-before-s3", "delegator-cut", "the last holder is suspended, and the root token is not live", func(d *directory, _ []string) {
		d.agents("helper").Status, d.agents("orchestrator").Live = "suspended", nil
	})
	order("s2-root-first", "delegator-cut", "the root token's holder is suspended, and the next record cannot be read", func(d *directory, _ []string) {
		d.agents("orchestrator").Status, d.Unreadable = "suspended", []string{"reader"}
	})
	order("s6-in-its-place", "registry-unavailable", "the root token's holder cannot be read, and the next one is revoked", func(d *directory, _ []string) {
		d.agents("reader").Status, d.Unreadable = "revoked", []string{"orchestrator"}
	})
	order("s3-before-s4", "token-taken-back", "the root token is not live, and the first signer is revoked", func(d *directory, _ []string) {
		d.agents("orchestrator").Live, d.Instances[0].State = nil, "revoked"
	})
	order("s4-before-s5", "delegator-cut", "the first signer is revoked, and its delegation voided", func(d *directory, docs []string) {
		d.Instances[0].State, d.agents("orchestrator").Voided = "revoked", []string{digest(docs[2])}
	})
	order("first-s5-before-second-s4", "token-taken-back", "the first delegation is voided, and the second signer revoked", func(d *directory, docs []string) {
		d.Instances[1].State, d.agents("orchestrator").Voided = "revoked", []string{digest(docs[2])}
	})
}
