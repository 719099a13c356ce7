package main

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
)

// spellings are values that a field must not have, by what is wrong with them.
func spellings() map[string]map[string]string {
	key, twin := writer.public(), nkey(userKey|1, writer.raw())
	checksum := []byte(key)
	checksum[20] ^= 1 // another letter of the alphabet, or a digit: the checksum no longer fits
	nonce, dig := id("call"), digest([]byte("x"))
	spare := func(s string, bits string) string { return s[:len(s)-1] + bits }
	padded := func(s string) string {
		raw, _ := base64.RawURLEncoding.DecodeString(s)
		return base64.URLEncoding.EncodeToString(raw)
	}
	number := func(good string) map[string]string {
		return map[string]string{
			"leading-zero": "0" + good, "negative": "-" + good, "plus": "+" + good, "fraction": good + ".0", "exponent": "1e3",
			"space-before": " " + good, "space-after": good + " ", "hexadecimal": "0x1", "too-many-digits": "99999999999999999999",
			"past-53-bits": "9007199254740992", "arabic-digits": "٣", "letters": "x", "line-break": good + "\n",
		}
	}
	with := func(m map[string]string, more map[string]string) map[string]string {
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	ids := func() map[string]string {
		return map[string]string{
			"short": nonce[:21], "long": nonce + "A", "padded": padded(nonce), "spare-bits": "AAECAwQFBgcICQoLDA0ODx",
			"standard-alphabet": "AAECAwQFBgcICQoLDA0+/w", "line-break-inside": nonce[:10] + "\n" + nonce[11:], "line-break-after": nonce + "\n",
			"hexadecimal": hex.EncodeToString([]byte("sixteen bytes --")), "space": nonce[:21] + " ",
		}
	}
	digests := func() map[string]string {
		return map[string]string{
			"short": dig[:42], "long": dig + "A", "padded": dig + "=", "spare-bits": spare(strings.Repeat("A", 43), "B"),
			"standard-alphabet": dig[:41] + "+A", "hexadecimal": strings.Repeat("ab", 32), "line-break": dig[:20] + "\r\n" + dig[22:],
		}
	}
	return map[string]map[string]string{
		"from": {
			"capital": "Writer", "point": "writer.x", "hyphen-first": "-writer", "hyphen-last": "writer-", "space": "wri ter", "wildcard": "writer*",
			"long": strings.Repeat("w", 64), "accent": "wríter", "underscore": "wri_ter", "line-break": "writer\n",
		},
		"key": {
			"cut-off": key[:55], "character-more": key + "A", "lower-case": strings.ToLower(key), "padded": key + "========", "checksum": string(checksum),
			"line-break": key[:28] + "\n" + key[28:], "account-key": account("agent writer").public(), "server-key": nkey(serverKey, writer.raw()), "spare-bits-of-the-kind": twin,
			"hexadecimal":     hex.EncodeToString(writer.raw())[:56],
			"checksum-nought": base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(append(append([]byte{userKey}, writer.raw()...), 0, 0)),
		},
		"ts":     with(number("1795408791123"), map[string]string{"seconds-with-fraction": "1795408791.123", "rfc-3339": "2026-11-23T04:39:51Z"}),
		"nonce":  ids(),
		"corr":   ids(),
		"parent": ids(),
		"ep": {
			"one-number": "3", "no-instance": "3.", "no-agent": ".1", "three-numbers": "3.1.1", "leading-zero": "03.1", "leading-zero-of-the-instance": "3.01",
			"negative": "-3.1", "comma": "3,1", "past-53-bits": "9007199254740992.1", "past-53-bits-of-the-instance": "3.9007199254740992", "space": "3. 1",
		},
		"hop": number("1"),
		"tok": digests(),
		"ob": with(digests(), map[string]string{
			"nine": join(many(9)...), "twice-the-same": join(dig, dig), "twice-the-same-apart": join(append(many(3), many(1)...)...),
			"separator-at-the-end": dig + ".", "separator-at-the-beginning": "." + dig, "separator-doubled": dig + ".." + many(1)[0],
			"separator-comma": dig + "," + many(1)[0], "second-one-short": join(dig, many(1)[0][:42]), "second-one-with-spare-bits": join(dig, spare(strings.Repeat("A", 43), "B")),
		}),
		"dl": with(number("30000"), map[string]string{
			"nought": "0", "more-than-a-day": "86400001", "unit": "30s",
		}),
		"ct": {
			"space": "text plain", "quote": `text/"plain"`, "parameter": "text/plain;charset=utf-8", "equals": "a=b", "long": strings.Repeat("c", 65), "accent": "tèxt",
			"comma": "a,b", "line-break": "text\n",
		},
		"err": {
			"capital": "Disk-full", "digit-first": "9lives", "hyphen-first": "-x", "underscore": "disk_full", "point": "disk.full", "long": "e" + strings.Repeat("x", 40),
		},
		"part": {
			"nought": "0", "leading-zero": "01", "no-count": "1/", "no-number": "/1", "count-higher": "1/2", "count-lower": "2/1", "count-with-leading-zero": "1/01",
			"three-numbers": "1/1/1", "noughts": "0/0", "negative": "-1", "past-the-limit": "1048577", "past-the-limit-as-last": "1048577/1048577",
			"last-and-going-on": "1/1+", "plus-first": "+1", "plus-twice": "1++", "plus-alone": "+", "plus-before-the-count": "1+/1", "nought-going-on": "0+",
			"leading-zero-going-on": "01+", "past-the-limit-going-on": "1048577+", "space-before-the-plus": "1 +", "percent-encoded-plus": "1%2B",
		},
		"hd": digests(),
		"body": with(number("7."+dig), map[string]string{
			"size-alone": "7", "no-digest": "7.", "no-size": "." + dig, "digest-alone": dig, "digest-first": dig + ".7", "nought": "0." + digest(nil),
			"leading-zero": "07." + dig, "past-the-limit": "67108865." + dig, "letters": "x." + dig, "arabic-digits": "٧." + dig,
			"hexadecimal": "0x7." + dig, "exponent": "1e3." + dig, "too-many-digits": "99999999999999999999." + dig, "past-53-bits": "9007199254740992." + dig,
			"two-digests": "7." + dig + "." + dig, "separator-slash": "7/" + dig, "separator-doubled": "7.." + dig, "unit": "7B." + dig,
			"digest-short": "7." + dig[:42], "digest-long": "7." + dig + "A", "digest-padded": "7." + dig + "=", "digest-with-spare-bits": "7." + spare(strings.Repeat("A", 43), "B"),
			"digest-in-the-standard-alphabet": "7." + dig[:41] + "+A", "digest-in-hexadecimal": "7." + strings.Repeat("ab", 32), "digest-with-a-line-break": "7." + dig[:20] + "\r\n" + dig[22:],
		}),
		"enc": {
			"unknown": "x2", "capital": "X1", "number": "1", "none": "none", "leading-zero": "x01", "character-more": "x1x", "space-after": "x1 ", "line-break": "x1\n",
			"two": "x1,x1",
		},
	}
}

// many are n digests, each of which names nothing.
func many(n int64) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = digest([]byte("chain " + itoa(int64(i))))
	}
	return out
}

var requiredFields = []string{"v", "from", "key", "ts", "nonce", "corr", "ep", "hop"}

func (b *book) fields() {
	refuse := func(name, rule, description string, base func() *story, f func(text string) string) {
		b.refuse("fields/"+name, rule, "bad-envelope", description, base, func(s *story) { s.letter.text = f })
	}
	rule := func(name string) string {
		if name == "v" {
			return "F1" // nothing else begins a value
		}
		return "F2"
	}
	edit := func(f func(pairs []string) []string) func(string) string {
		return func(text string) string { return strings.Join(f(strings.Split(text, ";")), ";") }
	}
	// No message has every field: err and part are a reply's, body is a request's.
	// Each field is broken in the first message that has it, and each pair of
	// neighbours in the first that has both.
	sealed := func() *story {
		s := full()
		s.letter.set("enc", "x1")
		return s
	}
	bases := []func() *story{full, fullAsk, sealed}
	names := func(base func() *story) (out []string) {
		for p := range strings.SplitSeq(base().letter.wire(domain).text, ";") {
			name, _, _ := strings.Cut(p, "=")
			out = append(out, name)
		}
		return out
	}
	broken := map[string]func() *story{}
	pairs := map[string]bool{}
	for _, base := range bases {
		names := names(base)
		for i, name := range names {
			if broken[name] == nil {
				broken[name] = base
				if slices.Contains(requiredFields, name) {
					refuse("missing-"+name, rule(name), "without "+name, base, edit(func(p []string) []string { return slices.Delete(p, i, i+1) }))
				}
				refuse("doubled-"+name, "F2", name+" twice in a row", base, edit(func(p []string) []string { return slices.Insert(p, i, p[i]) }))
				if name != "hd" {
					refuse("again-at-the-end-"+name, "F2", name+" once more at the end", base, edit(func(p []string) []string { return append(p, p[i]) }))
				}
				refuse("empty-"+name, rule(name), name+" without a value", base, edit(func(p []string) []string { p[i] = name + "="; return p }))
				refuse("without-equals-"+name, rule(name), name+" without an equals sign", base, edit(func(p []string) []string { p[i] = strings.Replace(p[i], "=", "", 1); return p }))
				refuse("upper-case-"+name, rule(name), name+" in upper case", base, edit(func(p []string) []string {
					p[i] = strings.ToUpper(name) + p[i][len(name):]
					return p
				}))
			}
			if i+1 < len(names) && !pairs[name+" "+names[i+1]] {
				pairs[name+" "+names[i+1]] = true
				refuse("swapped-"+name+"-and-"+names[i+1], rule(name), name+" after "+names[i+1], base, edit(func(p []string) []string { p[i], p[i+1] = p[i+1], p[i]; return p }))
			}
		}
	}
	for i, name := range order {
		if broken[name] == nil || i > 0 && name != "err" && !pairs[order[i-1]+" "+name] {
			panic("a field is in no letter, or never beside the one before it: " + name)
		}
	}
	refuse("unknown-at-the-end", "F2", "a field that version 1 does not have", call, func(t string) string { return t + ";x=1" })
	refuse("unknown-inside", "F2", "the same in the middle", call, func(t string) string { return strings.Replace(t, ";hop=", ";x=1;hop=", 1) })
	refuse("separator-at-the-end", "F2", "a separator at the end", call, func(t string) string { return t + ";" })
	refuse("separator-at-the-beginning", "F1", "a separator at the beginning", call, func(t string) string { return ";" + t })
	refuse("separator-doubled", "F2", "two separators", call, func(t string) string { return strings.Replace(t, ";from", ";;from", 1) })
	refuse("separator-comma", "F2", "commas in the place of separators", call, func(t string) string { return "v=1;" + strings.ReplaceAll(t[4:], ";", ",") })
	refuse("space-at-the-beginning", "F1", "a space at the beginning", call, func(t string) string { return " " + t })
	refuse("space-at-the-end", "F3", "a space at the end, in the last value", call, func(t string) string { return t + " " })
	refuse("space-after-a-separator", "F2", "a space after a separator", call, func(t string) string { return strings.Replace(t, ";", "; ", 1) })
	refuse("line-break-at-the-end", "F3", "a line break at the end, in the last value", call, func(t string) string { return t + "\r\n" })
	refuse("nought-at-the-end", "F3", "a zero byte at the end, in the last value", call, func(t string) string { return t + "\x00" })
	refuse("percent-encoded", "F3", "a value in percent encoding", call, func(t string) string { return strings.Replace(t, "hop=0", "hop=%30", 1) })

	for _, name := range order {
		for what, value := range spellings()[name] {
			refuse(name+"-"+what, "F3", name+" is not in its one form: "+what, broken[name], edit(func(p []string) []string {
				p[slices.Index(names(broken[name]), name)] = name + "=" + value
				return p
			}))
		}
	}

	version := func(name, reason, description string, f func(string) string) {
		b.refuse("version/"+name, "F1", reason, description, call, func(s *story) { s.letter.text = f })
	}
	to := func(v string) func(string) string { return func(t string) string { return "v=" + v + t[3:] } }
	version("two", "bad-version", "version 2", to("2"))
	version("nought", "bad-version", "version 0", to("0"))
	version("highest", "bad-version", "the highest number there is", to("9007199254740991"))
	version("two-alone", "bad-version", "version 2 and nothing else", func(string) string { return "v=2" })
	version("two-and-another-format", "bad-version", "version 2, after which nothing is of version 1", func(string) string { return "v=2;{}" })
	version("two-without-separator", "bad-envelope", "a version followed by something else", func(t string) string { return "v=2," + t[4:] })
	for what, v := range map[string]string{"leading-zero": "01", "plus": "+1", "fraction": "1.0", "letter": "x", "space": " 1", "space-after": "1 ", "past-53-bits": "9007199254740992"} {
		version(what, "bad-envelope", "the version is no number: "+what, to(v))
	}

	b.classFields()

	b.refuse("hops/seventeen", "F6", "loop", "one hop too many", call, func(s *story) { s.letter.set("hop", "17") })
	b.refuse("hops/highest", "F6", "loop", "the highest number there is", call, func(s *story) { s.letter.set("hop", "9007199254740991") })
	b.refuse("hops/seventeen-on-a-reply", "F6", "loop", "one hop too many, on a reply", reply, func(s *story) { s.letter.set("hop", "17") })
}

// classFields: what is said in messages of one class is refused in those of all
// others.
func (b *book) classFields() {
	bases := []struct {
		name, a string
		base    func() *story
	}{
		{"call", "a-call", call}, {"ask", "an-ask", ask}, {"reply", "a-reply", reply}, {"body", "a-body", body}, {"event", "an-event", event},
		{"note", "a-note", note}, {"beat", "a-beat", beat}, {"audit", "an-audit-message", audit},
	}
	for _, f := range []struct {
		name, field, value, description string
		in                              []string
	}{
		{"err", "err", "disk-full", "only a reply has an error code", []string{"reply"}},
		{"part", "part", "1/1", "only a reply and a body have parts", []string{"reply", "body"}},
		{"part-going-on", "part", "1+", "only a reply has pieces", []string{"reply"}},
		{"body", "body", bodyOf("x"), "only a call and an ask promise a payload", []string{"call", "ask"}},
		{"enc", "enc", "x1", "only an ask and a reply are sealed", []string{"ask", "reply"}},
	} {
		for _, c := range bases {
			if slices.Contains(f.in, c.name) {
				continue
			}
			b.refuse("reply-fields/"+f.name+"-on-"+c.a, "F5", "bad-envelope", f.description, c.base, func(s *story) {
				s.letter.set(f.field, f.value)
				if f.field == "body" {
					s.letter.payload = nil
				}
			})
		}
	}
	b.refuse("reply-fields/reply-without-parent", "F5", "bad-envelope", "a reply says what it answers", reply, func(s *story) { s.letter.drop("parent") })
	b.refuse("reply-fields/body-without-parent", "F5", "bad-envelope", "a body says which invitation it follows", body, func(s *story) { s.letter.drop("parent") })
	b.refuse("reply-fields/body-without-part", "F5", "bad-envelope", "a body comes in parts, if it is only one", body, func(s *story) { s.letter.drop("part") })
	for name, base := range map[string]func() *story{"call": call, "ask": ask} {
		b.refuse("reply-fields/body-and-payload-of-"+map[string]string{"call": "a-call", "ask": "an-ask"}[name], "F5", "bad-envelope",
			"a request that promises a payload has none itself", base, func(s *story) { s.letter.set("body", bodyOf(payload)) })
	}
}
