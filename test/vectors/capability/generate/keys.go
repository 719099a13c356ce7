package main

import (
	"bytes"
	"strings"
)

// strange are texts in the place of a public key of the kind that is asked for.
func strange(kind byte, name string) []struct{ name, value, what string } {
	k := key{kind, seedOf(name)}
	good := k.public()
	swapped := []byte(good)
	swapped[20] ^= 1 // another letter of the alphabet, or a digit: the checksum no longer fits
	spare := nkey(kind|1, k.raw())
	return []struct{ name, value, what string }{
		{"empty", "", "no key"},
		{"lower-case", strings.ToLower(good), "in lower case"},
		{"cut-off", good[:55], "one character short"},
		{"character-more", good + "A", "one character more"},
		{"padded", good + "======", "padded"},
		{"line-break", good + `\n`, "with a line break, which base32 decoders skip"},
		{"checksum", string(swapped), "with a wrong checksum"},
		{"spare-bits-of-the-kind", spare, "with a bit set beside the kind, so that it is a second spelling"},
		{"hexadecimal", strings.Repeat("ab", 32), "in hexadecimal"},
	}
}

// weak are keys for which anybody can sign, or with a second encoding.
var weak = []struct {
	name, what string
	raw        []byte
}{
	{"identity", "the identity, of order one", append([]byte{1}, make([]byte, 31)...)},
	{"order-two", "the point of order two", toLittle(sub(prime, 1))},
	{"order-four", "a point of order four", make([]byte, 32)},
	{"order-four-negative", "a point of order four with the sign bit", append(make([]byte, 31), 0x80)},
	{"order-eight", "a point of order eight", []byte{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	}},
	{"order-eight-other", "another point of order eight", []byte{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	}},
	{"identity-second-encoding", "the identity with y not below the prime", toLittle(sub(prime, -1))},
	{"second-encoding", "y not below the prime: a second encoding of another point", toLittle(sub(prime, -3))},
	{"highest-encoding", "the highest y that 255 bits can write", append(bytes.Repeat([]byte{0xff}, 31), 0x7f)},
}

func (b *book) signingKeys() {
	// The certificates are refused before any chain is read.
	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("signing-keys/"+name, rule, reason, description, alone, tell)
	}
	certificate := func(f func(*document)) func(*story) { return func(s *story) { f(s.certDocs[0]) } }

	refuse("no-root", "K0", "bad-input", "nothing is pinned, so nobody is trusted", func(s *story) { s.roots, s.certificates, s.certDocs = []string{}, nil, nil })
	refuse("root-is-a-user-key", "K0", "bad-input", "a pinned root is an account key", func(s *story) { s.roots = []string{key{userKey, rootKey.seed}.public()} })
	refuse("root-is-a-server-key", "K0", "bad-input", "and not a server's", func(s *story) { s.roots = []string{key{serverKey, rootKey.seed}.public()} })
	refuse("one-root-is-malformed", "K0", "bad-input", "one of two roots is malformed, and it fails as a whole", func(s *story) { s.roots = append(s.roots, s.roots[0][:55]) })
	refuse("root-is-weak", "K0", "bad-input", "a root of order one", func(s *story) { s.roots = append(s.roots, nkey(accountKey, weak[0].raw)) })

	for _, x := range strange(accountKey, "tokens") {
		refuse("key-"+x.name, "K1", "bad-token", "the certified key is not in its one spelling: "+x.what, certificate(func(d *document) { d.set("nkey", text(x.value)) }))
	}
	for _, x := range weak {
		refuse("key-weak-"+x.name, "D6", "bad-token", "the certified key is "+x.what, func(s *story) { s.certificates[0].nkey = nkey(accountKey, x.raw) })
	}
	refuse("key-is-a-user-key", "K1", "bad-token", "a signing key is an account key, not a user's", func(s *story) { s.certificates[0].nkey = key{userKey, tokensKey.seed}.public() })
	refuse("key-is-a-server-key", "K1", "bad-token", "nor a server's", func(s *story) { s.certificates[0].nkey = key{serverKey, tokensKey.seed}.public() })
	refuse("purpose-unknown", "K1", "bad-token", "a purpose that there is not", func(s *story) { s.certificates[0].purpose = "everything" })
	refuse("purpose-empty", "K1", "bad-token", "no purpose", func(s *story) { s.certificates[0].purpose = "" })
	refuse("purpose-both", "K1", "bad-token", "two purposes in one text", func(s *story) { s.certificates[0].purpose = "tokens,records" })
	refuse("purpose-list", "K1", "bad-token", "a list of purposes", certificate(func(d *document) { d.set("purpose", `["tokens","records"]`) }))
	refuse("purpose-capital", "K1", "bad-token", "a purpose in capitals", func(s *story) { s.certificates[0].purpose = "Tokens" })
	refuse("window-of-nothing", "K1", "bad-token", "exp equals nbf", func(s *story) { s.certificates[0].exp = s.certificates[0].nbf })
	refuse("window-backwards", "K1", "bad-token", "exp lies before nbf", func(s *story) { s.certificates[0].nbf, s.certificates[0].exp = now+day, now-day })
	refuse("window-without-end", "K1", "bad-token", "exp is missing", certificate(func(d *document) { d.drop("exp") }))
	refuse("window-without-beginning", "K1", "bad-token", "nbf is missing", certificate(func(d *document) { d.drop("nbf") }))
	refuse("window-from-zero", "K1", "bad-token", "nbf is zero", func(s *story) { s.certificates[0].nbf = 0 })
	refuse("window-past-the-year-9999", "K1", "bad-token", "exp has no RFC 3339 form", func(s *story) { s.certificates[0].exp = 253402300800 })
	refuse("unknown-member", "K1", "bad-token", "an unknown member", certificate(func(d *document) { d.add("", member{"scope", text("read:logs")}) }))
	refuse("member-twice", "K1", "bad-token", "the purpose twice", certificate(func(d *document) { d.add("purpose", member{"purpose", text("records")}) }))
	refuse("passport-for-certificate", "K1", "wrong-kind", "a passport in the place of a certificate", certificate(func(d *document) { d.set("kind", text("passport")) }))
	refuse("token-for-certificate", "K1", "wrong-kind", "a genuine token in the place of a certificate", func(s *story) {
		s.certDocs[0].after = func(string) string { return alone().links[0].tokenDoc.text() }
	})
	refuse("too-large", "K1", "too-large", "a certificate of more than 32768 bytes", certificate(func(d *document) {
		d.add("", member{"x", text(strings.Repeat("x", 25000))})
	}))

	refuse("signed-by-a-stranger", "K2", "unknown-signer", "nobody pinned the root that signed the certificate", func(s *story) { s.certificates[0].by = stranger })
	refuse("signed-by-a-signing-key", "K2", "unknown-signer", "a signing key certifies nobody", func(s *story) {
		s.certify(tokensKey, account("next tokens").public(), "tokens", now-day, now+day)
	})
	refuse("signed-by-an-instance", "K2", "unknown-signer", "nor does an agent", func(s *story) { s.certificates[0].by = agentKey("reader") })
	refuse("root-unpinned", "K2", "unknown-signer", "the root was replaced and the certificates were not", func(s *story) { s.roots = []string{account("next authority root").public()} })
	refuse("one-of-three-is-foreign", "K2", "unknown-signer", "one certificate that fails makes the whole fail, also where no chain needs it", func(s *story) {
		s.certify(stranger, account("next tokens").public(), "tokens", now-day, now+day)
	})
	refuse("says-root-signed-by-a-stranger", "K2", "bad-signature", "a stranger signed and names the root", certificate(func(d *document) { d.sign = stranger.sign }))
	refuse("changed-after-signing", "K2", "bad-signature", "the window was made longer after the root signed", certificate(func(d *document) {
		signed := d.text()
		d.after = func(string) string {
			longer := *d
			longer.after = nil
			longer.set("exp", number(now+3650*day))
			text := longer.text()
			return text[:strings.LastIndexByte(text, '.')] + signed[strings.LastIndexByte(signed, '.'):]
		}
	}))
	refuse("certifies-a-root", "K3", "bad-token", "a root that signs online is a root that leaks online", func(s *story) {
		next := account("next authority root")
		s.roots = append(s.roots, next.public())
		s.certify(rootKey, next.public(), "tokens", now-day, now+day)
	})
	refuse("certifies-itself", "K3", "bad-token", "nor does a root certify itself", func(s *story) {
		s.certify(rootKey, rootKey.public(), "tokens", now-day, now+day)
	})
	refuse("two-purposes", "K4", "bad-token", "a key that is certified for tokens is certified for records as well", func(s *story) {
		s.certify(rootKey, tokensKey.public(), "records", now-day, now+day)
	})
	refuse("two-purposes-one-after-the-other", "K4", "bad-token", "also where the windows do not meet", func(s *story) {
		s.certify(rootKey, tokensKey.public(), "records", now+90*day, now+100*day)
	})
	refuse("two-purposes-under-two-roots", "K4", "bad-token", "also where two roots certify it", func(s *story) {
		next := account("next authority root")
		s.roots = append(s.roots, next.public())
		s.certify(next, tokensKey.public(), "records", now-day, now+day)
	})

	unknown := func(name, description string, base func() *story, tell func(*story)) {
		b.refuse("signing-keys/"+name, "K5", "unknown-signer", description, base, tell)
	}
	unknown("token-of-a-stranger", "no root certifies the key that signed the root token", alone, func(s *story) { s.last().by = stranger })
	unknown("token-of-the-root", "the root signs certificates and nothing else", alone, func(s *story) { s.last().by = rootKey })
	unknown("token-of-a-records-key", "a records key signs no tokens", alone, func(s *story) { s.last().by = recordsKey })
	unknown("token-of-its-holder", "an instance gives itself a root token", alone, func(s *story) { s.last().by = agentKey("reader") })
	unknown("token-of-a-user-key-with-the-bytes-of-the-tokens-key", "the same 32 bytes as another kind of key are another key", alone, func(s *story) { s.last().by = key{userKey, tokensKey.seed} })
	unknown("token-without-certificates", "no key is certified", alone, func(s *story) { s.certificates, s.certDocs = nil, nil })
	unknown("token-with-empty-issuer", "a token that names no signer", alone, func(s *story) { s.links[0].tokenDoc.set("iss", text("")) })
	unknown("certificate-not-begun", "one second before the certificate begins", alone, func(s *story) { s.certificates[0].nbf = now + 1 })
	unknown("certificate-ended", "at the certificate's end", alone, func(s *story) { s.certificates[0].exp = now })
	unknown("certificate-ended-a-second-ago", "one second after it", alone, func(s *story) { s.certificates[0].exp = now - 1 })
	unknown("between-two-certificates", "the key is certified before and after, and not now", alone, func(s *story) {
		s.certificates[0].exp = now - hour
		s.certify(rootKey, tokensKey.public(), "tokens", now+hour, now+day)
	})
	unknown("passport-of-a-stranger", "no root certifies the key that signed the passport", three, func(s *story) { s.links[2].passport.by = stranger })
	unknown("passport-of-a-tokens-key", "a tokens key signs no passports", three, func(s *story) { s.links[2].passport.by = tokensKey })
	unknown("passport-of-the-root", "nor does the root", three, func(s *story) { s.links[1].passport.by = rootKey })
	unknown("passport-of-its-agent", "an instance gives itself a passport", three, func(s *story) { s.links[2].passport.by = agentKey("reader") })
	unknown("passport-certificate-not-begun", "one second before the records key's certificate begins", three, func(s *story) { s.certificates[1].nbf = now + 1 })
	unknown("passport-certificate-ended", "at its end", three, func(s *story) { s.certificates[1].exp = now })
}

func (b *book) passports() {
	refuse := func(name, rule, reason, description string, tell func(*passport, *document)) {
		b.refuse("passports/"+name, rule, reason, description, three, func(s *story) { tell(s.links[2].passport, s.links[2].passportDoc) })
	}
	for _, x := range strange(userKey, "agent reader") {
		refuse("key-"+x.name, "P1", "bad-token", "the instance's key is not in its one spelling: "+x.what, func(p *passport, d *document) { p.nkey = x.value })
	}
	for _, x := range strange(curveKey, "curve of reader") {
		if x.name == "hexadecimal" || x.name == "padded" {
			continue
		}
		refuse("curve-"+x.name, "P1", "bad-token", "the instance's curve key is not in its one spelling: "+x.what, func(p *passport, d *document) { p.curve = x.value })
	}
	for _, x := range weak {
		b.refuse("passports/key-weak-"+x.name, "D6", "bad-token", "the instance's key is "+x.what+"; the token after it names it as its signer", three, func(s *story) {
			public := nkey(userKey, x.raw)
			s.links[2].passport.nkey = public
			s.links[2].tokenDoc.set("iss", text(public))
		})
	}
	refuse("key-is-an-account-key", "P1", "bad-token", "an instance's key is a user key", func(p *passport, d *document) { p.nkey = key{accountKey, agentKey("reader").seed}.public() })
	refuse("key-is-a-server-key", "P1", "bad-token", "and not a server's", func(p *passport, d *document) { p.nkey = key{serverKey, agentKey("reader").seed}.public() })
	refuse("key-is-a-curve-key", "P1", "bad-token", "nor a curve key", func(p *passport, d *document) { p.nkey = p.curve })
	refuse("curve-is-a-user-key", "P1", "bad-token", "the curve key is one", func(p *passport, d *document) { p.curve = p.nkey })
	refuse("agent-empty", "P1", "bad-token", "a passport of nobody", func(p *passport, d *document) { p.agent = "" })
	refuse("agent-with-instance", "P1", "bad-token", "an agent ID is no path", func(p *passport, d *document) { p.agent = "reader/7f3c2k9q" })
	refuse("agent-capital", "P1", "bad-token", "an agent ID has no capitals", func(p *passport, d *document) { p.agent = "Reader" })
	for _, name := range []string{"iss", "iat", "agent", "nkey", "curve"} {
		refuse("missing-"+name, "P1", "bad-token", "the member is missing", func(p *passport, d *document) { d.drop(name) })
	}
	refuse("unknown-member", "P1", "bad-token", "an unknown member: a passport has no end of its own", func(p *passport, d *document) { d.add("", member{"exp", number(now + day)}) })
	refuse("member-twice", "P1", "bad-token", "the agent twice", func(p *passport, d *document) { d.add("nkey", member{"agent", text("reader")}) })
	refuse("agent-null", "P1", "bad-token", "the agent is null", func(p *passport, d *document) { d.set("agent", "null") })
	refuse("is-a-token", "P1", "wrong-kind", "it says that it is a token", func(p *passport, d *document) { d.set("kind", text("token")) })
	refuse("too-large", "P1", "too-large", "a passport of more than 32768 bytes", func(p *passport, d *document) { d.add("", member{"x", text(strings.Repeat("x", 25000))}) })
}
