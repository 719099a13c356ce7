package main

import (
	"slices"
	"strings"
)

func joined(docs ...string) string { return strings.Join(docs, "~") }

// other is a second chain of the same agents, made a moment later: everything is
// as in the first but the identifiers of the tokens.
func other() []string {
	s := three()
	for i, l := range s.links {
		l.token.jti = jti("other " + string(rune('0'+i)))
	}
	_, _, docs := s.write()
	return docs
}

func (b *book) chains() {
	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("chains/"+name, rule, reason, description, three, tell)
	}
	cut := func(name, rule, reason, description string, join func(docs []string) string) {
		refuse(name, rule, reason, description, func(s *story) { s.join = join })
	}
	b.refuse("chains/one-byte-too-long", "C0", "too-large", "a chain of 65537 bytes, right in everything else", chainOf(65537), nil)
	cut("junk-too-long", "C0", "too-large", "65537 bytes that are nothing", func([]string) string { return strings.Repeat("A", 65537) })

	cut("separator-at-end", "C1", "broken-chain", "a separator after the last document", func(d []string) string { return joined(d...) + "~" })
	cut("separator-at-start", "C1", "broken-chain", "a separator before the first document", func(d []string) string { return "~" + joined(d...) })
	cut("separator-doubled", "C1", "broken-chain", "two separators between two documents", func(d []string) string { return strings.Replace(joined(d...), "~", "~~", 1) })
	cut("last-token-missing", "C1", "broken-chain", "a passport is the last document", func(d []string) string { return joined(d[:4]...) })
	cut("passport-missing", "C1", "broken-chain", "two tokens in a row", func(d []string) string { return joined(d[0], d[1], d[2], d[4]) })
	cut("passport-first", "C1", "wrong-kind", "the chain begins with a passport", func(d []string) string { return joined(d[1], d[1], d[2]) })
	cut("passport-alone", "C1", "wrong-kind", "a passport is no chain", func(d []string) string { return d[1] })
	cut("two-passports", "C1", "wrong-kind", "a passport in the place of a delegated token", func(d []string) string { return joined(d[0], d[1], d[1]) })
	cut("places-exchanged", "C1", "wrong-kind", "token and passport of a delegation exchanged", func(d []string) string { return joined(d[0], d[2], d[1]) })
	cut("certificate-in-the-chain", "C1", "wrong-kind", "a signing key's certificate in the place of a passport", func(d []string) string {
		return joined(d[0], authority().certDocs[1].text(), d[2])
	})

	cut("empty", "D1", "bad-token", "no document at all", func([]string) string { return "" })
	cut("separators-alone", "D1", "bad-token", "three empty documents", func([]string) string { return "~~" })
	cut("empty-documents-at-end", "D1", "bad-token", "an empty passport and an empty token", func(d []string) string { return joined(d...) + "~~" })
	cut("empty-documents-in-the-middle", "D1", "bad-token", "an empty delegation between two that are right", func(d []string) string {
		return strings.Replace(joined(d...), "~", "~~~", 1)
	})
	cut("empty-passport", "D1", "bad-token", "the passport is empty", func(d []string) string { return joined(d[0], "", d[2]) })
	cut("empty-token", "D1", "bad-token", "the delegated token is empty", func(d []string) string { return joined(d[0], d[1], "") })
	cut("line-break-at-end", "D3", "bad-token", "a line break after the last document, as a file has it", func(d []string) string { return joined(d...) + "\n" })
	cut("line-break-between", "D1", "bad-token", "a line break after a separator", func(d []string) string { return strings.Join(d, "~\n") })
	cut("space-before", "D1", "bad-token", "a space before the first document", func(d []string) string { return " " + joined(d...) })
	cut("other-separator", "D3", "bad-token", "the documents are joined with a comma", func(d []string) string { return strings.Join(d, ",") })

	b.refuse("chains/nine-delegations", "C2", "depth-exceeded", "one delegation more than there may be", deep(9), nil)
	cut("separators-without-end", "C2", "depth-exceeded", "65536 separators", func([]string) string { return strings.Repeat("~", 65536) })

	refuse("root-token-with-parent", "C3", "broken-chain", "the first token derives from another, which is not there", func(s *story) {
		s.links[0].parent = func([]string) string { return digest("x") }
	})
	cut("without-root-token", "C3", "broken-chain", "the chain begins with a delegation", func(d []string) string { return joined(d[2:]...) })
	cut("delegation-alone", "C3", "broken-chain", "a delegated token by itself", func(d []string) string { return d[4] })

	refuse("passport-of-another-agent", "C4", "not-holder", "helper's passport and signature on what reader holds", func(s *story) {
		s.links[2].passport = replacePassport(s.links[2], "writer")
	})
	cut("passports-exchanged", "C4", "not-holder", "the two passports change places", func(d []string) string { return joined(d[0], d[3], d[2], d[1], d[4]) })
	cut("hop-left-out", "C4", "not-holder", "the delegation in the middle is left out", func(d []string) string { return joined(d[0], d[3], d[4]) })
	refuse("passport-of-a-reserved-agent", "C4", "not-holder", "a passport of the control plane, which holds no token", func(s *story) { s.links[2].passport.agent = "control" })

	refuse("signed-by-another-key", "C5", "broken-chain", "the token names another signer than the passport before it", func(s *story) { s.links[2].token.by = agentKey("helper") })
	refuse("signed-by-another-instance", "C5", "broken-chain", "another instance of the same agent, whose passport is not there", func(s *story) { s.links[2].token.by = user("agent reader, second instance") })
	refuse("signed-by-the-authority", "C5", "broken-chain", "the authority delegates nothing", func(s *story) { s.links[2].token.by = tokensKey })
	cut("tokens-exchanged", "C5", "broken-chain", "the two delegated tokens change places", func(d []string) string { return joined(d[0], d[1], d[4], d[3], d[2]) })

	refuse("parent-missing", "C6", "broken-chain", "a delegation that derives from nothing", func(s *story) { s.links[1].parent = func([]string) string { return "" } })
	refuse("parent-unknown", "C6", "broken-chain", "a delegation that derives from what is not there", func(s *story) { s.links[2].parent = func([]string) string { return digest("x") } })
	refuse("parent-is-the-root-token", "C6", "broken-chain", "parent names the root token, not the one before", func(s *story) {
		s.links[2].parent = func(d []string) string { return digest(d[0]) }
	})
	refuse("parent-is-the-chain", "C6", "broken-chain", "parent is the digest of the chain before, not of its last token", func(s *story) {
		s.links[2].parent = func(d []string) string { return digest(joined(d[:3]...)) }
	})
	refuse("parent-is-the-passport", "C6", "broken-chain", "parent is the digest of the passport", func(s *story) {
		s.links[2].parent = func(d []string) string { return digest(d[3]) }
	})
	refuse("parent-is-the-payload", "C6", "broken-chain", "parent is the digest of the payload before, without header and signature", func(s *story) {
		s.links[2].parent = func([]string) string { return digest(s.links[1].tokenDoc.payload()) }
	})
	cut("hop-of-another-chain", "C6", "broken-chain", "the last delegation is from another chain of the same agents", func(d []string) string {
		o := other()
		return joined(d[0], d[1], d[2], o[3], o[4])
	})
	cut("root-of-another-chain", "C6", "broken-chain", "the root token is from another chain", func(d []string) string { return joined(append(other()[:1], d[1:]...)...) })
	cut("middle-of-another-chain", "C6", "broken-chain", "the delegation in the middle is from another chain", func(d []string) string {
		return joined(d[0], d[1], other()[2], d[3], d[4])
	})

	refuse("parents-depth-used-up", "C7", "depth-exceeded", "a delegation where none was left", func(s *story) {
		s.links[1].token.depth, s.links[1].token.delegatable = 0, []string{}
	})
	refuse("depth-stays", "C7", "depth-exceeded", "as many delegations left as the parent has", func(s *story) { s.last().depth = s.links[1].token.depth })
	refuse("depth-rises", "C7", "depth-exceeded", "more than the parent has", func(s *story) { s.last().depth = 3 })
	refuse("depth-above-parents-in-the-middle", "C7", "depth-exceeded", "eight where the parent has three", func(s *story) { s.links[1].token.depth = 8 })

	refuse("held-and-not-delegatable", "C8", "not-delegatable", "reader holds read:metrics and may not pass it on", func(s *story) { s.last().capabilities = []string{"read:metrics"} })
	refuse("held-by-the-root-only", "C8", "beyond-own", "orchestrator holds write:reports, reader does not", func(s *story) { s.last().capabilities = []string{"write:reports"} })
	refuse("held-by-nobody", "C8", "beyond-own", "one scope of two is held by nobody", func(s *story) { s.last().capabilities = []string{"read:logs", "read:secrets"} })
	refuse("delegatable-by-the-root-only", "C8", "not-delegatable", "the root token's delegatable does not reach past the one that it was lent to", func(s *story) {
		s.last().capabilities = []string{"read:logs", "read:metrics"}
	})
	refuse("nothing-delegatable", "C8", "not-delegatable", "delegations are left and nothing may be passed on", func(s *story) { s.links[1].token.delegatable = []string{} })
	refuse("admin-lent", "C8", "not-delegatable", "orchestrator holds admin:registry and lends it", func(s *story) {
		s.links[0].token.capabilities = []string{"admin:registry", "read:logs", "read:metrics", "write:reports"}
		s.links[1].token.capabilities = []string{"admin:registry", "read:logs", "read:metrics"}
	})

	refuse("begins-before-parent", "C9", "beyond-window", "one second before", func(s *story) { s.last().nbf = s.links[1].token.nbf - 1 })
	refuse("ends-after-parent", "C9", "beyond-window", "one second after", func(s *story) { s.last().exp = s.links[1].token.exp + 1 })
	refuse("ends-after-parent-in-the-middle", "C9", "beyond-window", "a delegation that outlives the root token, and one within both after it", func(s *story) {
		s.links[1].token.exp = s.links[0].token.exp + 1
	})
	refuse("begins-before-parent-in-the-middle", "C9", "beyond-window", "a delegation that begins before the root token", func(s *story) {
		s.links[1].token.nbf = s.links[0].token.nbf - 1
	})

	refuse("to-oneself", "C10", "delegation-cycle", "reader lends to reader", func(s *story) { s.last().agent = "reader" })
	refuse("back-to-the-root", "C10", "delegation-cycle", "reader lends back to orchestrator", func(s *story) { s.last().agent = "orchestrator" })
	b.refuse("chains/root-to-oneself", "C10", "delegation-cycle", "orchestrator lends to itself", three, func(s *story) {
		s.links = s.links[:2]
		s.last().agent = "orchestrator"
	})
	cut("hop-doubled", "C10", "delegation-cycle", "the first delegation stands there twice", func(d []string) string {
		return joined(d[0], d[1], d[2], d[1], d[2], d[3], d[4])
	})
	cut("last-hop-doubled", "C10", "delegation-cycle", "the last delegation stands there twice", func(d []string) string { return joined(append(slices.Clone(d), d[3], d[4])...) })
	cut("root-token-doubled", "C10", "delegation-cycle", "the root token again in the place of a delegation", func(d []string) string { return joined(d[0], d[1], d[0]) })
	cut("chain-twice", "C1", "broken-chain", "the whole chain twice", func(d []string) string { return joined(joined(d...), joined(d...)) })

	// What a chain was made from is a chain, and its holder's alone.
	b.accept("truncated-is-the-delegators", "C6", "the chain without its last delegation is the one that reader lends from", three, func(s *story) { s.links = s.links[:2] })
	b.refuse("chains/truncated-and-presented", "T12", "not-holder", "helper leaves out its own delegation to present the larger right of reader", three, func(s *story) {
		s.links, s.presenter = s.links[:2], "helper"
	})
}

// replacePassport makes a link that another agent signed with its own passport.
func replacePassport(l *link, agent string) *passport {
	l.passport.agent, l.passport.nkey, l.passport.curve = agent, agentKey(agent).public(), curveOf(agent)
	l.token.by = agentKey(agent)
	return l.passport
}

func (b *book) window() {
	at := func(name, reason, description string, base func() *story, tell func(*story)) {
		b.refuse("verification/"+name, "V1", reason, description, base, tell)
	}
	at("one-second-before-nbf", "token-not-yet-valid", "a verifier makes no allowance for clocks that differ", alone, func(s *story) { s.now = s.last().nbf - 1 })
	at("at-exp", "token-expired", "at exp it is over", alone, func(s *story) { s.now = s.last().exp })
	at("one-second-after-exp", "token-expired", "and after it", alone, func(s *story) { s.now = s.last().exp + 1 })
	at("long-before-nbf", "token-not-yet-valid", "issued for tomorrow", alone, func(s *story) { s.last().nbf, s.last().exp = now+day, now+2*day })
	at("long-after-exp", "token-expired", "a token of last week", alone, func(s *story) { s.last().nbf, s.last().exp = now-9*day, now-7*day })
	at("at-the-epoch", "token-not-yet-valid", "the clock of a device that forgot the time", alone, func(s *story) { s.now = 0 })
	at("last-hop-one-second-before-nbf", "token-not-yet-valid", "a delegation for later", three, func(s *story) { s.last().nbf = now + 1 })
	at("last-hop-at-exp", "token-expired", "the last delegation ends at this second, those before it later", three, func(s *story) { s.last().exp = now })
	at("last-hop-one-second-after-exp", "token-expired", "it ended a second ago", three, func(s *story) { s.last().exp = now - 1 })
	at("all-ended", "token-expired", "the root token ended, and all that derives from it", three, func(s *story) { s.now = now + day })
	b.accept("hop-in-its-first-second", "V1", "the last delegation begins at this second", three, func(s *story) { s.last().nbf = now })
	b.accept("hop-in-its-last-second", "V1", "the last delegation ends with this second", three, func(s *story) { s.last().exp = now + 1 })
}

func (b *book) signatures() {
	bad := func(name, description string, tell func(*story)) {
		b.refuse("verification/signature-"+name, "V2", "bad-signature", description, three, tell)
	}
	places := []struct {
		name string
		at   func(*story) *document
	}{
		{"of-the-root-token", func(s *story) *document { return s.links[0].tokenDoc }},
		{"of-the-first-passport", func(s *story) *document { return s.links[1].passportDoc }},
		{"of-the-first-delegation", func(s *story) *document { return s.links[1].tokenDoc }},
		{"of-the-second-passport", func(s *story) *document { return s.links[2].passportDoc }},
		{"of-the-last-delegation", func(s *story) *document { return s.links[2].tokenDoc }},
	}
	for _, p := range places {
		bad("forged-"+p.name, "signed with a stranger's key under the right signer's name", func(s *story) { p.at(s).sign = stranger.sign })
	}
	last := func(name, description string, sign func(honest func(string) []byte, signed string) []byte) {
		bad(name, description, func(s *story) {
			d := s.links[2].tokenDoc
			honest := d.sign
			d.sign = func(signed string) []byte { return sign(honest, signed) }
		})
	}
	last("of-zeros", "64 zero bytes", func(func(string) []byte, string) []byte { return make([]byte, 64) })
	last("flipped-in-its-first-bit", "one bit of the commitment", func(honest func(string) []byte, signed string) []byte {
		sig := honest(signed)
		sig[0] ^= 1
		return sig
	})
	last("flipped-in-its-last-half", "one bit of the second half", func(honest func(string) []byte, signed string) []byte {
		sig := honest(signed)
		sig[32] ^= 1
		return sig
	})
	last("second-form", "the group's order was added to the second half", func(honest func(string) []byte, signed string) []byte { return secondForm(honest(signed)) })
	last("over-the-payload-alone", "the older form signs the payload without the header", func(honest func(string) []byte, signed string) []byte {
		return honest(signed[strings.IndexByte(signed, '.')+1:])
	})
	last("over-the-digest", "the digest was signed, not the text", func(honest func(string) []byte, signed string) []byte { return honest(digest(signed)) })
	last("over-another-document", "the same key signed it over something else", func(honest func(string) []byte, signed string) []byte {
		return honest(strings.Replace(signed, ".", ".e", 1))
	})
	bad("before-a-change", "a scope was added after the signature was made", func(s *story) {
		narrow := *s.links[1].token
		d := docOf(&narrow.by, narrow.fields)
		s.links[1].tokenDoc.sign = func(string) []byte {
			narrow.capabilities, narrow.parent = []string{"read:logs"}, s.links[1].token.parent
			text := d.text()
			return narrow.by.sign(text[:strings.LastIndexByte(text, '.')])
		}
	})
	b.refuse("verification/signature-twisted-commitment", "D9", "bad-signature", "the commitment lies opposite to the honest one: the equation holds only for those who multiply by the cofactor", three, func(s *story) {
		seed := s.links[2].token.by.seed
		s.links[2].tokenDoc.sign = func(signed string) []byte { return signTwistedCommitment(seed, signed) }
	})
	b.refuse("verification/signature-without-commitment", "D9", "bad-signature", "the commitment is the neutral point: the equation holds, and not everybody takes it", three, func(s *story) {
		seed := s.links[2].token.by.seed
		s.links[2].tokenDoc.sign = func(signed string) []byte { return signWithoutCommitment(seed, signed) }
	})
	b.refuse("verification/signature-of-a-mixed-order-key", "D9", "bad-signature", "the instance's key has a component of order two, and the equation holds only for those who multiply by the cofactor", three, func(s *story) {
		s.mixed(2, false)
	})
	b.refuse("verification/key-off-the-curve", "D9", "bad-signature", "the instance's key is below the prime and no point of the curve: it verifies nothing", three, func(s *story) {
		public := nkey(userKey, append([]byte{2}, make([]byte, 31)...))
		s.links[2].passport.nkey = public
		s.links[2].tokenDoc.set("iss", text(public))
	})
}
