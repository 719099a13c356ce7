package main

import (
	"fmt"
	"strings"
)

// doc is the one document of a chain of one token.
func doc(f func(*document)) func(*story) {
	return func(s *story) { f(s.links[0].tokenDoc) }
}

// spelt changes the JSON of that document, and written the document itself.
func spelt(f func(string) string) func(*story)   { return doc(func(d *document) { d.spell = f }) }
func written(f func(string) string) func(*story) { return doc(func(d *document) { d.after = f }) }

// spare is a root token whose payload leaves bits over in its last character.
func spare() *story {
	s := alone()
	for len(s.links[0].tokenDoc.payload())%3 == 0 {
		s.last().agent += "s"
	}
	return s
}

// setLowBit sets the lowest of the bits that the last character leaves over.
func setLowBit(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return s[:len(s)-1] + string(alphabet[strings.IndexByte(alphabet, s[len(s)-1])|1])
}

func (b *book) documents() {
	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("documents/"+name, rule, reason, description, alone, tell)
	}
	for name, h := range map[string][2]string{
		"header-other-algorithm":   {`{"typ":"JWT","alg":"EdDSA"}`, "the algorithm by the name that everybody else gives it"},
		"header-no-algorithm":      {`{"typ":"JWT","alg":"none"}`, "no algorithm"},
		"header-symmetric":         {`{"typ":"JWT","alg":"HS256"}`, "a symmetric algorithm"},
		"header-older-algorithm":   {`{"typ":"jwt","alg":"ed25519"}`, "the older form of NATS, which signs the payload alone"},
		"header-type-lower-case":   {`{"typ":"jwt","alg":"ed25519-nkey"}`, "another case of the type"},
		"header-members-exchanged": {`{"alg":"ed25519-nkey","typ":"JWT"}`, "the members the other way round"},
		"header-key-id":            {`{"typ":"JWT","alg":"ed25519-nkey","kid":"1"}`, "one member more"},
		"header-type-missing":      {`{"alg":"ed25519-nkey"}`, "one member fewer"},
		"header-space":             {`{"typ":"JWT", "alg":"ed25519-nkey"}`, "white space"},
		"header-empty-object":      {`{}`, "an empty object"},
	} {
		refuse(name, "D1", "bad-token", "the header is not the one there is: "+h[1]+"; the signature covers it", doc(func(d *document) { d.header = h[0] }))
	}
	refuse("header-missing", "D1", "bad-token", "payload and signature without a header", written(func(s string) string { return s[strings.IndexByte(s, '.')+1:] }))
	refuse("header-empty", "D1", "bad-token", "an empty header", written(func(s string) string { return s[strings.IndexByte(s, '.'):] }))

	signature := func(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }
	b.refuse("documents/payload-spare-bits", "D2", "bad-token", "a bit is set that the last character of the payload leaves over; most decoders ignore it", spare, doc(func(d *document) { d.encode = setLowBit }))
	b.refuse("documents/payload-padding", "D2", "bad-token", "the payload is padded", spare, doc(func(d *document) {
		d.encode = func(s string) string { return s + strings.Repeat("=", (4-len(s)%4)%4) }
	}))
	refuse("payload-line-break", "D2", "bad-token", "a line break in the payload, which many decoders skip", doc(func(d *document) { d.encode = func(s string) string { return s[:64] + "\n" + s[64:] } }))
	refuse("payload-carriage-return", "D2", "bad-token", "a carriage return in the payload", doc(func(d *document) { d.encode = func(s string) string { return s[:64] + "\r" + s[64:] } }))
	refuse("payload-space", "D2", "bad-token", "a space in the payload", doc(func(d *document) { d.encode = func(s string) string { return s[:64] + " " + s[64:] } }))
	refuse("payload-foreign-character", "D2", "bad-token", "a character of no base64 alphabet in the payload", doc(func(d *document) { d.encode = func(s string) string { return s[:64] + "!" + s[64:] } }))
	refuse("payload-empty", "D4", "bad-token", "an empty payload", doc(func(d *document) { d.encode = func(string) string { return "" } }))
	refuse("signature-spare-bits", "D2", "bad-token", "a bit is set that the last character of the signature leaves over", written(setLowBit))
	refuse("signature-padding", "D2", "bad-token", "the signature is padded", written(suffix("==")))
	refuse("signature-line-break-at-end", "D2", "bad-token", "a line break after the signature", written(suffix("\n")))
	refuse("signature-line-break-inside", "D2", "bad-token", "a line break in the place of a character of the signature, so that its length is right", written(func(s string) string {
		return s[:len(s)-1] + "\n"
	}))
	b.refuse("documents/signature-standard-alphabet", "D2", "bad-token", "the signature is written with + and /", func() *story {
		s := alone()
		for !strings.ContainsAny(signature(s.links[0].tokenDoc.text()), "-_") {
			s.last().agent += "s"
		}
		return s
	}, written(func(s string) string {
		sig := signature(s)
		return strings.TrimSuffix(s, sig) + strings.NewReplacer("-", "+", "_", "/").Replace(sig)
	}))
	for name, n := range map[string]int{"signature-63-bytes": 63, "signature-65-bytes": 65, "signature-empty": 0} {
		refuse(name, "D3", "bad-token", "the signature does not have 64 bytes", doc(func(d *document) {
			sign := d.sign
			d.sign = func(signed string) []byte { return append(sign(signed), 0)[:n] }
		}))
	}
	refuse("signature-hexadecimal", "D3", "bad-token", "the signature in hexadecimal", written(func(s string) string {
		return s[:strings.LastIndexByte(s, '.')+1] + strings.Repeat("ab", 64)
	}))
	refuse("signature-missing", "D3", "bad-token", "two parts", written(func(s string) string { return s[:strings.LastIndexByte(s, '.')] }))
	refuse("four-parts", "D3", "bad-token", "a fourth part", written(suffix(".AAAA")))
	refuse("point-at-end", "D3", "bad-token", "a point after the signature", written(suffix(".")))
	refuse("character-at-end", "D3", "bad-token", "a character after the signature", written(suffix("A")))
	refuse("byte-before", "D1", "bad-token", "a space before the header", written(prefix(" ")))
	refuse("byte-order-mark", "D1", "bad-token", "a byte order mark before the header", written(prefix("\ufeff")))
	refuse("bearer", "D1", "bad-token", "as in an HTTP header", written(prefix("Bearer ")))

	// The payload's JSON.
	for name, f := range map[string]struct {
		f    func(string) string
		what string
	}{
		"json-space-before":      {prefix(" "), "white space before the object"},
		"json-line-break-after":  {suffix("\n"), "a line break after the object"},
		"json-space-after-colon": {replace(`"agent":`, `"agent": `), "white space after a colon"},
		"json-space-after-comma": {replace(`,"agent"`, `, "agent"`), "white space after a comma"},
		"json-comma-at-end":      {replace(`}`, `,}`), "a comma after the last member"},
		"json-second-value":      {suffix(`{}`), "a second value after the object"},
		"json-escaped-name":      {replace(`"agent"`, `"\u0061gent"`), "a member's name with an escape"},
		"json-escaped-value":     {replace(`"reader"`, `"\u0072eader"`), "a value with an escape that nothing needs"},
		"json-escaped-scope":     {replace(`"read:logs"`, `"read:\u006cogs"`), "a scope with an escape that nothing needs"},
		"json-name-in-capitals":  {replace(`"exp"`, `"EXP"`), "a member's name in capitals, which lenient decoders take"},
		"json-members-exchanged": {func(s string) string { return exchange(s, "nbf", "exp") }, "the order of two members"},
		"json-not-an-object":     {func(s string) string { return "[" + s + "]" }, "the object in a list"},
		"json-text":              {func(string) string { return `"token"` }, "a text"},
		"json-null":              {func(string) string { return `null` }, "null"},
		"json-none":              {func(string) string { return `kind=token` }, "no JSON"},
		"json-cut-off":           {func(s string) string { return s[:len(s)-1] }, "the object does not end"},
		"json-comment":           {replace(`"agent"`, `/**/"agent"`), "a comment"},
		"json-invalid-utf8":      {replace(`"reader"`, "\"reader\xff\""), "a byte that is not UTF-8"},
		"json-byte-order-mark":   {prefix("\ufeff"), "a byte order mark"},
		"json-kind-not-first":    {func(s string) string { return exchange(s, "kind", "iss") }, "the kind is not the first member"},
		"json-kind-twice":        {replace(`,"iss"`, `,"kind":"token","iss"`), "the kind stands there twice"},
	} {
		refuse(name, "D4", "bad-token", "the payload is not in its one encoding: "+f.what, spelt(f.f))
	}

	for _, k := range []string{"passport", "signing-key", "agent", "Token", "tokens", ""} {
		name := "kind-" + strings.ToLower(k)
		switch k {
		case "Token":
			name = "kind-capitalised"
		case "":
			name = "kind-empty"
		}
		refuse(name, "D5", "wrong-kind", fmt.Sprintf("a token that says it is a %q", k), doc(func(d *document) { d.set("kind", text(k)) }))
	}
	refuse("kind-missing", "D5", "wrong-kind", "a token that does not say what it is", doc(func(d *document) { d.drop("kind") }))
	refuse("real-passport", "D5", "wrong-kind", "a genuine passport in the place of a token", func(s *story) {
		s.join = func([]string) string { return three().links[1].passportDoc.text() }
	})
	refuse("real-certificate", "D5", "wrong-kind", "a genuine certificate in the place of a token", func(s *story) {
		s.join = func([]string) string { return s.certDocs[0].text() }
	})
	b.refuse("documents/token-for-passport", "D5", "wrong-kind", "a genuine token in the place of a passport", three, func(s *story) {
		s.join = func(docs []string) string { return strings.Join([]string{docs[0], docs[2], docs[2]}, "~") }
	})
	b.refuse("documents/one-byte-too-long", "D7", "too-large", "a document of 32769 bytes", documentOf(32769), nil)
	b.refuse("documents/junk-too-long", "D7", "too-large", "its length is judged before anything else of it", alone, func(s *story) {
		s.join = func([]string) string { return strings.Repeat("A", 32769) }
	})
}

// exchange changes the places of two neighbouring members, given in their order.
func exchange(s, a, b string) string {
	i, j := strings.Index(s, `"`+a+`"`), strings.Index(s, `"`+b+`"`)
	end := j + strings.IndexAny(s[j:], ",}")
	return s[:i] + s[j:end] + "," + s[i:j-1] + s[end:]
}

// integers: every way in which a number can be written that is not the one way.
func (b *book) integers() {
	for _, m := range []struct{ name, value string }{{"iat", number(now)}, {"exp", number(now + hour)}, {"nbf", number(now - 30)}, {"depth", "0"}} {
		for _, w := range []struct{ name, value string }{
			{"float", m.value + ".0"}, {"fraction", m.value + ".5"}, {"exponent", m.value + "e0"}, {"exponent-capital", "18E8"}, {"text", text(m.value)}, {"leading-zero", "0" + m.value},
			{"plus", "+" + m.value}, {"minus-zero", "-0"}, {"null", "null"}, {"true", "true"}, {"list", "[" + m.value + "]"},
			{"hexadecimal", "0x10"}, {"one-above-64-bits", "9223372036854775808"}, {"huge", "1" + strings.Repeat("0", 40)}, {"one-below-64-bits", "-9223372036854775809"},
		} {
			if m.name != "exp" && (w.name == "exponent-capital" || w.name == "hexadecimal" || w.name == "list" || w.name == "true" || w.name == "one-below-64-bits") {
				continue // once is enough
			}
			b.refuse("documents/"+m.name+"-"+w.name, "D4", "bad-token", "an integer that is written in another way: "+m.name+" as "+w.value, alone,
				doc(func(d *document) { d.set(m.name, w.value) }))
		}
	}
}
