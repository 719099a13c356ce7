package main

import "strings"

// order: where several rules are broken, the first one in the order of the
// specification decides.
func (b *book) order() {
	first := func(name, reason, description string, base func() *story, tell func(*story)) {
		b.refuse("order/"+name, "V0", reason, description, base, tell)
	}
	join := func(text string) func(*story) {
		return func(s *story) { s.join = func([]string) string { return text } }
	}
	first("length-before-separators", "too-large", "too long, too many separators, an odd number of them, and nothing in between", alone, join(strings.Repeat("~", 65537)))
	first("count-before-parity", "depth-exceeded", "17 separators: too many, and an odd number", alone, join(strings.Repeat("~", 17)))
	first("parity-before-documents", "broken-chain", "an odd number of separators between documents that are none", alone, join("a~b~c~d"))
	first("root-token-before-passport", "bad-token", "the root token is malformed, and the passport after it is a token", three, func(s *story) {
		s.links[0].token.jti = "AAAA"
		s.links[1].passportDoc.set("kind", text("token"))
	})
	first("root-token-form-before-parent", "reserved-name", "the root token is the control plane's, and has a parent", three, func(s *story) {
		s.links[0].token.agent = "control"
		s.links[0].parent = func([]string) string { return digest("x") }
	})
	first("earlier-hop-before-later", "depth-exceeded", "the first delegation has too much depth, the second one goes back to the root", three, func(s *story) {
		s.links[1].token.depth = 3
		s.last().agent = "orchestrator"
	})
	first("passport-before-its-token", "bad-token", "the passport is of nobody, and the token after it of the control plane", three, func(s *story) {
		s.links[2].passport.agent = ""
		s.last().agent = "control"
	})
	first("t1-before-t2", "bad-token", "an unknown member, and a holder that is reserved", alone, func(s *story) {
		s.last().agent = "control"
		s.links[0].tokenDoc.add("", member{"aud", text("writer")})
	})
	first("t2-before-t3", "bad-token", "jti is no identifier, and the holder is reserved", alone, func(s *story) { s.last().jti, s.last().agent = "AAAA", "control" })
	first("t3-before-t4", "reserved-name", "the holder is reserved, and the window is of nothing", alone, func(s *story) {
		s.last().agent, s.last().exp = "control", s.last().nbf
	})
	first("t4-before-t6", "bad-token", "the window is of nothing, and 257 scopes are too many", alone, func(s *story) {
		s.last().exp, s.last().capabilities = s.last().nbf, numbered(257, "")
	})
	first("t6-before-t7", "too-large", "257 delegatable scopes, most of them beyond the capabilities", alone, func(s *story) { s.last().delegatable = numbered(257, "") })
	first("t6-size-before-order", "too-large", "257 scopes that are not sorted", alone, func(s *story) {
		s.last().capabilities = append(numbered(256, ""), "read:a")
	})
	first("t6-capabilities-before-delegatable", "bad-scope", "self: among the capabilities, 257 delegatable scopes", alone, func(s *story) {
		s.last().capabilities, s.last().delegatable = []string{"self:session"}, numbered(257, "")
	})
	first("t6-scope-by-scope", "bad-token", "the second scope repeats the first, the third is self:", alone, func(s *story) {
		s.last().capabilities = []string{"read:logs", "read:logs", "self:session"}
	})
	first("t7-and-t8-scope-by-scope", "not-delegatable", "the first delegatable scope is admin:, the second beyond the capabilities", alone, func(s *story) {
		s.last().capabilities, s.last().delegatable, s.last().depth = []string{"admin:registry"}, []string{"admin:registry", "read:logs"}, 1
	})
	first("t7-before-t8", "beyond-own", "one delegatable scope that is admin: and beyond the capabilities", alone, func(s *story) {
		s.last().delegatable, s.last().depth = []string{"admin:registry"}, 1
	})
	first("t7-before-t10", "beyond-own", "a delegatable scope beyond the capabilities, and depth 9", alone, func(s *story) {
		s.last().delegatable, s.last().depth = []string{"read:metrics"}, 9
	})
	first("form-before-c10", "reserved-name", "a delegation to the control plane, with too much depth", three, func(s *story) { s.last().agent, s.last().depth = "control", 3 })
	first("c3-before-the-next-document", "broken-chain", "the root token has a parent, and no passport follows", three, func(s *story) {
		s.links[0].parent = func([]string) string { return digest("x") }
		s.links[1].passportDoc.set("kind", text("token"))
	})
	first("c10-before-c4", "delegation-cycle", "back to the root's holder, by somebody who does not hold it", three, func(s *story) {
		replacePassport(s.links[2], "writer")
		s.last().agent = "orchestrator"
	})
	first("c4-before-c5", "not-holder", "another agent's passport, and the token names yet another signer", three, func(s *story) {
		replacePassport(s.links[2], "writer")
		s.links[2].token.by = agentKey("helper")
	})
	first("c6-before-c7", "broken-chain", "another parent, and too much depth", three, func(s *story) {
		s.links[2].parent = func([]string) string { return digest("x") }
		s.last().depth = 3
	})
	first("c7-before-c8", "depth-exceeded", "too much depth, and a scope that nobody holds", three, func(s *story) { s.last().depth, s.last().capabilities = 3, []string{"read:secrets"} })
	first("c8-scope-by-scope", "not-delegatable", "the first scope is held and not delegatable, the second is held by nobody", three, func(s *story) {
		s.last().capabilities = []string{"read:metrics", "read:secrets"}
	})
	first("c8-scope-by-scope-reversed", "beyond-own", "the first scope is held by nobody, the second is held and not delegatable", three, func(s *story) {
		s.last().capabilities = []string{"read:a", "read:metrics"}
	})
	first("c8-before-c9", "beyond-own", "a scope that nobody holds, for longer than anything", three, func(s *story) {
		s.last().capabilities, s.last().exp = []string{"read:secrets"}, now+2*day
	})
	first("rules-before-window", "not-delegatable", "not delegatable, and expired", three, func(s *story) {
		s.last().capabilities, s.last().exp = []string{"read:metrics"}, now-1
	})
	first("window-before-signer", "token-expired", "expired, and signed by a stranger", alone, func(s *story) { s.last().exp, s.last().by = now, stranger })
	first("window-before-signature", "token-not-yet-valid", "not yet valid, and the signature is another's", alone, func(s *story) {
		s.last().nbf = now + 1
		s.links[0].tokenDoc.sign = stranger.sign
	})
	first("signer-before-signature", "unknown-signer", "a signer whom nobody certifies, and a signature that is not even his", alone, func(s *story) {
		s.last().by = stranger
		s.links[0].tokenDoc.sign = tokensKey.sign
	})
	first("root-signature-before-passport-signer", "bad-signature", "the root token's signature is another's, the passport's signer is unknown", three, func(s *story) {
		s.links[0].tokenDoc.sign = stranger.sign
		s.links[1].passport.by = stranger
	})
	first("passport-signer-before-token-signature", "unknown-signer", "the passport's signer is unknown, the signature after it is another's", three, func(s *story) {
		s.links[2].passport.by = stranger
		s.links[2].tokenDoc.sign = stranger.sign
	})
	first("first-hop-before-second-passport", "bad-signature", "the first delegation's signature is another's, the second passport's signer is unknown", three, func(s *story) {
		s.links[1].tokenDoc.sign = stranger.sign
		s.links[2].passport.by = stranger
	})
	first("keyring-before-chain", "unknown-signer", "a foreign certificate, and a chain that is none", alone, func(s *story) {
		s.certificates[0].by = stranger
		s.join = func([]string) string { return "" }
	})
	first("verification-before-presenter", "token-expired", "expired, and presented by somebody else", alone, func(s *story) { s.last().exp, s.presenter = now, "mallory" })
	first("presenter-before-standing", "not-holder", "presented by somebody else, and its holder is suspended", alone, func(s *story) {
		s.presenter = "mallory"
		s.directory = func(docs []string) *directory {
			d := everybody(s, docs)
			d.agents("reader").Status = "suspended"
			return d
		}
	})
}
