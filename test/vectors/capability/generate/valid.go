package main

import (
	"fmt"
	"strings"
)

func longest(n int) string { return "read:" + strings.Repeat("a", n-len("read:")) }

// numbered gives n scopes in order, each with a tail.
func numbered(n int, tail string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("read:m%03d%s", i, tail)
	}
	return out
}

// deep is a chain of the given number of delegations, each of which leaves one
// fewer than the one before, from the most that there may be.
func deep(n int) func() *story {
	return func() *story {
		s := authority()
		lent := token{agent: "a0", capabilities: []string{"read:logs"}, delegatable: []string{"read:logs"}, depth: 8, nbf: now - 30, exp: now + hour}
		s.root(lent)
		for i := 1; i <= n; i++ {
			lent.agent, lent.depth = fmt.Sprintf("a%d", i), max(lent.depth-1, 0)
			if lent.depth == 0 {
				lent.delegatable = []string{}
			}
			s.lend(lent)
		}
		return s
	}
}

// documentOf is a root token alone whose document has n bytes.
func documentOf(n int) func() *story {
	return func() *story {
		s := alone()
		t := s.last()
		t.capabilities = numbered(250, strings.Repeat("x", 80))
		for i := len(t.capabilities) - 1; i >= 0; i-- {
			missing := n - s.length()
			if missing == 0 {
				break
			}
			// Four characters carry three bytes.
			grow := min(max(missing*3/4, 1), 150-len(t.capabilities[i]))
			t.capabilities[i] += strings.Repeat("x", grow)
		}
		if got := len(s.links[0].tokenDoc.text()); got != n {
			panic(fmt.Sprintf("document has %d bytes, not %d", got, n))
		}
		return s
	}
}

// chainOf is a chain of four tokens that has n bytes.
func chainOf(n int) func() *story {
	return func() *story {
		wide := numbered(160, strings.Repeat("x", 30))
		for middle := 1; middle < 5; middle++ {
			s := authority()
			lent := token{agent: "a0", capabilities: wide, delegatable: wide, depth: 3, nbf: now - 30, exp: now + hour}
			s.root(lent)
			for _, to := range []string{"a1", strings.Repeat("b", middle), "z"} {
				lent.agent, lent.depth = to, lent.depth-1
				s.lend(lent)
			}
			last := s.last()
			last.capabilities, last.delegatable = wide[:1], []string{}
			// Roughly by the number of scopes, then by the holder's name: four
			// characters carry three bytes, so not every length can be met by one
			// document alone.
			missing := n - s.length()
			last.capabilities = wide[:1+missing*3/4/(len(wide[0])+3)]
			for len(last.agent) < 63 {
				switch missing := n - s.length(); {
				case missing == 0:
					return s
				case missing < 0:
					last.agent = strings.Repeat("z", 63)
				default:
					last.agent += "z"
				}
			}
		}
		panic("no chain has that length")
	}
}

// length is that of the chain, without signing it.
func (s *story) length() int {
	sum := 2 * (len(s.links) - 1) // the separators
	for i, l := range s.links {
		if i > 0 {
			l.token.parent = digest("")
			sum += l.passportDoc.length()
		}
		sum += l.tokenDoc.length()
	}
	return sum
}

func (b *book) valid() {
	b.accept("root-only", "V0", "a root token alone: the authority gives reader one right", alone, nil)
	b.accept("one-hop", "C4", "reader lends its right to helper for ten minutes", func() *story {
		s := alone()
		s.last().delegatable, s.last().depth = []string{"read:logs"}, 1
		s.lend(token{agent: "helper", capabilities: []string{"read:logs"}, delegatable: []string{}, nbf: now - 30, exp: now + 10*minute})
		return s
	}, nil)
	b.accept("two-hops", "C6", "the chain that most vectors break, unbroken", three, nil)
	b.accept("three-hops", "C6", "one hop more than that", func() *story {
		s := three()
		s.last().depth, s.last().delegatable = 1, []string{"read:logs"}
		s.lend(token{agent: "scout", capabilities: []string{"read:logs"}, delegatable: []string{}, nbf: now - 30, exp: now + minute})
		return s
	}, nil)
	b.accept("eight-hops", "C2", "eight delegations, which is as many as there may be", deep(8), nil)
	b.accept("another-instance-signs", "C5", "reader has two instances; the second one lends", three, func(s *story) {
		second := user("agent reader, second instance")
		s.links[2].passport.nkey, s.links[2].token.by = second.public(), second
	})
	b.accept("passport-issued-again", "C4", "the passport before the last token is a later one of the same agent and key: another digest of the chain, the same digests of tokens", three, func(s *story) {
		s.links[2].passportDoc.set("iat", number(now+day))
	})
	b.accept("delegatable-subset", "C8", "each hop holds what the one before may pass on, and may pass on less", three, func(s *story) {
		s.links[0].token.delegatable = []string{"read:logs", "read:metrics", "write:reports"}
		s.links[1].token.capabilities = []string{"read:logs", "read:metrics"}
		s.links[1].token.delegatable = []string{"read:metrics"}
		s.last().capabilities = []string{"read:metrics"}
	})
	b.accept("depth-without-delegatable", "T11", "delegations are left and nothing may be passed on: allowed, and worth nothing", three, func(s *story) { s.last().depth = 1 })
	b.accept("depth-skips", "C7", "depth falls from 8 to 2 to 0", three, func(s *story) { s.links[0].token.depth = 8 })
	b.accept("window-as-parents", "C9", "a delegation may begin and end with what it derives from", three, func(s *story) {
		s.last().nbf, s.last().exp = s.links[1].token.nbf, s.links[1].token.exp
	})

	b.accept("scopes-of-every-verb", "G1", "one scope of each verb of the mesh that may stand in a token, and ordinary ones", alone, func(s *story) {
		s.last().capabilities = []string{"admin:registry", "handle:read:logs.app", "handle:read:self", "publish:builds.done", "r-2:0", "read:logs", "read:logs.app", "subscribe:builds.done"}
	})
	b.accept("scope-words-that-only-contain-shortcuts", "G2", "allies and anything are words; only all and any themselves stand for everything", alone, func(s *story) {
		s.last().capabilities = []string{"allow:any-thing", "read:allies.anything", "read:many"}
	})
	b.accept("scope-of-eight-segments", "G1", "a resource has eight segments at most", alone, func(s *story) {
		s.last().capabilities = []string{"read:a.b.c.d.e.f.g.h"}
	})
	b.accept("scope-of-160-bytes", "G4", "the longest scope", alone, func(s *story) { s.last().capabilities = []string{longest(160)} })
	b.accept("256-scopes", "G5", "the largest set", alone, func(s *story) {
		s.last().capabilities = numbered(256, "")
		s.last().delegatable, s.last().depth = numbered(256, ""), 1
	})
	b.accept("sorted-by-bytes", "G5", "the order is that of the bytes: hyphen, point, digits, colon, letters", alone, func(s *story) {
		s.last().capabilities = []string{"read-x:a", "read2:a", "read:a", "read:a-b", "read:a.b", "read:a0", "read:a_b", "read:ab"}
	})
	b.accept("admin-held", "T8", "admin: is held, and not passed on", three, func(s *story) {
		s.links[0].token.capabilities = []string{"admin:registry", "read:logs", "read:metrics", "write:reports"}
	})

	b.accept("holder-of-one-character", "T2", "an agent ID is a DNS label: one character is enough", alone, func(s *story) { s.last().agent = "0" })
	b.accept("holder-of-63-characters", "T2", "the longest agent ID", alone, func(s *story) { s.last().agent = strings.Repeat("a", 61) + "-9" })
	b.accept("holder-with-reserved-word-inside", "T3", "only the whole ID is reserved", alone, func(s *story) { s.last().agent = "control-room" })
	b.accept("jti-of-zeros", "T2", "any 128 bits are an identifier", alone, func(s *story) { s.last().jti = strings.Repeat("A", 22) })
	b.accept("iat-in-the-future", "D8", "iat is for people: nothing is decided on it", alone, func(s *story) { s.links[0].tokenDoc.set("iat", number(now+3650*day)) })
	b.accept("iat-negative", "D8", "iat before 1970, the only member with a minus", alone, func(s *story) { s.links[0].tokenDoc.set("iat", "-1") })
	b.accept("iat-zero", "D8", "iat of a device without a clock", alone, func(s *story) { s.links[0].tokenDoc.set("iat", "0") })
	b.accept("iat-of-64-bits", "D8", "the largest integer", alone, func(s *story) { s.links[0].tokenDoc.set("iat", "9223372036854775807") })
	b.accept("widest-window", "T4", "from the first second after 1970 to the last of the year 9999", alone, func(s *story) {
		s.last().nbf, s.last().exp = 1, 253402300799
		s.ends = now + 60*day
	})
	b.accept("window-of-one-second", "T4", "the shortest window", alone, func(s *story) { s.last().nbf, s.last().exp = now, now+1 })

	b.accept("document-of-32768-bytes", "D7", "the longest document", documentOf(32768), nil)
	b.accept("chain-of-65536-bytes", "C0", "the longest chain", chainOf(65536), nil)

	b.accept("first-second", "V1", "at nbf it is valid", alone, func(s *story) { s.now = s.last().nbf })
	b.accept("second-second", "V1", "one second after nbf", alone, func(s *story) { s.now = s.last().nbf + 1 })
	b.accept("last-second", "V1", "one second before exp it is valid", alone, func(s *story) { s.now = s.last().exp - 1 })

	b.accept("two-signing-keys", "K5", "two tokens keys are certified; the newer one signed", alone, func(s *story) {
		next := account("next tokens")
		s.certify(rootKey, next.public(), "tokens", now-day, now+90*day)
		s.last().by = next
	})
	b.accept("key-renewed", "K4", "one key with two certificates for one purpose: the later end counts", alone, func(s *story) {
		s.certificates[0].exp = now + 30*minute
		s.certify(rootKey, tokensKey.public(), "tokens", now-minute, now+day)
	})
	b.accept("certificate-twice", "K4", "the same certificate listed twice", alone, func(s *story) {
		s.certDocs = append(s.certDocs, s.certDocs[0])
	})
	b.accept("roots-replaced", "K2", "the middle of a replacement of roots: two are pinned, the tokens key is certified under both", alone, func(s *story) {
		next := account("next authority root")
		s.roots = append(s.roots, next.public())
		s.certify(next, tokensKey.public(), "tokens", now-day, now+80*day)
	})
	b.accept("certificate-ends-first", "K6", "the tokens key's certificate ends before the token, and the chain with it", alone, func(s *story) {
		s.certificates[0].exp, s.ends = now+10*minute, now+10*minute
	})
	b.accept("certificate-of-passports-ends-first", "K6", "the records key's certificate ends before the tokens", three, func(s *story) {
		s.certificates[1].exp, s.ends = now+20*minute, now+20*minute
	})
	b.accept("certificate-in-its-first-second", "K5", "the signing key is certified from nbf on", alone, func(s *story) { s.certificates[0].nbf = now })
	b.accept("certificate-in-its-last-second", "K5", "and before exp", alone, func(s *story) { s.certificates[0].exp, s.ends = now+1, now+1 })
	b.accept("token-older-than-its-certificate", "K5", "what counts is that the key is certified now, not when it signed", alone, func(s *story) {
		s.certificates[0].nbf, s.last().nbf = now-minute, now-day
	})
	b.accept("presented-by-its-holder", "T12", "whoever presents the chain has proven to be its holder", alone, func(s *story) { s.presenter = "reader" })
	b.accept("mixed-order-key", "D9", "the instance's key has a component of order eight, and the equation without the cofactor holds all the same", three, func(s *story) {
		s.mixed(2, true)
	})
}
