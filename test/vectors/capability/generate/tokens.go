package main

import "strings"

func (b *book) tokens() {
	// In the last token of three, so that nothing after it breaks as well.
	last := func(name, rule, reason, description string, tell func(*token, *document)) {
		b.refuse("tokens/"+name, rule, reason, description, three, func(s *story) { tell(s.last(), s.links[2].tokenDoc) })
	}
	first := func(name, rule, reason, description string, tell func(*token, *document)) {
		b.refuse("tokens/"+name, rule, reason, description, alone, func(s *story) { tell(s.last(), s.links[0].tokenDoc) })
	}
	for _, name := range []string{"iss", "iat", "jti", "agent", "depth", "nbf", "exp"} {
		last("missing-"+name, "T1", "bad-token", "the member is missing", func(t *token, d *document) { d.drop(name) })
	}
	for _, name := range []string{"jti", "agent", "parent", "depth", "nbf", "exp"} {
		last("null-"+name, "T1", "bad-token", "the member is null", func(t *token, d *document) { d.set(name, "null") })
	}
	last("parent-empty", "T1", "bad-token", "an empty optional member is written by leaving it out", func(t *token, d *document) { d.set("parent", text("")) })
	first("root-parent-empty", "T1", "bad-token", "also in a root token", func(t *token, d *document) { d.add("capabilities", member{"parent", text("")}) })
	last("reserved-corr", "T1", "bad-token", "corr is reserved: who ignores a restriction widens the token", func(t *token, d *document) {
		d.add("", member{"corr", text(jti("corr"))})
	})
	first("reserved-corr-before-depth", "T1", "bad-token", "corr in another place, in a root token", func(t *token, d *document) {
		d.add("depth", member{"corr", text(jti("corr"))})
	})
	last("reserved-aud", "T1", "bad-token", "aud is reserved", func(t *token, d *document) { d.add("", member{"aud", list([]string{"writer"})}) })
	first("reserved-aud-text", "T1", "bad-token", "aud as one text, in a root token", func(t *token, d *document) { d.add("", member{"aud", text("writer")}) })
	last("unknown-member", "T1", "bad-token", "an unknown member", func(t *token, d *document) { d.add("", member{"budget", "1"}) })
	first("unknown-sub", "T1", "bad-token", "sub, which other JWTs have", func(t *token, d *document) { d.add("jti", member{"sub", text("reader")}) })
	for _, x := range []struct{ name, value, before string }{
		{"exp", number(now + 3650*day), ""}, {"depth", "8", "nbf"}, {"agent", text("writer"), "parent"}, {"capabilities", list([]string{"write:reports"}), "delegatable"}, {"jti", text(jti("2")), "agent"},
	} {
		last("twice-"+x.name, "T1", "bad-token", "the member stands there twice, and decoders differ in which they take", func(t *token, d *document) { d.add(x.before, member{x.name, x.value}) })
	}
	for _, x := range []struct{ name, value string }{{"text", text("read:logs")}, {"object", `{"read:logs":true}`}, {"list-of-numbers", "[1]"}, {"list-with-null", `["read:logs",null]`}, {"list-of-lists", `[["read:logs"]]`}} {
		first("capabilities-"+x.name, "T1", "bad-token", "capabilities are not a list of texts", func(t *token, d *document) { d.set("capabilities", x.value) })
		if x.name == "text" || x.name == "list-with-null" {
			last("delegatable-"+x.name, "T1", "bad-token", "delegatable is not a list of texts", func(t *token, d *document) { d.set("delegatable", x.value) })
		}
	}
	last("scope-malformed", "T1", "bad-scope", "a capability that is no scope: the reason is that text's", func(t *token, d *document) { t.capabilities = []string{"logs"} })
	last("scope-wildcard", "T1", "wildcard-scope", "a capability with a wildcard", func(t *token, d *document) { t.capabilities = []string{"read:>"} })
	last("is-a-passport", "T1", "wrong-kind", "it says that it is a passport", func(t *token, d *document) { d.set("kind", text("passport")) })
	last("too-large", "T1", "too-large", "a delegated token of more than 32768 bytes", func(t *token, d *document) {
		t.capabilities = numbered(250, strings.Repeat("x", 100))
	})

	for _, x := range []struct{ name, value, what string }{
		{"empty", "", "empty"}, {"short", "AAAA", "three bytes"}, {"21-characters", strings.Repeat("A", 21), "one character short"}, {"23-characters", strings.Repeat("A", 23), "one character more"},
		{"spare-bits", strings.Repeat("A", 21) + "B", "with spare bits set"}, {"padded", strings.Repeat("A", 22) + "==", "padded"}, {"standard-alphabet", strings.Repeat("A", 20) + "+A", "in the other alphabet"},
		{"line-breaks", strings.Repeat("A", 20) + `\n\n`, "with line breaks in the place of characters"}, {"uuid", "6f1c0f0e-8b1f-4ac1-9c6e-111111111111", "a UUID"},
	} {
		last("jti-"+x.name, "T2", "bad-token", "jti is not 128 bits in base64url: "+x.what, func(t *token, d *document) { t.jti = x.value })
	}
	for _, x := range []struct{ name, value, what string }{
		{"empty", "", "empty"}, {"capital", "Helper", "a capital"}, {"underscore", "help_er", "an underscore"}, {"point", "a.b", "a point"}, {"star", "*", "a wildcard"}, {"space", "helper ", "a space"},
		{"hyphen-first", "-helper", "a hyphen first"}, {"hyphen-last", "helper-", "a hyphen last"}, {"64-characters", strings.Repeat("a", 64), "64 characters"}, {"slash", "helper/7f3c2k9q", "an instance"},
		{"cyrillic", "h\u0435lper", "a letter that only looks like e"}, {"spiffe", "spiffe://mesh.local/agent/helper", "a SPIFFE ID"},
	} {
		last("agent-"+x.name, "T2", "bad-token", "the holder is no agent ID: "+x.what, func(t *token, d *document) { t.agent = x.value })
	}
	for _, x := range []struct{ name, value, what string }{
		{"short", "AAAA", "three bytes"}, {"hexadecimal", strings.Repeat("ab", 32), "in hexadecimal"}, {"spare-bits", strings.Repeat("A", 42) + "B", "with spare bits set"}, {"padded", strings.Repeat("A", 43) + "=", "padded"},
		{"line-break", strings.Repeat("A", 42) + `\n`, "with a line break in the place of a character"},
	} {
		b.refuse("tokens/parent-"+x.name, "T2", "bad-token", "parent is no digest: "+x.what, three, func(s *story) { s.links[2].parent = func([]string) string { return x.value } })
	}
	for _, id := range []string{"control", "sealmesh", "sys"} {
		last("holder-"+id, "T3", "reserved-name", "a delegation to what belongs to the mesh", func(t *token, d *document) { t.agent = id })
		first("root-holder-"+id, "T3", "reserved-name", "a root token of what belongs to the mesh", func(t *token, d *document) { t.agent = id })
	}

	first("nbf-zero", "T4", "bad-token", "nbf is zero", func(t *token, d *document) { t.nbf = 0 })
	first("nbf-negative", "T4", "bad-token", "nbf lies before 1970", func(t *token, d *document) { t.nbf = -1 })
	first("exp-zero", "T4", "bad-token", "exp is zero, which elsewhere means never", func(t *token, d *document) { t.exp = 0 })
	first("exp-negative", "T4", "bad-token", "exp is negative", func(t *token, d *document) { t.exp = -1 })
	first("exp-equals-nbf", "T4", "bad-token", "a window of nothing", func(t *token, d *document) { t.exp = t.nbf })
	first("exp-before-nbf", "T4", "bad-token", "a window backwards", func(t *token, d *document) { t.nbf, t.exp = now+hour, now-hour })
	first("exp-past-the-year-9999", "T4", "bad-token", "one second past the last", func(t *token, d *document) { t.exp = 253402300800 })
	first("exp-in-milliseconds", "T4", "bad-token", "milliseconds in the place of seconds", func(t *token, d *document) { t.exp = (now + hour) * 1000 })
	first("exp-of-64-bits", "T4", "bad-token", "the largest integer", func(t *token, d *document) { t.exp = 1<<63 - 1 })

	first("capabilities-missing", "T5", "bad-token", "no capabilities: that means nothing, never everything", func(t *token, d *document) { d.drop("capabilities") })
	first("capabilities-null", "T5", "bad-token", "capabilities are null", func(t *token, d *document) { t.capabilities = nil })
	first("capabilities-empty", "T5", "bad-token", "capabilities are empty", func(t *token, d *document) { t.capabilities = []string{} })
	last("hop-capabilities-missing", "T5", "bad-token", "no capabilities in a delegation", func(t *token, d *document) { d.drop("capabilities") })
	last("hop-capabilities-empty", "T5", "bad-token", "a delegation of nothing", func(t *token, d *document) { t.capabilities = []string{} })
	first("delegatable-missing", "T5", "bad-token", "no delegatable", func(t *token, d *document) { d.drop("delegatable") })
	last("delegatable-null", "T5", "bad-token", "delegatable is null", func(t *token, d *document) { t.delegatable = nil })

	first("self-scope", "T6", "bad-scope", "self: stands in no token: every active agent has it", func(t *token, d *document) { t.capabilities = []string{"read:logs", "self:session"} })
	first("too-many-capabilities", "T6", "too-large", "257 capabilities", func(t *token, d *document) { t.capabilities = numbered(257, "x") })
	last("capabilities-not-sorted", "T6", "bad-token", "capabilities in another order", func(t *token, d *document) { t.capabilities = []string{"read:metrics", "read:logs"} })
	last("capability-twice", "T6", "bad-token", "a capability twice", func(t *token, d *document) { t.capabilities = []string{"read:logs", "read:logs"} })
	first("delegatable-twice", "T6", "bad-token", "a delegatable scope twice", func(t *token, d *document) { t.delegatable, t.depth = []string{"read:logs", "read:logs"}, 1 })

	first("delegatable-beyond-capabilities", "T7", "beyond-own", "what one may pass on is among what one may do", func(t *token, d *document) { t.delegatable, t.depth = []string{"read:logs", "read:metrics"}, 1 })
	b.refuse("tokens/hop-delegatable-beyond-capabilities", "T7", "beyond-own", "also where the parent would let both be passed on", three, func(s *story) {
		s.links[1].token.capabilities = []string{"read:metrics"}
	})
	first("admin-delegatable", "T8", "not-delegatable", "rights over the control plane are given by the authority alone", func(t *token, d *document) {
		t.capabilities, t.delegatable, t.depth = []string{"admin:registry"}, []string{"admin:registry"}, 1
	})
	b.refuse("tokens/hop-admin-delegatable", "T8", "not-delegatable", "a delegation that would let admin: be passed on", three, func(s *story) {
		s.links[1].token.capabilities, s.links[1].token.delegatable = []string{"admin:registry", "read:logs"}, []string{"admin:registry"}
	})
	first("depth-negative", "T9", "bad-token", "depth below nothing", func(t *token, d *document) { t.depth = -1 })
	last("hop-depth-negative", "T9", "bad-token", "also in a delegation", func(t *token, d *document) { t.depth = -1 })
	first("depth-nine", "T10", "depth-exceeded", "one more than there may be", func(t *token, d *document) { t.depth = 9 })
	first("depth-of-64-bits", "T10", "depth-exceeded", "as many as can be written", func(t *token, d *document) { t.depth = 1<<63 - 1 })
	first("delegatable-at-depth-zero", "T11", "depth-exceeded", "nothing can be passed on where no delegations are left", func(t *token, d *document) { t.delegatable = []string{"read:logs"} })
	last("hop-delegatable-at-depth-zero", "T11", "depth-exceeded", "also in a delegation", func(t *token, d *document) { t.delegatable = []string{"read:logs"} })

	for _, x := range []struct{ who, what string }{{"mallory", "somebody who read it"}, {"reader", "the one who made it"}, {"orchestrator", "the one from whom it derives"}} {
		b.refuse("tokens/presented-by-"+x.who, "T12", "not-holder", "the chain is presented by "+x.what+", not by its holder", three, func(s *story) { s.presenter = x.who })
	}
}
